"""Numbers as text, for people: scientific notation, intervals, p-values.

Everything rounds to what the error bar supports; a missing number is a dash, never a zero.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from statistics import NormalDist

MISSING = "–"
Z_95 = NormalDist().inv_cdf(0.975)
"""Half width of a normal 95 % interval, in standard errors."""
SIGNIFICANCE = 0.05
"""Largest p-value of what is distinguishable from zero: a 95 % interval excludes zero there."""

_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def power_of_ten(exponent: int) -> str:
    """Return a power of ten as text.

    >>> power_of_ten(-4)
    '10⁻⁴'
    """
    return "10" + str(exponent).translate(_SUPERSCRIPT)


ZERO = 1e-30
"""What is not larger counts as 0 where a unit is chosen: it is rounding."""


def shared_exponent(values: Iterable[float | None]) -> int:
    """Return the exponent of ten that shows the largest of the values between 1 and 10.

    >>> shared_exponent([1.15e-3, 7e-4, None])
    -3
    """
    largest = max((abs(v) for v in values if v is not None and math.isfinite(v)), default=0.0)
    return math.floor(math.log10(largest)) if largest > ZERO else 0


def decimals(se: float | None, exponent: int = 0, default: int = 2) -> int:
    """Return how many decimals an error bar supports, in units of ten to the exponent.

    >>> decimals(5.2e-5, -3), decimals(1.2e-5, -3)
    (2, 3)
    """
    if se is None or not math.isfinite(se) or se <= ZERO:
        return default
    order = math.floor(math.log10(se))
    leading_one = se / 10.0**order < 2
    return min(max(exponent - order + leading_one, 1), 4)


def scaled(value: float | None, exponent: int, places: int = 2) -> str:
    """Return a number in units of ten to the exponent, with a true minus sign.

    >>> scaled(-1.25e-4, -4), scaled(None, -4)
    ('−1.25', '–')
    """
    if value is None:
        return MISSING
    text = f"{value / 10.0**exponent:.{places}f}"
    if float(text) == 0:
        text = text.lstrip("-")
    return text.replace("-", "−")


def common_exponent(values: Iterable[float | None]) -> int:
    """Return the exponent to print values in: 0 for such as people read without one.

    >>> common_exponent([1.15e-3, 7e-4]), common_exponent([0.31, 0.3]), common_exponent([42.0])
    (-3, 0, 0)
    """
    exponent = shared_exponent(values)
    return 0 if -1 <= exponent <= 3 else exponent


def unit(exponent: int) -> str:
    """Return the factor that follows a scaled number: nothing for the exponent 0.

    >>> unit(-4), unit(0)
    ('×10⁻⁴', '')
    """
    return f"×{power_of_ten(exponent)}" if exponent else ""


def scientific(value: float | None, places: int = 2) -> str:
    """Return one number, in scientific notation where that is shorter to read.

    >>> scientific(1.15e-3), scientific(0.62), scientific(12.0), scientific(0)
    ('1.15×10⁻³', '0.62', '12.00', '0')
    """
    if value is None or not math.isfinite(value):
        return MISSING
    if value == 0:
        return "0"
    exponent = shared_exponent([value])
    exponent = 0 if -2 <= exponent <= 3 else exponent
    return scaled(value, exponent, places + 1 if abs(value) < 0.1 and not exponent else places) + (
        unit(exponent)
    )


def estimate(value: float, low: float, high: float, exponent: int | None = None) -> str:
    """Return a value with its 95 % interval, in one unit: the given power of ten, or its own.

    >>> estimate(1.15e-3, 1.052e-3, 1.248e-3)
    '1.15×10⁻³ (95 % interval 1.05 to 1.25×10⁻³)'
    """
    exponent = common_exponent([value, low, high]) if exponent is None else exponent
    places = decimals((high - low) / (2 * Z_95), exponent)
    ends = f"{scaled(low, exponent, places)} to {scaled(high, exponent, places)}{unit(exponent)}"
    return f"{scaled(value, exponent, places)}{unit(exponent)} (95 % interval {ends})"


def bracket(value: float, low: float, high: float, exponent: int | None = None) -> str:
    """Return a value with its interval in brackets, where it is said elsewhere what they are.

    >>> bracket(1.36, 1.25, 1.46)
    '1.36 (1.25 to 1.46)'
    """
    return estimate(value, low, high, exponent).replace("95 % interval ", "")


def plus_minus(value: float, se: float, exponent: int | None = None) -> str:
    """Return a value with its standard error, in one unit.

    >>> plus_minus(1.15e-3, 5e-5), plus_minus(6.8e-4, 4e-5, -3), plus_minus(0.5, 0.02)
    ('(1.15 ± 0.05)×10⁻³', '(0.68 ± 0.04)×10⁻³', '0.50 ± 0.02')
    """
    if exponent is None:
        exponent = shared_exponent([value, se])
        exponent = 0 if -2 <= exponent <= 3 else exponent
    places = decimals(se, exponent)
    text = f"{scaled(value, exponent, places)} ± {scaled(se, exponent, places)}"
    return f"({text}){unit(exponent)}" if exponent else text


def simultaneous_z(count: int) -> float:
    """Return the half width, in standard errors, of intervals that hold at 95 % all at once.

    By Bonferroni's inequality, whatever the correlations.

    >>> simultaneous_z(1) == Z_95, round(simultaneous_z(4), 2)
    (True, 2.5)
    """
    return NormalDist().inv_cdf(1 - 0.025 / max(count, 1))


def interval(value: float, se: float) -> tuple[float, float]:
    """Return the normal 95 % interval of an estimate."""
    return value - Z_95 * se, value + Z_95 * se


def is_distinguishable(low: float, high: float, p_value: float | None = None) -> bool:
    """Return whether an estimate is distinguishable from zero: the one criterion of all pages.

    Its 95 % interval excludes zero, and its p-value, where it has one, is at most 0.05. For one
    measurement of an MMD² the two agree.

    >>> is_distinguishable(0.1, 0.3), is_distinguishable(-0.3, -0.1), is_distinguishable(-0.1, 0.3)
    (True, True, False)
    >>> is_distinguishable(0.1, 0.3, p_value=0.06)
    False
    """
    return (low > 0 or high < 0) and (p_value is None or p_value <= SIGNIFICANCE)


def probability(p_value: float | None) -> str:
    """Return a p-value with its relation sign.

    >>> probability(0.0123), probability(0.0002), probability(None)
    ('p = 0.012', 'p < 0.001', 'no p-value')
    """
    if p_value is None:
        return "no p-value"
    if p_value < 0.001:
        return "p < 0.001"
    return f"p = {p_value:.2g}" if p_value < 0.1 else f"p = {p_value:.2f}"


def percent(fraction: float, signed: bool = False) -> str:
    """Return a fraction in percent, whole above ten and with one decimal below.

    >>> percent(0.384), percent(-0.031, signed=True)
    ('38 %', '−3.1 %')
    """
    return f"{percent_number(fraction, signed)} %"


def percent_number(fraction: float, signed: bool = False) -> str:
    """Return the number of percent alone, for the ends of an interval.

    >>> percent_number(0.29), percent_number(0.04, signed=True)
    ('29', '+4.0')
    """
    value = 100 * fraction
    text = f"{value:.0f}" if abs(value) >= 9.95 else f"{value:.1f}"
    if float(text) == 0:
        text = text.lstrip("-")
    plus = "+" if signed and float(text) > 0 else ""
    return plus + text.replace("-", "−")
