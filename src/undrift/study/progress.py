"""Progress of a study, read from the logs that its runs write."""

from __future__ import annotations

import json
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from undrift.progress import progress_bar
from undrift.study.config import BASE, StudyConfig
from undrift.study.jobs import Job, jobs
from undrift.training.records import LOG, Row

SECONDS = 1.0
"""Time between two readings of the logs."""
TAIL = 4096


class StudyProgress:
    """Progress over all training steps of a study; a run at equal compute counts as planned.

    Arguments:
        config: The plan.
        folder: Where the study is.
        show: Whether to show it.
    """

    def __init__(self, config: StudyConfig, folder: Path, *, show: bool) -> None:
        self.folder, self.show = folder, show
        self.planned = {job: job.planned(config) for job in jobs(config)}
        self.running: dict[Job, int] = {}
        self.done: dict[Job, float] = {}
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._open = ExitStack()

    def __enter__(self) -> Self:
        label = f"study {self.folder.name}, {len(self.planned)} runs"
        bar = progress_bar(label, sum(self.planned.values()), show=self.show)
        self._tick = self._open.enter_context(bar)
        self._watch = threading.Thread(target=self._refresh_until_the_end, daemon=True)
        self._watch.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._watch.join()
        self._open.close()

    def start(self, job: Job, steps: int) -> None:
        """A run starts, or resumes."""
        with self._lock:
            self.running[job] = steps

    def finish(self, job: Job) -> None:
        """A run has been evaluated."""
        with self._lock:
            self.running.pop(job)
            self._advance(job, 1.0)

    def refresh(self) -> None:
        """Read from the logs how far the runs are, and their losses."""
        with self._lock:
            rows = {job: last_row(job.folder(self.folder, n)) for job, n in self.running.items()}
            detail = "; ".join(map(_in_words, rows, rows.values(), self.running.values()))
            for job, row in rows.items():
                share = row.get("step", 0) / self.running[job]
                self._advance(job, min(share, 0.99), detail)

    def _advance(self, job: Job, share: float, detail: str = "") -> None:
        before = self.done.get(job, 0.0)
        self.done[job] = max(before, share)
        self._tick(self.planned[job] * (self.done[job] - before), detail)

    def _refresh_until_the_end(self) -> None:
        while not self._ended.wait(SECONDS):
            self.refresh()


def last_row(run: Path) -> Row:
    """The last row in the log of a run, read from its end; empty where there is none."""
    try:
        with (run / LOG).open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - TAIL))
            row = json.loads(file.read().rsplit(b"\n", 2)[-2])
        return {**row, "step": int(row["step"])}
    except (OSError, IndexError, ValueError, KeyError, TypeError, ArithmeticError, RecursionError):
        return {}


def _in_words(job: Job, row: Row, steps: int) -> str:
    """How far a run is: its name, step and loss; after its last step, that it is evaluated."""
    name = f"{job.method or BASE}, seed {job.seed}"
    if "step" not in row:
        return f"{name} starts"
    if row["step"] >= steps:
        return f"{name} is evaluated"
    loss = f", loss {row['loss']:.4g}" if "loss" in row else ""
    return f"{name} at step {row['step']:,.0f}{loss}"
