"""``undrift demo``: train, regularize, measure and report on the digits, by one command."""

from __future__ import annotations

import logging
import shlex
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from undrift.api import files
from undrift.cli.command import session
from undrift.cli.console import say, show, table
from undrift.exceptions import InvalidInput, Limits

if TYPE_CHECKING:
    from undrift.reporting.bands import Band
    from undrift.reporting.content import QualityRow, ReportInput
    from undrift.study.record import StudyRecord

logger = logging.getLogger("undrift")


@dataclass
class Config:
    """Train a plain model on the digits, continue it plainly and regularized, measure both.

    Both are sampled with few network calls of a good solver, UniPC; where there are two cores, they
    are trained and measured at the same time.

    Arguments:
        output: Folder of the demo (default: a new one under runs).
        seed: Seed of data, noise, weights and samples.
        base_steps: Steps of the plain training that both models continue.
        steps: Steps that each of them continues for.
        num_samples: Samples of each measurement.
        num_steps: T, the number of steps of the forward process.
        num_inference_steps: Denoising steps of the chain that is sampled.
        quick: Take at most 200 base steps, 50 steps and 200 samples: shows within a minute that
            everything works, but the models are hardly trained.
    """

    output: str | None = None
    seed: int = 0
    base_steps: int = 3000
    steps: int = 800
    num_samples: int = 2000
    num_steps: int = 50
    num_inference_steps: int = 10
    quick: bool = False


POSITIONALS = ()
QUICK = {"base_steps": 200, "steps": 50, "num_samples": 200}
"""The most that ``--quick`` lets an option be."""


def run(config: Config) -> dict[str, Any]:
    """Run the demo; ends with the path of the report and the command to run next."""
    from undrift.measurement.profile import ErrorProfile
    from undrift.reporting.html import write_report
    from undrift.study.demo import demo_study
    from undrift.study.run import run_study
    from undrift.training.run_folder import new_folder

    _check(config)
    config = quickened(config) if config.quick else config
    started, called = time.perf_counter(), session()
    files.check_free(config.output, folder=True)
    folder = Path(config.output) if config.output else new_folder(Path("runs"), "demo")
    planned = set(vars(config)) - {"output", "quick"}
    plan = demo_study(**{name: getattr(config, name) for name in planned})
    logger.info(
        "1/2  training a plain model on the digits, %s steps, and continuing it plainly and "
        "regularized, %s steps each; both are measured on the chain of UniPC with %s network "
        "calls, %s samples each",
        *(config.base_steps, config.steps, config.num_inference_steps, config.num_samples),
    )
    study = run_study(plan, folder, progress=not called.quiet, command=called.command)
    if study.failures:
        raise InvalidInput(f"{study.failures[0].method}: {study.failures[0].reason}")
    files_of = [folder / str(row.profile) for row in study.rows]
    profiles = [ErrorProfile.load(file).to_dict() for file in files_of]
    logger.info("2/2  writing the report")
    report = write_report(_page(study, folder, profiles), folder / "report.html")
    _show(study, profiles)
    advise = ["undrift", "advise", str(folder / study.rows[0].run)]
    following = shlex.join([*advise, "--num-inference-steps", str(config.num_inference_steps)])
    say(f"report  {report}\nnext    {following}")
    return {
        "report": str(report),
        "next": following,
        "profiles": profiles,
        "study": study.to_dict(),
        "seconds": round(time.perf_counter() - started, 1),
    }


def quickened(config: Config) -> Config:
    """The options of a quick demo: none of the numbers that cost time is above its limit.

    Example:
        >>> quickened(Config(steps=20)).steps, quickened(Config()).base_steps
        (20, 200)
    """
    return replace(
        config, **{name: min(getattr(config, name), most) for name, most in QUICK.items()}
    )


def _check(config: Config) -> None:
    """Stop at numbers that are too small, before anything is written."""
    for name, least in (("base_steps", 1), ("steps", 1), ("num_steps", 2), ("num_samples", 4)):
        Limits(least).check(name, getattr(config, name))
    Limits(2, config.num_steps, "[]").check("num_inference_steps", config.num_inference_steps)


def _show(study: StudyRecord, profiles: list[dict[str, Any]]) -> None:
    """The verdict in a few sentences, quality, and the drift of each frequency band."""
    from undrift.reporting.bands import bands
    from undrift.reporting.summary import summary
    from undrift.reporting.tables import quality_table, rich_table

    plain, others = summary(profiles[:1]), summary(profiles)[1:2]
    first, *_ = labels = [profile["label"] for profile in profiles]
    show("", *(f"• “{first}”: {text}" for text in plain), *(f"• {text}" for text in others))
    show("", rich_table(quality_table(_quality(study))), highlight=False)
    rows = [
        [band.name.replace(" half waves", ""), name, *_drift(band)]
        for same in zip(*map(bands, profiles), strict=True)
        for name, band in zip(labels, same, strict=True)
    ]
    columns = ["half waves", "model", "energy (95 % interval)", "μ given"]
    table(
        "Energy of each frequency band at the end, and segments with an amplification μ",
        columns,
        rows,
        num_names=2,
    )


def _drift(band: Band) -> list[str]:
    """The error of a band at the end in words, and how many segments have an amplification."""
    from undrift.reporting.bands import energy_error

    known = len(list(band.amplifications()))
    size = energy_error(band.final) if band.final else "not measured"
    return [size, f"{known} of {len(band.errors) - 1}"]


def _quality(study: StudyRecord) -> list[QualityRow]:
    """Final error, Fréchet and kernel distance of each model."""
    found: list[QualityRow] = []
    for row in study.rows:
        found.append((row.method, "D₀²", row.mmd_sq, row.mmd_sq_se))
        for each in row.quality.values():
            found.append((row.method, "Fréchet distance", each.frechet, each.frechet_se))
            distance = each.kernel_distance, each.kernel_distance_se
            found.append((row.method, "kernel distance", *distance))
    return found


def _page(study: StudyRecord, folder: Path, profiles: list[dict[str, Any]]) -> ReportInput:
    """The contents of the report: the profiles, and the study's results for the two models."""
    from undrift.reporting.content import ReportInput
    from undrift.study.config import DATA_GRID
    from undrift.training.records import read_log

    caption = (
        f"samples of {study.rows[0].network_calls} network calls, the same noise for every model"
    )
    grids = [("data", DATA_GRID, "training images")]
    grids += [(row.method, str(row.grid), caption) for row in study.rows]
    plain, regularized = (row.train_cpu_s for row in study.rows)
    return ReportInput(
        title="Digits with few network calls: plain against regularized",
        profiles=profiles,
        sample_grids=[(name, (folder / file).read_bytes(), text) for name, file, text in grids],
        training_logs=[(row.method, read_log(folder / row.run)) for row in study.rows],
        quality=_quality(study),
        command=session().command,
        config={**study.config["methods"], "base": study.config["base"]},
        versions=study.versions,
        notes=[
            "Both models took the same number of steps; the regularized ones took "
            f"{regularized:.0f} s of processor time, the plain ones {plain:.0f} s. The results "
            "page of the documentation also compares at equal compute, over seeds."
        ],
    )
