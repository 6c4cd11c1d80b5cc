r"""The numbers of one state of a chain, and those that follow from several states.

A state has parts: the cumulative error, the budget of the segment that ends there, the exposure
metrics, limits of the cumulative error in nats, the modular error of the segment. A part that was
not measured is None. ``x_se`` is the standard error of ``x``, and ``x_data_se`` the part of it that
is due to the data, which more samples of the model do not reduce.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from undrift.measurement.scalar_state import EffectiveTime, ScalarError, with_amplifications
from undrift.reporting.numbers import is_distinguishable


@dataclass(frozen=True)
class CumulativeError:
    r"""The cumulative error of a state.

    Arguments:
        mmd_sq: :math:`D_t^2 = \mathrm{MMD}^2(p_t, q_t)`, an unbiased estimate that may be negative.
        mmd_sq_se: Its standard error.
        mmd_sq_data_se: The part of it that is due to the data.
        null_sd: Standard deviation of the estimate where :math:`p_t = q_t`.
        interval: 95 % confidence interval of :math:`D_t^2`.
        p_value: Permutation p-value of :math:`p_t = q_t`; None without permutations.
        bandwidth: Bandwidth of the kernel at this state (a squared distance), if it has one.
    """

    mmd_sq: float
    mmd_sq_se: float
    mmd_sq_data_se: float
    null_sd: float
    interval: tuple[float, float]
    p_value: float | None = None
    bandwidth: float | None = None

    @property
    def is_detected(self) -> bool:
        """Whether it is distinguishable from 0, by the one criterion of all pages."""
        return self.mmd_sq > 0 and is_distinguishable(*self.interval, self.p_value)


@dataclass(frozen=True)
class Budget:
    r"""The MMD budget of the segment from the state before, t', to this one.

    Squares are unbiased estimates and may be negative; roots are taken of the square, at least 0.

    Arguments:
        fresh_sq: Square of :math:`F = \mathrm{MMD}(K q_{t'}, q_t)`, the error that the segment adds
            by itself.
        fresh_sq_se: Its standard error.
        fresh_sq_data_se: An upper bound on the part of it that is due to the data.
        inherited_sq: Square of :math:`I = \mathrm{MMD}(K p_{t'}, K q_{t'})`, what is left of the
            error before.
        inherited_sq_se: Its standard error.
        inherited_sq_data_se: An upper bound on the part of it that is due to the data.
        fresh: F.
        inherited: I.
        amplification: :math:`\lambda = I / D_{t'}`; None where :math:`D_{t'}` is not
            distinguishable from 0.
    """

    fresh_sq: float
    fresh_sq_se: float
    fresh_sq_data_se: float
    inherited_sq: float
    inherited_sq_se: float
    inherited_sq_data_se: float
    fresh: float | None = None
    inherited: float | None = None
    amplification: float | None = None


@dataclass(frozen=True)
class Exposure:
    r"""The field's metrics of exposure bias (:mod:`undrift.measurement.exposure`).

    Arguments:
        delta: Ning et al.'s variance error :math:`\delta_t`.
        delta_se: Its standard error.
        eps_norm_sampled: Mean norm of the model's noise estimate on the sampler's states.
        eps_norm_forward: The same on forward draws.
        eps_norm_gap: The first less the second.
        eps_norm_gap_se: Its standard error.
    """

    delta: float | None = None
    delta_se: float | None = None
    eps_norm_sampled: float | None = None
    eps_norm_forward: float | None = None
    eps_norm_gap: float | None = None
    eps_norm_gap_se: float | None = None


@dataclass(frozen=True)
class KLLimits:
    r"""Confidence limits of the cumulative error in nats, :math:`KL(p_t \| q_t)`.

    Arguments:
        lower: The lower limit, from the MMD (:mod:`undrift.mmd.kl_bounds`).
        upper: The upper limit, from ``path``.
        path: Divergence of the sampler's paths down to here from the true ones: the error of the
            prior and all modular errors so far; against the data set itself.
        path_se: Its standard error.
        empirical_mmd_sq: :math:`\mathrm{MMD}^2` against the data set itself, behind ``lower`` where
            modular errors are measured.
        empirical_mmd_sq_se: Its standard error.
    """

    lower: float | None = None
    upper: float | None = None
    path: float | None = None
    path_se: float | None = None
    empirical_mmd_sq: float | None = None
    empirical_mmd_sq_se: float | None = None


@dataclass(frozen=True)
class SegmentModularError:
    r"""The modular error of the segment that ends at a state, in nats, against the data set itself.

    Arguments:
        error: :math:`E_{mod}` on the sampler's states, summed over the denoising steps.
        error_se: Its standard error.
        error_per_dimension: The same for one number of a state.
        error_forward: :math:`E_{mod}` on forward draws, which training sees.
        error_forward_se: Its standard error.
        exposure_bias: The first less the second.
        exposure_bias_se: Its standard error.
        mean: The part of ``error`` that is in the means of the steps.
        mean_se: Its standard error.
        variance: The part in their variances.
        variance_se: Its standard error.
        shape: The remainder, which no Gaussian step can avoid; may be negative.
        shape_se: Its standard error.
        steps: Number of denoising steps of the segment.
        variance_factor: What to multiply the reverse variance in the segment by for the least
            modular error.
        nearest_weight: Weight of the nearest datum in the target, the largest of the segment; above
            0.9 the target memorizes.
    """

    error: float
    error_se: float
    error_per_dimension: float
    error_forward: float
    error_forward_se: float
    exposure_bias: float
    exposure_bias_se: float
    mean: float
    mean_se: float
    variance: float
    variance_se: float
    shape: float
    shape_se: float
    steps: float
    variance_factor: float
    nearest_weight: float


@dataclass(frozen=True)
class Growth:
    """Growth of small perturbations in the segment that ends at a state, by its Jacobian.

    See :mod:`undrift.measurement.growth`.

    Arguments:
        mean: Root mean square growth over directions and chains.
        mean_se: Its standard error.
        max: The largest growth that power iterations find, averaged over the chains.
        max_se: Its standard error, over the chains.
        step: Step of the central differences, as a part of the root mean square of the states; None
            where the derivative is exact, by forward-mode differentiation.
    """

    mean: float
    mean_se: float
    max: float
    max_se: float
    step: float | None = None


@dataclass(frozen=True)
class ErrorState:
    r"""What was measured at one state of the chain.

    Arguments:
        t: Time of the state, from T (noise) to 0 (data).
        alpha: :math:`\alpha_t` of the forward process, in the scaling of the states.
        sigma: :math:`\sigma_t`, likewise.
        error: The cumulative error.
        budget: Fresh and inherited error of the segment that ends here.
        exposure: Exposure bias by the field's metrics.
        kl: Limits of the cumulative error in nats.
        modular: The modular error of the segment that ends here, in nats.
        scalars: The errors of statistics, in the order of the profile's ``statistics``.
        features: The cumulative error in other spaces, by their names
            (:mod:`undrift.measurement.feature_error`).
        effective_time: The time that the states look like by the energies of their bands.
        growth: Growth of small perturbations in the segment that ends here.
        downstream_gain: Product of the amplifications of all later segments, by which an error made
            here contributes to the error of the samples.
    """

    t: float
    alpha: float
    sigma: float
    error: CumulativeError
    budget: Budget | None = None
    exposure: Exposure | None = None
    kl: KLLimits | None = None
    modular: SegmentModularError | None = None
    scalars: tuple[ScalarError, ...] = ()
    features: dict[str, CumulativeError] = field(default_factory=dict, hash=False)
    effective_time: EffectiveTime | None = None
    growth: Growth | None = None
    downstream_gain: float | None = None

    @property
    def mmd_sq(self) -> float:
        """The cumulative error."""
        return self.error.mmd_sq

    @property
    def mmd_sq_se(self) -> float:
        """Standard error of the cumulative error."""
        return self.error.mmd_sq_se

    @property
    def p_value(self) -> float | None:
        """P-value of no cumulative error."""
        return self.error.p_value

    @property
    def fresh(self) -> float | None:
        """Fresh error of the segment that ends here."""
        return self.budget.fresh if self.budget else None

    @property
    def inherited(self) -> float | None:
        """Inherited error of the segment that ends here."""
        return self.budget.inherited if self.budget else None

    @property
    def amplification(self) -> float | None:
        """Amplification of the segment that ends here."""
        return self.budget.amplification if self.budget else None


def with_ratios(states: Sequence[ErrorState]) -> tuple[ErrorState, ...]:
    r"""The same states with roots, amplifications and downstream gains from their squares.

    .. math:: \lambda = I / D_{t'}, \qquad G_t = \prod_{s < t} \lambda_s

    An amplification is given where the error before is distinguishable from 0 (its 95 % interval
    excludes 0 and its p-value is at most 0.05). A gain is None where any later one is None.
    """
    done: list[ErrorState] = []
    for state in states:
        if state.budget is not None:
            fresh, inherited = _root(state.budget.fresh_sq), _root(state.budget.inherited_sq)
            is_resolved = done and done[-1].error.is_detected
            ratio = inherited / math.sqrt(done[-1].mmd_sq) if is_resolved else None
            roots = replace(state.budget, fresh=fresh, inherited=inherited, amplification=ratio)
            state = replace(state, budget=roots)
        done.append(state)
    gain = 1.0 if any(state.budget for state in done) else None
    for i in reversed(range(len(done))):
        ratio, done[i] = done[i].amplification, replace(done[i], downstream_gain=gain)
        gain = gain * ratio if gain is not None and ratio is not None else None
    scalars = with_amplifications([state.scalars for state in done])
    return tuple(replace(s, scalars=found) for s, found in zip(done, scalars, strict=True))


def _root(square: float) -> float:
    return math.sqrt(max(square, 0.0))
