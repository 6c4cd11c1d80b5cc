r"""A confidence interval of MMD² by inverting its test.

The unbiased statistic T is normal far from :math:`\theta = \mathrm{MMD}^2 = 0` and a weighted sum
of :math:`\chi^2` at 0. A normal interval misses the truth up to 24 times in 100 in between, because
its width comes from the same noise. So the test of every :math:`\theta \ge 0` is inverted.

In coordinates that diagonalize the kernel,
:math:`T = \sum_l \lambda_l \left[ (a_l + g_l)^2 - E g_l^2 \right]` with
:math:`\theta = \sum \lambda_l a_l^2` and noise g, thus

.. math:: T - \theta = \sum_l \lambda_l (g_l^2 - E g_l^2) + 2 \sum_l \lambda_l a_l g_l
          \;\approx\; T_b \pm \sqrt{\rho \theta}\, \ell_b,

:math:`T_b` the statistic under a random relabeling, a draw of the first sum, and :math:`\ell_b` the
standardized inner product of the *same* relabeling with the witness function, the second. The two
are uncorrelated but not independent: skewness decreases more slowly than the second-order variance.
At :math:`\theta = 0` this is the permutation test, far away the normal distribution.

:math:`\rho` is the first-order variance per unit of :math:`\theta`: :math:`\hat\tau^2 / T` where T
is far above its noise. Near zero this quotient is undefined, and the regression of
:math:`\hat\tau_b^2` on :math:`T_b` over relabelings, :math:`\hat\tau_b^2 \approx \rho_0 T_b`,
replaces it,

.. math:: \hat\rho = \rho_0 + \frac{\hat\tau^2 - \rho_0 T}{\max(T, 0) + c \cdot \text{null sd}} .

A squared distance cannot be negative, so at :math:`\theta = 0` the whole error probability is in
the upper tail of T; half of it is, once :math:`\theta` exceeds a few standard deviations. The
interval is then never empty, and excludes 0 exactly if the permutation p-value is at most
1 − level.

References:
    | Unified approach to the classical statistical analysis of small signals
    | (Feldman and Cousins, 1998)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import NormalDist

import torch
from torch import Tensor

from undrift.exceptions import InvalidInput

EQUAL_TAILS_FROM = 4.0
"""Standard deviations from 0 on which both tails have half of the error: by simulated coverage."""


@dataclass(frozen=True)
class MMDEstimate:
    r"""An unbiased estimate of MMD², with its uncertainty.

    Arguments:
        mmd_sq: The estimate; negative values are to be expected where the distributions agree.
        standard_error: Its standard error, never below ``null_sd``.
        p_value: Permutation p-value of equal distributions; NaN without permutations.
        null_sd: Standard deviation of the estimate over all relabelings.
        num_x: Number of generated samples.
        num_y: Number of forward samples.
        variance_slope: First-order variance per unit of MMD², :math:`\rho`.
        null_draws: The statistic under random relabelings, :math:`T_b`.
        linear_draws: The standardized linear part of the same relabelings, :math:`\ell_b`.
    """

    mmd_sq: float
    standard_error: float
    p_value: float
    null_sd: float
    num_x: int
    num_y: int
    variance_slope: float = field(default=0.0, repr=False)
    null_draws: tuple[float, ...] = field(default=(), repr=False)
    linear_draws: tuple[float, ...] = field(default=(), repr=False)

    def confidence_interval(self, level: float = 0.95) -> tuple[float, float]:
        r"""Interval that covers the true MMD² with the given probability, at every distance.

        Arguments:
            level: Probability of coverage.

        Returns:
            Lower and upper limit, in units of the kernel; the lower one is 0 exactly if equal
            distributions are not rejected. Without permutations the limits are the normal ones,
            which are too narrow near the null standard deviation.

        Raises:
            InvalidInput: If the permutations are too few for the level.
        """
        self._check_level((1 - level) / 2, level)
        if not self.null_draws:
            half = NormalDist().inv_cdf((1 + level) / 2) * self.standard_error
            return max(self.mmd_sq - half, 0.0), max(self.mmd_sq + half, 0.0)

        def below(theta: float) -> float:
            return (1 - level) * self._lower_share(theta)

        lower = self._crossing(lambda theta: self._upper_quantile(theta, 1 - level - below(theta)))
        return lower, self._crossing(lambda theta: self._lower_quantile(theta, below(theta)))

    def lower_confidence_limit(self, level: float = 0.95) -> float:
        r"""A value that the true MMD² exceeds with the given probability; 0 is always one.

        Arguments:
            level: Probability that the true value is not below.

        Returns:
            The limit, in units of the kernel.

        Raises:
            InvalidInput: If the permutations are too few for the level.
        """
        self._check_level(1 - level, level)
        if not self.null_draws:
            return max(self.mmd_sq - NormalDist().inv_cdf(level) * self.standard_error, 0.0)
        return self._crossing(lambda theta: self._upper_quantile(theta, 1 - level))

    def _check_level(self, tail: float, level: float) -> None:
        """Check that the draws are enough for a quantile at this level."""
        if not 0 < level < 1:
            raise InvalidInput(f"level {level} is no probability: use a number such as 0.95")
        if self.null_draws and tail * (len(self.null_draws) + 1) < 1 - 1e-9:
            needed = math.ceil(1 / tail - 1e-9) - 1
            raise InvalidInput(f"level {level} needs num_permutations={needed} or more")

    def _draws(self, theta: float) -> Tensor:
        """Sorted draws of the estimate around a true value, two from each relabeling."""
        null = torch.tensor(self.null_draws, dtype=torch.float64)
        linear = torch.tensor(self.linear_draws, dtype=torch.float64)
        linear *= math.sqrt(self.variance_slope * theta)
        return theta + torch.cat([null + linear, null - linear]).sort().values

    def _lower_share(self, theta: float) -> float:
        """Share of the error probability below: 0 at 0, half from some standard deviations on."""
        spread = math.sqrt(self.null_sd**2 + self.variance_slope * theta)
        return 0.5 * min(1.0, theta / (EQUAL_TAILS_FROM * spread)) if spread > 0 else 0.5

    def _upper_quantile(self, theta: float, tail: float) -> float:
        return float(self._draws(theta)[-2 * self._rank(tail)])

    def _lower_quantile(self, theta: float, tail: float) -> float:
        rank = self._rank(tail)
        return float(self._draws(theta)[2 * rank - 1]) if rank else -math.inf

    def _rank(self, tail: float) -> int:
        return math.floor(tail * (len(self.null_draws) + 1) + 1e-9)

    def _crossing(self, limit: Callable[[float], float]) -> float:
        """The value from 0 on at which an increasing limit reaches the estimate, by bisection."""
        if limit(0.0) >= self.mmd_sq:
            return 0.0
        low, high = 0.0, max(self.mmd_sq, self.null_sd)
        while limit(high) < self.mmd_sq:
            low, high = high, 2 * high
        for _ in range(30):
            middle = (low + high) / 2
            low, high = (middle, high) if limit(middle) < self.mmd_sq else (low, middle)
        return high
