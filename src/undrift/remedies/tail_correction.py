r"""Tail correction: the last states of a few-step solver, moved towards those of many steps.

A deterministic solver with few steps misses the solution of its differential equation. The
directions of its own trajectory nearly span what it misses, with coordinates that are nearly the
same for all samples. After a step to time s, with the displacements
:math:`d_s = x_s - x_t` of this step and those before,

.. math:: x_s \leftarrow x_s + \lambda \Big( c_0 x_s + c_1 d_s + c_2 d_t + c_3 d_{t'} \Big).

The four numbers of a step are least squares against references: states at the same time of the same
model and solver, from the same noise, with up to ten times as many steps. They are fitted on half
of the trajectories, with all corrections before in effect. A correction is kept only where it
lowers the squared distance of *finished* samples to the references on the other half, by more than
1.96 standard errors of the mean difference; else its numbers are 0.

PCA-based adaptive search has coordinates in a principal basis of the trajectory and trains them by
gradient descent; the span is the same, and the least-squares solution needs no basis and no
training. References that share no times with the chain (``leading`` steps) serve the last step
only.

References:
    | Diffusion Sampling Correction via Approximately 10 Parameters (Wang et al., 2025)
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from undrift.exceptions import InvalidInput, Limits
from undrift.remedies.remedy import Remedy, Strengths, UnfitChain
from undrift.reporting.numbers import Z_95

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from undrift.diffusion.sampler import GaussianKernel, RandomSource, Sampler, State

PAST = 3
"""Displacements that a correction combines, besides the state."""
FACTORS = (10, 8, 6, 5, 4, 3, 2)
"""How many times the steps of the chain its reference may have."""


class Corrections(NamedTuple):
    r"""The estimate: the coordinates of each corrected step, by the time that it leads to.

    Arguments:
        coordinates: :math:`c_0, \dots, c_3` by the time s, of the steps that are corrected.
        grid: The times of the chain that they belong to.
        reference_steps: Steps of the references.
        distances: Mean squared distance per dimension to the references on the held-out half,
            without and with the corrections.
    """

    coordinates: dict[float, list[float]]
    grid: tuple[float, ...]
    reference_steps: int
    distances: tuple[float, float]


@dataclass(frozen=True)
class TailCorrection(Remedy):
    r"""Moves the last states of a few-step solver towards those that many steps lead to.

    Arguments:
        strength: :math:`\lambda`, the share of the fitted corrections.
        last: Number of last steps that may be corrected.

    Example:
        >>> import torch
        >>> from undrift import CosineSchedule, DDIMSampler, Denoiser, apply_remedy
        >>> denoiser = Denoiser(lambda x_t, t: 0.5 * x_t, CosineSchedule(100), "sample")
        >>> base, data = DDIMSampler(denoiser, 5, clip=None), torch.zeros(1, 4)
        >>> sampler = apply_remedy(base, TailCorrection(), data)
        >>> without, with_it = sampler.describe()["remedies"][0]["distances"]
        >>> with_it < 0.01 * without
        True
    """

    last: float = 5.0

    remedy = "tail_correction"
    estimate_type = Corrections
    strengths = Strengths(
        "share of the fitted corrections",
        default=1.0,
        grid=(0.0, 0.5, 1.0, 1.5),
        neutral=0.0,
    )
    limits: ClassVar = {"last": Limits(1, is_whole=True)}

    @property
    def needs_data(self) -> bool:
        """Always, though only for the shape of the images."""
        return True

    def estimate(
        self, base: Sampler, data: Tensor, num_data: int, generator: torch.Generator
    ) -> Corrections:
        """The corrections, fitted to ``num_data`` trajectories.

        Raises:
            UnfitChain: If the chain draws noise, or cannot be run with more steps.
        """
        import torch

        from undrift.diffusion.network import evaluating

        times = base.grid[1:][-int(self.last) :]
        reference = reference_chain(base, times)
        with torch.no_grad(), evaluating(base.network):
            x = base.prior((num_data, *data.shape[1:]), generator=generator, device=data.device)
            _check_deterministic(base, x[:1])
            return _fitted(base, x, reference, times)

    def _coordinates(self, chain: Sampler, s: float, estimate: Corrections) -> list[float]:
        """The numbers of the step to time s; none where nothing is corrected."""
        if chain.grid != estimate.grid:
            raise InvalidInput(
                "the tail correction is fitted to other steps: use apply_remedy on the chain with "
                "these"
            )
        return [self.value * c for c in estimate.coordinates.get(s, ()) if self.value]

    def kernel(
        self, chain: Sampler, x_t: Tensor, t: float, s: float, estimate: Corrections | None
    ) -> GaussianKernel | None:
        """The density of one denoising step, or None where it depends on the steps before."""
        is_corrected = self._coordinates(chain, s, self.needed(estimate))
        return None if is_corrected else chain.kernel(x_t, t, s)

    def advance(
        self,
        chain: Sampler,
        state: State,
        s: float,
        estimate: Corrections | None,
        generator: RandomSource | None,
    ) -> State:
        """One denoising step and the correction, from which a solver's history continues."""
        after = _stepped(chain, state, s, generator)
        coordinates = self._coordinates(chain, s, self.needed(estimate))
        return _corrected(chain, state.t, after, coordinates) if coordinates else after

    def record(self, base: Sampler, estimate: Corrections | None) -> dict[str, Any]:
        """The options, the corrections by their times, and the distances to the references."""
        own: dict[str, Any] = {"coordinates": {}, "reference_steps": 0, "distances": []}
        if estimate is not None:
            found = estimate.coordinates.items()
            own = {
                "coordinates": {f"{s:g}": [float(f"{c:.6g}") for c in cs] for s, cs in found},
                "reference_steps": estimate.reference_steps,
                "distances": [float(f"{value:.6g}") for value in estimate.distances],
            }
        return super().record(base, estimate) | own


