r"""What a profile says in nats: the modular errors, their split, and the bracket.

Rules, each at the 95 % level:

- *Advice*: the part of the modular error (mean, variance, shape) that is larger than each of the
  others beyond their error bars says what to do. Segments in which the target memorizes single data
  are left out, because there the mean also counts generalization as an error.
- *Exposure bias*: named where its interval excludes zero.
- *Bracket*: both limits hold at once with 95 % at each state.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from undrift.reporting.content import Finding, Profile, State, number, states
from undrift.reporting.numbers import (
    MISSING,
    Z_95,
    estimate,
    interval,
    percent,
    plus_minus,
    power_of_ten,
    scaled,
    shared_exponent,
)
from undrift.reporting.tables import Table

PARTS = ("mean", "variance", "shape")
MEMORIZING = 0.9
"""Weight of the nearest datum above which the target memorizes, as in undrift.diffusion.mixture."""
TOPIC = "What the modules do wrong, in nats"
_CURES = {
    "mean": "Train more, or train a larger network; another variance or more steps cannot help it.",
    "variance": "Change the reverse variance (--remedy analytic_variance); this needs no training.",
    "shape": "Take smaller steps (more of them): no Gaussian module follows longer ones.",
}


@dataclass(frozen=True)
class Split:
    """The modular error of several segments and its parts, each with its standard error."""

    total: tuple[float, float]
    parts: dict[str, tuple[float, float]]
    steps: float
    variance_factor: float

    @property
    def largest(self) -> str | None:
        """The part that is larger than each of the others beyond error bars; None if none is."""
        ranked = sorted(self.parts, key=lambda name: -self.parts[name][0])
        (top, top_se), (second, second_se) = (self.parts[name] for name in ranked[:2])
        lead = top - max(second, 0.0)
        return ranked[0] if lead > Z_95 * math.hypot(top_se, second_se) else None


def measured(profile: Profile) -> list[State]:
    """The states whose segment has a modular error."""
    return [state for state in states(profile) if number(state, "modular.error") is not None]


def is_memorizing(state: State) -> bool:
    """Whether the target of a segment has come down to single data."""
    return (number(state, "modular.nearest_weight") or 0.0) > MEMORIZING


def split(segments: Sequence[State]) -> Split:
    """The modular error of segments together; their standard errors add up at most."""

    def total(name: str) -> tuple[float, float]:
        values = [number(state, name) or 0.0 for state in segments]
        errors = [number(state, f"{name}_se") or 0.0 for state in segments]
        return sum(values), sum(errors)

    steps = sum(number(state, "modular.steps") or 1.0 for state in segments)
    ratios = [
        (number(state, "modular.steps") or 1.0) / (number(state, "modular.variance_factor") or 1.0)
        for state in segments
    ]
    parts = {name: total(f"modular.{name}") for name in PARTS}
    return Split(total("modular.error"), parts, steps, steps / sum(ratios))


def nats_findings(profile: Profile, name: str) -> list[Finding]:
    """Return what follows from the modular errors and the bracket; nothing without them."""
    segments = measured(profile)
    if not segments:
        return []
    found = [_advice(segments, name)]
    if bias := _exposure(segments, name):
        found.append(bias)
    if bracket := _bracket(profile, name):
        found.append(bracket)
    return found


def _advice(segments: Sequence[State], name: str) -> Finding:
    """Return what the split of the modular error tells the user to do."""
    clear = [state for state in segments if not is_memorizing(state)]
    warning = _warning(segments, clear)
    if not clear:
        whole = split(segments)
        text = f"The modular errors add up to {plus_minus(*whole.total)} nats.{warning}"
        return Finding(TOPIC, f"“{name}”: the target memorizes in every segment.", text)
    found = split(clear)
    numbers = "; ".join(f"{part} {plus_minus(*found.parts[part])}" for part in PARTS)
    text = (
        f"The modular errors add up to {plus_minus(*found.total)} nats over {found.steps:g} steps "
        f"down to t = {clear[-1]['t']:g} ({numbers}).{warning}"
    )
    part = found.largest
    if part is None:
        return Finding(TOPIC, f"“{name}”: no part of the modular error stands out.", text)
    share = _share(found, part)
    cure = _CURES[part]
    if part == "variance":
        cure = f"{cure} A factor of {found.variance_factor:.3g} on it would be best on average."
    headline = f"“{name}”: {share} of the modular error is in the {part} of the modules."
    return Finding(TOPIC, headline, f"{cure} {text}")


def _share(found: Split, part: str) -> str:
    """Return how much of the modular error a part is, in words where it exceeds the whole."""
    whole = sum(max(value, 0.0) for value, _ in found.parts.values())
    return percent(found.parts[part][0] / whole)


def _warning(segments: Sequence[State], clear: Sequence[State]) -> str:
    """Return which segments are left out, and why."""
    if len(clear) == len(segments):
        return ""
    left_out = split([state for state in segments if is_memorizing(state)])
    start = clear[-1]["t"] if clear else None
    where = "everywhere" if start is None else f"below t = {start:g}"
    return (
        f" Left out: {significant(left_out.total[0])} nats {where}, where the exact reverse "
        "conditional of the data set leads back to single data, so that what generalizes counts "
        "as an error too."
    )


def _exposure(segments: Sequence[State], name: str) -> Finding | None:
    """Return the exposure bias of all segments in which the target does not memorize, in nats."""
    clear = [state for state in segments if not is_memorizing(state)]
    biases = [number(state, "modular.exposure_bias") for state in clear]
    errors = [number(state, "modular.exposure_bias_se") for state in clear]
    if not clear or any(value is None for value in (*biases, *errors)):
        return None
    value, se = sum(filter(None, biases)), sum(filter(None, errors))
    low, high = interval(value, se)
    text = (
        "The modular errors on the sampler's states less those on true ones add up to "
        f"{estimate(value, low, high)} nats down to t = {clear[-1]['t']:g}."
    )
    if low > 0:
        headline = "the modules do worse on their own inputs than on those of training."
    elif high < 0:
        headline = "the modules do better on their own inputs than on those of training."
    else:
        headline = "no exposure bias can be told from zero, in nats."
    return Finding(TOPIC, f"“{name}”: {headline}", text)


def _bracket(profile: Profile, name: str) -> Finding | None:
    """Return the limits of the cumulative error at the last state that has both."""
    closed = [
        state
        for state in states(profile)
        if number(state, "kl.lower") is not None and number(state, "kl.upper") is not None
    ]
    if not closed:
        return None
    clear = [state for state in closed if not is_memorizing(state)]
    headline = f"“{name}”: at t = {closed[-1]['t']:g} the cumulative error {_between(closed[-1])}."
    text = (
        "With 95 % confidence: the lower limit is what MMD certifies, the upper one the prior's "
        "error and all modular errors, as if no step forgot anything. The truth can be anywhere "
        "between."
    )
    if clear and clear[-1] is not closed[-1]:
        text += (
            f" Before the target memorizes, at t = {clear[-1]['t']:g}, it {_between(clear[-1])}."
        )
    return Finding(TOPIC, headline, text)


def _between(state: State) -> str:
    low, high = (significant(number(state, key)) for key in ("kl.lower", "kl.upper"))
    return f"lies between {low} and {high} nats"


# ------------------------------------------------------------------ terminal


def nats_table(profile: Profile) -> Table:
    """Return modular errors, their split and the bracket for the terminal, one row a state."""
    chain = [state for state in states(profile) if number(state, "kl.upper") is not None]
    rows = []
    for state in chain:
        value, se = number(state, "modular.error"), number(state, "modular.error_se")
        ends = (significant(number(state, key), 2) for key in ("kl.lower", "kl.upper"))
        rows.append(
            [
                f"{state['t']:g}{'*' if is_memorizing(state) else ''}",
                MISSING if value is None else f"{significant(value)} ± {significant(se, 2)}",
                *(significant(number(state, f"modular.{k}")) for k in ("error_forward", *PARTS)),
                " to ".join(ends),
            ]
        )
    return Table(
        "E_mod of each segment and limits of the cumulative error, in nats",
        ("t", "E_mod ± se", "on q", "mean", "var.", "shape", "E_cumu"),
        rows,
        "* the target leads back to single data" if any(map(is_memorizing, chain)) else "",
    )


def significant(value: float | None, digits: int = 3) -> str:
    """Return a number with a few significant digits, without exponent where that is short.

    >>> [significant(x) for x in (1900.02, 0.0004, -0.0123, 0.0, None)]
    ['1900', '4.00×10⁻⁴', '−0.0123', '0', '–']
    """
    if value is None:
        return MISSING
    if value == 0:
        return "0"
    exponent = shared_exponent([value])
    if -3 < exponent < 5:
        return scaled(value, 0, max(digits - 1 - exponent, 0))
    return f"{scaled(value, exponent, digits - 1)}×{power_of_ten(exponent)}"
