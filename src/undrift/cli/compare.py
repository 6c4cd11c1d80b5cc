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
    from rich.console import Console

    from undrift.api.compare import chosen_folder, chosen_plan, compare
    from undrift.cli.console import show
    from undrift.study.record import FILE

    plan = chosen_plan(config.study, config.seeds, config.workers)
    folder = chosen_folder(config.study, config.output)
    called = session()
    talk = Console(stderr=True, quiet=called.quiet, soft_wrap=True)
    record = compare(
        plan,
        folder,
        on_row=_telling(talk, plan),
        before=lambda judged_by: _announce(talk, plan, judged_by),
        progress=not called.quiet,
        command=called.command,
    )
    for failed in record.failures:
        where = f"{failed.protocol} {failed.method}, seed {failed.seed}, {failed.budget}"
        talk.print(f"not in the tables: {where}: {failed.reason}")
    if record.paired:
        show(_table(record.paired))
    print(f"study   {folder / FILE}")
    print(f"report  {folder / 'report.html'}")
    return record.to_dict()


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
    from undrift.cli.console import table

    columns = ("protocol", "budget", "method", "metric", "change", "interval", "seeds")
    shown = table(
        "change against plain, mean over seeds with its 95 % interval",
        {name: "right" if name == "change" else "left" for name in columns},
    )
    for change in changes:
        if change.metric in SHOWN:
            ends = change.interval
            limits = f"{ends[0]:+.1%} to {ends[1]:+.1%}" if ends else "–"
            which = (change.protocol, change.budget, change.method, SHOWN[change.metric])
            shown.add_row(*which, f"{change.mean:+.1%}", limits, str(change.num_seeds))
    return shown
