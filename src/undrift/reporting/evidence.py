r"""What the numbers of a profile support: the statistics behind the verdict.

Growth compares both ends of the chain, :math:`\Delta = D_0^2 - D_T^2` with
:math:`\mathrm{se}^2 = \mathrm{se}_0^2 + \mathrm{se}_T^2`. Two models are compared by the relative
change :math:`r = b/a - 1` of :math:`D_0^2`, whose standard error is, to first order and for
independent estimates,

.. math:: \mathrm{se}(r) = \frac{1}{|a|} \sqrt{\mathrm{se}_b^2 + (b/a)^2\,\mathrm{se}_a^2} .

Estimates that share their noise or their forward draws are positively correlated; the interval is
then wider than it need be. The MMD budget (docs/theory, section 5)

.. math:: D_0 \le \sum_t G_t F_t + G_{T+1} D_T

says where the error comes from: segment t is responsible for :math:`G_t F_t` of the bound.
Roots of estimates inherit :math:`\mathrm{se}(F) = \mathrm{se}(F^2) / 2F`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from undrift.reporting.content import Profile, State, number, states
from undrift.reporting.numbers import (
    estimate,
    interval,
    is_distinguishable,
    percent,
    percent_number,
)


@dataclass(frozen=True)
class Estimate:
    """A value with its standard error and, where there are any, its p-value and its interval.

    The interval is the measurement's own where it has one: near zero its distribution is
    skewed, so a normal interval is inaccurate.
    """

    value: float
    se: float
    p_value: float | None = None
    ends: tuple[float, float] | None = None

    @property
    def low(self) -> float:
        """Lower end of the 95 % interval."""
        return (self.ends or interval(self.value, self.se))[0]

    @property
    def high(self) -> float:
        """Upper end of the 95 % interval."""
        return (self.ends or interval(self.value, self.se))[1]

    @property
    def is_detected(self) -> bool:
        """Whether it is above zero by the one criterion of all pages."""
        return self.value > 0 and is_distinguishable(self.low, self.high, self.p_value)

    @property
    def text(self) -> str:
        """The value with its 95 % interval."""
        return estimate(self.value, self.low, self.high)


def cumulative(state: State, part: str = "error") -> Estimate | None:
    r"""Return :math:`D_t^2` of a state; the null's spread stands in for a missing error bar.

    Arguments:
        state: The state.
        part: Where in it the error is: ``"error"``, or ``"features.NAME"`` in another space.

    >>> cumulative({"t": 0, "error": {"mmd_sq": 1e-3, "mmd_sq_se": None, "null_sd": 2e-5}})
    Estimate(value=0.001, se=2e-05, p_value=None, ends=None)
    >>> cumulative({"t": 0, "error": {"mmd_sq": 1e-3}}) is None
    True
    """
    value, se = number(state, f"{part}.mmd_sq"), number(state, f"{part}.mmd_sq_se")
    if se is None:
        se = number(state, f"{part}.null_sd")
    if value is None or se is None:
        return None
    return Estimate(value, se, number(state, f"{part}.p_value"), _ends(state, part))


def with_error(state: State, key: str) -> Estimate | None:
    """A number of a state with its standard error, which has the same name and ``_se``.

    >>> with_error({"t": 0, "budget": {"fresh_sq": 2.0, "fresh_sq_se": 0.5}}, "budget.fresh_sq")
    Estimate(value=2.0, se=0.5, p_value=None, ends=None)
    """
    value, se = number(state, key), number(state, f"{key}_se")
    return None if value is None or se is None else Estimate(value, se)


def _ends(state: State, part: str) -> tuple[float, float] | None:
    found: Any = state
    for name in part.split("."):
        found = found.get(name) or {}
    ends = found.get("interval") or (None, None)
    low, high = (number({"end": end}, "end") for end in ends)
    return None if low is None or high is None else (low, high)


def final_state(profile: Profile) -> State:
    """Return the state nearest to the data, where the error of the whole chain shows."""
    return states(profile)[-1]


def first_state(profile: Profile) -> State | None:
    """Return the first state of the chain that has an estimate, unless it is the last one too."""
    known = [s for s in states(profile)[:-1] if cumulative(s) is not None]
    return known[0] if known else None


def difference(minuend: Estimate, subtrahend: Estimate) -> Estimate:
    """Return the difference of two independent estimates."""
    return Estimate(minuend.value - subtrahend.value, math.hypot(minuend.se, subtrahend.se))


def relative_change(baseline: Estimate, other: Estimate) -> Estimate:
    """Return the change relative to the baseline, as a fraction (delta method).

    >>> change = relative_change(Estimate(10.0, 0.5), Estimate(6.0, 0.4))
    >>> round(change.value, 3), round(change.se, 3)
    (-0.4, 0.05)
    """
    ratio = other.value / baseline.value
    se = math.hypot(other.se, ratio * baseline.se) / abs(baseline.value)
    return Estimate(ratio - 1, se)


def amplification(previous: State, state: State) -> Estimate | None:
    r"""Return :math:`\lambda_t` of the segment that arrives at a state, with its error bar.

    A missing error bar makes it an estimate of unknown precision (infinite), never an exact one.
    """
    value, inherited = number(state, "budget.amplification"), number(state, "budget.inherited_sq")
    if value is None:
        return None
    inherited_se, before = number(state, "budget.inherited_sq_se"), cumulative(previous)
    if value <= 0 or not inherited or inherited_se is None or before is None or before.value <= 0:
        return Estimate(value, math.inf)
    relative = 0.5 * math.hypot(inherited_se / inherited, before.se / before.value)
    return Estimate(value, value * relative)


def in_percent(baseline: Estimate, other: Estimate) -> str:
    """A difference in percent of the baseline, in brackets, where the interval allows one.

    It is given where the baseline is distinguishable from zero and the interval of the relative
    change lies within (−100, 100).

    >>> in_percent(Estimate(10.0, 0.5), Estimate(6.0, 0.4))
    ' (−40 %, −50 to −30 %)'
    >>> in_percent(Estimate(10.0, 0.5), Estimate(1.0, 0.8))
    ''
    """
    if not baseline.is_detected:
        return ""
    change = relative_change(baseline, other)
    if not -1 < change.low < change.high < 1:
        return ""
    low, high = (percent_number(end, signed=True) for end in (change.low, change.high))
    return f" ({percent(change.value, signed=True)}, {low} to {high} %)"


@dataclass(frozen=True)
class Segment:
    """One piece of the chain, from a chosen state to the next, and what it does to the error."""

    start: float
    stop: float
    fresh: float
    fresh_se: float | None
    square: float
    square_se: float
    is_detected: bool
    gain: float | None
    share: float | None = None

    @property
    def weighted(self) -> float:
        r"""The segment's part :math:`G_t F_t` of the bound on :math:`D_0`."""
        return (self.gain or 0.0) * self.fresh

    @property
    def weighted_se(self) -> float:
        """Standard error of that part, the gain taken as known."""
        return math.inf if self.fresh_se is None else (self.gain or 0.0) * self.fresh_se


