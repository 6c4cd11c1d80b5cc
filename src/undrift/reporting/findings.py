"""The verdict as sentences with their numbers, by explicit rules.

Rules, each at the 95 % level:

- *Growth*: the cumulative error grows where the interval of its change from the first state to
  the last lies above zero, shrinks where it lies below; otherwise growth is not established. An
  error is distinguishable from zero where its interval lies above zero and its permutation
  p-value is at most 0.05.
- *Comparison*: a model ends lower or higher than the first one where the interval of the
  difference excludes zero. A percentage is added only where its interval lies within (−100, 100).
  With it, in how many frequency bands the energy is nearer to the data
  (:mod:`undrift.reporting.band_changes`).
- *Bands*: the energy of a frequency band is off where its interval, at 95 % for all bands together,
  excludes zero.
- *Fresh error*: the segment with the largest part of the bound is named alone only where it is
  ahead of the next one by more than their error bars; a segment without another one to compare
  it with is not mentioned.
- *Amplification*: a segment amplifies (reduces) the error where the interval of its factor lies
  above (below) one. Where the factor is undefined nothing is said.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from undrift.reporting import evidence
from undrift.reporting.band_changes import band_sentence
from undrift.reporting.bands import bands, clearest, energy_error
from undrift.reporting.content import Finding as Finding
from undrift.reporting.content import Profile, labels, number, records, states
from undrift.reporting.effective_time import time_finding
from undrift.reporting.evidence import Estimate
from undrift.reporting.features import feature_finding, feature_sentence
from undrift.reporting.nats import nats_findings
from undrift.reporting.numbers import (
    Z_95,
    common_exponent,
    estimate,
    percent,
    plus_minus,
    probability,
    scientific,
)
from undrift.reporting.perturbations import growth_finding


def verdict(profiles: Sequence[Any]) -> list[str]:
    r"""Return the verdict as sentences, each with its numbers.

    Arguments:
        profiles: Error profiles (objects or their plain data); the first is the baseline.

    Returns:
        One text for each finding: growth for every model, comparisons with the first, what
        drifts, where the error is fresh, whether steps amplify it, and the limits.

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
    named, exponent = list(zip(profiles, labels(profiles), strict=True)), unit_of(profiles)
    found: list[Finding | None] = [_growth(*pair, exponent) for pair in named]
    found += [_comparison(*named[0], *pair, exponent) for pair in named[1:]]
    found += [feature_finding(*pair) for pair in named]
    found += [_bands(*pair) for pair in named]
    found += [time_finding(*pair) for pair in named]
    found += [_fresh(*pair, exponent) for pair in named]
    found += [_amplification(*pair) for pair in named]
    found += [growth_finding(*pair) for pair in named]
    found += [finding for pair in named for finding in nats_findings(*pair)]
    return [*filter(None, found), _limits(profiles)]


def unit_of(profiles: Sequence[Profile]) -> int:
    """The power of ten in which all squared errors of a page are written."""
    finals = [evidence.final_state(profile) for profile in profiles]
    return common_exponent([number(state, "error.mmd_sq") for state in finals])


def growth(profile: Profile) -> str:
    """Whether the cumulative error ``grows``, ``shrinks``, or neither is established (``open``)."""
    end, start_state = (
        evidence.cumulative(evidence.final_state(profile)),
        evidence.first_state(profile),
    )
    start = start_state and evidence.cumulative(start_state)
    if end is None or not start:
        return "open"
    change = evidence.difference(end, start)
    if change.low > 0 and end.is_detected:
        return "grows"
    return "shrinks" if change.high < 0 and start.is_detected else "open"


