"""The numbers of a report as rows and cards: what the page and the terminal both print.

A row keeps the raw number beside its text, so that a table never says less than the profile.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from undrift.reporting import evidence
from undrift.reporting.content import Profile, QualityRow, label, labels, number, states
from undrift.reporting.evidence import Estimate
from undrift.reporting.numbers import (
    MISSING,
    common_exponent,
    decimals,
    percent,
    percent_number,
    power_of_ten,
    probability,
    scaled,
    scientific,
    shared_exponent,
)


@dataclass(frozen=True)
class Cell:
    """A table cell: its text and the number it stands for."""

    text: str
    value: float | None = None


@dataclass(frozen=True)
class Headline:
    """The final error of one model, ready to print; numbers in units of 10 to the exponent."""

    name: str
    value: Cell
    se: Cell
    low: Cell
    high: Cell
    p_value: Cell
    start: Cell
    change: str
    change_interval: str
    change_tone: str
    bar: tuple[float, float, float] | None


@dataclass(frozen=True)
class HeadlineTable:
    """The final errors of all models in one unit; ``bar_zero`` is where 0 lies on their bars."""

    exponent: int
    rows: list[Headline]
    bar_zero: float


def headline_table(profiles: Sequence[Profile]) -> HeadlineTable:
    r"""Return :math:`D_0^2` of every model, in one common unit so that they compare at a glance."""
    finals = [evidence.final_state(p) for p in profiles]
    found = [evidence.cumulative(s) for s in finals]
    exponent = common_exponent([number(s, "error.mmd_sq") for s in finals])
    places = max((decimals(e.se, exponent) for e in found if e), default=2)
    ends = [v for e in found if e for v in (e.low, e.high)]
    left, right = min([0.0, *ends]), max([0.0, *ends])
    span = (right - left) * 1.04 or 1.0
    rows = []
    for i, (profile, name, estimate) in enumerate(
        zip(profiles, labels(profiles), found, strict=True)
    ):
        change, change_interval, tone = _change(found[0], estimate) if i else ("", "", "")
        start, state = evidence.first_state(profile), finals[i]
        start_value = None if start is None else number(start, "error.mmd_sq")

        def cell(value: float | None) -> Cell:
            return Cell(scaled(value, exponent, places), value)

        p_value = number(state, "error.p_value")
        rows.append(
            Headline(
                name=name,
                value=cell(number(state, "error.mmd_sq")),
                se=cell(number(state, "error.mmd_sq_se")),
                low=cell(estimate.low if estimate else None),
                high=cell(estimate.high if estimate else None),
                p_value=Cell(
                    MISSING
                    if p_value is None
                    else probability(p_value).removeprefix("p = ")
                    if p_value >= 0.001
                    else "< 0.001",
                    p_value,
                ),
                start=cell(start_value),
                change=change,
                change_interval=change_interval,
                change_tone=tone,
                bar=None if estimate is None else _bar(estimate, left, span),
            )
        )
    return HeadlineTable(exponent, rows, -100 * left / span)


def _bar(estimate: Estimate, left: float, span: float) -> tuple[float, float, float]:
    """Return low end, value and high end in percent of a bar's width."""
    low, mid, high = (
        100 * (v - left) / span for v in (estimate.low, estimate.value, estimate.high)
    )
    return round(low, 2), round(mid, 2), round(high, 2)


def _change(baseline: Estimate | None, other: Estimate | None) -> tuple[str, str, str]:
    """Return the relative change, its interval and whether it is beyond its error bars."""
    if baseline is None or other is None or not baseline.is_detected or baseline.value <= 0:
        return MISSING, "", "open"
    change = evidence.relative_change(baseline, other)
    tone = "lower" if change.high < 0 else "higher" if change.low > 0 else "open"
    low, high = (percent_number(v, signed=True) for v in (change.low, change.high))
    return percent(change.value, signed=True), f"{low} to {high} %", tone


