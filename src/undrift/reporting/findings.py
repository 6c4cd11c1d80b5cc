"""The verdict: what may be said in words, by explicit rules, with its numbers.

Rules, each at the 95 % level:

- *Growth*: the cumulative error grows where the interval of its change from the first state to
  the last lies above zero, shrinks where it lies below; otherwise growth is not established. An
  error is there where its interval lies above zero and its permutation p-value is at most 0.05.
- *Comparison*: a model is better or worse than the first one where the interval of the relative
  change excludes zero. Where the first one's error is not told from zero, there is no ratio to
  speak of and the difference is used.
- *Fresh error*: the segment with the largest part of the bound is named alone only where it is
  ahead of the next one by more than their error bars.
- *Amplification*: a segment amplifies (forgets) where the interval of its factor lies above
  (below) one. Where the factor is undefined nothing is said.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from undrift.reporting import evidence
from undrift.reporting.content import Finding as Finding
from undrift.reporting.content import Profile, labels, number, records, states
from undrift.reporting.evidence import Estimate
from undrift.reporting.nats import nats_findings
from undrift.reporting.numbers import (
    Z_95,
    common_exponent,
    percent,
    percent_number,
    plus_minus,
    probability,
    scientific,
)


def verdict(profiles: Sequence[Any]) -> list[str]:
    r"""Return the verdict as sentences, each with its numbers.

    Arguments:
        profiles: Error profiles (objects or their plain data); the first is the baseline.

    Returns:
        One text for each finding: growth for every model, comparisons with the first, where the
        error is fresh, whether steps amplify it, and what the measurement cannot tell.

    Example:
        >>> end = {"t": 0, "error": {"mmd_sq": 2e-3, "mmd_sq_se": 1e-4, "p_value": 0.005}}
        >>> start = {"t": 10, "error": {"mmd_sq": 1e-5, "mmd_sq_se": 2e-5, "p_value": 0.4}}
        >>> verdict([{"label": "plain", "states": [start, end]}])[0].split(".")[0]
        '“plain”: the cumulative error grows along the chain'
    """
    found = findings(records(profiles))
    return [f"{finding.headline} {finding.detail}" for finding in found]


def findings(profiles: Sequence[Profile]) -> list[Finding]:
    """Return the verdict in parts, for a page that sets headlines apart."""
    if not profiles:
        return []
    names = labels(profiles)
    found = [_growth(p, n) for p, n in zip(profiles, names, strict=True)]
    for profile, name in zip(profiles[1:], names[1:], strict=True):
        found += _comparison(profiles[0], names[0], profile, name)
    for rule in (_fresh, _amplification):
        found += [
            finding
            for profile, name in zip(profiles, names, strict=True)
            if (finding := rule(profile, name)) is not None
        ]
    for profile, name in zip(profiles, names, strict=True):
        found += nats_findings(profile, name)
    return [*found, _limits(profiles)]


def _growth(profile: Profile, name: str) -> Finding:
    """Return what can be said about the error at the end of the chain and on the way to it."""
    topic, end_state = "Growth along the chain", evidence.final_state(profile)
    end, start_state = evidence.cumulative(end_state), evidence.first_state(profile)
    t_end = f"{end_state['t']:g}"
    symbol = "D₀²" if t_end == "0" else f"D² at t = {t_end}"
    if end is None:
        text = f"{symbol} or its error bar is missing, so nothing is said about growth."
        return Finding(topic, f"“{name}”: the final error was not measured.", text)
    numbers = f"{symbol} = {end.text}, {_probability(profile, end)}"
    start = None if start_state is None else evidence.cumulative(start_state)
    if start is None or start_state is None:
        headline = "an error is there" if end.is_detected else "no error can be told from zero"
        text = f"{numbers}. With one state measured, growth cannot be judged."
        return Finding(topic, f"“{name}”: {headline} at the end of the chain.", text)
    change = evidence.difference(end, start)
    change_text = change.text
    at_start = f"at the start, t = {start_state['t']:g}, it is {_against_zero(start)}"
    if change.low > 0 and end.is_detected:
        headline = "the cumulative error grows along the chain."
        text = f"{numbers}; {at_start}. The growth is {change_text}."
    elif change.high < 0:
        headline = "the cumulative error shrinks along the chain."
        text = f"{numbers}; {at_start}. The change is {change_text}."
    elif end.is_detected:
        headline = "an error is there at the end, but growth is not established."
        text = f"{numbers}; {at_start}. The change, {change_text}, is within its error bars."
    else:
        headline = "the final error is not distinguishable from zero."
        text = f"{numbers}; {at_start}. That is no proof that the error is small."
    return Finding(topic, f"“{name}”: {headline}", text + _peak(profile, end))


def _probability(profile: Profile, end: Estimate) -> str:
    """Return a p-value, and that it is the smallest there is where the permutations end."""
    count = number(profile.get("how") or {}, "num_permutations")
    if count and end.p_value is not None and end.p_value * (count + 1) < 1.001:
        return f"p ≤ {end.p_value:.2g}, the least that {count:g} permutations can show"
    return probability(end.p_value)


def _against_zero(value: Estimate) -> str:
    """Return an estimate with the word whether it is told from zero."""
    text = plus_minus(value.value, value.se)
    return text if value.is_detected else f"{text}, not distinguishable from zero"


def _peak(profile: Profile, end: Estimate) -> str:
    """Return a remark where the error was clearly higher on the way (three standard errors)."""
    on_the_way = [(s, e) for s in states(profile)[:-1] if (e := evidence.cumulative(s))]
    if not on_the_way:
        return ""
    state, top = max(on_the_way, key=lambda pair: pair[1].value)
    if top.value - end.value <= 3 * math.hypot(top.se, end.se):
        return ""
    return f" It was higher on the way: {scientific(top.value)} at t = {state['t']:g}."


def _comparison(first: Profile, first_name: str, other: Profile, name: str) -> list[Finding]:
    """Return how the final error of a model relates to that of the first one."""
    topic = f"Compared with “{first_name}”"
    a = evidence.cumulative(evidence.final_state(first))
    b = evidence.cumulative(evidence.final_state(other))
    if a is None or b is None:
        return []
    caution = evidence.measured_differently(first, other)
    remark = f" Compare with care, measured differently: {', '.join(caution)}." if caution else ""
    if not a.is_detected or a.value <= 0:
        return [Finding(topic, *_absolute(a, b, first_name, name, remark))]
    change = evidence.relative_change(a, b)
    exponent = common_exponent([a.value, b.value])
    numbers = (
        f"D₀² is {plus_minus(b.value, b.se, exponent)} against "
        f"{plus_minus(a.value, a.se, exponent)}"
    )
    if change.low <= 0 <= change.high:
        headline = f"“{name}” is not distinguishable from “{first_name}”."
        low, high = (percent_number(v, signed=True) for v in (change.low, change.high))
        text = (
            f"{numbers}: a change of {percent(change.value, signed=True)} (95 % interval "
            f"{low} to {high} %), within its error bars."
        )
        return [Finding(topic, headline, text + remark)]
    word = "lower" if change.value < 0 else "higher"
    size = abs(change.value)
    ends = sorted(abs(v) for v in (change.low, change.high))
    headline = (
        f"“{name}” ends {word} by {percent(size)} (95 % interval "
        f"{percent_number(ends[0])} to {percent(ends[1])})."
    )
    text = f"{numbers}; the difference is beyond its error bars."
    if not b.is_detected:
        text += f" What is left in “{name}” is itself not distinguishable from zero."
    return [Finding(topic, headline, text + remark)]


def _absolute(a: Estimate, b: Estimate, first_name: str, name: str, remark: str) -> tuple[str, str]:
    """Return headline and text where the first model's error is no base for a ratio."""
    gap = evidence.difference(b, a)
    text = (
        f"The difference of D₀² is {gap.text}. No relative change is given: "
        f"the error of “{first_name}” is not distinguishable from zero.{remark}"
    )
    if gap.low <= 0 <= gap.high:
        return f"“{name}” is not distinguishable from “{first_name}”.", text
    return f"“{name}” ends {'lower' if gap.value < 0 else 'higher'}.", text


