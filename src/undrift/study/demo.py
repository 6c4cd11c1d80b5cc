"""The main job from end to end, on real data: what ``make demo`` runs."""

from __future__ import annotations

import logging
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from undrift.data.grids import image_grid
from undrift.data.images import ImageData
from undrift.diffusion.pipelines import as_sampler, load_pipeline
from undrift.exceptions import InvalidInput
from undrift.measurement.measure import measure
from undrift.quality.scorer import judge
from undrift.reporting.content import ReportInput
from undrift.reporting.html import write_report
from undrift.study.config import PLAIN
from undrift.training.config import ChainConfig, MethodConfig, TrainConfig
from undrift.training.runs import (
    GRID_IMAGES,
    load,
    new_folder,
    read_log,
    train,
    versions,
)

logger = logging.getLogger("undrift")

REGULARIZED = "regularized"
MEASURE_SEED = 20_000


def demo(
    *,
    output: str | None = None,
    seed: int = 0,
    base_steps: int = 3000,
    steps: int = 1000,
    num_samples: int = 2000,
    num_steps: int = 50,
    progress: bool = True,
    command: str = "undrift demo",
) -> dict[str, Any]:
    """Train plainly on the digits, continue plainly and regularized, measure both, report.

    Both continuations take the same number of steps on the same data and noise, and are measured
    with the same sampling noise.

    Arguments:
        output: Folder; a new numbered one under ``runs`` when None.
        seed: Seed of everything.
        base_steps: Steps of the plain training.
        steps: Steps of each continuation.
        num_samples: Samples of each measurement.
        num_steps: T, the number of steps of the chain.
        progress: Whether to draw progress bars.
        command: The command line, for the report.

    Returns:
        Path of the report, the two profiles, quality, and what each training cost.

    Raises:
        InvalidInput: If the folder is there already, or a number is out of range.
    """
    _check(base_steps=base_steps, steps=steps, num_steps=num_steps - 1, num_samples=num_samples - 3)
    started = time.perf_counter()
    base = TrainConfig(steps=base_steps, seed=seed, chain=ChainConfig(num_steps=num_steps))
    data = load(base)
    folder = _folder(output)
    base = replace(base, output=str(folder / "base"))
    methods = {
        PLAIN: MethodConfig(),
        REGULARIZED: MethodConfig("regularized"),
    }
    training = _train(base, methods, steps, data, progress)
    logger.info("4/5  measuring both: %s samples each", num_samples)
    profiles = _measure(folder, list(methods), data, num_samples, seed, command, progress)
    quality = _judge(folder, list(methods), data, num_samples, seed)
    logger.info("5/5  writing the report")
    report = ReportInput(
        title="Error propagation on digits: plain against regularized",
        profiles=profiles,
        sample_grids=_grids(folder, data, list(methods)),
        training_logs=[(label, read_log(folder / label)) for label in methods],
        quality=[tuple(row.values()) for row in quality],
        command=command,
        config={label: asdict(method) for label, method in methods.items()}
        | {"base": asdict(base)},
        versions=versions(),
        notes=[_cost_note(training)],
    )
    path = write_report(report, folder / "report.html")
    return {
        "report": str(path),
        "profiles": profiles,
        "quality": quality,
        "training": training,
        "seconds": round(time.perf_counter() - started, 1),
    }


def _check(**numbers: int) -> None:
    for name, number in numbers.items():
        if number < 1:
            raise InvalidInput(f"--{name.replace('_', '-')} is too small for a demo")


def _train(
    base: TrainConfig,
    methods: dict[str, MethodConfig],
    steps: int,
    data: ImageData,
    progress: bool,
) -> dict[str, dict[str, Any]]:
    """Train the base, then go on from there by each method; what came out of the methods."""
    assert base.output is not None
    logger.info("1/5  training a plain model: %s steps", base.steps)
    train(base, data, progress=progress)
    results = {}
    for number, (label, method) in enumerate(methods.items(), start=2):
        logger.info("%s/5  continuing it, %s: %s steps", number, label, steps)
        branch = replace(
            base,
            start_from=base.output,
            output=str(Path(base.output).with_name(label)),
            steps=steps,
            seed=base.seed + 1_000,
            method=method.method,
            regularizer=method.regularizer,
        )
        results[label] = train(branch, data, progress=progress)
    return results


def _measure(
    folder: Path,
    labels: list[str],
    data: ImageData,
    num_samples: int,
    seed: int,
    command: str,
    progress: bool,
) -> list[dict[str, Any]]:
    """The profile of each model, at the same states and with the same noise."""
    states: int | list[float] = 12
    profiles = []
    for label in labels:
        profile = measure(
            load_pipeline(folder / label),
            data,
            num_samples=num_samples,
            states=states,
            seed=seed + MEASURE_SEED,
            label=label,
            progress=progress,
        )
        states = [state.t for state in profile.states]
        how = dict(profile.how) | {"model": str(folder / label), "command": command}
        profile = replace(profile, how=how)
        profile.save(folder / label / "profile.json")
        profiles.append(profile.to_dict())
    return profiles


def _judge(
    folder: Path, labels: list[str], data: ImageData, num_samples: int, seed: int
) -> list[dict[str, Any]]:
    """The Fréchet distance of each model's samples, with its standard error."""
    rows = []
    for label in labels:
        found = judge(as_sampler(load_pipeline(folder / label)), data, num_samples, seed)
        rows.append(
            {
                "label": label,
                "metric": "Fréchet distance",
                "value": found["frechet"],
                "standard_error": found["frechet_se"],
            }
        )
    return rows


def _folder(output: str | None) -> Path:
    if output is None:
        return new_folder(Path("runs"), "demo")
    folder = Path(output)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InvalidInput(f"{folder} is there already: choose another --output")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _grids(folder: Path, data: ImageData, labels: list[str]) -> list[tuple[str, Any, str]]:
    """Data and samples of each model, the latter from the same noise."""
    grids = [("data", image_grid(data.images[:GRID_IMAGES]), "training images")]
    for label in labels:
        sampler = as_sampler(load_pipeline(folder / label))
        generator = torch.Generator().manual_seed(0)
        images = sampler.sample((GRID_IMAGES, *data.image_shape), generator=generator)
        grids.append((label, image_grid(images), "samples, the same noise for every model"))
    return grids


def _cost_note(results: dict[str, dict[str, Any]]) -> str:
    plain, regularized = (results[label]["train_cpu_s"] for label in (PLAIN, REGULARIZED))
    return (
        f"Both models took the same number of steps; the regularized ones took {regularized:.0f} s "
        f"of processor time, the plain ones {plain:.0f} s. The results page of the documentation "
        "compares at equal compute too, over seeds."
    )
