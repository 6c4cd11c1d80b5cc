"""The result as a table in the terminal."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from undrift.reporting.content import records
from undrift.reporting.numbers import MISSING, power_of_ten
from undrift.reporting.tables import Table as PlainTable
from undrift.reporting.tables import headline_table

_TONES = {"lower": "green", "higher": "red"}


def rich_table(table: PlainTable) -> Table:
    """A table for the terminal, all columns to the right."""
    drawn = Table(
        title=table.title,
        title_justify="left",
        header_style="bold",
        box=box.SIMPLE_HEAD,
        caption=table.note or None,
    )
    for name in table.columns:
        drawn.add_column(name, justify="right", no_wrap=True)
    for row in table.rows:
        drawn.add_row(*row)
    return drawn


def as_text(table: Table) -> str:
    """A table as lines of text."""
    text = io.StringIO()
    Console(file=text, width=120, color_system=None).print(table)
    return "\n".join(line.rstrip() for line in text.getvalue().strip().splitlines())


def console_table(profiles: Sequence[Any]) -> Table:
    r"""Return the final error :math:`D_0^2` of every model, with its error bar, for the terminal.

    Arguments:
        profiles: Error profiles (objects or their plain data); the first is the baseline.

    Returns:
        A table with one row a model; print it with ``rich.console.Console(stderr=True)``.

    Example:
        >>> state = {"t": 0, "error": {"mmd_sq": 2e-3, "mmd_sq_se": 1e-4, "p_value": 0.01}}
        >>> console_table([{"label": "plain", "states": [state]}]).row_count
        1
    """
    table = headline_table(records(profiles))
    scale = f", in units of {power_of_ten(table.exponent)}" if table.exponent else ""
    title = f"Final error D₀²{scale}"
    drawn = Table(title=title, title_justify="left", header_style="bold", box=box.SIMPLE_HEAD)
    drawn.add_column("model", overflow="fold", min_width=8)
    for name in ("D₀² ± se", "95 % interval", "p"):
        drawn.add_column(name, justify="right", no_wrap=True)
    if len(profiles) > 1:
        drawn.add_column("change (95 % interval)", justify="right", no_wrap=True)
    for row in table.rows:
        has_interval = row.low.value is not None
        cells = [
            Text(row.name),
            Text(f"{row.value.text} ± {row.se.text}"),
            Text(f"{row.low.text} to {row.high.text}" if has_interval else MISSING),
            Text(row.p_value.text),
        ]
        if len(profiles) > 1:
            style = _TONES.get(row.change_tone, "")
            interval = f" ({row.change_interval})" if row.change_interval else ""
            cells.append(Text(row.change + interval, style))
        drawn.add_row(*cells)
    return drawn
