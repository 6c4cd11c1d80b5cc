"""The verdict in at most three sentences: the error, what drifts or how models differ, propagation.

The same criterion decides here and in the findings: an error counts where
:attr:`undrift.reporting.evidence.Estimate.is_detected`.
"""

from __future__ import annotations

from collections.abc import Sequence

from undrift.reporting import evidence
from undrift.reporting.band_changes import band_words
from undrift.reporting.bands import bands, clearest, energy_error
from undrift.reporting.content import Profile, labels, states
from undrift.reporting.evidence import Estimate
from undrift.reporting.findings import compared, growth, unit_of
from undrift.reporting.numbers import bracket, plus_minus


def summary(profiles: Sequence[Profile]) -> list[str]:
    """Return the verdict in at most three sentences; nothing without profiles.

    Example:
        >>> end = {"t": 0, "error": {"mmd_sq": 2e-3, "mmd_sq_se": 1e-4, "p_value": 0.005}}
        >>> start = {"t": 10, "error": {"mmd_sq": 1e-5, "mmd_sq_se": 2e-5, "p_value": 0.4}}
        >>> summary([{"label": "plain", "states": [start, end]}])
        ['The error grows along the chain, up to D₀² = (2.00 ± 0.10)×10⁻³.']
    """
    if not profiles:
        return []
    names, exponent = labels(profiles), unit_of(profiles)
    first, others = profiles[0], list(zip(profiles[1:], names[1:], strict=True))
    head = _error(first, names[0] if others else "", exponent)
    drift, spread = _drift(first, names[0] if others else ""), _propagation(first)
    if not others:
        return [head, *filter(None, [drift, spread])]
    return [head, _comparison(first, names[0], others, exponent), *filter(None, [drift or spread])]


def _error(profile: Profile, name: str, exponent: int) -> str:
    """Whether there is an error at the end of the chain, and how it got there."""
    state = evidence.final_state(profile)
    symbol = "D₀²" if state["t"] == 0 else f"D² at t = {state['t']:g}"
    of = f" of “{name}”" if name else ""
    end = evidence.cumulative(state)
    if end is None:
        return f"The final error{of} was not measured."
    size = f"{symbol} = {plus_minus(end.value, end.se, exponent)}"
    found = growth(profile)
    if found == "grows":
        return f"The error{of} grows along the chain, up to {size}."
    if found == "shrinks" and end.is_detected:
        return f"The error{of} shrinks along the chain, down to {size}."
    if end.is_detected:
        return f"The samples{of} differ from the data, {size}; growth is not established."
    if clearest(bands(profile)):
        return f"The MMD{of} does not show an error, {size}; frequency bands do."
    return f"The final error{of} is not distinguishable from zero, {size}."


def _drift(profile: Profile, name: str) -> str:
    """Which band is off the most at the end."""
    band = clearest(bands(profile))
    if band is None or band.final is None:
        return ""
    of = f" of “{name}”" if name else ""
    return f"Most off at the end{of} is the energy of {band.words}: {energy_error(band.final)}."


def _propagation(profile: Profile) -> str:
    """Whether segments amplify the error that reaches them: of the band, else of the MMD."""
    band = clearest(bands(profile))
    found = list(band.amplifications()) if band else []
    what, symbol, times = "this error", "μ", [float(s["t"]) for s in states(profile)]
    if not found:
        what, symbol, chain = "the MMD that reaches them", "λ", states(profile)
        factors = [
            (i, evidence.amplification(chain[i - 1], chain[i])) for i in range(1, len(chain))
        ]
        found = [(i, f) for i, f in factors if f is not None]
    return _factors(found, what, symbol, times)


def _factors(
    found: Sequence[tuple[int, Estimate]], what: str, symbol: str, times: Sequence[float]
) -> str:
    """Where the factors lie beyond their error bars, with the one that is beyond 1 the most."""
    more = [pair for pair in found if pair[1].low > 1]
    less = [pair for pair in found if pair[1].low > -1 and pair[1].high < 1]
    if not more and not less:
        return ""
    index, factor = max(more or less, key=lambda pair: max(pair[1].low - 1, 1 - pair[1].high))
    place = f"{symbol} = {bracket(factor.value, factor.low, factor.high)} "
    place += f"from t = {times[index - 1]:g} to {times[index]:g}"
    if more and less:
        return f"Some segments amplify {what} ({place}), others reduce it."
    return f"Segments {'amplify' if more else 'reduce'} {what}: {place}."


def _comparison(
    first: Profile, name: str, others: Sequence[tuple[Profile, str]], exponent: int
) -> str:
    """How the other models end, against the first."""
    found = [(other, *compared(first, profile)) for profile, other in others]
    if len(found) == 1:
        other, change, is_clear = found[0]
        if change is None:
            return f"“{other}” cannot be compared with “{name}”."
        low, high = sorted((abs(change.low), abs(change.high)))
        size = bracket(abs(change.value), low, high, exponent)
        text = f"The D₀² of “{other}” is not distinguishable from that of “{name}”"
        if is_clear:
            text = f"“{other}” ends {'lower' if change.value < 0 else 'higher'}, by {size}"
        words = band_words(first, others[0][0])
        return f"{text}; {words}." if words else f"{text}."
    lower = [other for other, change, clear in found if change and clear and change.value < 0]
    higher = [other for other, change, clear in found if change and clear and change.value > 0]
    parts = [
        f"{len(group)} end {word}"
        for group, word in ((lower, "lower"), (higher, "higher"))
        if group
    ]
    rest = len(found) - len(lower) - len(higher)
    parts += [f"{rest} are not distinguishable from it"] if rest else []
    return f"Of {len(found)} models compared with “{name}”, {', '.join(parts)}."
