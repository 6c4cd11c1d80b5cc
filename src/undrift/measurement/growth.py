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
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

from undrift.diffusion.condition import draw_labels
from undrift.diffusion.sampler import Sampler, State, chain_generators, draw_noise
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
    batch_size: int = NUM_CHAINS,
    device: torch.device | str | None = None,
    tick: Callable[[int], None] = lambda amount: None,
) -> dict[float, Growth]:
    """The growth of perturbations in each segment of a chain, by the time where it ends.

    Arguments:
        sampler: The chain.
        times: Descending times of its grid, from the first on, between which the segments lie.
        shape: Shape of the states of the chains that are followed, (N, *).
        seed: Seed of the chains and of the directions.
        batch_size: Number of chains that go through the network at once.
        device: Where to run.
        tick: Called with the number of denoising steps times chains that were run.
    """
    labels, growths = draw_labels(sampler.network, shape[0], seed), []
    for start in range(0, shape[0], batch_size):
        batch = slice(start, min(start + batch_size, shape[0]))
        given = sampler.given(None if labels is None else labels[batch])
        growths.append(dict(_batch_growth(given, times, shape[1:], batch, seed, device, tick)))
    return {s: _growth([found[s] for found in growths]) for s in times[1:]}


def _batch_growth(
    sampler: Sampler,
    times: tuple[float, ...],
    shape: tuple[int, ...],
    batch: slice,
    seed: int,
    device: torch.device | str | None,
    tick: Callable[[int], None],
) -> Iterator[tuple[float, Lengths]]:
    """Lengths of the images of directions, of some of the chains, by the end of each segment."""
    chains, directions = (
        chain_generators(stream_seed(seed, "growth", name), batch, device)
        for name in ("chain", "directions")
    )
    x = sampler.prior((len(chains), *shape), generator=chains, device=device)
    state = State(times[0], x)
    for s in times[1:]:
        segment = Segment(sampler, state, s, [noise.get_state() for noise in chains])
        yield s, segment.lengths(directions)
        state = segment.end(state.x, chains)
        tick(CALLS * len(x) * (len(sampler.times(segment.state.t, s)) - 1))


@dataclass(frozen=True)
class Lengths:
    """Lengths of the images J u of unit directions.

    Arguments:
        norms: One row for each direction, with shape (K, N).
        step: Step of the differences, None where the derivative is exact.
    """

    norms: Tensor
    step: float | None


def _growth(parts: list[Lengths]) -> Growth:
    """Mean and largest growth of a segment, with standard errors over the chains."""
    norms = torch.cat([part.norms for part in parts], 1)
    square, square_se = _mean(norms[:_DIRECTIONS].square().mean(0))
    mean, (most, most_se) = math.sqrt(square), _mean(norms.amax(0))
    mean_se = square_se / (2 * mean) if mean > 0 else 0.0
    steps = [part.step for part in parts if part.step is not None]
    return Growth(mean, mean_se, most, most_se, max(steps, default=None))


@dataclass(frozen=True)
class Segment:
    """The denoising steps from a state to a time, as a function of the state.

    Arguments:
        sampler: The chain.
        state: The state where they start, with its history.
        stop: Where they end.
        positions: State of the generator of noise of each chain.
        step: Step of the central difference, in units of the states; None to differentiate in
            forward mode.
    """

    sampler: Sampler
    state: State
    stop: float
    positions: list[Tensor]
    step: float | None = None

    def end(self, x: Tensor, generators: list[torch.Generator] | None = None) -> State:
        """The state at the end when x is the one at the start, always with the same noise."""
        device = self.state.x.device
        noise = generators or [torch.Generator(device) for _ in self.positions]
        for generator, position in zip(noise, self.positions, strict=True):
            generator.set_state(position)
        state = State(self.state.t, x, self.state.history)
        for s in self.sampler.times(self.state.t, self.stop)[1:]:
            state = self.sampler.advance(state, s, generator=noise)
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

    def lengths(self, generators: list[torch.Generator]) -> Lengths:
        """Lengths of the images of random directions and of those of power iterations.

        Arguments:
            generators: Sources of the directions, one for each chain.
        """
        x = self.state.x
        segment = self.differentiated(_unit(draw_noise(x, generators)))
        images = [segment.along(_unit(draw_noise(x, generators))) for _ in range(_DIRECTIONS)]
        for _ in range(_ITERATIONS):
            images.append(segment.along(_unit(images[-1])))
        norms = torch.stack([image.flatten(1).double().norm(dim=1).cpu() for image in images])
        return Lengths(norms, segment.step)

    def _difference(self, direction: Tensor, step: float) -> Tensor:
        """The central difference along rows of norm 1."""
        size = float(self.state.x.double().square().mean().sqrt()) or 1.0
        h = step * size * math.sqrt(direction[0].numel())
        ends = (self.end(self.state.x + sign * h * direction).x for sign in (1, -1))
        return (next(ends) - next(ends)) / (2 * h)


def _unit(rows: Tensor) -> Tensor:
    """Rows of norm 1; rows of zeros as they are."""
    norms: Tensor = rows.flatten(1).norm(dim=1).clamp(min=torch.finfo(rows.dtype).tiny)
    return rows / norms.reshape(-1, *[1] * (rows.ndim - 1))


def _mean(values: Tensor) -> tuple[float, float]:
    return float(values.mean()), float(values.std()) / math.sqrt(len(values))
