"""What a command shows on the terminal beside plain lines: tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from undrift.cli.command import session

if TYPE_CHECKING:
    from rich.table import Table


def show(*parts: Any, **options: Any) -> None:  # noqa: ANN401
    """Print tables and texts with styles on stdout, unless stdout is for JSON."""
    from rich.console import Console

    console = Console(quiet=session().json)
    for part in parts:
        console.print(part, **options)


def table(title: str, columns: Mapping[str, Literal["left", "right"]]) -> Table:
    """An empty table in the style of all commands.

    Arguments:
        title: What it shows.
        columns: Their names, each with the side that its cells keep to.
    """
    from rich import box
    from rich.table import Table

    made = Table(title=title, title_justify="left", header_style="bold", box=box.SIMPLE_HEAD)
    for name, side in columns.items():
        made.add_column(name, justify=side, no_wrap=side == "right")
    return made
