"""The numbers of a report as tables of texts, which the page and the terminal both print.

The page carries the raw numbers as JSON in addition, so that no precision is lost.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from undrift.exceptions import printable
from undrift.reporting import evidence
from undrift.reporting.content import Profile, QualityRow, label, labels, number, records, states
from undrift.reporting.evidence import Estimate
from undrift.reporting.numbers import (
    MISSING,
    common_exponent,
    decimals,
    plus_minus,
    power_of_ten,
    probability,
    scaled,
    scientific,
    shared_exponent,
    unit,
)


@dataclass(frozen=True)
class Table:
    """A titled table of texts.

    Arguments:
        title: What it shows.
        columns: Headings.
        rows: Cells as text.
        note: What a mark in it means.
        num_names: Number of first columns that hold names, not numbers.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    num_names: int = 0


def html_table(table: Table) -> str:
    """A table as HTML, escaped.

    >>> "<span>&lt;x&gt;</span>" in html_table(Table("<x>", ["t"], [["0"]]))
    True
    """
    from undrift.reporting.page import template

    macros: Any = template("macros.j2").module
    return str(macros.table(table))


def rich_table(table: Table) -> RichTable:
    """A table for the terminal: names to the left, numbers to the right, texts taken literally."""
    drawn = RichTable(
        title=Text(printable(table.title)),
        title_justify="left",
        header_style="bold",
        box=box.SIMPLE_HEAD,
        caption=table.note or None,
    )
    for i, name in enumerate(table.columns):
        is_name = i < table.num_names
        drawn.add_column(
            Text(printable(name)), justify="left" if is_name else "right", no_wrap=not is_name
        )
    for row in table.rows:
        drawn.add_row(*(Text(printable(cell)) for cell in row))
    return drawn


def as_text(table: Table) -> str:
    """A table as lines of text."""
    text = io.StringIO()
    console = Console(file=text, width=120, color_system=None, force_jupyter=False)
    console.print(rich_table(table))
    return "\n".join(line.rstrip() for line in text.getvalue().strip().splitlines())


def console_table(profiles: Sequence[Any]) -> RichTable:
    r"""Return the final error :math:`D_0^2` of every model, with its error bar, for the terminal.

    Arguments:
        profiles: Error profiles (objects or their plain data); the first is the baseline.

    Returns:
        A table with one row per model; print it with ``rich.console.Console(stderr=True)``.

    Example:
        >>> state = {"t": 0, "error": {"mmd_sq": 2e-3, "mmd_sq_se": 1e-4, "p_value": 0.01}}
        >>> console_table([{"label": "plain", "states": [state]}]).row_count
        1
    """
    return rich_table(headline_table(records(profiles)))


def headline_table(profiles: Sequence[Profile]) -> Table:
    r"""Return :math:`D_0^2` of every model, in one common unit, and its change from the first."""
    finals = [evidence.final_state(p) for p in profiles]
    found = [evidence.cumulative(state) for state in finals]
    exponent = common_exponent([number(state, "error.mmd_sq") for state in finals])
    places = max((decimals(e.se, exponent) for e in found if e), default=2)
    rows: list[list[str]] = []
    for name, state, final in zip(labels(profiles), finals, found, strict=True):
        values = [number(state, f"error.{key}") for key in ("mmd_sq", "mmd_sq_se")]
        values += [final.low, final.high] if final else [None, None]
        value, se, low, high = (scaled(v, exponent, places) for v in values)
        p_value = number(state, "error.p_value")
        p_text = probability(p_value).removeprefix("p ").removeprefix("= ")
        cells = [name, f"{value} ± {se}", f"{low} to {high}" if final else MISSING]
        cells.append(MISSING if p_value is None else p_text)
        rows.append([*cells, _change(found[0], final, exponent) if rows else ""])
    columns = ["model", "D₀² ± se", "95 % interval", "p", "change (95 % interval)"]
    count = 4 if len(rows) == 1 else 5
    title = f"Final error D₀²{f', in units of {power_of_ten(exponent)}' if exponent else ''}"
    return Table(title, columns[:count], [row[:count] for row in rows], num_names=1)


def _change(baseline: Estimate | None, other: Estimate | None, exponent: int) -> str:
    """Return the difference from the first model with its interval, in the unit of the table."""
    if baseline is None or other is None:
        return MISSING
    change = evidence.difference(other, baseline)
    places = decimals(change.se, exponent)
    ends = [scaled(v, exponent, places) for v in (change.value, change.low, change.high)]
    return f"{ends[0]} ({ends[1]} to {ends[2]})"


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
        ["t", f"D² ± se ({unit(exponent)})" if exponent else "D² ± se", "p", "F", "I", "λ", "G"],
        rows,
    )


