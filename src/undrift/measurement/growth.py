r"""Local growth: how much the denoising steps of a segment enlarge small perturbations.

With the random numbers of its steps fixed, a segment is a map :math:`x_t = \Phi(x_{t'})` with the
Jacobian J. Over independent directions u, uniform on the unit sphere in d dimensions,

.. math:: g = \sqrt{E\,\|J u\|^2} = \|J\|_F / \sqrt d

is the mean growth, without any data. The largest growth of a chain is the largest
:math:`\|J u\|` among these directions and those of power iterations
:math:`u \leftarrow J u / \|J u\|`, averaged over the chains. It never exceeds the largest singular
value of J; the iterations converge to that where J is symmetric, as that of a step of the optimal
denoiser is, and from below.

The products J u are exact, by forward-mode differentiation, and checked along one direction against
the central difference :math:`[\Phi(x + h v) - \Phi(x - h v)] / 2h`, with :math:`h v` of
:math:`10^{-2}` times the root mean square of the states (half precision: :math:`10^{-1}`). Where
the network has no forward rule, or loses part of the derivative, all products are such differences,
and the record has their step. A multistep solver's state is perturbed, its history of earlier
steps is left as it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

from undrift.diffusion.condition import draw_labels
from undrift.diffusion.sampler import Sampler, State
from undrift.measurement.state import Growth
from undrift.seeds import stream_seed

NUM_CHAINS = 32
"""Chains whose perturbations are followed."""
_DIRECTIONS, _ITERATIONS = 2, 8
CALLS = 3 + _DIRECTIONS + _ITERATIONS
"""How often each denoising step runs: the chain, the check by a difference, the products."""
_TOLERANCE = 0.1


@torch.no_grad()
def chain_growth(
    sampler: Sampler,
    times: tuple[float, ...],
    shape: tuple[int, ...],
    *,
    seed: int,
    device: torch.device | str | None = None,
    tick: Callable[[int], None] = lambda amount: None,
) -> dict[float, Growth]:
    """The growth of perturbations in each segment of a chain, by the time where it ends.

    Arguments:
        sampler: The chain.
        times: Descending times of its grid, from the first on, between which the segments lie.
        shape: Shape of the states of the chains that are followed, (N, *).
        seed: Seed of the chains and of the directions.
        device: Where to run.
        tick: Called with the number of denoising steps times chains that were run.
    """
    sampler = sampler.given(draw_labels(sampler.network, shape[0], seed))
    chain, directions = (
        torch.Generator(device=device or "cpu").manual_seed(stream_seed(seed, "growth", name))
        for name in ("chain", "directions")
    )
    x, found = sampler.prior(shape, generator=chain, device=device), {}
    state = State(times[0], x)
    for s in times[1:]:
        segment = Segment(sampler, state, s, chain.get_state())
        found[s] = segment.growth(directions)
        state = segment.end(state.x, chain)
        tick(CALLS * len(x) * (len(sampler.times(segment.state.t, s)) - 1))
    return found


@dataclass(frozen=True)
class Segment:
    """The denoising steps from a state to a time, as a function of the state.

    Arguments:
        sampler: The chain.
        state: The state where they start, with its history.
        stop: Where they end.
        random_state: State of the generator of their noise.
        step: Step of the central difference, in units of the states; None to differentiate in
            forward mode.
    """

    sampler: Sampler
    state: State
    stop: float
    random_state: Tensor
    step: float | None = None

    def end(self, x: Tensor, generator: torch.Generator | None = None) -> State:
        """The state at the end when x is the one at the start, always with the same noise."""
        generator = generator or torch.Generator(device=self.state.x.device)
        generator.set_state(self.random_state)
        state = State(self.state.t, x, self.state.history)
        for s in self.sampler.times(self.state.t, self.stop)[1:]:
            state = self.sampler.advance(state, s, generator=generator)
        return state

    def along(self, direction: Tensor) -> Tensor:
        """The Jacobian times a direction, row by row, with its shape."""
        if self.step is not None:
            return self._difference(direction, self.step)
        with forward_ad.dual_level(), sdpa_kernel(SDPBackend.MATH):
            x = self.end(forward_ad.make_dual(self.state.x, direction)).x
            tangent = forward_ad.unpack_dual(x).tangent
            return torch.zeros_like(direction) if tangent is None else tangent

    def differentiated(self, direction: Tensor) -> Segment:
        """The same with a difference step, where forward mode does not give the derivative."""
        step = 1e-2 if direction.dtype in (torch.float32, torch.float64) else 1e-1
        expected = self._difference(direction, step)
        try:
            gap = float((self.along(direction) - expected).norm())
        except (NotImplementedError, RuntimeError):  # an operation without a forward rule
            gap = math.inf
        is_exact = gap <= _TOLERANCE * float(expected.norm()) + 1e-6
        return self if is_exact else replace(self, step=step)

    def growth(self, generator: torch.Generator) -> Growth:
        """Mean and largest growth of the segment, with standard errors over the chains.

        Arguments:
            generator: Source of the directions.
        """
        x = self.state.x
        segment = self.differentiated(_unit(_normal(x, generator)))
        images = [segment.along(_unit(_normal(x, generator))) for _ in range(_DIRECTIONS)]
        for _ in range(_ITERATIONS):
            images.append(segment.along(_unit(images[-1])))
        norms = torch.stack([image.flatten(1).double().norm(dim=1).cpu() for image in images])
        square, square_se = _mean(norms[:_DIRECTIONS].square().mean(0))
        mean, (most, most_se) = math.sqrt(square), _mean(norms.amax(0))
        mean_se = square_se / (2 * mean) if mean > 0 else 0.0
        return Growth(mean, mean_se, most, most_se, segment.step)

    def _difference(self, direction: Tensor, step: float) -> Tensor:
        """The central difference along rows of norm 1."""
        size = float(self.state.x.double().square().mean().sqrt()) or 1.0
        h = step * size * math.sqrt(direction[0].numel())
        ends = (self.end(self.state.x + sign * h * direction).x for sign in (1, -1))
        return (next(ends) - next(ends)) / (2 * h)


def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    noise = torch.randn(like.shape, generator=generator, device=generator.device)
    return noise.to(like.device, like.dtype)


def _unit(rows: Tensor) -> Tensor:
    """Rows of norm 1; rows of zeros as they are."""
    norms: Tensor = rows.flatten(1).norm(dim=1).clamp(min=torch.finfo(rows.dtype).tiny)
    return rows / norms.reshape(-1, *[1] * (rows.ndim - 1))


def _mean(values: Tensor) -> tuple[float, float]:
    return float(values.mean()), float(values.std()) / math.sqrt(len(values))
