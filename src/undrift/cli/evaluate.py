"""``undrift evaluate``: distances between the samples of a model and data."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from undrift.api import files, inputs
from undrift.api.evaluation import KIND, SCHEMA_VERSION, quality_rows
from undrift.api.inputs import ChainChoice, DataChoice
from undrift.cli.command import session
from undrift.exceptions import InvalidInput

logger = logging.getLogger("undrift")

LEAST = 4


@dataclass
class Config(DataChoice, ChainChoice):
    """Judge samples against data: Fréchet and kernel distance, precision, recall, final error.

    The numbers are those that undrift measure, compare and tune give for the same question: the
    same samples for the same seed, against all images or an even part, four times the samples.

    Arguments:
        num_samples: Images to draw.
        features: classifier (of the data's labels), efficientnet-lite0, pixels, or a TorchScript
            file (if null, the classifier where the data have labels, else efficientnet-lite0).
        num_resamples: Bootstrap resamples for the error of the Fréchet distance (if null 100, or
            none where they would take minutes).
        seed: Seed of all noise; the same as in undrift measure judges the same images.
        label: What the model is called (the name of the run, and the remedy, if null).
        output: File to write (a new one in the folder evaluations of the run if null).
    """

    num_samples: int = 2000
    features: str | None = None
    num_resamples: int | None = None
    seed: int = 0
    label: str | None = None
    output: str | None = None


POSITIONALS = ("run",)


def run(config: Config) -> dict[str, Any]:
    """Draw samples, score them, save and show the numbers."""
    from undrift.progress import progress_bar
    from undrift.quality.feature_choice import choose_features
    from undrift.quality.scorer import Scorer
    from undrift.training.runs import versions, write_json

    _check(config)
    sampler = inputs.chain(config)
    data = inputs.data(config, config.run, sampler.network)
    scorer = Scorer(
        data,
        config.num_samples,
        features=choose_features(config.features, data),
        num_resamples=config.num_resamples,
        batch_size=config.batch_size,
    )
    for note in scorer.notes:
        logger.info("note: %s", note)
    sizes = config.num_samples, len(scorer.reference)
    if sizes[0] != sizes[1]:
        logger.info(
            "note: precision and recall depend on both sizes, %s samples and %s images: compare "
            "them at equal ones",
            *sizes,
        )
    name = inputs.name_of(config.run)
    total, show = config.num_samples * (len(sampler.grid) - 1), not session().quiet
    with progress_bar(f"sampling {name}", total, show=show) as tick:
        samples = scorer.draw(sampler, config.seed, tick)
    how = scorer.how()
    result = {
        "schema_version": SCHEMA_VERSION,
        "kind": KIND,
        "label": config.label or ", ".join(filter(None, [name, config.remedy])),
        **{key: how.pop(key) for key in ("num_samples", "num_reference", "score_name", "warning")},
        **scorer.scores(samples, config.seed).to_dict(),
        "how": how
        | {
            "model": config.run,
            "sampler": sampler.describe(),
            "data": dict(data.how),
            "seed": config.seed,
            "command": session().command,
            "versions": versions(),
        },
    }
    path = Path(config.output) if config.output else _free(config, str(result["label"]))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, result)
    _show(result, path)
    return result | {"saved": str(path)}


def _check(config: Config) -> None:
    if config.num_samples < LEAST:
        raise InvalidInput(
            f"--num-samples is {config.num_samples}: error bars need at least {LEAST}"
        )
    if config.num_resamples is not None and config.num_resamples < 2:
        raise InvalidInput(f"--num-resamples is {config.num_resamples}: at least 2")
    if config.output is not None:
        files.check_free(Path(config.output))


def _free(config: Config, label: str) -> Path:
    folder = files.place_for(config.run, "evaluations")
    return files.free_file(folder, f"{files.slug(label)}-{config.seed}", ".json")


def _show(result: dict[str, Any], path: Path) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from undrift.reporting.numbers import scientific

    if session().json:
        return
    table = Table(title=f"{result['label']}: {result['num_samples']:,} samples")
    table.box, table.title_justify, table.header_style = box.SIMPLE_HEAD, "left", "bold"
    for name in ("", "value", "standard error"):
        table.add_column(name, justify="right" if name else "left")
    for _, metric, value, error in quality_rows(result):
        table.add_row(metric, scientific(value, 3), scientific(error))
    console = Console()
    console.print(table)
    print(f"evaluation  {path}")