def _growth(profile: Profile, name: str, exponent: int) -> Finding:
    """Return what can be said about the error at the end of the chain and on the way to it."""
    topic, end_state = "Growth along the chain", evidence.final_state(profile)
    end, start_state = evidence.cumulative(end_state), evidence.first_state(profile)
    t_end = f"{end_state['t']:g}"
    symbol = "D₀²" if t_end == "0" else f"D² at t = {t_end}"
    if end is None:
        text = f"{symbol} or its error bar is missing, so nothing is said about growth."
        return Finding(topic, f"“{name}”: the final error was not measured.", text)
    numbers = f"{symbol} = {estimate(end.value, end.low, end.high, exponent)}"
    numbers += f", {_probability(profile, end)}"
    start = start_state and evidence.cumulative(start_state)
    if not start_state or not start:
        headline = "there is an error" if end.is_detected else "no MMD is distinguishable from zero"
        text = f"{numbers}. Growth is not evaluated: only one state was measured."
        return Finding(topic, f"“{name}”: {headline} at the end of the chain.", text)
    change = evidence.difference(end, start)
    size = estimate(change.value, change.low, change.high, exponent)
    at_start = plus_minus(start.value, start.se, exponent)
    at_start += "" if start.is_detected else ", not distinguishable from zero"
    found = growth(profile)
    if found == "grows":
        headline, remark = "the cumulative error grows along the chain.", f"The growth is {size}."
    elif found == "shrinks":
        headline, remark = "the cumulative error shrinks along the chain.", f"The change is {size}."
    elif end.is_detected:
        headline = "there is an error at the end, but growth is not established."
        remark = f"The change is {size}."
    else:
        headline = f"the final {'MMD' if clearest(bands(profile)) else 'error'} is not "
        headline += "distinguishable from zero."
        remark = "This does not show that the error is small."
    text = f"{numbers}; at the start, t = {start_state['t']:g}, it is {at_start}. {remark}"
    return Finding(topic, f"“{name}”: {headline}", text + _peak(profile, end, exponent))


def _probability(profile: Profile, end: Estimate) -> str:
    """Return a p-value, and that it is the smallest there is where the permutations end."""
    count = number(profile.get("how") or {}, "num_permutations")
    if count and end.p_value is not None and end.p_value * (count + 1) < 1.001:
        return f"p ≤ {end.p_value:.2g}, the least that {count:g} permutations can show"
    return probability(end.p_value)


def _peak(profile: Profile, end: Estimate, exponent: int) -> str:
    """Return a remark where the error was clearly higher on the way (three standard errors)."""
    on_the_way = [(s, e) for s in states(profile)[:-1] if (e := evidence.cumulative(s))]
    if not on_the_way:
        return ""
    state, top = max(on_the_way, key=lambda pair: pair[1].value)
    if top.value - end.value <= 3 * math.hypot(top.se, end.se):
        return ""
    size = plus_minus(top.value, top.se, exponent)
    return f" It was higher on the way: {size} at t = {state['t']:g}."


def compared(first: Profile, other: Profile) -> tuple[Estimate | None, bool]:
    """The difference of the final errors, and whether its interval excludes zero."""
    a, b = (evidence.cumulative(evidence.final_state(p)) for p in (first, other))
    if a is None or b is None:
        return None, False
    change = evidence.difference(b, a)
    return change, not change.low <= 0 <= change.high


def _comparison(
    first: Profile, first_name: str, other: Profile, name: str, exponent: int
) -> Finding | None:
    """Return how the final error of a model relates to that of the first one."""
    change, is_clear = compared(first, other)
    a, b = (evidence.cumulative(evidence.final_state(p)) for p in (first, other))
    if change is None or a is None or b is None:
        return None
    values = [plus_minus(e.value, e.se, exponent) for e in (b, a)]
    size = estimate(change.value, change.low, change.high, exponent)
    text = f"D₀² is {values[0]} against {values[1]}: a difference of {size}"
    text += f"{evidence.in_percent(a, b)}.{band_sentence(first, other)}"
    text += feature_sentence(first, other)
    if is_clear and not b.is_detected:
        text += f" The error of “{name}” is itself not distinguishable from zero."
    if caution := evidence.measured_differently(first, other):
        text += f" Compare with care, measured differently: {', '.join(caution)}."
    headline = f"“{name}” ends {'lower' if change.value < 0 else 'higher'}."
    if not is_clear:
        headline = f"the D₀² of “{name}” is not distinguishable from that of “{first_name}”."
    return Finding(f"Compared with “{first_name}”", headline, text)


def _bands(profile: Profile, name: str) -> Finding | None:
    """Return which frequency bands are off at the end, and whether segments amplify that."""
    found = bands(profile)
    if not found:
        return None
    off = [band for band in found if band.is_off]
    topic = "What drifts"
    if not off:
        text = f"In none of {len(found)} frequency bands is the energy at the end off."
        return Finding(topic, f"“{name}”: no band is distinguishable from the data.", text)
    parts = [f"{band.name}: {energy_error(band.final)}" for band in off if band.final]
    text = f"Energies at the end, all bands considered: {'; '.join(parts)}."
    factors = [factor for band in off for _, factor in band.amplifications()]
    more, less = sum(f.low > 1 for f in factors), sum(f.high < 1 for f in factors)
    if factors:
        text += (
            f" Of {len(factors)} factors μ in these bands, beyond their error bars {more} "
            f"{'is' if more == 1 else 'are'} above 1, {less} below."
        )
    count = "one frequency band is" if len(off) == 1 else f"{len(off)} frequency bands are"
    return Finding(topic, f"“{name}”: {count} off at the end.", text)


