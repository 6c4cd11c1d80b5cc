"""The cumulative error in other features than pixels: what a profile says of it.

The activations of a model itself (``network``) are another space for each model: errors in them are
compared between measurements of the same weights only.
"""

from __future__ import annotations

from collections.abc import Sequence

from undrift.reporting import evidence
from undrift.reporting.content import Finding, Profile, labels, states
from undrift.reporting.evidence import Estimate
from undrift.reporting.numbers import MISSING, bracket, common_exponent, plus_minus, probability
from undrift.reporting.tables import Table

OWN = "network"
"""The space that is another one for each model."""


def feature_names(profiles: Sequence[Profile]) -> list[str]:
    """The spaces in which any of the profiles was measured, in their order."""
    every = (state.get("features") or {} for p in profiles for state in states(p))
    return list(dict.fromkeys(name for found in every for name in found))


def final_error(profile: Profile, name: str) -> Estimate | None:
    """The error at the end of the chain in a space; None where it was not measured."""
    return evidence.cumulative(evidence.final_state(profile), f"features.{name}")


def feature_table(profiles: Sequence[Profile], name: str) -> Table:
    """The final error of every model in a space, with its interval and p-value."""
    rows = []
    for model, profile in zip(labels(profiles), profiles, strict=True):
        found = final_error(profile, name)
        cells = [MISSING] * 3
        if found:
            exponent = common_exponent([found.value])
            p_text = probability(found.p_value).removeprefix("p ").removeprefix("= ")
            ends = bracket(found.value, found.low, found.high, exponent).split("(")[-1][:-1]
            cells = [plus_minus(found.value, found.se, exponent), ends, p_text]
        rows.append([model, *cells])
    columns = ["model", "D₀² ± se", "95 % interval", "p"]
    return Table(f"Final error D₀² in the features {name}", columns, rows, num_names=1)


def feature_finding(profile: Profile, name: str) -> Finding | None:
    """In which spaces the samples differ from the data; None where there are no other spaces."""
    pairs = [(space, final_error(profile, space)) for space in feature_names([profile])]
    found = [(space, error) for space, error in pairs if error]
    if not found:
        return None
    seen = [space for space, error in found if error.is_detected]
    text = "; ".join(f"{space}: D₀² = {error.text}" for space, error in found)
    headline = "no error is distinguishable from zero in other features."
    if seen:
        headline = f"the samples differ from the data in the features {' and '.join(seen)}."
    grow = [space for space in seen if _grows(profile, space)]
    more = f" It grows along the chain in {' and '.join(grow)}." if grow else ""
    return Finding("In other features than pixels", f"“{name}”: {headline}", f"{text}.{more}")


def feature_sentence(first: Profile, other: Profile) -> str:
    """How the final errors of two models compare in each space that both have; "" without any."""
    parts = []
    for space in feature_names([first]):
        a, b = final_error(first, space), final_error(other, space)
        if a is None or b is None or (space == OWN and _weights(first) != _weights(other)):
            continue
        change = evidence.difference(b, a)
        word = "lower" if change.high < 0 else "higher" if change.low > 0 else "not distinguishable"
        parts.append(f"{space} {word}, {bracket(change.value, change.low, change.high)}")
    return f" In the features {'; '.join(parts)}." if parts else ""


def _grows(profile: Profile, space: str) -> bool:
    """Whether the error grows from the first state to the last beyond error bars."""
    start = evidence.cumulative(states(profile)[0], f"features.{space}")
    end = final_error(profile, space)
    return bool(start and end and evidence.difference(end, start).low > 0)


def _weights(profile: Profile) -> object:
    """The checksum of the weights; nothing is equal to a missing one."""
    found = (profile.get("how") or {}).get("weights")
    return object() if found is None else found