@dataclass(frozen=True)
class Table:
    """A titled table of texts; the first column names its rows.

    Arguments:
        title: What it shows.
        columns: Headings, that of the first column included.
        rows: Cells as text.
        note: What a mark in it means.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


def chain_table(profile: Profile) -> Table:
    """Every state of a profile with its cumulative error and budget, for a narrow terminal."""
    chain = states(profile)
    exponent = shared_exponent(number(state, "error.mmd_sq") for state in chain)
    places = max(decimals(number(state, "error.mmd_sq_se"), exponent) for state in chain)
    columns = {"error.p_value": 3, "budget.fresh": 4, "budget.inherited": 4}
    columns |= {"budget.amplification": 2, "downstream_gain": 2}
    rows = []
    for state in chain:
        value, error = (
            scaled(number(state, f"error.{name}"), exponent, places)
            for name in ("mmd_sq", "mmd_sq_se")
        )
        others = [scaled(number(state, key), 0, digits) for key, digits in columns.items()]
        rows.append([f"{state['t']:g}", f"{value} ± {error}", *others])
    return Table(
        f"{label(profile)}: D², fresh F and inherited I of each state",
        ["t", f"D² ± se (×{power_of_ten(exponent)})", "p", "F", "I", "λ", "G"],
        rows,
    )


def html_table(table: Table) -> str:
    """A table as HTML, escaped.

    >>> html_table(Table("<x>", ["t"], [["0"]]))
    '<table><caption>&lt;x&gt;</caption><tr><th>t</th></tr><tr><td>0</td></tr></table>'
    """
    lines = [("th", table.columns), *(("td", row) for row in table.rows)]
    body = "".join(
        f"<tr>{''.join(f'<{tag}>{escape(cell)}</{tag}>' for cell in cells)}</tr>"
        for tag, cells in lines
    )
    return f"<table><caption>{escape(table.title)}</caption>{body}</table>"


STATE_COLUMNS = (
    ("t", "t"),
    ("error.mmd_sq", "D²"),
    ("error.mmd_sq_se", "std. error"),
    ("error.p_value", "p-value"),
    ("error.null_sd", "null sd"),
    ("budget.fresh", "fresh F"),
    ("budget.inherited", "inherited I"),
    ("budget.amplification", "λ"),
    ("downstream_gain", "gain G"),
    ("kl.lower", "E_cumu ≥"),
    ("kl.upper", "E_cumu ≤"),
    ("modular.error", "E_mod"),
    ("modular.error_se", "std. error"),
    ("modular.error_per_dimension", "per dimension"),
    ("modular.error_forward", "on true states"),
    ("modular.exposure_bias", "exposure bias"),
    ("modular.exposure_bias_se", "std. error"),
    ("modular.mean", "mean"),
    ("modular.variance", "variance"),
    ("modular.shape", "shape"),
    ("modular.variance_factor", "best factor on variance"),
    ("modular.nearest_weight", "weight of nearest datum"),
    ("exposure.delta", "δ"),
    ("exposure.eps_norm_gap", "ε-norm gap"),
    ("error.bandwidth", "bandwidth"),
)


def state_table(profile: Profile) -> tuple[list[str], list[list[Cell]]]:
    """Return every state of a profile, leaving out columns that it has no number for."""
    chain = states(profile)
    columns = [
        (key, title)
        for key, title in STATE_COLUMNS
        if any(number(state, key) is not None for state in chain)
    ]
    rows = [[_state_cell(key, number(state, key)) for key, _ in columns] for state in chain]
    return [title for _, title in columns], rows


def _state_cell(key: str, value: float | None) -> Cell:
    if key == "t" and value is not None:
        return Cell(f"{value:g}", value)
    if key == "error.p_value" and value is not None:
        return Cell(f"{value:.3g}", value)
    return Cell(scientific(value, 3 if value is not None and abs(value) < 1 else 2), value)


def quality_table(rows: Sequence[QualityRow]) -> tuple[list[str], list[tuple[str, list[Cell]]]]:
    """Return metrics as columns and models as rows.

    >>> quality_table([("plain", "FD", 1.49, 0.03)])
    (['FD'], [('plain', [Cell(text='1.49 ± 0.03', value=1.49)])])
    """
    metrics = list(dict.fromkeys(metric for _, metric, *_ in rows))
    names = list(dict.fromkeys(name for name, *_ in rows))
    cells = {(name, metric): (value, se) for name, metric, value, se in rows}
    return metrics, [
        (name, [_quality_cell(*cells.get((name, metric), (None, None))) for metric in metrics])
        for name in names
    ]


def _quality_cell(value: float | None, se: float | None) -> Cell:
    if value is None:
        return Cell(MISSING)
    exponent = shared_exponent([value, se])
    exponent = 0 if -2 <= exponent <= 4 else exponent
    places = decimals(se, exponent, 3)
    text = scaled(value, exponent, places)
    if se is not None:
        text += f" ± {scaled(se, exponent, places)}"
    return Cell(f"{text}{'×10^' + str(exponent) if exponent else ''}", value)


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return nested settings as dotted keys with text values.

    >>> flatten({"sampler": {"name": "ddim", "grid": [2, 1, 0]}, "seed": 0, "clip": None})
    {'sampler.name': 'ddim', 'sampler.grid': '[2, 1, 0]', 'seed': '0', 'clip': 'none'}
    """
    flat: dict[str, str] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        elif isinstance(value, str):
            flat[f"{prefix}{key}"] = value
        elif value is None:
            flat[f"{prefix}{key}"] = "none"
        else:
            flat[f"{prefix}{key}"] = json.dumps(value, default=str, ensure_ascii=False)
    return flat


def settings_table(profiles: Sequence[Profile]) -> list[tuple[str, list[str]]]:
    """Return how each profile was made: one value where all agree, else one for each model."""
    flats = []
    for profile in profiles:
        how = {
            k: v for k, v in (profile.get("how") or {}).items() if k not in ("command", "merged")
        }
        counts = {k: profile.get(k) for k in ("num_samples", "num_forward", "created")}
        flats.append(flatten({k: v for k, v in counts.items() if v is not None} | how))
    keys = list(dict.fromkeys(key for flat in flats for key in flat))
    table = []
    for key in keys:
        values = [flat.get(key, MISSING) for flat in flats]
        table.append((key, values[:1] if len(set(values)) == 1 else values))
    return table