def _fresh(profile: Profile, name: str) -> Finding | None:
    """Return which segment contributes most of the bound on the final error."""
    topic, measured = "Where the error is fresh", evidence.segments(profile)
    if not measured:
        return None
    known = [s for s in measured if s.gain is not None]
    if not any(s.is_detected for s in measured):
        text = (
            f"In none of the {len(measured)} segments does a model started from true inputs make "
            "an error beyond the error bars; more samples may show one."
        )
        return Finding(topic, f"“{name}”: no fresh error is distinguishable from zero.", text)
    if not known or not any(s.weighted > 0 for s in known):
        top = max(measured, key=lambda s: s.fresh)
        text = (
            f"F = {scientific(top.fresh)}, before any weighting: the downstream gain is "
            "undefined, so its effect on the result is not known."
        )
        headline = f"“{name}”: the largest fresh error is made from {_span(top)}."
        return Finding(topic, headline, text)
    return Finding(topic, *_fresh_weighted(measured, known, name))


def _fresh_weighted(
    measured: Sequence[evidence.Segment], known: Sequence[evidence.Segment], name: str
) -> tuple[str, str]:
    """Return headline and text about the segment with the largest part of the bound."""
    top, second = evidence.largest(known)
    text = (
        f"Weighted by the gain of everything downstream it is {percent(top.share or 0.0)} of all "
        f"fresh error (G·F = {scientific(top.weighted)})."
    )
    headline = f"“{name}”: the most harmful fresh error is made from {_span(top)}."
    if second is not None:
        lead = top.weighted - second.weighted
        if lead <= Z_95 * math.hypot(top.weighted_se, second.weighted_se):
            headline = f"“{name}”: no single segment stands out."
            text = (
                f"The largest part of the fresh error, {percent(top.share or 0.0)}, is made from "
                f"{_span(top)}, but the next, from {_span(second)} "
                f"({percent(second.share or 0.0)}), is within error bars of it."
            )
    if left_out := len(measured) - len(known):
        text += f" {left_out} of {len(measured)} segments are left out: their gain is undefined."
    return headline, text


