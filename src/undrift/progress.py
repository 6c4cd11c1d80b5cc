"""Progress on stderr with the time left, as a bar or as lines, and words before long work.

On a terminal a bar is drawn. Elsewhere (a log of continuous integration, ``nohup``) a line is
written after :data:`FIRST` seconds and then every :data:`EVERY` seconds; short work writes none.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from undrift.exceptions import printable

FIRST, EVERY = 5.0, 20.0
"""Seconds until the first line, and between two lines, where stderr is no terminal."""


class Advance(Protocol):
    """Moves the progress on."""

    def __call__(self, amount: float, detail: str = "") -> None:
        """Move on by an amount.

        Arguments:
            amount: How much was done since the last call.
            detail: What to show with it, such as the loss.
        """


@contextmanager
def progress_bar(label: str, total: int, *, done: int = 0, show: bool = True) -> Iterator[Advance]:
    """Yield a function that moves the progress on: a bar on a terminal, else lines.

    Arguments:
        label: What is being done.
        total: How much there is of it.
        done: How much of it was done before, which does not count for the time left.
        show: Whether to show anything.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
    from rich.progress import TimeRemainingColumn as TimeLeft

    console = Console(stderr=True)
    if not (show and console.is_terminal):
        yield ProgressLines(label, total, done) if show else lambda amount, detail="": None
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.completed:,.0f} of {task.total:,.0f}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeLeft(),
        TextColumn("{task.fields[detail]}", markup=False),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(printable(label), total=total, completed=done, detail="")

        def advance(amount: float, detail: str = "") -> None:
            progress.advance(task, amount)
            if detail:
                progress.update(task, detail=printable(detail))

        yield advance


class ProgressLines:
    """Writes a line of progress every so often, when it is moved on.

    Arguments:
        label: What is being done.
        total: How much there is of it.
        done: How much of it was done before.
        clock: The time in seconds.
    """

    def __init__(
        self, label: str, total: int, done: int = 0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.label, self.total, self.before, self.clock = label, total, done, clock
        self.done = float(done)
        self.started = clock()
        self.due = self.started + FIRST

    def __call__(self, amount: float, detail: str = "") -> None:
        """Move on; writes a line where one is due."""
        self.done += amount
        now = self.clock()
        if now >= self.due:
            self.due = now + EVERY
            print(printable(self._line(now, detail)), file=sys.stderr, flush=True)

    def _line(self, now: float, detail: str) -> str:
        share = f"{100 * self.done / max(self.total, 1):.0f} %"
        parts = [f"{self.label}: {self.done:,.0f} of {self.total:,} ({share})", detail]
        if (new := self.done - self.before) > 0:
            left = max(self.total - self.done, 0.0) * (now - self.started) / new
            parts.append(f"{duration(left)} left")
        return ", ".join(filter(None, parts))


def duration(seconds: float) -> str:
    """An estimated time as text, in one unit.

    Example:
        >>> duration(4.2), duration(41.7), duration(600), duration(9000)
        ('4 s', '40 s', '10 min', '2.5 h')
    """
    if seconds < 90:
        return f"{round(seconds, 0 if seconds < 30 else -1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def announce(text: str) -> None:
    """Write a line to stderr, through the logger ``undrift`` where that shows information."""
    logger = logging.getLogger("undrift")
    if logger.isEnabledFor(logging.INFO):
        logger.info(text)
    else:
        print(printable(text), file=sys.stderr)
