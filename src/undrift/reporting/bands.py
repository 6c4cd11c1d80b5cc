r"""The scalar error budget of a profile: what drifts, band by band of frequencies.

A profile may hold energies of frequency bands. The error of an energy is a difference of
logarithms, :math:`e_t = \log E_{p_t} S - \log E_{q_t} S`, which reads as a percentage,
:math:`100\,(\exp e_t - 1)`. Of several bands, the one whose error at the end of the chain is
the most standard errors from 0 is named where its interval excludes 0 at 95 % for all bands
together (Bonferroni).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from undrift.reporting.content import Profile, State, number, states
from undrift.reporting.evidence import Estimate
from undrift.reporting.numbers import percent, percent_number, simultaneous_z


@dataclass(frozen=True)
class Band:
    """One band of a profile: its errors along the chain.

    Arguments:
        name: What it is called: ``"from 4 half waves"``, ``"0 half waves, channel 1"``.
        words: The same with its place among all bands: ``"the highest frequencies (…)"``.
        errors: One record per state, from T down to 0; empty where nothing was measured.
        times: The times of the states.
        z: Half width of the interval that all bands together have at 95 %, in standard errors.
    """

    name: str
    words: str
    errors: tuple[Mapping[str, Any], ...]
    times: tuple[float, ...]
    z: float

    def at(self, index: int, key: str = "error") -> Estimate | None:
        """One of its numbers at a state, with its standard error."""
        record = self.errors[index]
        value, se = number(record, key), number(record, f"{key}_se")
        return None if value is None or se is None else Estimate(value, se)

    @property
    def final(self) -> Estimate | None:
        """Its error at the end of the chain, with the interval that holds for all bands."""
        found = self.at(-1)
        if found is None:
            return None
        ends = found.value - self.z * found.se, found.value + self.z * found.se
        return Estimate(found.value, found.se, None, ends)

    @property
    def is_off(self) -> bool:
        """Whether its error at the end is distinguishable from 0, all bands considered."""
        return self.final is not None and (self.final.low > 0 or self.final.high < 0)

    def amplifications(self) -> Iterator[tuple[int, Estimate]]:
        """The segments with a factor: the index of the state where each ends, and the factor."""
        for index, record in enumerate(self.errors):
            value, ends = number(record, "amplification"), record.get("amplification_interval")
            if value is not None and ends:
                yield index, Estimate(value, math.nan, None, (ends[0], ends[1]))


def bands(profile: Profile) -> list[Band]:
    """The bands of a profile from low to high frequencies; none where none were measured."""
    chain, listed = states(profile), profile.get("statistics") or ()
    chosen = [i for i, statistic in enumerate(listed) if statistic["kind"] == "energy"]
    times = tuple(float(state["t"]) for state in chain)
    z = simultaneous_z(len(chosen))
    lows = [listed[i]["low"] for i in chosen]
    return [
        Band(
            name := _name(listed[i]),
            _words(name, listed[i], lows),
            tuple(_error(state, i) for state in chain),
            times,
            z,
        )
        for i in chosen
    ]


def _error(state: State, index: int) -> Mapping[str, Any]:
    found = state.get("scalars") or ()
    return found[index] if index < len(found) else {}


def _name(statistic: Mapping[str, Any]) -> str:
    low, high = statistic["low"], statistic["high"]
    unit = "half waves" if statistic["basis"] == "frequency" else "components"
    span = f"from {low:g}" if high is None else "0" if high == 1 else f"{low:g}–{high:g}"
    channel = statistic.get("channel")
    return f"{span} {unit}" + ("" if channel is None else f", channel {channel}")


def _words(name: str, statistic: Mapping[str, Any], lows: list[float]) -> str:
    if statistic["basis"] != "frequency" or len(set(lows)) < 2:
        return f"the components ({name})"
    places = {min(lows): "the mean brightness", max(lows): "the highest frequencies"}
    return f"{places.get(statistic['low'], 'the middle frequencies')} ({name})"


def clearest(found: list[Band]) -> Band | None:
    """The band whose error at the end is the most standard errors from zero.

    None where no band is off.
    """
    ends = [(band.final, k) for k, band in enumerate(found) if band.is_off]
    sizes = [(abs(end.value) / end.se if end.se else math.inf, k) for end, k in ends if end]
    return found[max(sizes)[1]] if sizes else None


def energy_error(error: Estimate) -> str:
    """An error of an energy in words with its interval, in percent if it is below 100.

    >>> energy_error(Estimate(-0.13, 0.007))
    '12 % too weak (11 to 13 %)'
    >>> energy_error(Estimate(1.5, 0.1))
    '4.5 times too strong (3.7 to 5.5)'
    """
    value, low, high = (math.exp(x) for x in (error.value, error.low, error.high))
    side = "strong" if value > 1 else "weak"
    if high < 2:
        ends = sorted(abs(x - 1) for x in (low, high))
        if low < 1 < high:
            return f"{percent(value - 1, signed=True)} ({_signed(low, high)} %)"
        span = " to ".join(percent_number(x) for x in ends)
        return f"{percent(abs(value - 1))} too {side} ({span} %)"
    return f"{value:.1f} times too {side} ({low:.1f} to {high:.1f})"


def _signed(low: float, high: float) -> str:
    return " to ".join(percent_number(x - 1, signed=True) for x in (low, high))
