r"""The record of the scalar error budget: the errors of statistics, band by band.

A statistic S maps a state to a number: the energy of a frequency band about
:math:`\alpha_t` times the data's mean (positive), or a mean. With the segment's denoising steps K
from t' to t,

.. math::
    e_t = \log E_{p_t} S - \log E_{q_t} S
        = \underbrace{\log E_{K p_{t'}} S - \log E_{K q_{t'}} S}_{\text{inherited} \;=\; \mu e_{t'}}
        + \underbrace{\log E_{K q_{t'}} S - \log E_{q_t} S}_{\text{fresh}}

holds exactly, for every sampler; for a mean the same without logarithms. :math:`\mu` is the
amplification of the error that arrives at the segment. It is given where that error is
distinguishable from 0 (its 95 % interval excludes 0); then, and only then, Fieller's interval of
the ratio is bounded: all :math:`\mu` with

.. math:: (I - \mu e)^2 \le z^2 \left(\operatorname{Var} I - 2 \mu \operatorname{Cov}(I, e)
          + \mu^2 \operatorname{Var} e\right).

References:
    | Some Problems in Interval Estimation (Fieller, 1954)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from undrift.reporting.numbers import Z_95, interval, is_distinguishable


@dataclass(frozen=True)
class Statistic:
    """A statistic of a state.

    Arguments:
        name: Its name, unique in a profile: ``"energy 2-4"``, ``"mean, channel 1"``.
        kind: ``"energy"``, whose errors are differences of logarithms (0.01 is one percent too
            much), or ``"mean"``, whose errors are differences in units of the data.
        basis: ``"frequency"``, the radius of the indices of the orthonormal discrete cosine
            transform in half waves along the shorter side; or ``"component"``, the rank of the
            principal components of the data, of states without width and height.
        low: Lowest radius, or first rank, of the band.
        high: Where the band ends, excluded; None for the highest band.
        size: Number of coefficients of the band, in its channels.
        channel: The channel; None where a state has one, or all are taken together.
    """

    name: str
    kind: str
    basis: str
    low: float
    high: float | None
    size: int
    channel: int | None = None


@dataclass(frozen=True)
class EffectiveTime:
    """The time whose forward draws have energies nearest to those of the sampler's states.

    Arguments:
        time: The time, of all bands together, weighted by their precision.
        time_se: Its standard error.
        time_data_se: The part of it that is due to the data.
    """

    time: float
    time_se: float
    time_data_se: float


@dataclass(frozen=True)
class ScalarError:
    r"""The error of one statistic at one state, and the budget of the segment that ends there.

    Arguments:
        error: :math:`e_t`; the errors of a state are None where the data have none of this energy.
        error_se: Its standard error.
        error_data_se: The part of it that is due to the data.
        inherited: What is left, after the segment, of the error before; None at the first state
            and without a budget.
        inherited_se: Its standard error.
        inherited_data_se: The part of it that is due to the data.
        fresh: The error that the segment adds: ``error`` is ``inherited + fresh``.
        fresh_se: Its standard error.
        fresh_data_se: The part of it that is due to the data.
        covariance: Covariance of ``inherited`` and the error before.
        data_covariance: The part of it that is due to the data.
        amplification: :math:`\mu`, inherited over the error before; None where that is not
            distinguishable from 0.
        amplification_interval: Its 95 % interval, by Fieller's theorem.
        effective_time: The time at which forward draws have this energy; None for a mean, and where
            there is none, or its standard error is longer than the chain.
        effective_time_se: Its standard error.
        effective_time_data_se: The part of it that is due to the data.
    """

    error: float | None
    error_se: float | None
    error_data_se: float | None
    inherited: float | None = None
    inherited_se: float | None = None
    inherited_data_se: float | None = None
    fresh: float | None = None
    fresh_se: float | None = None
    fresh_data_se: float | None = None
    covariance: float | None = None
    data_covariance: float | None = None
    amplification: float | None = None
    amplification_interval: tuple[float, float] | None = None
    effective_time: float | None = None
    effective_time_se: float | None = None
    effective_time_data_se: float | None = None

    @property
    def is_detected(self) -> bool:
        """Whether the error is distinguishable from 0: its 95 % interval excludes 0."""
        if self.error is None or self.error_se is None:
            return False
        return is_distinguishable(*interval(self.error, self.error_se))

    def after(self, before: ScalarError) -> ScalarError:
        """The same with its amplification of the error before, where that is detected."""
        ratio, ends = None, None
        if before.is_detected and self.inherited is not None:
            assert before.error is not None and before.error_se is not None
            assert self.inherited_se is not None and self.covariance is not None
            ratio = self.inherited / before.error
            ends = fieller_interval(
                self.inherited, before.error, self.inherited_se, before.error_se, self.covariance
            )
        return replace(self, amplification=ratio, amplification_interval=ends)


def with_amplifications(
    states: Sequence[tuple[ScalarError, ...]],
) -> list[tuple[ScalarError, ...]]:
    """The errors of all states, from the first on, with their amplifications."""
    done = list(states[:1])
    for before, errors in zip(states, states[1:], strict=False):
        done.append(tuple(own.after(old) for own, old in zip(errors, before, strict=True)))
    return done


def fieller_interval(
    numerator: float, denominator: float, numerator_se: float, denominator_se: float, cov: float
) -> tuple[float, float] | None:
    """The 95 % interval of a ratio of normal estimates; None where it has no ends.

    Arguments:
        numerator: Estimate of the numerator.
        denominator: Estimate of the denominator.
        numerator_se: Standard error of the numerator.
        denominator_se: Standard error of the denominator.
        cov: Covariance of the estimates.

    Example:
        >>> low, high = fieller_interval(3.0, 2.0, 0.01, 0.01, 0.0)
        >>> round(low, 3), round(high, 3)
        (1.482, 1.518)
        >>> fieller_interval(3.0, 0.1, 0.1, 0.1, 0.0) is None
        True
    """
    z_sq = Z_95**2
    a = denominator**2 - z_sq * denominator_se**2
    b = numerator * denominator - z_sq * cov
    c = numerator**2 - z_sq * numerator_se**2
    if a <= 0:
        return None
    root = math.sqrt(max(b * b - a * c, 0.0))
    return (b - root) / a, (b + root) / a
