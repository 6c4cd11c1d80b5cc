"""``undrift compare``: methods side by side, over seeds, by a plan in YAML."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from undrift.cli.command import session

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from undrift.study.config import StudyConfig
    from undrift.study.record import Change, StudyRow


@dataclass
class Config:
    """Compare training methods by a study file, over seeds, each against plain training.

    Arguments:
        study: YAML file with the plan.
        output: Folder of the study; it goes on there if it was stopped (named after the file, under
            runs, if null).
        seeds: Seeds, in the place of those of the plan.
        workers: Runs that go on at once, in the place of the plan's.
    """

    study: str
    output: str | None = None
    seeds: list[int] | None = None
    workers: int | None = None


POSITIONALS = ("study",)
SHOWN = {"mmd_sq": "D₀²", "empirical_mmd_sq": "D₀² to the data set", "frechet": "Fréchet"}


def run(config: Config) -> dict[str, Any]:
    """Run what is left of the study, show its table and where it is."""
    from dataclasses import replace
    from pathlib import Path

    from rich.console import Console

    from undrift.api.study_file import read_plan
    from undrift.reporting.study import write_study_report
    from undrift.study.record import FILE
    from undrift.study.run import run_study

    plan = read_plan(config.study)
    seeds = plan.seeds if config.seeds is None else config.seeds
    workers = plan.workers if config.workers is None else config.workers
    plan = replace(plan, seeds=seeds, workers=workers)
    folder = Path(config.output or Path("runs") / Path(config.study).stem)
    called = session()
    talk = Console(stderr=True, quiet=called.quiet, soft_wrap=True)
    record = run_study(
        plan,
        folder,
        _telling(talk, plan),
        lambda judged_by: _announce(talk, plan, judged_by),
        progress=not called.quiet,
        command=called.command,
    )
    result = record.to_dict()
    report = write_study_report(result, folder)
    for failed in record.failures:
        where = f"{failed.protocol} {failed.method}, seed {failed.seed}, {failed.budget}"
        talk.print(f"not in the tables: {where}: {failed.reason}")
    if record.paired and not called.json:
        Console().print(_table(record.paired))
    print(f"study   {folder / FILE}")
    print(f"report  {report}")
    return result


def _announce(talk: Console, plan: StudyConfig, judged_by: Mapping[str, Any]) -> None:
    """What will be run and how it will be judged, before it is."""
    from undrift.study.config import CHECKPOINT_RULE
    from undrift.study.jobs import jobs

    talk.print(
        f"{len(list(jobs(plan)))} runs: {len(plan.methods)} methods, seeds "
        f"{', '.join(map(str, plan.seeds))}, {' and '.join(plan.protocols)}, equal "
        f"{' and equal '.join(plan.budgets)}"
    )
    talk.print(f"checkpoint rule: {CHECKPOINT_RULE}")
    reference, score = judged_by["num_reference"], judged_by["score_name"]
    talk.print(
        f"judged: {plan.num_samples:,} samples of each against {reference:,} images of the "
        f"training data; D₀² in pixels; {score}"
    )
    if judged_by["warning"]:
        talk.print(f"note: Fréchet distance: {judged_by['warning']}")
    asked = plan.num_inference_steps
    for name, method in plan.methods.items():
        own = method.regularizer.num_inference_steps
        if method.variant and own != asked:
            talk.print(
                f"note: {name} regularizes a chain of {own or 'all'} denoising steps, and models "
                f"are judged by one of {asked or 'all'}: see num_inference_steps"
            )


def _telling(talk: Console, plan: StudyConfig) -> Callable[[StudyRow], None]:
    """What tells of each result as it comes."""
    from undrift.study.jobs import jobs

    total, count = sum(job.method is not None for job in jobs(plan)), itertools.count(1)

    def tell(row: StudyRow) -> None:
        talk.print(
            f"{next(count):>3} of {total}  seed {row.seed}  {row.protocol:<8}  {row.method:<18}  "
            f"{row.budget:<7} {row.steps:>6} steps  D₀² {1e4 * row.mmd_sq:6.2f}e-4  "
            f"Fréchet {row.frechet:.4g}  {row.train_cpu_s:.0f} s",
            highlight=False,
        )

    return tell


def _table(changes: Sequence[Change]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(title="change against plain, mean over seeds with its 95 % interval")
    table.box, table.title_justify, table.header_style = box.SIMPLE_HEAD, "left", "bold"
    for column in ("protocol", "budget", "method", "metric", "change", "interval", "seeds"):
        table.add_column(column, justify="right" if column == "change" else "left")
    for change in changes:
        if change.metric in SHOWN:
            ends = change.interval
            shown = f"{ends[0]:+.1%} to {ends[1]:+.1%}" if ends else "–"
            which = (change.protocol, change.budget, change.method, SHOWN[change.metric])
            table.add_row(*which, f"{change.mean:+.1%}", shown, str(change.num_seeds))
    return table