def segments(profile: Profile) -> list[Segment]:
    """Return the segments whose fresh error was measured, with their share of the bound."""
    chain = states(profile)
    found = [
        _segment(previous, state)
        for previous, state in zip(chain[:-1], chain[1:], strict=True)
        if number(state, "budget.fresh") is not None
    ]
    total = sum(s.weighted for s in found)
    if total <= 0:
        return found
    return [s if s.gain is None else replace(s, share=s.weighted / total) for s in found]


def _segment(previous: State, state: State) -> Segment:
    fresh = number(state, "budget.fresh") or 0.0
    square, square_se = number(state, "budget.fresh_sq"), number(state, "budget.fresh_sq_se")
    square = fresh**2 if square is None else square
    return Segment(
        start=float(previous["t"]),
        stop=float(state["t"]),
        fresh=fresh,
        fresh_se=None if square_se is None or fresh <= 0 else square_se / (2 * fresh),
        square=square,
        square_se=math.inf if square_se is None else square_se,
        is_detected=square_se is not None and Estimate(square, square_se).is_detected,
        gain=number(state, "downstream_gain"),
    )


def measured_differently(baseline: Profile, other: Profile) -> list[str]:
    """Return in what two measurements differ that makes their numbers hard to compare."""
    first, second = baseline.get("how") or {}, other.get("how") or {}
    differing = [
        key
        for key in ("data", "kernel", "estimator", "reference")
        if key in first and key in second and first[key] != second[key]
    ]
    widths = [number(final_state(p), "error.bandwidth") for p in (baseline, other)]
    if all(widths) and abs(math.log(widths[0] / widths[1])) > 0.01:  # type: ignore[operator]
        differing.append("bandwidth")
    if final_state(baseline)["t"] != final_state(other)["t"]:
        differing.append("last state")
    return differing
