"""Trains and evaluates the runs of a study: one worker in each process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from undrift.data.grids import image_grid, write_png
from undrift.data.images import ImageData
from undrift.exceptions import InvalidInput
from undrift.measurement.reading import load_json
from undrift.quality.feature_choice import choose_judges
from undrift.quality.judges import Judges
from undrift.storage.manifest import is_intact
from undrift.storage.writing import sweep
from undrift.study.config import DATA_GRID, StudyConfig
from undrift.study.evaluations import GRID_IMAGES, Evaluations, Outcome
from undrift.study.jobs import Job
from undrift.study.resume import same_data, same_plan
from undrift.training.config import TrainConfig
from undrift.training.runs import load, train
from undrift.training.trainer import Trainer


class Worker:
    """Trains and evaluates the runs of a study, or reads what is there already.

    Arguments:
        config: The plan.
        folder: Where the study is.
    """

    def __init__(self, config: StudyConfig, folder: Path) -> None:
        self.config, self.folder = config, folder

    @cached_property
    def data(self) -> ImageData:
        """The images."""
        return load(self.config.base)

    @cached_property
    def judges(self) -> Judges:
        """The scorers of all models."""
        features = choose_judges(self.config.features, self.data)
        return Judges(self.data, self.config.num_samples, features, self.config.num_reference)

    def show_data(self) -> None:
        """Keep a grid of the data, for visual comparison with samples."""
        if not (self.folder / DATA_GRID).is_file():
            write_png(image_grid(self.judges.reference[:GRID_IMAGES]), self.folder / DATA_GRID)

    def training(self, job: Job, steps: int) -> TrainConfig:
        """The configuration of a run.

        Raises:
            InvalidInput: If its folder holds a run of another plan.
        """
        training = job.training(self.config, self.folder, steps)
        same_plan(job.folder(self.folder, steps), training, moved=job.base is not None)
        return training

    def run(self, job: Job, steps: int) -> Outcome:
        """Train and evaluate one run; what is complete already is read.

        Raises:
            InvalidInput: If the run cannot be trained, or another plan or other data made it.
        """
        training = self.training(job, steps)
        evaluations = Evaluations(self.config, self.judges, self.folder, job, steps)
        result = complete(training, self.data, evaluations.of_step)
        return evaluations.outcome(float(result["train_cpu_s"]))


def complete(
    config: TrainConfig, data: ImageData, look: Callable[[Trainer], None]
) -> Mapping[str, Any]:
    """The result of a run that is complete, resumed from its last checkpoint, or new.

    Raises:
        InvalidInput: If the run that is there has other data.
    """
    assert config.output is not None
    output = Path(config.output)
    result = output / "result.json"
    if result.is_file():
        same_data(output, data)
    if result.is_file() and is_intact(output / "pipeline"):
        found = load_json(result, "result of a run")
        if isinstance(found, dict) and isinstance(found.get("train_cpu_s"), float):
            sweep(output)
            return found
        raise InvalidInput(f"{result} is damaged: delete it, and the run writes it again")
    resume = output.exists()
    return train(replace(config, resume=resume), data, progress=False, on_step=look, wait=True)
