r"""Limits of the cumulative error in nats, in any dimension.

Let :math:`0 \le k \le 1` and :math:`k(x, x) = 1` (an averaged RBF mixture). Split
:math:`p - q = \nu_+ - \nu_-`: both parts have mass :math:`TV`, and so

.. math:: MMD^2 = \|\nu_+\|^2 + \|\nu_-\|^2 - 2\langle \nu_+, \nu_- \rangle \le 2\,TV^2,

because the squared norms are at most :math:`TV^2` (the kernel is at most 1) and the inner product
is not negative (nor is the kernel). The bound is attained by two far points. With Pinsker's
inequality :math:`KL \ge 2\,TV^2` and that of Bretagnolle and Huber
:math:`KL \ge -\log(1 - TV^2)`,

.. math:: KL \ge \max\{ MMD^2,\; -\log(1 - MMD^2/2) \}.

From above, the error budget without its reductions (docs/theory, section 2) gives
:math:`E_{cumu}(t) \le E_{cumu}(T+1) + \sum_{s \ge t} E_{mod}(s)`.

With estimates, use confidence limits: the lower limit of MMD² on the left, the upper limit of the
sum on the right. Each holds with probability `LEVEL` in a profile, so that both do with 95 %. A
small MMD does not imply a small KL: MMD bounds KL only from below.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from statistics import NormalDist

from undrift.exceptions import InvalidInput

LEVEL = 0.975
"""Confidence of each end of a measured bracket; both hold with 95 % or more."""
NULL_QUANTILE = 2.8453
r"""Quantile of :math:`\chi^2_1` at that level, standardized. It is the largest of all weighted
sums of :math:`\chi^2`, the distribution of MMD² near 0, and of the normal distribution (1.96)."""


def mmd_sq_lower_limit(mmd_sq: float, standard_error: float) -> float:
    """Lower confidence limit of MMD² without permutations.

    Arguments:
        mmd_sq: An unbiased estimate.
        standard_error: Its standard error, not below that of equal distributions.

    Example:
        >>> round(mmd_sq_lower_limit(0.02, 0.001), 4), mmd_sq_lower_limit(0.002, 0.001)
        (0.0172, 0.0)
    """
    return max(mmd_sq - NULL_QUANTILE * standard_error, 0.0)


def kl_upper_limit(path_kl: float, standard_error: float, skew: float = 0.0) -> float:
    r"""Upper confidence limit of the cumulative error, from an estimate of the path divergence.

    .. math:: \hat\kappa_1 + z \sqrt{\hat\kappa_2}
              + \frac{1 + 2 z^2}{6} \frac{\hat\kappa_3}{\hat\kappa_2}

    with the cumulants of the estimate, a mean. Contributions to a divergence are skewed to the
    right; a mean that is too low then comes with a standard error that is too small, for
    which the normal limit does not allow.

    Arguments:
        path_kl: Estimate of the divergence of the sampler's paths from the true ones, in nats.
        standard_error: Its standard error.
        skew: :math:`\kappa_3 / \kappa_2` of the estimate; negative ones count as 0.

    References:
        | Modified t Tests and Confidence Intervals for Asymmetrical Populations (Johnson, 1978)

    Example:
        >>> round(kl_upper_limit(0.5, 0.1), 3), round(kl_upper_limit(0.5, 0.1, 0.01), 3)
        (0.696, 0.71)
    """
    z = NormalDist().inv_cdf(LEVEL)
    return max(path_kl + z * standard_error + (1 + 2 * z**2) / 6 * max(skew, 0.0), 0.0)


def kl_lower_bound(mmd_sq: float) -> float:
    r"""Least KL (in nats) of two distributions whose squared MMD is at least this.

    .. math:: \max\{ MMD^2,\; -\log(1 - MMD^2/2) \}

    Pinsker's term is the larger one below 1.6, Bretagnolle and Huber's above. The kernel must lie
    between 0 and 1 with 1 on its diagonal: an average of RBF kernels does, their sum does not.

    Arguments:
        mmd_sq: Squared MMD, or a lower confidence limit of it; a negative one bounds nothing.

    Returns:
        Lower bound in nats; infinite at the largest MMD² that such a kernel allows, 2.

    Raises:
        InvalidInput: If the squared MMD is above 2.

    References:
        | Introduction to Nonparametric Estimation (Tsybakov, 2009), section 2.4
    Example:
        >>> kl_lower_bound(-1e-4), kl_lower_bound(0.25), round(kl_lower_bound(1.9), 3)
        (0.0, 0.25, 2.996)
    """
    if math.isnan(mmd_sq) or mmd_sq > 2 * (1 + 1e-12):
        raise InvalidInput(f"MMD² is {mmd_sq:.4g}: average the kernel so that it is at most 1")
    if mmd_sq <= 0:
        return 0.0
    return max(mmd_sq, -math.log1p(-mmd_sq / 2)) if mmd_sq < 2 else math.inf


@dataclass(frozen=True)
class Bracket:
    r"""Limits between which the cumulative error of one state lies, in nats.

    Arguments:
        lower: From MMD².
        upper: From the budget; None where it does not exist.
    """

    lower: float
    upper: float | None

    def __contains__(self, value: float) -> bool:
        upper = math.inf if self.upper is None else self.upper
        return self.lower - 1e-12 <= value <= upper + 1e-12


def cumulative_brackets(
    mmd_sq: Sequence[float], prior_kl: float, modular_errors: Sequence[float | None]
) -> list[Bracket]:
    r"""Brackets on :math:`E_{cumu}` along the chain, in the order in which the sampler runs.

    Arguments:
        mmd_sq: MMD² at the state where each step ends.
        prior_kl: :math:`E_{cumu}(T+1)`.
        modular_errors: :math:`E_{mod}` of each step; None or infinite where it does not exist,
            after which nothing bounds from above.

    Returns:
        One bracket per step.

    Raises:
        InvalidInput: If the sequences differ in length, or an MMD² is above 2.

    Example:
        >>> cumulative_brackets([0.01, 0.02], 0.25, [0.5, None])
        [Bracket(lower=0.01, upper=0.75), Bracket(lower=0.02, upper=None)]
    """
    if len(mmd_sq) != len(modular_errors):
        raise InvalidInput("the bracket needs one MMD² and one modular error per step")
    sums = accumulate(math.inf if error is None else error for error in modular_errors)
    uppers = [prior_kl + total if math.isfinite(total) else None for total in sums]
    return [Bracket(kl_lower_bound(m), upper) for m, upper in zip(mmd_sq, uppers, strict=True)]
