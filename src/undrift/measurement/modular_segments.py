r"""The modular error between measured states, and the divergence of paths that bounds from above.

A segment of the chain is the denoising steps from one measured state to the next. Its modular error
is the sum over its steps: by the chain rule of KL the divergence of the sampler's paths through it
from the true reverse paths, given the state where it begins. Summed from the prior on,

.. math:: KL(p_{s:T} \| q_{s:T}) = KL(p_T \| q_T) + \sum_{t > s} E_{mod}(t) \ge KL(p_s \| q_s),

the upper end of the bracket on the cumulative error (docs/theory, section 6). The same chains run
through all steps, so their contributions are summed chain by chain: the standard error of a sum is
then right whatever the correlation of its terms.

The target is the data set itself as a distribution, the only one of image data whose reverse
conditional is known.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from undrift.diffusion.mixture import EmpiricalDistribution, ForwardProcess
from undrift.diffusion.sampler import GaussianKernel, Sampler
from undrift.measurement.cumulative import check_states
from undrift.measurement.modular import (
    Estimate,
    ExposedError,
    NoDensity,
    memorizing_from,
    modular_errors,
)
from undrift.measurement.state import ErrorState, KLLimits, SegmentModularError
from undrift.mmd.kl_bounds import LEVEL, kl_upper_limit
from undrift.processes import ALONE, Processes
from undrift.seeds import stream_seed


@dataclass(frozen=True)
class SegmentErrors:
    """The modular errors of a chain, by state, as far as they exist.

    Arguments:
        modular: The modular error of the segment that ends at a state.
        limits: The divergence of paths down to a state, and the upper limit from it.
        how: How they were measured, or the ``"reason"`` why they do not exist.
    """

    modular: dict[float, SegmentModularError]
    limits: dict[float, KLLimits]
    how: dict[str, Any]

    def added_to(self, state: ErrorState) -> ErrorState:
        """A state with the modular error of its segment and both of its limits."""
        kl, found = state.kl, self.limits.get(state.t)
        if kl is not None and found is not None:
            kl = replace(kl, upper=found.upper, path=found.path, path_se=found.path_se)
        return replace(state, modular=self.modular.get(state.t), kl=kl)


def data_process(sampler: Sampler, data: Tensor) -> ForwardProcess | None:
    """The data set itself under the forward process of a chain; None if that is not known.

    Arguments:
        sampler: The chain.
        data: Data, with shape :math:`(n, *)`.
    """
    if sampler.schedule is None or sampler.is_conditional:
        return None
    return ForwardProcess(EmpiricalDistribution(data), sampler.schedule)


def segment_errors(
    sampler: Sampler,
    process: ForwardProcess | None,
    times: Sequence[float],
    shape: tuple[int, ...],
    *,
    seed: int = 0,
    batch_size: int = 512,
    device: torch.device | str | None = None,
    tick: Callable[[int], None] = lambda amount: None,
    processes: Processes = ALONE,
) -> SegmentErrors:
    r"""Measure the modular error of every denoising step and sum it between states.

    Arguments:
        sampler: The chain.
        process: The data under its forward process; without one there are no modular errors.
        times: Measured times, descending, the first and the last of the grid among them.
        shape: Number of chains and shape of one state, :math:`(B, *)`.
        seed: Seed of the run.
        batch_size: Number of chains that go through the network at once.
        device: Where the network is.
        tick: Called with the number of denoising steps times states that were run.
        processes: Those that share the calls of the network.

    Raises:
        InvalidInput: If an error is not finite.
    """
    if process is None:
        reason = f"{type(sampler).__name__} has no Gaussian denoising steps"
        if sampler.is_conditional:
            reason = "a conditional model has another reverse conditional for each condition"
        reason += ": only the MMD is measured"
        return SegmentErrors({}, {}, {"reason": reason})
    generator = torch.Generator().manual_seed(stream_seed(seed, "modular"))
    grid, done = sampler.grid, 0
    path = prior_terms(process, grid[0], shape[0], generator)
    prior, memorizing = Estimate.of(path), None
    modular: dict[float, SegmentModularError] = {}
    limits = {times[0]: _path_limits(path)}
    errors = modular_errors(
        sampler, process, shape,
        generator=generator, batch_size=batch_size, device=device, tick=tick, processes=processes,
    )  # fmt: skip
    try:
        for stop, group in groupby(errors, key=lambda error: _segment_end(error, times)):
            steps = list(group)
            for step in steps:
                path = path + step.sampled.terms
                check_states(path[:, None], step.sampled.t, "modular errors")
                if memorizing is None and step.forward.memorizing:
                    memorizing = step.forward.t
            done += len(steps)
            start = times[times.index(stop) - 1]
            if len(steps) == grid.index(stop) - grid.index(start):
                modular[stop] = _segment_error(steps)
            if done == grid.index(stop):
                limits[stop] = _path_limits(path)
    except NoDensity as error:
        return SegmentErrors({}, {}, {"reason": str(error)})
    last = min([*modular, *limits])
    return SegmentErrors(modular, limits, _how(process, shape[0], prior, last, memorizing))


def prior_terms(
    process: ForwardProcess, t: float, count: int, generator: torch.Generator | None = None
) -> Tensor:
    r"""Draws whose mean is :math:`KL(N(0, I) \| q_T)`, the error of the prior, with shape (B,).

    Arguments:
        process: The data under the forward process.
        t: Time of the prior, T.
        count: Number of draws, B.
        generator: Source of the draws.

    Returns:
        Terms in nats.

    Example:
        >>> from undrift.diffusion.mixture import GaussianMixture
        >>> from undrift.diffusion.schedule import CosineSchedule
        >>> standard = GaussianMixture(torch.zeros(1, 2), torch.ones(1))
        >>> bool(prior_terms(ForwardProcess(standard, CosineSchedule(10)), 10, 50).max() < 1e-9)
        True
    """
    x = torch.randn(count, process.data.dim, generator=generator, dtype=torch.float64)
    return GaussianKernel(torch.zeros_like(x), 1.0).log_prob(x) - process.log_prob(x, t)


def _segment_end(error: ExposedError, times: Sequence[float]) -> float:
    """The measured state at which the segment of a step ends."""
    return next(time for time in times if time <= error.sampled.s)


def _segment_error(steps: Sequence[ExposedError]) -> SegmentModularError:
    """The modular error of a segment with its parts."""
    parts = sum(step.sampled.parts for step in steps)
    forward = sum(step.forward.terms for step in steps)
    assert isinstance(parts, Tensor) and isinstance(forward, Tensor)
    seen, trained = Estimate.of(parts.sum(0)), Estimate.of(forward)
    estimates = {
        "error": seen,
        "error_forward": trained,
        "exposure_bias": seen - trained,
        **dict(zip(("mean", "variance", "shape"), map(Estimate.of, parts), strict=True)),
    }
    return SegmentModularError(
        **{name: found.value for name, found in estimates.items()},
        **{f"{name}_se": found.standard_error for name, found in estimates.items()},
        error_per_dimension=seen.value / steps[0].sampled.dim,
        steps=len(steps),
        variance_factor=len(steps) / sum(1 / step.sampled.variance_factor for step in steps),
        nearest_weight=max(step.forward.top_weight for step in steps),
    )


def _path_limits(path: Tensor) -> KLLimits:
    """The divergence of paths down to a state, and the upper limit that follows from it.

    The skew is that of a mean: the third cumulant of a term over the second, over their number.
    """
    found, spread = Estimate.of(path), path - path.mean()
    variance = float(spread.square().mean())
    skew = float((spread**3).mean()) / (variance * len(path)) if variance else 0.0
    upper = kl_upper_limit(found.value, found.standard_error, skew)
    return KLLimits(upper=upper, path=found.value, path_se=found.standard_error)


def _how(
    process: ForwardProcess, count: int, prior: Estimate, last: float, memorizing: float | None
) -> dict[str, Any]:
    """The target, the number of chains, the last state, and from when on the target memorizes."""
    data = process.data
    how: dict[str, Any] = {
        "reference": type(data).__name__,
        "num_chains": count,
        "dimension": data.dim,
        "level": LEVEL,
        "prior_kl": prior.value,
        "prior_kl_se": prior.standard_error,
        "down_to": last,
        "memorizing_from": None,
    }
    if isinstance(data, EmpiricalDistribution):
        how |= {"reference": "empirical", "num_data": len(data.data)}
        how["note"] = f"in nats down to t = {last:g}: at t = 0 a data set has no density"
        if memorizing is not None:
            how |= {"memorizing_from": memorizing, "warning": memorizing_from(memorizing)}
    return how
