"""``undrift evaluate``: distances between the samples of a model and data."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from undrift.api import files, inputs
from undrift.api.evaluation import KIND, SCHEMA_VERSION, quality_rows
from undrift.api.inputs import ChainChoice, DataChoice
from undrift.cli.command import session
from undrift.exceptions import InvalidInput

if TYPE_CHECKING:
    from undrift.data.images import ImageData

LEAST = 4


@dataclass
class Config(DataChoice, ChainChoice):
    """Judge samples against data: Fréchet and kernel distance, precision, recall, final error.

    The features of the classifier are trained on the labels of the data, by nothing generative.

    Arguments:
        num_samples: Images to draw.
        features: classifier (of the data's labels), efficientnet-lite0, pixels, or a TorchScript
            file (if null, the classifier where the data have labels, else efficientnet-lite0).
        num_resamples: Bootstrap resamples for the error of the Fréchet distance.
        reference: What the data stand for in the final error: the population they were drawn from,
            or themselves (empirical).
        seed: Seed of all noise; the same as in undrift measure judges the same images.
        label: What the model is called (the name of the run, and the remedy, if null).
        output: File to write (a new one in the folder evaluations of the run if null).
    """

    num_samples: int = 2000
    features: str | None = None
    num_resamples: int = 100
    reference: Literal["population", "empirical"] = "population"
    seed: int = 0
    label: str | None = None
    output: str | None = None


POSITIONALS = ("run",)


def run(config: Config) -> dict[str, Any]:
    """Draw samples, judge them, save and show the numbers."""
    import torch

    from undrift.api.sample import sample
    from undrift.quality.feature_choice import choose_features
    from undrift.quality.scores import quality_scores
    from undrift.training.runs import versions, write_json

    _check(config)
    sampler = inputs.chain(config)
    data = inputs.data(config, config.run, sampler.network)
    features = choose_features(config.features, data)
    samples = sample(
        sampler,
        config.num_samples,
        batch_size=config.batch_size,
        seed=config.seed,
        progress=not session().quiet,
    )
    generator = torch.Generator().manual_seed(config.seed)
    scores = quality_scores(
        samples,
        data.images,
        features,
        num_resamples=config.num_resamples,
        generator=generator,
    )
    name = inputs.name_of(config.run)
    head = {
        "schema_version": SCHEMA_VERSION,
        "kind": KIND,
        "label": config.label or ", ".join(filter(None, [name, config.remedy])),
        "num_samples": len(samples),
        "num_reference": len(data),
    }
    result = head | {
        "final_error": _final_error(samples, data, config),
        "frechet": asdict(scores.frechet) | {"name": scores.name},
        "kernel": asdict(scores.kernel),
        "precision": scores.precision_recall.precision,
        "recall": scores.precision_recall.recall,
        "precision_se": scores.precision_recall.precision_se,
        "recall_se": scores.precision_recall.recall_se,
        "how": {
            "model": config.run,
            "sampler": sampler.describe(),
            "data": dict(data.how),
            "features": scores.how,
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
    if config.num_resamples < 2:
        raise InvalidInput(f"--num-resamples is {config.num_resamples}: at least 2")
    if config.output is not None:
        files.check_free(Path(config.output))


def _final_error(samples: Any, data: ImageData, config: Config) -> dict[str, Any]:  # noqa: ANN401
    r""":math:`D_0^2` of the samples, as the last state of a profile has it."""
    import torch

    from undrift.measurement.cumulative import cumulative_error, default_count
    from undrift.mmd.kernels import RBFMixture
    from undrift.seeds import stream_seed

    draws = torch.Generator().manual_seed(stream_seed(config.seed, "forward"))
    count, n = default_count(data.images, len(samples), config.reference), len(data)
    if config.reference == "population":
        rows, overlap = torch.randperm(n, generator=draws)[:count], count / n
    else:
        rows, overlap = torch.randint(n, (count,), generator=draws), 0.0
    found, _, _ = cumulative_error(
        samples, data.images[rows], RBFMixture(), overlap=overlap, generator=draws
    )
    return asdict(found) | {"num_forward": count, "reference": config.reference}


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
    if result["frechet"]["warning"]:
        print(f"note        {result['frechet']['warning']}")
    sizes = result["num_samples"], result["num_reference"]
    if sizes[0] != sizes[1]:
        print("note        precision and recall depend on both sizes: compare them at equal ones")
    print(f"evaluation  {path}")
