r"""The cumulative error of a state: :math:`D_t^2 = \mathrm{MMD}^2(p_t, q_t)`.

Both sides are samples: states that the sampler made, and forward draws of data. The kernel's
bandwidth is fixed by the forward draws of the same t, so that it does not change with the model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from undrift.diffusion.sampler import Sampler
from undrift.exceptions import InvalidInput
from undrift.measurement.state import CumulativeError, KLLimits
from undrift.mmd.interval import MMDEstimate
from undrift.mmd.kernels import Kernel, RBFMixture
from undrift.mmd.kl_bounds import LEVEL, kl_lower_bound, mmd_sq_lower_limit
from undrift.mmd.two_sample import mmd_estimate
from undrift.seeds import stream_seed

Reference = Literal["population", "empirical"]


@dataclass(frozen=True)
class ForwardDraws:
    r"""Draws from the forward marginals :math:`q_t` of a data set.

    With the ``"population"`` as reference each datum is used at most once for a state, so that the
    draws are independent draws from what the data were drawn from. With the ``"empirical"``
    distribution data are drawn with replacement: the target is the data set itself, which only a
    model that has memorized it matches.

    Arguments:
        data: Data, with shape :math:`(n, *)`.
        sampler: The chain, whose forward process is used.
        count: Number of draws for each state.
        reference: ``"population"`` or ``"empirical"``.
        generator: Source of the draws.
    """

    data: Tensor
    sampler: Sampler
    count: int
    reference: Reference
    generator: torch.Generator

    def select(self, count: int | None = None) -> Tensor:
        """Data for one state, with shape :math:`(M, *)`, on the CPU."""
        n, count = len(self.data), self.count if count is None else count
        if self.reference == "population":
            rows = torch.randperm(n, generator=self.generator)[:count]
        else:
            rows = torch.randint(n, (count,), generator=self.generator)
        return self.data[rows]

    def at(self, t: float) -> Tensor:
        """Forward draws to compare a state with; at t = 0 the images that samples are scored by."""
        if t == 0 and self.reference == "population":
            return self.draw(self.data[evenly_spread(len(self.data), self.count)], t)
        return self.draw(self.select(), t)

    def draw(self, x_0: Tensor, t: float) -> Tensor:
        """The forward process at time t from these data."""
        return self.sampler.forward(x_0, t, generator=self.generator)

    def draw_pair(self, x_0: Tensor, t: float, s: float) -> tuple[Tensor, Tensor]:
        """The forward process at two times, from the same data with the same noise."""
        before = self.generator.get_state()
        x_s = self.draw(x_0, s)
        self.generator.set_state(before)
        return self.draw(x_0, t), x_s

    def overlap(self, t: float) -> float:
        """Share of the draws of one state that another measurement of the same data uses too."""
        if self.reference == "empirical":
            return 0.0
        return 1.0 if t == 0 else min(1.0, self.count / len(self.data))


def cumulative_error(
    x: Tensor,
    y: Tensor,
    kernel: Kernel,
    *,
    num_permutations: int = 200,
    overlap: float = 0.0,
    generator: torch.Generator | None = None,
) -> tuple[CumulativeError, KLLimits | None, Kernel]:
    r"""The cumulative error of a state, its lower limit in nats, and the kernel with its bandwidth.

    Arguments:
        x: The sampler's states, with shape :math:`(N, *)`.
        y: Forward draws, with shape :math:`(M, *)`.
        kernel: Its bandwidth is fixed by the forward draws if it is not yet.
        num_permutations: Permutations of the test; 0 for none, and no p-value.
        overlap: Share of the data that the forward draws use.
        generator: Source of the permutations.
    """
    kernel = kernel.fit(y, x)
    found = mmd_estimate(
        x, y, kernel=kernel, num_permutations=num_permutations, generator=generator
    )
    error = CumulativeError(
        mmd_sq=found.mmd_sq,
        mmd_sq_se=found.standard_error,
        mmd_sq_data_se=math.sqrt(data_variance(found, overlap)),
        null_sd=found.null_sd,
        interval=found.confidence_interval(0.95),
        p_value=found.p_value if num_permutations else None,
        bandwidth=getattr(kernel, "bandwidth", None),
    )
    lower = kl_limit(found, kernel)
    return error, None if lower is None else KLLimits(lower), kernel


def data_variance(found: MMDEstimate, overlap: float) -> float:
    """The part of the squared standard error of an MMD² that is due to the data.

    Of the first order the share :math:`N / (N + M)`, of the second order, the only one where the
    distributions are equal, its square; exact in the limit of equal distributions. Both are
    multiplied by the share of the data that the draws use.
    """
    share = overlap * found.num_x / (found.num_x + found.num_y)
    first_order = max(found.standard_error**2 - found.null_sd**2, 0.0)
    return share * first_order + share**2 * found.null_sd**2


def data_set_limits(
    x: Tensor,
    draws: ForwardDraws,
    t: float,
    kernel: Kernel,
    *,
    num_permutations: int = 200,
) -> KLLimits:
    r"""The lower limit of the cumulative error against the data set itself, from MMD.

    At t = 0 the data set has no density and a divergence from it is infinite: no limit is given.

    Arguments:
        x: The sampler's states, with shape :math:`(N, *)`.
        draws: Forward draws with the empirical distribution as reference.
        t: Time of the states.
        kernel: A kernel with a fixed bandwidth.
        num_permutations: Permutations behind the limit; 0 for a limit without them.
    """
    y = draws.draw(draws.select(), t)
    found = mmd_estimate(
        x, y, kernel=kernel, num_permutations=num_permutations, generator=draws.generator
    )
    return KLLimits(
        lower=kl_limit(found, kernel) if t > 0 else None,
        empirical_mmd_sq=found.mmd_sq,
        empirical_mmd_sq_se=found.standard_error,
    )


def kl_limit(found: MMDEstimate, kernel: Kernel) -> float | None:
    """Lower confidence limit of a KL, in nats, from an estimate of MMD² (undrift.mmd.kl_bounds).

    None for a kernel that is not bounded by 1.
    """
    if not isinstance(kernel, RBFMixture) or kernel.reduction != "mean":
        return None
    if not found.null_draws:
        return kl_lower_bound(mmd_sq_lower_limit(found.mmd_sq, found.standard_error))
    return kl_lower_bound(found.lower_confidence_limit(LEVEL))


def evenly_spread(num_data: int, count: int) -> Tensor:
    """Rows of ``count`` data, evenly spread over all of them; all, in order, where no more are.

    Example:
        >>> evenly_spread(5, 2).tolist(), evenly_spread(3, 9).tolist()
        ([0, 2], [0, 1, 2])
    """
    count = min(count, num_data)
    return torch.arange(count) * num_data // count


def permutations(seed: int, t: float) -> torch.Generator:
    """The source of the permutations behind the p-value of one state."""
    return torch.Generator().manual_seed(stream_seed(seed, "permutations", f"{t:g}"))


def default_count(data: Tensor, num_samples: int, reference: Reference) -> int:
    """How many forward draws: all data, up to four times the samples."""
    most = 4 * num_samples
    return min(len(data), most) if reference == "population" else max(num_samples, 2)


def check_states(x: Tensor, t: float, what: str) -> None:
    """Check that states are finite.

    Raises:
        InvalidInput: If a value is NaN or infinite.
    """
    if not bool(torch.isfinite(x).all()):
        rows = (~torch.isfinite(x.flatten(1)).all(1)).nonzero()
        raise InvalidInput(
            f"{what} at t={t:g} are not finite ({len(rows)} of {len(x)}, the first is number "
            f"{int(rows[0])}): the values diverged; clip the estimate of the data, or check the "
            "weights and the prediction type"
        )
