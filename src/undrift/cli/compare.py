"""``undrift compare``: methods side by side, over seeds, by a plan in YAML."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from undrift.cli.command import session

if TYPE_CHECKING:
    from rich.console import Console

    from undrift.study.config import StudyConfig


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
    from undrift.study.run import run_study

    plan = read_plan(config.study)
    seeds = plan.seeds if config.seeds is None else config.seeds
    workers = plan.workers if config.workers is None else config.workers
    plan = replace(plan, seeds=seeds, workers=workers)
    folder = Path(config.output or Path("runs") / Path(config.study).stem)
    called = session()
    talk = Console(stderr=True, quiet=called.quiet, soft_wrap=True)
    result = run_study(
        plan,
        folder,
        _told(talk, plan),
        lambda judged_by: _announce(talk, plan, judged_by),
        progress=not called.quiet,
        command=called.command,
    )
    report = write_study_report(result, folder)
    for failure in result["failures"]:
        where = "{protocol} {method}, seed {seed}, {budget}".format(**failure)
        talk.print(f"not in the tables: {where}: {failure['reason']}")
    if result["paired"] and not called.json:
        Console().print(_table(result))
    print(f"study   {folder / 'study.json'}")
    print(f"report  {report}")
    return result


def _announce(talk: Console, plan: StudyConfig, judged_by: dict[str, Any]) -> None:
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
    for name, method in plan.methods.items():
        walked = method.regularizer.num_inference_steps
        if method.variant and walked != plan.num_inference_steps:
            talk.print(
                f"note: {name} regularizes a chain of {walked or 'all'} modules, and models are "
                f"judged by one of {plan.num_inference_steps or 'all'}: see num_inference_steps"
            )


def _told(talk: Console, plan: StudyConfig) -> Callable[[dict[str, Any]], None]:
    """What tells of each result as it comes."""
    from undrift.study.jobs import jobs

    total, done = sum(job.method is not None for job in jobs(plan)), 0

    def tell(row: dict[str, Any]) -> None:
        nonlocal done
        done += 1
        talk.print(
            f"{done:>3} of {total}  seed {row['seed']}  {row['protocol']:<8}  "
            f"{row['method']:<18}  {row['budget']:<7} {row['steps']:>6} steps  "
            f"D₀² {1e4 * row['mmd_sq']:6.2f}e-4  Fréchet {row['frechet']:.4g}  "
            f"{row['train_cpu_s']:.0f} s",
            highlight=False,
        )

    return tell


def _table(result: dict[str, Any]) -> Any:  # noqa: ANN401
    from rich import box
    from rich.table import Table

    table = Table(title="change against plain, mean over seeds with its 95 % interval")
    table.box, table.title_justify, table.header_style = box.SIMPLE_HEAD, "left", "bold"
    for column in ("protocol", "budget", "method", "metric", "change", "interval", "seeds"):
        table.add_column(column, justify="right" if column == "change" else "left")
    for row in result["paired"]:
        if row["metric"] not in SHOWN:
            continue
        interval = row["interval"]
        shown = f"{interval[0]:+.1%} to {interval[1]:+.1%}" if interval else "–"
        table.add_row(
            row["protocol"],
            row["budget"],
            row["method"],
            SHOWN[row["metric"]],
            f"{row['mean']:+.1%}",
            shown,
            str(row["num_seeds"]),
        )
    return table
