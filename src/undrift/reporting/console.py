"""Tables in the terminal."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from undrift.reporting.content import records
from undrift.reporting.tables import Table, headline_table


def rich_table(table: Table) -> RichTable:
    """A table for the terminal: names to the left, numbers to the right, texts taken literally."""
    drawn = RichTable(
        title=Text(table.title),
        title_justify="left",
        header_style="bold",
        box=box.SIMPLE_HEAD,
        caption=table.note or None,
    )
    for i, name in enumerate(table.columns):
        is_name = i < table.num_names
        drawn.add_column(name, justify="left" if is_name else "right", no_wrap=not is_name)
    for row in table.rows:
        drawn.add_row(*map(Text, row))
    return drawn


def as_text(table: RichTable) -> str:
    """A table as lines of text."""
    text = io.StringIO()
    Console(file=text, width=120, color_system=None).print(table)
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
