"""A run that is asked to stop: it ends after the step it is in, with a checkpoint."""

from __future__ import annotations

import logging
import shlex
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from undrift.exceptions import Interrupted
from undrift.training.config import IN_MEMORY, TrainConfig

logger = logging.getLogger("undrift")
SIGNALS = (signal.SIGINT, signal.SIGTERM)


def interrupt(number: int, frame: FrameType | None) -> None:
    """Handle a signal by ending what runs, as Ctrl-C does."""
    raise Interrupted("interrupted", number)


@contextmanager
def stop_requests(when: bool = True) -> Iterator[Callable[[], int | None]]:
    """Take Ctrl-C and SIGTERM as requests; yield what returns the signal of one, or None.

    A second Ctrl-C interrupts at once. A signal that somebody else handles already, or that is
    ignored, stays as it is.

    Arguments:
        when: Whether to do so; only the main thread of a process can.
    """
    asked: list[int] = []

    def ask(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and number in asked:
            raise KeyboardInterrupt
        if not asked:
            logger.warning("stopping after this step (Ctrl-C once more: at once, unsaved)")
        asked.append(number)

    ours = when and threading.current_thread() is threading.main_thread()
    usual = (signal.SIG_DFL, signal.default_int_handler, interrupt)
    before = {n: h for n in SIGNALS if ours and (h := signal.getsignal(n)) in usual}
    for number in before:
        signal.signal(number, ask)
    try:
        yield lambda: asked[0] if asked else None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def command_to_resume(folder: Path, config: TrainConfig) -> str:
    """How a run goes on.

    Example:
        >>> command_to_resume(Path("runs/my run"), TrainConfig())
        "undrift train --config 'runs/my run/config.yaml' --output 'runs/my run' --resume"
    """
    if config.data == IN_MEMORY:
        return f"undrift.train(the same data and options, output={str(folder)!r}, resume=True)"
    words = ["undrift", "train", "--config", str(folder / "config.yaml")]
    return shlex.join([*words, "--output", str(folder), "--resume"])
