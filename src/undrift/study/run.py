"""All runs of a study, in an order that keeps its workers busy; complete runs are not repeated."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from multiprocessing import get_context
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import torch

from undrift.exceptions import Interrupted, InvalidInput
from undrift.storage.lock import locked
from undrift.storage.writing import sweep
from undrift.study import statistics
from undrift.study.check import check, check_judges, try_building
from undrift.study.config import CHECKPOINT_RULE, StudyConfig
from undrift.study.evaluations import Outcome
from undrift.study.jobs import Job, jobs
from undrift.study.progress import StudyProgress
from undrift.study.record import FILE, Failure, StudyRecord, StudyRow
from undrift.study.worker import Worker
from undrift.training.run_folder import versions
from undrift.training.stopping import interrupt

Ending = Outcome | str
"""The result of a run, or the reason of its failure."""


def run_study(
    config: StudyConfig,
    folder: Path,
    on_row: Callable[[StudyRow], None] = lambda row: None,
    before: Callable[[Mapping[str, Any]], None] = lambda how: None,
    *,
    progress: bool = True,
    command: str | None = None,
) -> StudyRecord:
    """Run what is left of a study and write ``study.json``.

    A method that cannot be trained to its end (its loss is not finite) is recorded among the
    failures; the others continue.

    Arguments:
        config: The plan.
        folder: Folder of its runs; a study that was interrupted is resumed there.
        on_row: Called with each result as it comes.
        before: Called before the first run with how all models are evaluated.
        progress: Whether to draw a progress bar over the whole study on stderr.
        command: The command line, for the record.

    Raises:
        InvalidInput: Before any training, if the plan or the data cannot be used.
        Interrupted: After Ctrl-C or SIGTERM, once the runs in progress have written checkpoints.
    """
    check(config)
    worker = Worker(config, folder)
    check_judges(config, worker.data)
    try_building(config, worker.data)
    _check_folder(worker)
    endings: dict[Job, Ending] = {}
    how = worker.judges.how()
    folder.mkdir(parents=True, exist_ok=True)
    num_before = _num_rows(folder)
    with (
        _stoppable(command),
        locked(folder, inside=True),
        StudyProgress(config, folder, show=progress) as bar,
    ):
        sweep(folder)
        worker.show_data()
        before(how)
        for job, ending in _endings(config, worker, bar):
            endings[job] = ending
            for row in ending.rows if isinstance(ending, Outcome) else ():
                on_row(row)
            record = _record(worker, endings, command)
            if record.is_complete or len(record.rows) >= num_before:  # keep what was there
                record.save(folder)
    return record


def _record(worker: Worker, endings: Mapping[Job, Ending], command: str | None) -> StudyRecord:
    """The results of a study so far."""
    config, judges = worker.config, worker.judges
    order = sorted(jobs(config), key=lambda job: config.protocols.index(job.protocol))
    is_complete = len(endings) == len(order)
    found = [ending for job in order if isinstance(ending := endings.get(job), Outcome)]
    rows = statistics.with_best_samplers([row for outcome in found for row in outcome.rows])
    checkpoints = statistics.distinct(row for outcome in found for row in outcome.checkpoints)
    remedies = [row for outcome in found for row in outcome.remedies]
    points = statistics.distinct([*checkpoints, *rows]) if is_complete else []
    return StudyRecord(
        rows=rows,
        paired=statistics.paired(rows),
        paired_best=statistics.paired_best(rows),
        means=statistics.means(rows),
        costs=statistics.costs(rows),
        checkpoints=checkpoints,
        correlations=statistics.correlations(points),
        predictions=statistics.predictions(points),
        is_complete=is_complete,
        remedies=remedies,
        paired_remedies=statistics.paired_remedies(rows, remedies),
        profiles=[profile for outcome in found for profile in outcome.profiles],
        failures=[
            Failure(job.protocol, job.method, job.seed, job.budget, reason)
            for job, reason in endings.items()
            if isinstance(reason, str)
        ],
        checkpoint_rule=CHECKPOINT_RULE,
        judged_by=judges.how(),
        config=asdict(config),
        versions=versions(),
        data=dict(judges.data.how),
        command=command,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _num_rows(folder: Path) -> int:
    """Number of results in the ``study.json`` of a folder; 0 if there is none that can be read."""
    try:
        return len(StudyRecord.load(folder / FILE).rows)
    except InvalidInput:
        return 0


def _check_folder(worker: Worker) -> None:
    """Check before any training that the folder holds no runs of another plan.

    Raises:
        InvalidInput: If it does.
    """
    for job in jobs(worker.config):
        if job.budget == "steps":
            worker.training(job, job.planned(worker.config))


def _endings(
    config: StudyConfig, worker: Worker, bar: StudyProgress
) -> Iterator[tuple[Job, Ending]]:
    """The result of each job, started once those that it needs are complete."""
    waiting, costs, failed = list(jobs(config)), dict[Job, float](), set[Job]()
    running: dict[Future[Ending], Job] = {}
    with _workers(config, worker) as submit:
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
                    bar.start(job, steps)
                    running[submit(job, steps)] = job
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                job, ending = running.pop(future), future.result()
                bar.finish(job)
                if isinstance(ending, str):
                    failed.add(job)
                else:
                    costs[job] = ending.train_cpu_s
                yield job, ending


@contextmanager
def _workers(config: StudyConfig, worker: Worker) -> Iterator[Callable[[Job, int], Future[Ending]]]:
    """Yield a function that starts a job: in this process, or in one of several."""
    if config.workers == 1:

        def here(job: Job, steps: int) -> Future[Ending]:
            future: Future[Ending] = Future()
            future.set_result(_attempt(worker, job, steps))
            return future

        yield here
        return
    context = get_context("spawn")
    stop = context.Event()
    arguments = (config, worker.folder, os.getpid(), stop)
    pool = ProcessPoolExecutor(config.workers, context, _start_worker, arguments)
    try:
        yield lambda job, steps: pool.submit(_in_worker, job, steps)
    except BrokenProcessPool:
        raise InvalidInput(
            "a worker process was killed, perhaps for want of memory: use fewer --workers; "
            "the same command goes on"
        ) from None
    except BaseException:
        stop.set()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _attempt(worker: Worker, job: Job, steps: int) -> Ending:
    try:
        return worker.run(job, steps)
    except InvalidInput as error:
        if job.method is None:
            raise
        return str(error)


_worker: Worker | None = None


def _start_worker(config: StudyConfig, folder: Path, parent: int, stop: Event) -> None:
    global _worker
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the study, which asks to stop
    _worker = Worker(config, folder)
    threading.Thread(target=_end_with, args=(parent, stop), daemon=True).start()


def _in_worker(job: Job, steps: int) -> Ending:
    assert _worker is not None
    return _attempt(_worker, job, steps)


def _end_with(parent: int, stop: Event) -> None:
    """End this worker with its study, which saves its run first if the study is asked to stop."""
    while os.getppid() == parent:
        if stop.wait(0.5):
            os.kill(os.getpid(), signal.SIGTERM)
            return
    os._exit(1)


@contextmanager
def _stoppable(command: str | None) -> Iterator[None]:
    """Let SIGTERM end a study like Ctrl-C, with the command by which it goes on."""
    ours = threading.current_thread() is threading.main_thread()
    ours = ours and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    if ours:
        signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    except KeyboardInterrupt as asked:
        number = asked.number if isinstance(asked, Interrupted) else signal.SIGINT
        again = command or "undrift.compare with the same plan and folder"
        raise Interrupted(f"stopped; what is done is saved; go on with: {again}", number) from None
    finally:
        if ours:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
