"""Where the runs of a study are trained and judged: one of these in each process."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from undrift.chain import Sampler
from undrift.checkpoint import FREE_TO_CHANGE, last_checkpoint
from undrift.config import VARIANTS, TrainConfig
from undrift.data import ImageData
from undrift.exceptions import InvalidInput
from undrift.gallery import image_grid
from undrift.interop import as_sampler
from undrift.protocol import StudyConfig
from undrift.runs import load, load_model, train, write_json
from undrift.study.job import Job
from undrift.study.judgment import Judge, Row, feature_map, judgment_file

MOVABLE = FREE_TO_CHANGE | {"start_from"}
OFFICIAL = ("strength", "length", "num_states", "num_forward", "seed")
"""The options that the released algorithm takes."""
GRID_IMAGES = 64


class Bench:
    """Trains and judges the runs of a study, or finds what is there already.

    Arguments:
        config: The plan.
        folder: Where the study is.
        progress: Whether runs draw progress bars.
    """

    def __init__(self, config: StudyConfig, folder: Path, *, progress: bool = False) -> None:
        self.config, self.folder, self.progress = config, folder, progress

    @cached_property
    def data(self) -> ImageData:
        """The images."""
        return load(self.config.base)

    @cached_property
    def judge(self) -> Judge:
        """What all models are judged by."""
        features = feature_map(self.config.features, self.data)
        config = self.config
        return Judge(self.data, config.num_samples, config.num_reference, features)

    def run(self, job: Job, steps: int) -> Row:
        """Train and judge one run; what was done before is not done again.

        Returns:
            The row of the study; for a base, without a judgment.
        """
        training = job.training(self.config, self.folder, steps)
        result = complete(training, self.data, progress=self.progress)
        row = {
            "protocol": job.protocol,
            "method": job.method,
            "seed": job.seed,
            "budget": job.budget,
            "steps": steps,
            "train_cpu_s": result["train_cpu_s"],
        }
        if job.method is None:
            return row
        place = job.folder(self.folder, steps)
        found, file = self.judged(place, "final", job.seed)
        grid = file.with_suffix(".png").relative_to(self.folder).as_posix()
        return row | found | {"run": place.relative_to(self.folder).as_posix(), "grid": grid}

    def judged(
        self,
        place: Path,
        what: str,
        seed: int,
        sampler: Sampler | None = None,
        how: Mapping[str, Any] | None = None,
    ) -> tuple[Row, Path]:
        """The judgment of a chain, and the file that it is kept in beside a grid of samples.

        Arguments:
            place: Folder of the run.
            what: Which of its judgments.
            seed: Seed of the samples.
            sampler: The chain; the one that the run left if None.
            how: What else decides the judgment.
        """
        question = self.judge.how() | {"seed": seed} | dict(how or {})
        file = judgment_file(place, what, question)
        if not file.is_file():
            sampler = sampler or as_sampler(load_model(place))
            samples, generator = self.judge.draw(sampler, seed)
            image_grid(samples[:GRID_IMAGES]).save(file.with_suffix(".png"))
            write_json(file, self.judge.scores(samples, generator) | {"how": question})
        row = dict(json.loads(file.read_text()))
        row.pop("how")
        return row, file


def complete(config: TrainConfig, data: ImageData, *, progress: bool) -> Mapping[str, Any]:
    """The result of a run that is complete, resumed from its last checkpoint, or new.

    Raises:
        InvalidInput: If another plan's run is there.
    """
    assert config.output is not None
    output = Path(config.output)
    same_plan(output, config)
    if (output / "result.json").is_file():
        return dict(json.loads((output / "result.json").read_text()))
    resume = last_checkpoint(output / "checkpoints") is not None
    if output.exists() and not resume:
        _set_aside(output)
    return train(replace(config, resume=resume), data, progress=progress)


def same_plan(output: Path, config: TrainConfig) -> None:
    """Stop at a run that was made with other options; options that it does not know are new.

    Raises:
        InvalidInput: If there is one.
    """
    file = output / "config.yaml"
    if not file.is_file():
        return
    saved = yaml.safe_load(file.read_text()) or {}
    difference = _difference(saved | {"method": _method(saved)}, _deciding(config))
    if difference:
        raise InvalidInput(
            f"{output} holds a run of another plan ({difference}): choose another --output"
        )


def _deciding(config: TrainConfig) -> dict[str, Any]:
    """The options that decide what a run comes to."""
    options = {name: value for name, value in asdict(config).items() if name not in MOVABLE}
    options["method"] = config.variant or config.method
    if config.method == "plain" or config.variant is not None:
        options.pop("objective")
    if config.variant is None:
        options.pop("regularizer")
    elif config.variant != "persistent":
        options["regularizer"].pop("num_cohorts")
    if config.variant == "official":
        options["regularizer"] = {k: options["regularizer"][k] for k in OFFICIAL}
    return options


def _method(saved: Mapping[str, Any]) -> str:
    """The method of a run, a variant by its own name; first runs name it among the options."""
    variant = (saved.get("regularizer") or {}).get("variant", "none")
    method = str(saved.get("method") or ("plain" if variant == "none" else variant))
    return VARIANTS.get(method, method)


def _difference(saved: Any, asked: Mapping[str, Any], prefix: str = "") -> str | None:  # noqa: ANN401
    for name, value in asked.items():
        if not isinstance(saved, Mapping) or name not in saved:
            continue
        if isinstance(value, Mapping):
            found = _difference(saved[name], value, f"{prefix}{name}.")
            if found:
                return found
        elif saved[name] != value:
            return f"{prefix}{name}: {saved[name]} there, {value} now"
    return None


def _set_aside(output: Path) -> None:
    """Set aside what a run left that was stopped before its first checkpoint."""
    k = 1
    while (aside := output.with_name(f"{output.name}.stopped-{k}")).exists():
        k += 1
    output.rename(aside)
