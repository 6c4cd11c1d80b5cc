r"""What is known of one state of a chain, and what follows from the states together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any


@dataclass(frozen=True)
class ErrorState:
    r"""What was measured at one state of the chain. None: not measured, or not defined.

    Squares are unbiased estimates and may be negative; roots are taken of the square, at least 0.

    Arguments:
        t: Time of the state, from T (noise) to 0 (data).
        alpha: :math:`\alpha_t` of the forward process, in the scaling of the states.
        sigma: :math:`\sigma_t`, likewise.
        mmd_sq: Cumulative error :math:`D_t^2 = \mathrm{MMD}^2(p_t, q_t)`.
        mmd_sq_se: Its standard error.
        p_value: Permutation p-value of :math:`p_t = q_t`.
        null_sd: Standard deviation of the estimate where :math:`p_t = q_t`.
        interval: 95 % confidence interval of :math:`D_t^2`.
        fresh: :math:`F = \mathrm{MMD}(K q_{t'}, q_t)`, the error that the segment from the state
            before, t', makes of its own.
        fresh_sq: Its square.
        fresh_sq_se: The standard error of the square.
        inherited: :math:`I = \mathrm{MMD}(K p_{t'}, K q_{t'})`, what is left of the error before.
        inherited_sq: Its square.
        inherited_sq_se: The standard error of the square.
        amplification: :math:`\lambda = I / D_{t'}` of the segment that ends here; None where
            :math:`D_{t'}` is not told from 0.
        downstream_gain: Product of the amplifications of all later segments: what an error made
            here counts at the end.
        delta: Ning et al.'s variance error :math:`\delta_t`.
        eps_norm_sampled: Mean norm of the model's noise estimate on the sampler's states.
        eps_norm_forward: The same on forward draws.
        eps_norm_gap: The first less the second.
        eps_norm_gap_se: Its standard error.
        bandwidth: Bandwidth of the kernel at this state (a squared distance).
        mmd_sq_data_se: The part of ``mmd_sq_se`` that is due to the data, which other samples of
            the model do not lower.
        fresh_sq_data_se: An upper bound on the same part of ``fresh_sq_se``.
        inherited_sq_data_se: An upper bound on the same part of ``inherited_sq_se``.
        kl_lower: Lower confidence limit of the cumulative error in nats, :math:`KL(p_t \| q_t)`,
            from the MMD (:mod:`undrift.bracket`).
        kl_upper: Its upper confidence limit, from ``path_kl``.
        path_kl: Divergence of the sampler's paths down to here from the true ones: what the prior
            brings and all modular errors so far.
        path_kl_se: Its standard error.
        modular_error: :math:`E_{mod}` in nats on the sampler's states, summed over the modules of
            the segment that ends here; as all that follows, against the data set itself.
        modular_error_se: Its standard error.
        modular_error_per_dimension: The same for one number of a state.
        modular_error_forward: :math:`E_{mod}` on forward draws, which training sees.
        modular_error_forward_se: Its standard error.
        exposure_bias: The first less the second, in nats.
        exposure_bias_se: Its standard error.
        modular_mean: The part of ``modular_error`` that is in the modules' means.
        modular_mean_se: Its standard error.
        modular_variance: The part in their variances.
        modular_variance_se: Its standard error.
        modular_shape: The remainder, which no Gaussian module can avoid; may be negative.
        modular_shape_se: Its standard error.
        modular_steps: Number of modules of the segment.
        variance_factor: What to multiply the reverse variance in the segment by for the least
            modular error.
        nearest_weight: Weight of the nearest datum in the target, the largest of the segment; above
            0.9 the target memorizes.
        empirical_mmd_sq: :math:`\mathrm{MMD}^2` against the data set itself, behind ``kl_lower``
            where modular errors are measured.
        empirical_mmd_sq_se: Its standard error.
    """

    t: float
    alpha: float
    sigma: float
    mmd_sq: float
    mmd_sq_se: float
    p_value: float | None = None
    null_sd: float | None = None
    interval: tuple[float, float] | None = None
    fresh: float | None = None
    fresh_sq: float | None = None
    fresh_sq_se: float | None = None
    inherited: float | None = None
    inherited_sq: float | None = None
    inherited_sq_se: float | None = None
    amplification: float | None = None
    downstream_gain: float | None = None
    delta: float | None = None
    eps_norm_sampled: float | None = None
    eps_norm_forward: float | None = None
    eps_norm_gap: float | None = None
    eps_norm_gap_se: float | None = None
    bandwidth: float | None = None
    mmd_sq_data_se: float | None = None
    fresh_sq_data_se: float | None = None
    inherited_sq_data_se: float | None = None
    kl_lower: float | None = None
    kl_upper: float | None = None
    path_kl: float | None = None
    path_kl_se: float | None = None
    modular_error: float | None = None
    modular_error_se: float | None = None
    modular_error_per_dimension: float | None = None
    modular_error_forward: float | None = None
    modular_error_forward_se: float | None = None
    exposure_bias: float | None = None
    exposure_bias_se: float | None = None
    modular_mean: float | None = None
    modular_mean_se: float | None = None
    modular_variance: float | None = None
    modular_variance_se: float | None = None
    modular_shape: float | None = None
    modular_shape_se: float | None = None
    modular_steps: int | None = None
    variance_factor: float | None = None
    nearest_weight: float | None = None
    empirical_mmd_sq: float | None = None
    empirical_mmd_sq_se: float | None = None

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ErrorState:
        """Read plain data; names that are not known are left out.

        Raises:
            ValueError: If a value is no finite number, or one that is needed is missing.
        """
        values: dict[str, Any] = {f.name: data.get(f.name) for f in fields(cls)}
        for name, value in values.items():
            if name == "interval" and isinstance(value, (list, tuple)):
                values[name] = value = tuple(value)
                fine = len(value) == 2 and all(map(_is_number, value))
            else:
                fine = _is_number(value) or (value is None and name not in _REQUIRED)
            if not fine:
                raise ValueError(f"{name} is {value!r}")
        return cls(**values)


_REQUIRED = {"t", "alpha", "sigma", "mmd_sq", "mmd_sq_se"}


@dataclass(frozen=True)
class Criterion:
    """When a cumulative error is told from 0, so that a ratio to it is no ratio of noise.

    Both must hold: the first is a test of exact level at every sample size, the second keeps the
    error of the denominator below half of it.

    Arguments:
        max_p_value: Largest p-value.
        min_standard_errors: Least distance from 0, in standard errors.

    Example:
        >>> Criterion().num_permutations
        99
    """

    max_p_value: float = 0.01
    min_standard_errors: float = 2.0

    @property
    def num_permutations(self) -> int:
        """The least number of permutations that can give such a p-value."""
        return math.ceil(1 / self.max_p_value - 1e-9) - 1

    def is_met(self, state: ErrorState) -> bool:
        """Whether the cumulative error of a state is told from 0; never without a p-value."""
        if state.p_value is None or state.p_value > self.max_p_value:
            return False
        return state.mmd_sq > self.min_standard_errors * state.mmd_sq_se


def with_ratios(
    states: Sequence[ErrorState], criterion: Criterion | None = None
) -> tuple[ErrorState, ...]:
    r"""The same states with roots, amplifications and downstream gains from their squares.

    .. math:: \lambda = I / D_{t'}, \qquad G_t = \prod_{s < t} \lambda_s

    A gain is None where an amplification further down is: what is unknown stays unknown.
    """
    criterion = criterion or Criterion()
    done: list[ErrorState] = []
    for state in states:
        fresh, inherited = _root(state.fresh_sq), _root(state.inherited_sq)
        ratio = None
        if done and inherited is not None and criterion.is_met(done[-1]):
            ratio = inherited / math.sqrt(done[-1].mmd_sq)
        done.append(replace(state, fresh=fresh, inherited=inherited, amplification=ratio))
    gain = 1.0 if any(state.inherited is not None for state in done) else None
    for i in reversed(range(len(done))):
        ratio, done[i] = done[i].amplification, replace(done[i], downstream_gain=gain)
        gain = gain * ratio if gain is not None and ratio is not None else None
    return tuple(done)


def _root(square: float | None) -> float | None:
    return None if square is None else math.sqrt(max(square, 0.0))


def _is_number(value: Any) -> bool:  # noqa: ANN401
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