STATE_COLUMNS = {
    "t": "t",
    "error.mmd_sq": "D²",
    "error.mmd_sq_se": "std. error",
    "error.p_value": "p-value",
    "error.null_sd": "null sd",
    "budget.fresh": "fresh F",
    "budget.inherited": "inherited I",
    "budget.amplification": "λ",
    "downstream_gain": "gain G",
    "kl.lower": "E_cumu ≥",
    "kl.upper": "E_cumu ≤",
    "modular.error": "E_mod",
    "modular.error_se": "std. error",
    "modular.error_per_dimension": "per dimension",
    "modular.error_forward": "on forward draws",
    "modular.exposure_bias": "exposure bias",
    "modular.exposure_bias_se": "std. error",
    "modular.mean": "mean",
    "modular.variance": "variance",
    "modular.shape": "shape",
    "modular.variance_factor": "best factor on variance",
    "modular.nearest_weight": "weight of nearest datum",
    "growth.mean": "growth",
    "growth.max": "largest growth",
    "exposure.delta": "δ",
    "exposure.eps_norm_gap": "ε-norm gap",
    "error.bandwidth": "bandwidth",
}


def state_table(profile: Profile, name: str) -> Table:
    """Return every state of a profile, leaving out columns that it has no number for."""
    chain = states(profile)
    keys = [key for key in STATE_COLUMNS if any(number(state, key) is not None for state in chain)]
    rows = [[_state_text(key, number(state, key)) for key in keys] for state in chain]
    return Table(f"All states of {name}", [STATE_COLUMNS[key] for key in keys], rows)


def _state_text(key: str, value: float | None) -> str:
    if value is not None and key in ("t", "error.p_value"):
        return f"{value:g}" if key == "t" else f"{value:.3g}"
    return scientific(value, 3 if value is not None and abs(value) < 1 else 2)


def quality_table(rows: Sequence[QualityRow]) -> Table:
    """Return metrics as columns and models as rows.

    >>> table = quality_table([("plain", "FD", 1.49, 0.03)])
    >>> table.columns, table.rows
    (['model', 'FD'], [['plain', '1.49 ± 0.03']])
    """
    metrics = list(dict.fromkeys(metric for _, metric, *_ in rows))
    names = list(dict.fromkeys(name for name, *_ in rows))
    cells = {(name, metric): _quality_text(*value) for name, metric, *value in rows}
    body = [[name, *(cells.get((name, metric), MISSING) for metric in metrics)] for name in names]
    return Table("Sample quality (± standard error)", ["model", *metrics], body, num_names=1)


def _quality_text(value: float | None, se: float | None) -> str:
    return scientific(value, 3) if value is None or se is None else plus_minus(value, se)


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return nested settings as dotted keys with text values.

    >>> flatten({"sampler": {"name": "ddim", "grid": [2, 1, 0]}, "seed": 0, "clip": None})
    {'sampler.name': 'ddim', 'sampler.grid': '[2, 1, 0]', 'seed': '0', 'clip': 'none'}
    """
    flat: dict[str, str] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        elif value is None or isinstance(value, str):
            flat[f"{prefix}{key}"] = value or ("none" if value is None else "")
        else:
            flat[f"{prefix}{key}"] = json.dumps(value, default=str, ensure_ascii=False)
    return flat


def settings_table(title: str, names: Sequence[str], trees: Sequence[Mapping[str, Any]]) -> Table:
    """Return settings of several models: one value where all agree, else one for each model."""
    flats = [flatten(tree) for tree in trees]
    rows = []
    for key in dict.fromkeys(key for flat in flats for key in flat):
        values = [flat.get(key, MISSING) for flat in flats]
        rows.append([key, *(values[:1] if len(set(values)) == 1 else values)])
    columns = ["setting", *(["value"] if all(len(row) == 2 for row in rows) else names)]
    return Table(title, columns, rows, num_names=len(columns))


def measured_how(profile: Profile) -> Mapping[str, Any]:
    """How a profile was measured: numbers of samples and its settings."""
    counts = {k: v for k in ("num_samples", "num_forward", "created") if (v := profile.get(k))}
    how = (profile.get("how") or {}).items()
    return counts | {k: v for k, v in how if k not in ("command", "merged")}
