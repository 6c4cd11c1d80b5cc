r"""The cumulative error of a state: :math:`D_t^2 = \mathrm{MMD}^2(p_t, q_t)`.

Both sides are samples: states that the sampler made, and forward draws of data. The kernel's
bandwidth is fixed by the forward draws of the same t, so that it does not change with the model.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from undrift.exceptions import InvalidInput
from undrift.measurement.forward_draws import ForwardDraws
from undrift.measurement.state import CumulativeError, KLLimits
from undrift.mmd.interval import MMDEstimate
from undrift.mmd.kernel import Kernel
from undrift.mmd.kernels import RBFMixture
from undrift.mmd.kl_bounds import LEVEL, kl_lower_bound, mmd_sq_lower_limit
from undrift.mmd.two_sample import mmd_estimate
from undrift.seeds import stream_seed


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


def permutations(seed: int, t: float) -> torch.Generator:
    """The source of the permutations behind the p-value of one state."""
    return torch.Generator().manual_seed(stream_seed(seed, "permutations", f"{t:g}"))


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
