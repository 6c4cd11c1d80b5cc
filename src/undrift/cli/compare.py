"""``undrift compare``: methods side by side, over seeds, by a plan in YAML."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from undrift.cli.command import session
from undrift.cli.console import say, table
from undrift.exceptions import printable

if TYPE_CHECKING:
    from undrift.study.config import StudyConfig
    from undrift.study.record import StudyRecord, StudyRow


@dataclass
class Config:
    """Compare training methods by a study file, over seeds, each against plain training.

    Arguments:
        study: YAML file with the plan.
        output: Folder of the study; an interrupted study continues there (default: a folder under
            runs, named after the file).
        seeds: Seeds, instead of those of the plan.
        workers: Number of runs at the same time, instead of that of the plan.
    """

    study: str
    output: str | None = None
    seeds: list[int] | None = None
    workers: int | None = None


POSITIONALS = ("study",)
SHOWN = {"mmd_sq": "D₀²", "empirical_mmd_sq": "D₀² to the data set", "frechet": "Fréchet"}
COLUMNS = ("protocol", "budget", "method", "metric", "network", "change (95 %)", "seeds")


def run(config: Config) -> dict[str, Any]:
    """Run what is left of the study, show its table and where it is."""
    from rich.console import Console

    from undrift.api.compare import chosen_folder, chosen_plan, compare
    from undrift.study.jobs import jobs
    from undrift.study.record import FILE

    plan = chosen_plan(config.study, config.seeds, config.workers)
    folder = chosen_folder(config.study, config.output)
    called, count = session(), itertools.count(1)
    console = Console(stderr=True, quiet=called.quiet, soft_wrap=True)

    def tell(*lines: str) -> None:
        for line in lines:
            console.print(printable(line), highlight=False, markup=False)

    total = len(plan.chains) * sum(job.method is not None for job in jobs(plan))
    record = compare(
        plan,
        folder,
        on_row=lambda row: tell(f"{next(count):>3} of {total}  {_line(row)}"),
        before=lambda question: tell(*_plan_lines(plan, question)),
        progress=not called.quiet,
        command=called.command,
    )
    for failed in record.failures:
        where = f"{failed.protocol} {failed.method}, seed {failed.seed}, {failed.budget}"
        tell(f"not in the tables: {where}: {failed.reason}")
    for place, rows in _blocks(record).items():
        title = "change against plain, mean over seeds with its 95 % interval"
        table(f"{place}: {title}", COLUMNS, rows, num_names=5)
    say(f"study   {folder / FILE}\nreport  {folder / 'report.html'}")
    return record.to_dict()


def _blocks(record: StudyRecord) -> dict[str, list[list[str]]]:
    """The changes on each chain, and with the best sampler of each at each number of calls."""
    from undrift.reporting.study_content import change_text

    blocks: dict[str, list[list[str]]] = {}
    for change in [*record.paired, *record.paired_best]:
        if change.metric not in SHOWN:
            continue
        place = f"{change.sampler}, {change.num_inference_steps} steps"
        if change.sampler is None:
            place = f"the best sampler of each, {change.network_calls} network calls"
        blocks.setdefault(place, []).append(
            [
                *(change.protocol or "", change.budget or "", change.method, SHOWN[change.metric]),
                change.network or "",
                change_text(asdict(change)),
                str(change.num_seeds),
            ]
        )
    return blocks


def _plan_lines(plan: StudyConfig, question: Mapping[str, Any]) -> Iterator[str]:
    """The plan: which runs, and how they are evaluated."""
    from undrift.study.config import CHECKPOINT_RULE
    from undrift.study.jobs import jobs

    yield (
        f"{len(list(jobs(plan)))} runs: {len(plan.methods)} methods, seeds "
        f"{', '.join(map(str, plan.seeds))}, {' and '.join(plan.protocols)}, equal "
        f"{' and equal '.join(plan.budgets)}"
    )
    yield f"checkpoint rule: {CHECKPOINT_RULE}"
    yield (
        f"evaluated: {plan.num_samples:,} samples of each against "
        f"{question['num_reference']:,} images of the training data; D₀² in pixels; "
        f"{', '.join(network['score_name'] for network in question['networks'].values())}"
    )
    for network in question["networks"].values():
        if network["warning"]:
            yield f"note: {network['score_name']}: {network['warning']}"
    yield f"chains: {'; '.join(map(str, plan.chains))}"
    every = plan.base.chain.num_steps
    asked = [count or every for count in plan.step_counts]
    for name, method in plan.methods.items():
        own = method.regularizer.num_inference_steps
        if method.in_use["regularizer"] and (own or every) not in asked:
            yield (
                f"note: {name} trains on a chain of {own or every} denoising steps, and models "
                f"are evaluated with {' and '.join(map(str, asked))}: see num_inference_steps"
            )


def _line(row: StudyRow) -> str:
    return (
        f"seed {row.seed}  {row.protocol:<8}  {row.method:<18}  {row.budget:<7} {row.steps:>6} "
        f"steps  {row.sampler:<12} {row.network_calls:>4} calls  D₀² {1e4 * row.mmd_sq:6.2f}e-4  "
        f"Fréchet {', '.join(f'{each.frechet:.4g}' for each in row.quality.values())}  "
        f"{row.train_cpu_s:.0f} s"
    )