def _fresh(profile: Profile, name: str, exponent: int) -> Finding | None:
    """Return which segment makes the largest fresh error, where several can be compared."""
    found = evidence.segments(profile)
    if len(found) < 2:
        return None
    known = [s for s in found if s.gain is not None]
    if not any(s.is_detected for s in found):
        headline = "no fresh error is distinguishable from zero."
        text = (
            f"In none of the {len(found)} segments does a model started from forward draws make "
            "an error beyond the error bars; more samples may show one."
        )
    elif len(known) < 2:
        headline, text = _largest_fresh(found, exponent)
    else:
        headline, text = _fresh_weighted(known)
        if left_out := len(found) - len(known):
            text += f" {left_out} of {len(found)} segments are left out: their gain is undefined."
    return Finding("Where the error is fresh", f"“{name}”: {headline}", text)


def _largest_fresh(found: Sequence[evidence.Segment], exponent: int) -> tuple[str, str]:
    """Return headline and text about the largest fresh error where gains are undefined."""
    top, second = sorted(found, key=lambda s: -s.square)[:2]
    squares = [plus_minus(s.square, s.square_se, exponent) for s in (top, second)]
    text = (
        f"F² = {squares[0]}; the next, from {_span(second)}, has {squares[1]}. What each matters "
        "for the result is not known: the factors downstream are undefined."
    )
    if top.square - second.square <= Z_95 * math.hypot(top.square_se, second.square_se):
        return "no single segment stands out.", f"The largest is made from {_span(top)}: {text}"
    return f"the largest fresh error is made from {_span(top)}.", text


def _fresh_weighted(known: Sequence[evidence.Segment]) -> tuple[str, str]:
    """Return headline and text about the segment with the largest part of the bound."""
    top, second, *_ = sorted(known, key=lambda s: -s.weighted)
    share = percent(top.share or 0.0)
    lead = top.weighted - second.weighted
    if lead <= Z_95 * math.hypot(top.weighted_se, second.weighted_se):
        return "no single segment stands out.", (
            f"The largest part of the fresh error, {share}, is made from {_span(top)}, but the "
            f"next, from {_span(second)} ({percent(second.share or 0.0)}), is within error "
            "bars of it."
        )
    return f"the most harmful fresh error is made from {_span(top)}.", (
        f"Weighted by the gain of everything downstream it is {share} of the fresh error of "
        f"{len(known)} segments; the next, from {_span(second)}, is "
        f"{percent(second.share or 0.0)}."
    )


def _span(segment: evidence.Segment) -> str:
    return f"t = {segment.start:g} to {segment.stop:g}"


def _amplification(profile: Profile, name: str) -> Finding | None:
    """Return whether the steps amplify or reduce the error that reaches them."""
    chain, topic = states(profile), "Do segments amplify the MMD?"
    pairs = list(zip(chain[:-1], chain[1:], strict=True))
    if all(number(state, "budget.inherited") is None for state in chain):
        return None
    factors = [f for previous, s in pairs if (f := evidence.amplification(previous, s))]
    if not factors:
        return None
    more, less = sum(f.low > 1 for f in factors), sum(f.high < 1 for f in factors)
    if more and less:
        headline = "some segments amplify the MMD that reaches them, others reduce it."
    elif more:
        headline = "segments amplify the MMD that reaches them."
    elif less:
        headline = "segments reduce the MMD that reaches them."
    else:
        headline = "the amplification of the MMD is not distinguishable from one."
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
    """Return the limits of this measurement."""
    counts = {(p.get("num_samples"), p.get("num_forward")) for p in profiles}
    sampled, forward = counts.pop() if len(counts) == 1 else (None, None)
    size = f" ({sampled:,} drawn, {forward:,} true)" if sampled and forward else ""
    text = (
        f"Error bars cover the finite number of samples{size}; they do not cover training again "
        "with another seed. A small MMD does not prove that the distributions are close: it "
        "depends on the kernel and on the number of samples."
    )
    if len(profiles) > 2:
        text += " Intervals are not corrected for the number of models compared."
    return Finding("Limits of this measurement", "These checkpoints were measured once.", text)
