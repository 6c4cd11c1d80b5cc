"""``undrift.compare``: training methods side by side, over seeds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from undrift.api.study_file import plan_of, read_plan
from undrift.exceptions import InvalidInput
from undrift.reporting.study import write_study_report
from undrift.study.config import StudyConfig
from undrift.study.record import StudyRecord, StudyRow
from undrift.study.run import run_study

Study = StudyConfig | Mapping[str, Any] | str | Path


def compare(
    study: Study,
    output: str | Path | None = None,
    *,
    seeds: list[int] | None = None,
    workers: int | None = None,
    progress: bool = True,
    on_row: Callable[[StudyRow], None] = lambda row: None,
    before: Callable[[Mapping[str, Any]], None] = lambda question: None,
    command: str | None = None,
) -> StudyRecord:
    """Compare training methods over seeds, each against plain training, and write a report.

    Arguments:
        study: The plan: a YAML file, a mapping of what such a file holds, or a
            :class:`~undrift.study.config.StudyConfig`.
        output: Folder of the study; an interrupted study continues there; for a file, one of its
            name under ``runs`` when None.
        seeds: Seeds, instead of those of the plan.
        workers: Number of runs at the same time, instead of that of the plan.
        progress: Whether to draw a progress bar on stderr.
        on_row: Called with each result as it comes.
        before: Called before the first run with how all models will be evaluated.
        command: The command line, for the record.

    Returns:
        The rows and the changes against plain, as they are in ``study.json`` of the folder, next to
        its ``report.html``.

    Raises:
        InvalidInput: If the plan cannot be used, before any training.
    """
    plan = chosen_plan(study, seeds, workers)
    folder = chosen_folder(study, output)
    record = run_study(plan, folder, on_row, before, progress=progress, command=command)
    write_study_report(record.to_dict(), folder)
    return record


def chosen_plan(study: Study, seeds: list[int] | None, workers: int | None) -> StudyConfig:
    """The plan with other seeds or workers where these are given.

    Raises:
        InvalidInput: If it is no plan.
    """
    if isinstance(study, Mapping):
        study = plan_of(study, "the study")
    elif not isinstance(study, StudyConfig):
        study = read_plan(str(study))
    given: dict[str, Any] = {"seeds": seeds, "workers": workers}
    return replace(study, **{name: value for name, value in given.items() if value is not None})


def chosen_folder(study: Study, output: str | Path | None) -> Path:
    """The folder that was given, or the one that a file names.

    Raises:
        InvalidInput: If there is neither.
    """
    if output is not None:
        return Path(output)
    if not isinstance(study, (str, Path)):
        raise InvalidInput("a plan that is no file names no folder: give output")
    return Path("runs") / Path(study).stem