def _span(segment: evidence.Segment) -> str:
    return f"t = {segment.start:g} to {segment.stop:g}"


def _amplification(profile: Profile, name: str) -> Finding | None:
    """Return whether the steps amplify or forget the error that reaches them."""
    chain, topic = states(profile), "Do steps amplify or forget?"
    pairs = list(zip(chain[:-1], chain[1:], strict=True))
    if all(number(state, "budget.inherited") is None for state in chain):
        return None
    factors = [f for previous, s in pairs if (f := evidence.amplification(previous, s))]
    if not factors:
        text = (
            "Nowhere along the chain is the error that reaches a segment distinguishable from "
            "zero, so there is no ratio to report."
        )
        return Finding(topic, f"“{name}”: amplification is undefined everywhere.", text)
    more, less = sum(f.low > 1 for f in factors), sum(f.high < 1 for f in factors)
    if more and less:
        headline = "some segments amplify, others forget."
    elif more:
        headline = "steps amplify the error that reaches them."
    elif less:
        headline = "steps forget part of the error that reaches them."
    else:
        headline = "amplification is not distinguishable from one."
    open_ones = len(factors) - more - less
    text = (
        f"Of {len(pairs)} segments, λ is above 1 beyond its error bar in {more}, below 1 in "
        f"{less}, not distinguishable from 1 in {open_ones}, and undefined in "
        f"{len(pairs) - len(factors)}."
    )
    return Finding(topic, f"“{name}”: {headline}", text + _carried(profile))


def _carried(profile: Profile) -> str:
    """Return how much of an error at the earliest resolvable state reaches the data."""
    for state in states(profile)[:-1]:
        gain = number(state, "downstream_gain")
        if gain is not None:
            return (
                f" Multiplied along the chain, the factors turn an error at t = {state['t']:g} "
                f"into {scientific(gain)} times as much at the end."
            )
    return ""


def _limits(profiles: Sequence[Profile]) -> Finding:
    """Return what this measurement cannot tell."""
    counts = {(p.get("num_samples"), p.get("num_forward")) for p in profiles}
    sampled, forward = counts.pop() if len(counts) == 1 else (None, None)
    size = f" ({sampled:,} drawn, {forward:,} true)" if sampled and forward else ""
    text = (
        f"Error bars cover the finite number of samples{size}; they do not cover training again "
        "with another seed. A small MMD proves nothing small: it is what this kernel and this "
        "many samples can see."
    )
    if len(profiles) > 2:
        text += " Intervals are not corrected for the number of models compared."
    return Finding("What this cannot tell", "One measurement of these checkpoints.", text)
