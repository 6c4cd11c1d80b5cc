"""Where the runs of a study are trained and judged: one of these in each process."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from accelerate import PartialState

from undrift.data.grids import image_grid
from undrift.data.images import ImageData
from undrift.diffusion.pipelines import as_sampler, load_pipeline
from undrift.diffusion.sampler import Sampler
from undrift.quality.feature_choice import choose_features
from undrift.quality.scorer import Judge, Row, judgment_file
from undrift.study.config import StudyConfig
from undrift.study.jobs import Job
from undrift.study.remedied import Remedied
from undrift.study.resume import same_data, same_plan
from undrift.training.checkpoint import last_checkpoint
from undrift.training.config import TrainConfig
from undrift.training.runs import load, train, write_json
from undrift.training.trainer import Trainer

GRID_IMAGES = 64
DATA_GRID = "data.png"
BASE = "base"
"""What the run that branches continue is called among the checkpoints."""


@dataclass
class Outcome:
    """What a run comes to.

    Arguments:
        train_cpu_s: Processor time of its training steps.
        row: Its row of the study; None for a base, which is no method's.
        checkpoints: Judgments of its weights on the way.
        remedies: Judgments of its chain with remedies.
        profiles: Cumulative error along its chain, without remedy and with each.
    """

    train_cpu_s: float
    row: Row | None = None
    checkpoints: list[Row] = field(default_factory=list)
    remedies: list[Row] = field(default_factory=list)
    profiles: list[Row] = field(default_factory=list)


class Bench:
    """Trains and judges the runs of a study, or finds what is there already.

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
    def judge(self) -> Judge:
        """What all models are judged by."""
        features = choose_features(self.config.features, self.data)
        config = self.config
        return Judge(self.data, config.num_samples, config.num_reference, features)

    def show_data(self) -> None:
        """Keep a grid of the data, to compare samples with by eye."""
        if not (self.folder / DATA_GRID).is_file():
            image_grid(self.judge.reference[:GRID_IMAGES]).save(self.folder / DATA_GRID)

    def run(self, job: Job, steps: int) -> Outcome:
        """Train and judge one run; what was done before is not done again."""
        place = job.folder(self.folder, steps)
        training = job.training(self.config, self.folder, steps)
        same_plan(place, training, moved=job.base is not None)
        result = complete(training, self.data, self._on_the_way(place, job, steps))
        cost = float(result["train_cpu_s"])
        head = {
            "protocol": job.protocol,
            "method": job.method or BASE,
            "seed": job.seed,
            "budget": job.budget,
            "steps": steps,
            "train_cpu_s": cost,
            "run": place.relative_to(self.folder).as_posix(),
        }
        outcome = Outcome(cost, checkpoints=self._checkpoints(place, job, head))
        if job.method is not None:
            found, file = self.judged(place, "final", job.seed, lambda: self._chain(place))
            grid = file.with_suffix(".png").relative_to(self.folder).as_posix()
            outcome.row = head | found | {"grid": grid}
            remedied = Remedied(self.config, self.judge, self.judged)
            outcome.remedies = remedied.rows(job, place, head, self._chain)
            outcome.profiles = remedied.profiles(job, place, self._chain)
        elif self.config.judge_every:
            found, _ = self.judged(place, "final", job.seed, lambda: self._chain(place), grid=False)
            outcome.checkpoints.append(head | {"step": steps} | found)
        return outcome

    def judged(
        self,
        place: Path,
        what: str,
        seed: int,
        chain: Callable[[], Sampler],
        how: Mapping[str, Any] | None = None,
        *,
        grid: bool = True,
    ) -> tuple[Row, Path]:
        """The judgment of a chain, and the file that it is kept in.

        Arguments:
            place: Folder of the run.
            what: Which of its judgments.
            seed: Seed of the samples.
            chain: Makes the chain, where it is needed.
            how: What else decides the judgment.
            grid: Whether to keep a grid of samples beside it.
        """
        question = self._question(seed) | dict(how or {})
        file = judgment_file(place, what, question)
        if not file.is_file():
            samples, generator = self.judge.draw(chain(), seed)
            if grid:
                image_grid(samples[:GRID_IMAGES]).save(file.with_suffix(".png"))
            write_json(file, self.judge.scores(samples, generator) | {"how": question})
        return self._row(file), file

    def _row(self, file: Path) -> Row:
        """A judgment that was kept, with the error against the data set itself."""
        row = dict(json.loads(file.read_text()))
        row.pop("how")
        return row | {"empirical_mmd_sq": row["mmd_sq"] + self.judge.data_set_offset}

    def _question(self, seed: int) -> dict[str, Any]:
        modules = self.config.num_inference_steps
        chain = {"num_inference_steps": modules} if modules else {}
        return self.judge.how() | chain | {"seed": seed}

    def _chain(self, place: Path) -> Sampler:
        """The chain that a run left."""
        pipeline = load_pipeline(place).to(PartialState().device)
        return as_sampler(pipeline, self.config.num_inference_steps)

    def _on_the_way(self, place: Path, job: Job, steps: int) -> Callable[[Trainer], None]:
        """What judges the averaged weights every so many steps; the last are judged anyway."""
        every = self.config.judge_every

        def look(trainer: Trainer) -> None:
            if every and trainer.step % every == 0 and trainer.step < steps:
                what = f"step-{trainer.step:08d}"
                chain = partial(trainer.averaged_sampler, self.config.num_inference_steps)
                self.judged(place, what, job.seed, chain, grid=False)

        return look

    def _checkpoints(self, place: Path, job: Job, head: Row) -> list[Row]:
        """The judgments that a run has of its weights on the way."""
        name = judgment_file(place, "step-*", self._question(job.seed)).name
        found = []
        for file in sorted(place.glob(name)) if self.config.judge_every else []:
            found.append(head | {"step": int(file.name.split("-")[2])} | self._row(file))
        return found


def complete(
    config: TrainConfig, data: ImageData, look: Callable[[Trainer], None] = lambda trainer: None
) -> Mapping[str, Any]:
    """The result of a run that is complete, resumed from its last checkpoint, or new.

    Raises:
        InvalidInput: If the run that is there has other data.
    """
    assert config.output is not None
    output = Path(config.output)
    if (output / "result.json").is_file():
        same_data(output, data)
        return dict(json.loads((output / "result.json").read_text()))
    resume = last_checkpoint(output / "checkpoints") is not None
    if output.exists() and not resume:
        _set_aside(output)
    return train(replace(config, resume=resume), data, progress=False, look=look)


def _set_aside(output: Path) -> None:
    """Set aside what a run left that was stopped before its first checkpoint."""
    k = 1
    while (aside := output.with_name(f"{output.name}.stopped-{k}")).exists():
        k += 1
    output.rename(aside)
