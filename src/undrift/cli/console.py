"""Tables on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from undrift.cli.command import session
from undrift.exceptions import printable


def show(*parts: Any, **options: Any) -> None:  # noqa: ANN401
    """Print tables and texts with styles on stdout, unless stdout is for JSON."""
    from rich.console import Console

    console = Console(quiet=session().json)
    for part in parts:
        console.print(printable(part) if isinstance(part, str) else part, **options)


def say(text: str) -> None:
    """Print lines on stdout, without control characters of the names in them."""
    print(printable(text))


def table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], *, num_names: int = 1
) -> None:
    """Print a table.

    Arguments:
        title: What it shows.
        columns: Headings.
        rows: Cells as text.
        num_names: Number of first columns that hold names, which are aligned on the left.
    """
    from undrift.reporting.tables import Table, rich_table

    show(rich_table(Table(title, columns, rows, num_names=num_names)))