def reference_chain(base: Sampler, times: tuple[float, ...]) -> Sampler:
    """The chain with many more steps that has the most of some times on its grid.

    Raises:
        UnfitChain: If there is none with more steps.
    """
    steps = len(base.grid) - 1
    found: list[Sampler] = []
    for count in (n for k in FACTORS for n in (k * steps, k * (steps - 1) + 1) if n > steps):
        with suppress(InvalidInput):
            found.append(base.with_steps(count))
    if not found:
        raise UnfitChain(
            f"the tail correction compares with a chain of at least twice the {steps} steps, which "
            "this sampler cannot take: choose fewer steps"
        )
    return max(found, key=lambda chain: len({*times} & {*chain.grid}))


def _check_deterministic(base: Sampler, x: Tensor) -> None:
    """Check that a step depends on nothing but the state.

    Raises:
        UnfitChain: If it draws noise.
    """
    import torch

    t, s = base.grid[:2]
    a, b = (base.step(x, t, s, generator=torch.Generator().manual_seed(i)) for i in range(2))
    if not torch.equal(a, b):
        raise UnfitChain(
            "the tail correction needs steps without noise: use a solver such as unipc, "
            "dpm-solver++ or ddim instead of ancestral"
        )


def _fitted(base: Sampler, x: Tensor, reference: Sampler, times: tuple[float, ...]) -> Corrections:
    """Corrections of the steps that lead to some times, kept where finished samples gain."""
    from undrift.diffusion.sampler import State
    from undrift.measurement.parallel_chains import BATCH_SIZE

    wanted = _states_at(reference, x, times)
    batches = [State(base.grid[0], rows) for rows in x.split(BATCH_SIZE)]
    before = best = _errors(base, batches, wanted[0])
    found: dict[float, list[float]] = {}
    for t, s in pairwise(base.grid):
        batches = [_stepped(base, state, s) for state in batches]
        if s not in wanted:
            continue
        fit = _least_squares(batches, wanted[s])
        corrected = [_corrected(base, t, state, fit) for state in batches]
        errors = _errors(base, corrected, wanted[0])
        if _is_lower(errors, best):
            batches, best, found[s] = corrected, errors, fit
    means = (float(before.mean()), float(best.mean()))
    return Corrections(found, base.grid, len(reference.grid) - 1, means)


def _states_at(chain: Sampler, x: Tensor, times: tuple[float, ...]) -> dict[float, Tensor]:
    """The states of a chain at those of some times that it has, 0 among them."""
    import torch

    from undrift.measurement.parallel_chains import BATCH_SIZE

    found: dict[float, list[Tensor]] = {s: [] for s in times if s in chain.grid}
    for rows in x.split(BATCH_SIZE):
        for s, x_s in chain.trajectory(rows):
            if s in found:
                found[s].append(x_s)
    return {s: torch.cat(parts) for s, parts in found.items()}


def _opened(state: State) -> tuple[State, list[Tensor]]:
    """The state with the history of its solver, and the displacements before it."""
    history = state.history or {"solver": None, "past": []}
    return replace(state, history=history["solver"]), history["past"]


def _stepped(
    chain: Sampler, state: State, s: float, generator: RandomSource | None = None
) -> State:
    """One denoising step; its displacement comes first in the history."""
    inner, past = _opened(state)
    after = chain.advance(inner, s, generator=generator)
    past = [after.x - state.x, *past][:PAST]
    return replace(after, history={"solver": after.history, "past": past})


def _corrected(chain: Sampler, t: float, state: State, coordinates: list[float]) -> State:
    """A state that was just reached from time t, moved in the span of its trajectory."""
    from undrift.remedies.sampler import moved

    inner, past = _opened(state)
    x = state.x  # without a history there are fewer displacements
    for coordinate, vector in zip(coordinates, [state.x, *past], strict=False):
        x = x.add(vector, alpha=coordinate)
    after = moved(chain, t, inner, x)
    past = [past[0] + (x - state.x), *past[1:]]
    return replace(after, history={"solver": after.history, "past": past})


def _least_squares(batches: list[State], wanted: Tensor) -> list[float]:
    """The coordinates that bring the first half of the states nearest to the wanted ones."""
    import torch

    rows = [[state.x, *state.history["past"]] for state in batches]
    vectors = torch.stack([torch.cat(parts) for parts in zip(*rows, strict=True)])
    half = len(wanted) // 2
    missing = (wanted - vectors[0])[:half].flatten().double()
    flat = vectors[:, :half].flatten(1).double()
    lengths = flat.norm(dim=1).clamp(min=1e-300)
    unit = flat / lengths[:, None]
    inverse = torch.linalg.pinv(unit @ unit.mT, rtol=1e-9, hermitian=True)
    coordinates: list[float] = (inverse @ (unit @ missing) / lengths).tolist()
    return coordinates


def _errors(chain: Sampler, batches: list[State], wanted: Tensor) -> Tensor:
    """Squared distances per dimension of finished samples to their references, held-out half."""
    import torch

    ends = []
    for state in batches:
        inner, _ = _opened(state)
        for s in chain.times(inner.t)[1:]:
            inner = chain.advance(inner, s)
        ends.append(inner.x)
    half = len(wanted) // 2
    return (torch.cat(ends) - wanted)[half:].flatten(1).double().square().mean(1)


def _is_lower(errors: Tensor, than: Tensor) -> bool:
    """Whether paired errors are lower by more than chance; not of a single pair."""
    change = errors - than
    return len(change) > 1 and bool(change.mean() < -Z_95 * change.std() / len(change) ** 0.5)
