"""``undrift evaluate``: distances between the samples of a model and data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from undrift.api import files, launch
from undrift.api.inputs import EvaluateChoice
from undrift.cli.command import session
from undrift.cli.console import say, table


@dataclass
class Config(EvaluateChoice):
    """Evaluate samples against data: Fréchet and kernel distance, precision, recall, final error.

    The numbers are those that undrift measure, compare and tune give for the same question: the
    same samples for the same seed, against all images or an even part, four times the samples.

    Arguments:
        output: File to write (default: a new one in the folder evaluations of the run).
    """

    output: str | None = None


POSITIONALS = ("run",)
SHARED = True


def run(config: Config) -> dict[str, Any]:
    """Draw samples, score them, save and show the numbers."""
    from undrift.reporting.evaluation import interval_texts, quality_rows
    from undrift.reporting.numbers import scientific

    if launch.rank():
        _evaluated(config)
        return {}
    with files.reserved(config.output):
        result = _evaluated(config)
        path = _saved(config, result)
    pairs = zip(quality_rows(result), interval_texts(result), strict=True)
    table(
        f"{result['label']}: {result['num_samples']:,} samples",
        ["", "value", "standard error", "95 % interval"],
        [[name, scientific(x, 3), scientific(se), text] for (_, name, x, se), text in pairs],
    )
    say(f"evaluation  {path}")
    return result | {"saved": str(path)}


def _evaluated(config: Config) -> dict[str, Any]:
    """The scores."""
    from undrift.api.evaluate import evaluate

    accelerator = launch.joined()
    options = {name: value for name, value in vars(config).items() if name not in ("run", "output")}
    result = evaluate(
        config.run, progress=not session().quiet, accelerator=accelerator, **options
    )  # fmt: skip
    result["how"]["command"] = session().command
    return result


def _saved(config: Config, result: dict[str, Any]) -> Path:
    """The file that keeps the scores."""
    from undrift.measurement.reading import write_json

    stem = f"{files.slug(result['label'])}-{config.seed}"
    folder = files.place_for(config.run, "evaluations")
    with files.output_file(config.output, folder, stem, ".json") as path:
        return write_json(path, result)
