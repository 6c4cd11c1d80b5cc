"""Progress bars on stderr, with the time left, and words before long work."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress_bar(label: str, total: int, *, show: bool = True) -> Iterator[Callable[[int], None]]:
    """Yield a function that moves the bar on; nothing is drawn where stderr is no terminal.

    Arguments:
        label: What is being done.
        total: How much there is of it.
        show: Whether to draw at all.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
    from rich.progress import TimeRemainingColumn as TimeLeft

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeLeft(),
    )
    hidden = not (show and console.is_terminal)
    with Progress(*columns, console=console, disable=hidden, transient=True) as progress:
        task = progress.add_task(label, total=total)
        yield lambda amount: progress.advance(task, amount)


def announce(text: str) -> None:
    """Write a line to stderr, through the logger ``undrift`` where that shows information."""
    logger = logging.getLogger("undrift")
    if logger.isEnabledFor(logging.INFO):
        logger.info(text)
    else:
        print(text, file=sys.stderr)
