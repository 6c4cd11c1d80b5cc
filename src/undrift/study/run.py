"""All runs of a study, in an order that keeps its workers busy; what is done is not done again."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from undrift.exceptions import InvalidInput
from undrift.quality.scorer import Row
from undrift.study.check import check, rehearse
from undrift.study.config import StudyConfig
from undrift.study.jobs import Job, jobs
from undrift.study.progress import Course
from undrift.study.record import Findings, record, rows_of, write
from undrift.study.resume import same_plan
from undrift.study.worker import Bench, Outcome

Ending = Outcome | str
"""What a run comes to, or why it comes to nothing."""


def run_study(
    config: StudyConfig,
    folder: Path,
    on_row: Callable[[Row], None] = lambda row: None,
    before: Callable[[Row], None] = lambda judged_by: None,
    *,
    progress: bool = True,
    command: str | None = None,
) -> dict[str, Any]:
    """Run what is left of a study and write ``study.json``.

    A method that cannot be trained to its end (its loss is not finite) is recorded among the
    failures; the others go on.

    Arguments:
        config: The plan.
        folder: Where its runs are; a study that was stopped goes on there.
        on_row: Called with each result as it comes.
        before: Called before the first run with how all will be judged.
        progress: Whether to draw a progress bar over the whole study on stderr.
        command: The command line, for the record.

    Returns:
        What ``study.json`` holds (:mod:`undrift.study.record`): ``"rows"``, one for each protocol,
        seed, method and budget, and ``"paired"``, the mean relative changes against plain with
        their intervals.

    Raises:
        InvalidInput: If the plan contradicts itself or the data cannot be had, before any training.
    """
    check(config)
    bench = Bench(config, folder)
    rehearse(config, bench.data)
    _check_folder(config, folder)
    found, judged_by = Findings(), bench.judge.account
    folder.mkdir(parents=True, exist_ok=True)
    before_this = rows_of(folder)
    with _alone(folder), Course(config, folder, show=progress) as course:
        bench.show_data()
        before(judged_by)
        for job, ending in _endings(config, bench, course):
            if isinstance(ending, str):
                found.fail(job, ending)
            else:
                found.add(ending)
                if ending.row:
                    on_row(ending.row)
            if len(found.rows) >= before_this:  # what is there is not lost when this is stopped
                write(folder, record(config, bench.judge, found, command))
    result = record(config, bench.judge, found, command, is_complete=True)
    write(folder, result)
    return result


def _check_folder(config: StudyConfig, folder: Path) -> None:
    """Stop before any training if runs of another plan are in the way.

    Raises:
        InvalidInput: If there are.
    """
    for job in jobs(config):
        if job.budget == "steps":
            steps = job.steps(config, {})
            training = job.training(config, folder, steps)
            same_plan(job.folder(folder, steps), training, moved=job.base is not None)


def _endings(config: StudyConfig, bench: Bench, course: Course) -> Iterator[tuple[Job, Ending]]:
    """What each job comes to, once those that it needs are done."""
    waiting, costs, failed = list(jobs(config)), dict[Job, float](), set[Job]()
    running: dict[Future[Ending], Job] = {}
    with _workers(config, bench) as submit:
        while waiting or running:
            for job in list(waiting):
                needs = job.needs(config)
                if failed.intersection(needs):
                    waiting.remove(job)
                    failed.add(job)
                    yield job, "a run that it needs has failed"
                elif len(running) < config.workers and all(need in costs for need in needs):
                    waiting.remove(job)
                    steps = job.steps(config, costs)
                    course.start(job, steps)
                    running[submit(job, steps)] = job
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                job, ending = running.pop(future), future.result()
                course.finish(job)
                if isinstance(ending, str):
                    failed.add(job)
                else:
                    costs[job] = ending.train_cpu_s
                yield job, ending


@contextmanager
def _workers(config: StudyConfig, bench: Bench) -> Iterator[Callable[[Job, int], Future[Ending]]]:
    """Yield what starts a job: in this process, or in one of several with a thread each."""
    if config.workers == 1:

        def here(job: Job, steps: int) -> Future[Ending]:
            future: Future[Ending] = Future()
            future.set_result(_attempt(bench, job, steps))
            return future

        yield here
        return
    arguments = (config, bench.folder, os.getpid())
    pool = ProcessPoolExecutor(config.workers, get_context("spawn"), _start_worker, arguments)
    try:
        yield lambda job, steps: pool.submit(_in_worker, job, steps)
    finally:
        pool.shutdown(cancel_futures=True)


def _attempt(bench: Bench, job: Job, steps: int) -> Ending:
    try:
        return bench.run(job, steps)
    except InvalidInput as error:
        if job.method is None:
            raise
        return str(error)


_bench: Bench | None = None


def _start_worker(config: StudyConfig, folder: Path, parent: int) -> None:
    global _bench
    torch.set_num_threads(1)
    _bench = Bench(config, folder)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _in_worker(job: Job, steps: int) -> Ending:
    assert _bench is not None
    return _attempt(_bench, job, steps)


def _end_with(parent: int) -> None:
    """End this worker when the study is killed: it must not write beside the one that goes on."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the folder, so that no second study writes into it."""
    try:
        import fcntl
    except ImportError:  # no such locks on this system
        yield
        return
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InvalidInput(
                f"another undrift compare is at work in {folder}: wait for it, or choose another "
                "--output"
            ) from None
        yield
