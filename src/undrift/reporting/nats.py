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
from collections.abc import Mapping, Sequence
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
SINGLE = "concentrates on single training images"
TOPIC = "Errors of the denoising steps, in nats"
ADVICE = {
    "mean": "Train more, or train a larger network; changing the variance or the number of steps "
    "does not help.",
    "variance": "Change the reverse variance (--remedy analytic_variance); this needs no training.",
    "shape": "Take smaller steps (more of them): a Gaussian step cannot match the exact reverse "
    "step of a longer one.",
}
"""What to do about the part of the modular error that is the largest."""


def advice(parts: Mapping[str, float]) -> str:
    """What the split of a modular error into mean, variance and shape tells the user to do.

    Example:
        >>> advice({"mean": 0.1, "variance": 0.0, "shape": 0.5})[:46]
        'Most of the modular error is in the shape. Tak'
    """
    part = max(parts, key=lambda name: parts[name])
    if parts[part] <= 0:
        return "No part of the modular error stands out."
    return f"Most of the modular error is in the {part}. {ADVICE[part]}"


@dataclass(frozen=True)
class Split:
    """The modular error of several segments and its parts, each with its standard error."""

    segments: Sequence[State]

    def sum(self, name: str) -> tuple[float, float]:
        """A modular number of all segments; their standard errors add up at most."""
        keys = (f"modular.{name}", f"modular.{name}_se")
        value, se = (sum(number(s, key) or 0.0 for s in self.segments) for key in keys)
        return value, se

    @property
    def parts(self) -> dict[str, tuple[float, float]]:
        """Mean, variance and shape."""
        return {name: self.sum(name) for name in PARTS}

    @property
    def steps(self) -> float:
        """Number of denoising steps."""
        return sum(number(state, "modular.steps") or 1.0 for state in self.segments)

    @property
    def variance_factor(self) -> float:
        """The factor on the reverse variance that is best on average."""
        ratios = (
            (number(s, "modular.steps") or 1.0) / (number(s, "modular.variance_factor") or 1.0)
            for s in self.segments
        )
        return self.steps / sum(ratios)

    @property
    def largest(self) -> str | None:
        """The part that is larger than each of the others beyond error bars; None if none is."""
        (top, se), (second, second_se) = sorted(self.parts.values(), reverse=True)[:2]
        lead = top - max(second, 0.0)
        is_clear = lead > Z_95 * math.hypot(se, second_se)
        return max(self.parts, key=lambda name: self.parts[name]) if is_clear else None


def variance_factor(profile: Profile) -> float | None:
    """The best factor on the reverse variance, where the variance is the largest part of the error.

    Segments in which the target memorizes are left out.
    """
    segments = [s for s in states(profile) if number(s, "modular.error") is not None]
    clear = [state for state in segments if not is_memorizing(state)]
    found = Split(clear)
    return found.variance_factor if clear and found.largest == "variance" else None


def is_memorizing(state: State) -> bool:
    """Whether the target of a segment is a single datum."""
    return (number(state, "modular.nearest_weight") or 0.0) > MEMORIZING


def nats_findings(profile: Profile, name: str) -> list[Finding]:
    """Return what follows from the modular errors and the bracket; nothing without them."""
    segments = [s for s in states(profile) if number(s, "modular.error") is not None]
    if not segments:
        return []
    clear = [state for state in segments if not is_memorizing(state)]
    found = [_advice(segments, clear), _exposure(clear), _bracket(profile)]
    return [Finding(TOPIC, f"“{name}”: {pair[0]}", pair[1]) for pair in found if pair]


def _advice(segments: Sequence[State], clear: Sequence[State]) -> tuple[str, str]:
    """Return what the split of the modular error tells the user to do."""
    found = Split(clear or segments)
    whole = f"The modular errors add up to {plus_minus(*found.sum('error'))} nats"
    warning = _left_out(segments, clear)
    if not clear:
        return "the target memorizes in every segment.", f"{whole}.{warning}"
    numbers = "; ".join(f"{part} {plus_minus(*value)}" for part, value in found.parts.items())
    text = (
        f"{whole} over {found.steps:g} steps down to t = {clear[-1]['t']:g} ({numbers}).{warning}"
    )
    part = found.largest
    if part is None:
        return "no part of the modular error stands out.", text
    share = found.parts[part][0] / sum(max(value, 0.0) for value, _ in found.parts.values())
    if part == "variance":
        text = f"A factor of {found.variance_factor:.3g} on it would be best on average. {text}"
    headline = f"{percent(share)} of the modular error is in the {part} of the denoising steps."
    return headline, f"{ADVICE[part]} {text}"


def _left_out(segments: Sequence[State], clear: Sequence[State]) -> str:
    """Return which segments are left out, and why."""
    if len(clear) == len(segments):
        return ""
    value, _ = Split([state for state in segments if is_memorizing(state)]).sum("error")
    where = f"below t = {clear[-1]['t']:g}" if clear else "everywhere"
    return (
        f" Left out: {significant(value)} nats {where}, where the exact reverse conditional of the "
        f"data set {SINGLE}, so that it counts generalization as an error."
    )


def _exposure(clear: Sequence[State]) -> tuple[str, str] | None:
    """Return the exposure bias of all segments in which the target does not memorize, in nats."""
    keys = ("modular.exposure_bias", "modular.exposure_bias_se")
    if not clear or any(number(state, key) is None for state in clear for key in keys):
        return None
    value, se = Split(clear).sum("exposure_bias")
    low, high = interval(value, se)
    text = (
        "The modular errors on the sampler's states less those on forward draws add up to "
        f"{estimate(value, low, high)} nats down to t = {clear[-1]['t']:g}."
    )
    if low <= 0 <= high:
        return "no exposure bias is distinguishable from zero, in nats.", text
    word = "less" if low > 0 else "more"
    return f"the steps are {word} accurate on the sampler's states than on forward draws.", text


def _bracket(profile: Profile) -> tuple[str, str] | None:
    """Return the limits of the cumulative error at the last state that has both."""
    keys = ("kl.lower", "kl.upper")
    closed = [s for s in states(profile) if all(number(s, key) is not None for key in keys)]
    if not closed:
        return None

    def lies(state: State) -> str:
        low, high = (significant(number(state, key)) for key in keys)
        return f"at t = {state['t']:g}, it lies between {low} and {high} nats"

    text = (
        "With 95 % confidence: the lower limit is what MMD certifies, the upper one the prior's "
        "error and all modular errors, assuming that no step reduces the error. The true value can "
        "be anywhere between."
    )
    clear = [state for state in closed if not is_memorizing(state)]
    if clear and clear[-1] is not closed[-1]:
        text += f" Before the target memorizes, {lies(clear[-1])}."
    return f"{lies(closed[-1]).replace(', it', ' the cumulative error')}.", text


# ------------------------------------------------------------------ terminal


def nats_table(profile: Profile) -> Table:
    """Return modular errors, their split and the bracket for the terminal, one row per state."""
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
        f"* the target {SINGLE}" if any(map(is_memorizing, chain)) else "",
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
