"""``undrift demo``: train, regularize, measure and report on the digits, by one command."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from undrift.api import files
from undrift.cli.command import session
from undrift.cli.console import show
from undrift.exceptions import InvalidInput, Limits

if TYPE_CHECKING:
    from undrift.reporting.content import ReportInput
    from undrift.study.record import StudyRecord

logger = logging.getLogger("undrift")


@dataclass
class Config:
    """Train a plain model on the digits, continue it plainly and regularized, measure both.

    Arguments:
        output: Folder of the demo (default: a new one under runs).
        seed: Seed of data, noise, weights and samples.
        base_steps: Steps of the plain training that both models continue.
        steps: Steps that each of them continues for.
        num_samples: Samples of each measurement.
        num_steps: T, the number of steps of the chain.
    """

    output: str | None = None
    seed: int = 0
    base_steps: int = 3000
    steps: int = 1000
    num_samples: int = 2000
    num_steps: int = 50


POSITIONALS = ()


def run(config: Config) -> dict[str, Any]:
    """Run the demo; ends with a table and the path of the report."""
    from undrift.reporting.findings import verdict
    from undrift.reporting.html import write_report
    from undrift.reporting.tables import console_table
    from undrift.study.demo import demo_study, measure_models
    from undrift.study.run import run_study
    from undrift.training.run_folder import new_folder
    from undrift.training.runs import load

    _check(config)
    started, called = time.perf_counter(), session()
    files.check_free(config.output, folder=True)
    folder = Path(config.output) if config.output else new_folder(Path("runs"), "demo")
    plan = demo_study(**{name: value for name, value in vars(config).items() if name != "output"})
    logger.info(
        "1/3  training a plain model, %s steps, then continuing it plainly and regularized, %s "
        "steps each",
        config.base_steps,
        config.steps,
    )
    study = run_study(plan, folder, progress=not called.quiet, command=called.command)
    if study.failures:
        raise InvalidInput(f"{study.failures[0].method}: {study.failures[0].reason}")
    logger.info("2/3  measuring both, %s samples each", config.num_samples)
    profiles = measure_models(study, folder, load(plan.base), progress=not called.quiet)
    logger.info("3/3  writing the report")
    report = write_report(_page(study, folder, profiles), folder / "report.html")
    show(console_table(profiles), *(f"• {sentence}" for sentence in verdict(profiles)))
    print(f"\nreport  {report}")
    return {
        "report": str(report),
        "profiles": profiles,
        "study": study.to_dict(),
        "seconds": round(time.perf_counter() - started, 1),
    }


def _check(config: Config) -> None:
    """Stop at numbers that are too small, before anything is written."""
    for name, least in (("base_steps", 1), ("steps", 1), ("num_steps", 2), ("num_samples", 4)):
        Limits(least).check(name, getattr(config, name))


def _page(study: StudyRecord, folder: Path, profiles: list[dict[str, Any]]) -> ReportInput:
    """The contents of the report: the profiles, and the study's results for the two models."""
    from undrift.reporting.content import ReportInput
    from undrift.study.config import DATA_GRID
    from undrift.training.records import read_log

    caption = "samples, the same noise for every model"
    grids = [("data", DATA_GRID, "training images")]
    grids += [(row.method, str(row.grid), caption) for row in study.rows]
    plain, regularized = (row.train_cpu_s for row in study.rows)
    return ReportInput(
        title="Error propagation on digits: plain against regularized",
        profiles=profiles,
        sample_grids=[(name, (folder / file).read_bytes(), text) for name, file, text in grids],
        training_logs=[(row.method, read_log(folder / row.run)) for row in study.rows],
        quality=[
            (row.method, "Fréchet distance", each.frechet, each.frechet_se)
            for row in study.rows
            for each in row.quality.values()
        ],
        command=session().command,
        config={**study.config["methods"], "base": study.config["base"]},
        versions=study.versions,
        notes=[
            "Both models took the same number of steps; the regularized ones took "
            f"{regularized:.0f} s of processor time, the plain ones {plain:.0f} s. The results "
            "page of the documentation also compares at equal compute, over seeds."
        ],
    )
