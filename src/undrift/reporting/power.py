r"""How many samples would show an error of the observed size.

Let :math:`D^2` be the estimate from n samples and m forward draws. Without an error it has the
standard deviation :math:`s_0(n) \propto 1/n + 1/m` (unbiased, a degenerate U-statistic);
with one, the variance

.. math:: s^2(n) = s_0^2(n) + \frac{n_0}{n}\,(s^2 - s_0^2 - s_d^2)_+ + s_d^2

with :math:`s_d` the part that is due to the data, which more samples do not reduce. An error of
this size is seen in 80 % of all measurements at the level of 5 % where

.. math:: D^2 \ge z_{0.95}\, s_0(n) + z_{0.8}\, s(n) .
"""

from __future__ import annotations

import math
from statistics import NormalDist

from undrift.reporting.content import Profile, number
from undrift.reporting.evidence import final_state
from undrift.reporting.numbers import SIGNIFICANCE

POWER = 0.8
MOST_SAMPLES = 10_000_000
"""A larger number is no advice."""


def samples_needed(profile: Profile) -> int | None:
    """Samples that would show an error of the observed size, in 80 % of all measurements.

    Arguments:
        profile: A measurement with a final error, its null's spread and its numbers of samples.

    Returns:
        The number, rounded up to two digits; None where the estimate is not positive, or no number
        of samples of the model would do with these data.
    """
    error = final_state(profile).get("error") or {}
    keys = ("mmd_sq", "mmd_sq_se", "null_sd", "mmd_sq_data_se")
    value, se, null, data = (number(error, key) for key in keys)
    n, m = (number(profile, key) for key in ("num_samples", "num_forward"))
    if value is None or se is None or not null or not n or not m:
        return None
    if not _is_seen(MOST_SAMPLES, value, se, null, data or 0.0, n, m):
        return None
    low, high = 1.0, float(MOST_SAMPLES)
    while high / low > 1.001:
        middle = math.sqrt(low * high)
        if _is_seen(middle, value, se, null, data or 0.0, n, m):
            high = middle
        else:
            low = middle
    digits = math.floor(math.log10(high)) - 1
    return math.ceil(high / 10.0**digits) * 10**digits if digits > 0 else math.ceil(high)


def _is_seen(
    count: float, value: float, se: float, null: float, data: float, n: float, m: float
) -> bool:
    at_null = null * (1 / count + 1 / m) / (1 / n + 1 / m)
    linear = max(se**2 - null**2 - data**2, 0.0) * n / count
    spread = math.sqrt(at_null**2 + linear + data**2)
    quantile = NormalDist().inv_cdf
    return value >= quantile(1 - SIGNIFICANCE) * at_null + quantile(POWER) * spread
