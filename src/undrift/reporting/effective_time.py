r"""When the sampler's states look as they do: what the effective time of a profile says.

The effective time :math:`t'` of a state (:mod:`undrift.measurement.effective_time`) is compared
with its own time t. Of all states with an effective time the shift :math:`t' - t` that is the most
standard errors from 0 is named where its interval excludes 0 at 95 % for all states together
(Bonferroni).
"""

from __future__ import annotations

from dataclasses import replace

from undrift.reporting.content import Finding, Profile, State, states
from undrift.reporting.evidence import Estimate, with_error
from undrift.reporting.numbers import decimals, scaled, simultaneous_z

KEY = "effective_time.time"


def shift(state: State) -> Estimate | None:
    """Effective time less time of a state; None where it has none.

    >>> shift({"t": 20, "effective_time": {"time": 23.0, "time_se": 0.5}})
    Estimate(value=3.0, se=0.5, p_value=None, ends=None)
    """
    found = with_error(state, KEY)
    return found and replace(found, value=found.value - float(state["t"]))


def shifted(profile: Profile) -> list[tuple[State, Estimate]]:
    """States whose effective time is another one than theirs, with the shifts.

    The intervals hold for all states of the profile together.
    """
    known = [(state, found) for state in states(profile) if (found := shift(state))]
    z = simultaneous_z(len(known))
    wide = [(s, replace(e, ends=(e.value - z * e.se, e.value + z * e.se))) for s, e in known]
    return [(state, e) for state, e in wide if e.low > 0 or e.high < 0]


def time_finding(profile: Profile, name: str) -> Finding | None:
    """Which state looks most surely like one of another time; None where no shift is clear."""
    found = shifted(profile)
    if not found:
        return None
    state, clearest = max(found, key=lambda pair: abs(pair[1].value) / pair[1].se)
    t, places = float(state["t"]), decimals(clearest.se)
    time, low, high = (
        scaled(t + part, 0, places) for part in (clearest.value, clearest.low, clearest.high)
    )
    more = sum(e.value > 0 for _, e in found)
    text = (
        "Forward draws at that time have the energies of all frequency bands together (95 % "
        "intervals for all states at once). "
        + _count(more, "more")
        + _count(len(found) - more, "less")
    )
    headline = f"“{name}”: the states at t = {t:g} look like t = {time} ({low} to {high})."
    return Finding("Which noise level the states have", headline, text.rstrip())


def _count(number: int, word: str) -> str:
    if not number:
        return ""
    states_have = "1 state has" if number == 1 else f"{number} states have"
    return f"{states_have} {word} noise than the network is told. "
