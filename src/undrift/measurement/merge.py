r"""Several measurements of one chain as one, with error bars that account for shared data.

Measurements with other seeds have other samples of the model, other forward noise, but the same
data: more samples reduce the noise of the model, never that of the data. So each state says which
part d of its standard error s is due to the data. With weights w proportional to the sample sizes

.. math:: T = \sum_k w_k T_k, \qquad
          s^2 = \Big(\sum_k w_k d_k\Big)^2 + \sum_k w_k^2 (s_k^2 - d_k^2), \qquad
          d = \sum_k w_k d_k,

which is :math:`s_k/\sqrt K` for K equal measurements that share nothing, and associative. Pairs of
samples from different measurements are never compared, so that at the null the error falls with
the root of their number, not with the number itself as it does within one measurement.

The limits of the divergence are taken anew from the merged numbers, the lower one without
permutations; what skewness adds to the upper one falls with the number of samples. Modular errors
are merged only if every measurement has them; else ``how`` says so.

P-values are combined by Fisher's method; for measurements that share data the distribution of
:math:`-2 \sum \log p_k` is matched to the correlations :math:`d_j d_k / (s_j s_k)` (Brown's
method).

References:
    | A Method for Combining Non-Independent, One-Sided Tests of Significance (Brown, 1975)
    | Combining Dependent P-Values (Kost and McDermott, 2002)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from itertools import combinations
from typing import TYPE_CHECKING, Any

from undrift.exceptions import InvalidInput
from undrift.measurement.scalar_state import ScalarError
from undrift.measurement.state import CumulativeError, ErrorState, KLLimits, with_ratios
from undrift.mmd.kl_bounds import kl_lower_bound, kl_upper_limit, mmd_sq_lower_limit
from undrift.reporting.numbers import Z_95

if TYPE_CHECKING:
    from undrift.measurement.profile import ErrorProfile

SAME = {
    "sampler": "samplers",
    "weights": "weights of the model",
    "kernel": "kernels",
    "reference": "references",
}
TAKEN_ANEW = {"interval", "p_value", "amplification", "amplification_interval", "lower", "upper"}
"""Numbers that are not averaged: they follow from the merged ones."""


def merge_profiles(profiles: Sequence[ErrorProfile]) -> ErrorProfile:
    """One profile of measurements of the same chain at the same states with different seeds.

    Each number becomes the mean weighted by sample size, and the budget's ratios are taken anew.

    Arguments:
        profiles: At least one; label and the rest of ``how`` are the first one's.

    Raises:
        InvalidInput: If the profiles are of other states, of another chain or other data, or made
            with the same seed.
    """
    first = profiles[0]
    if len(profiles) == 1:
        return first
    _check(profiles)
    total = sum(p.num_samples for p in profiles)
    weights = [p.num_samples / total for p in profiles]
    states = [
        _merge_states(records, weights)
        for records in zip(*(p.states for p in profiles), strict=True)
    ]
    parts = [part for p in profiles for part in p.how.get("merged") or [dict(p.how)]]
    how = dict(first.how) | {
        "seed": [seed for p in profiles for seed in p.seeds],
        "seconds": sum(p.how.get("seconds") or 0 for p in profiles),
        "merged": parts,
    }
    if any("modular" in p.how for p in profiles):
        how["modular"] = _merge_modular([p.how.get("modular") for p in profiles])
    return replace(
        first,
        states=with_ratios(states),
        num_samples=total,
        num_forward=sum(p.num_forward for p in profiles),
        how=how,
        created=max(p.created for p in profiles),
    )


def combined_p_value(p_values: Sequence[float], shares: Sequence[float] | None = None) -> float:
    r"""Fisher's combination of p-values, or Brown's where the tests share data.

    .. math:: X = -2\sum_k\log p_k \sim c\,\chi^2_f, \qquad c = \frac{\mathrm{Var}\,X}{2\,E X},
              \quad f = \frac{2 (E X)^2}{\mathrm{Var}\,X}

    with :math:`c = 1, f = 2K` for independent tests, and
    :math:`\mathrm{Cov}(-2\log p_j, -2\log p_k) \approx 3.263\rho + 0.710\rho^2 + 0.027\rho^3`.

    Arguments:
        p_values: One per test.
        shares: A number :math:`a_k` from 0 to 1 for each test; two of them correlate by
            :math:`\rho = a_j a_k`. Independent when None.

    Example:
        >>> round(combined_p_value([0.3]), 12), round(combined_p_value([0.01, 0.01]), 5)
        (0.3, 0.00102)
        >>> round(combined_p_value([0.01, 0.01], [1.0, 1.0]), 5)
        0.01
    """
    from scipy.special import gammaincc

    mean, variance = 2.0 * len(p_values), 4.0 * len(p_values)
    for rho in (a * b for a, b in combinations(shares or [], 2)):
        variance += 2 * (3.263 * rho + 0.710 * rho**2 + 0.027 * rho**3)
    statistic = -2 * sum(math.log(max(p, 1e-300)) for p in p_values)
    scale = variance / (2 * mean)
    return float(gammaincc(mean / (2 * scale), statistic / (2 * scale)))


def _merge_states(states: Sequence[ErrorState], weights: Sequence[float]) -> ErrorState:
    parts = {
        name: _merge_part([getattr(state, name) for state in states], weights)
        for name in ("budget", "exposure", "kl", "modular", "effective_time", "growth")
    }
    scalars = zip(*(state.scalars for state in states), strict=True)
    found = tuple(_merge_scalars(errors, weights) for errors in scalars)
    names = [name for name in states[0].features if all(name in s.features for s in states)]
    features = {
        name: _merge_error([state.features[name] for state in states], weights) for name in names
    }
    error = _merge_error([state.error for state in states], weights)
    merged = replace(states[0], **parts, error=error, scalars=found, features=features)
    kl = merged.kl and _merge_limits([state.kl for state in states], merged.kl, error, weights)
    return replace(merged, kl=kl)


def _merge_part(parts: Sequence[Any], weights: Sequence[float]) -> Any:  # noqa: ANN401
    """Weighted means of the numbers with their standard errors; None where one is missing."""
    if any(part is None for part in parts):
        return None
    merged: dict[str, Any] = {}
    for name in (field.name for field in fields(parts[0])):
        values = [getattr(part, name) for part in parts]
        if any(value is None for value in values):
            merged[name] = None
        elif name.endswith("_data_se") or not name.endswith("_se"):
            merged[name] = None if name in TAKEN_ANEW else _dot(weights, values)
        else:
            shared = name.removesuffix("_se") + "_data_se"
            merged[name] = _error(weights, values, [getattr(part, shared, 0.0) for part in parts])
    return replace(parts[0], **merged)


def _merge_scalars(errors: Sequence[ScalarError], weights: Sequence[float]) -> ScalarError:
    """Weighted means of the errors of a statistic, whose sum still closes, and their covariance."""
    merged: ScalarError = _merge_part(errors, weights)
    cov, shared = ([getattr(e, name) for e in errors] for name in ("covariance", "data_covariance"))
    if merged.error is None or None in cov:
        return replace(merged, covariance=None)
    own = sum(w**2 * (c - d) for w, c, d in zip(weights, cov, shared, strict=True))
    return replace(merged, covariance=_dot(weights, shared) + own)


def _error(weights: Sequence[float], errors: Sequence[float], shared: Sequence[float]) -> float:
    """The standard error of a weighted mean, from those of its terms and their shared parts."""
    own = (w**2 * max(s**2 - d**2, 0) for w, s, d in zip(weights, errors, shared, strict=True))
    return math.hypot(_dot(weights, shared), math.sqrt(sum(own)))


def _merge_error(errors: Sequence[CumulativeError], weights: Sequence[float]) -> CumulativeError:
    """The cumulative error of all together."""
    return _merge_test(errors, _merge_part(errors, weights), weights)


def _merge_test(
    errors: Sequence[CumulativeError], merged: CumulativeError, weights: Sequence[float]
) -> CumulativeError:
    """The cumulative error with the interval, the null and the p-value of all together."""
    shares = [_share(error) for error in errors]
    null = [error.null_sd for error in errors]
    p_values = [error.p_value for error in errors if error.p_value is not None]
    half = Z_95 * merged.mmd_sq_se
    return replace(
        merged,
        null_sd=_error(weights, null, [a * sd for a, sd in zip(shares, null, strict=True)]),
        interval=(max(merged.mmd_sq - half, 0.0), max(merged.mmd_sq + half, 0.0)),
        p_value=combined_p_value(p_values, shares) if len(p_values) == len(errors) else None,
    )


def _merge_limits(
    limits: Sequence[Any], merged: KLLimits, error: CumulativeError, weights: Sequence[float]
) -> KLLimits:
    """The limits of the cumulative error, from the merged estimates."""
    mmd_sq, se = merged.empirical_mmd_sq, merged.empirical_mmd_sq_se
    if mmd_sq is None or se is None:
        mmd_sq, se = error.mmd_sq, error.mmd_sq_se
    upper, has_lower = None, all(kl.lower is not None for kl in limits)
    if merged.path is not None and merged.path_se is not None:
        upper = kl_upper_limit(merged.path, merged.path_se)
        upper += sum(w**2 * _skewness(kl) for w, kl in zip(weights, limits, strict=True))
    lower = kl_lower_bound(mmd_sq_lower_limit(mmd_sq, se)) if has_lower else None
    return replace(merged, lower=lower, upper=upper)


def _skewness(kl: KLLimits) -> float:
    """The excess of an upper limit over that of a normal distribution."""
    if kl.path is None or kl.path_se is None or kl.upper is None:
        return 0.0
    return max(kl.upper - kl_upper_limit(kl.path, kl.path_se), 0.0)


def _merge_modular(parts: Sequence[Mapping[str, Any] | None]) -> dict[str, Any]:
    """How the modular errors were measured, or why the merged profile has none."""
    if any(not part or "reason" in part for part in parts):
        return {"reason": "not every one of the merged profiles has modular errors: dropped"}
    known = [part for part in parts if part]
    start = max(known, key=lambda part: part["memorizing_from"] or -math.inf)
    count = sum(part["num_chains"] for part in known)
    weights = [part["num_chains"] / count for part in known]
    prior = _dot(weights, [part["prior_kl"] for part in known])
    error = math.hypot(*(w * p["prior_kl_se"] for w, p in zip(weights, known, strict=True)))
    return dict(start) | {"num_chains": count, "prior_kl": prior, "prior_kl_se": error}


def _dot(a: Sequence[float], b: Sequence[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def _share(error: CumulativeError) -> float:
    """The part of a standard error that is due to the data."""
    return min(1.0, error.mmd_sq_data_se / error.mmd_sq_se) if error.mmd_sq_se else 0.0


def _check(profiles: Sequence[ErrorProfile]) -> None:
    if len({tuple(s.t for s in p.states) for p in profiles}) > 1:
        raise InvalidInput("profiles of different states do not merge: measure the same states")
    if _differs([p.statistics for p in profiles]):
        raise InvalidInput("profiles of different statistics do not merge: measure them again")
    seeds = [seed for p in profiles for seed in p.seeds]
    unseeded = [p.states for p in profiles if not p.seeds]
    if len(set(seeds)) < len(seeds) or len(set(unseeded)) < len(unseeded):
        raise InvalidInput("profiles with the same seed hold the same samples: use other seeds")
    for key, words in SAME.items():
        if _differs([p.how.get(key) for p in profiles]):
            raise InvalidInput(f"profiles of different {words} do not merge: measure one chain")
    data = [dict(p.how.get("data") or {}) for p in profiles]
    if any(_differs([each.get(key) for each in data]) for key in ("fingerprint", "labels")):
        raise InvalidInput("profiles of different data do not merge: measure on the same data")


def _differs(values: Sequence[Any]) -> bool:
    known = [value for value in values if value is not None]
    return any(value != known[0] for value in known[1:])
