"""What the growth of small perturbations in the segments of a chain says.

The mean and the largest growth of a segment (:mod:`undrift.measurement.growth`) are named where
their 95 % interval lies above 1: the segment enlarges perturbations on average, or in some
direction.
"""

from __future__ import annotations

from undrift.reporting.content import Finding, Profile, State, states
from undrift.reporting.evidence import Estimate, with_error
from undrift.reporting.numbers import bracket

TOPIC = "Growth of small perturbations"


def growth_finding(profile: Profile, name: str) -> Finding | None:
    """Whether segments enlarge small perturbations; None where that was not measured."""
    chain = states(profile)
    found = {
        key: [
            (before, state, estimate)
            for before, state in zip(chain, chain[1:], strict=False)
            if (estimate := with_error(state, f"growth.{key}"))
        ]
        for key in ("mean", "max")
    }
    if not found["max"]:
        return None
    means = [estimate.low > 1 for *_, estimate in found["mean"]]
    more, some = sum(means), sum(estimate.low > 1 for *_, estimate in found["max"])
    headline = "no segment enlarges small perturbations."
    if some:
        headline = f"{_segments(some)} small perturbations in some direction."
    if more:
        headline = f"{_segments(more)} small perturbations on average."
    top = max(found["max"], key=lambda triple: triple[2].value)
    mean = max(found["mean"], key=lambda triple: triple[2].value)
    text = (
        f"The largest growth is {_place(*top)}; the largest mean growth is {_place(*mean)}. This "
        "is about single states: a segment that enlarges perturbations may still reduce errors."
    )
    return Finding(TOPIC, f"“{name}”: {headline}", text)


def _segments(count: int) -> str:
    return "one segment enlarges" if count == 1 else f"{count} segments enlarge"


def _place(before: State, state: State, found: Estimate) -> str:
    size = bracket(found.value, found.low, found.high)
    return f"{size}, from t = {before['t']:g} to {state['t']:g}"
