"""Training on with the regularizer, on the chain of the solver that was found.

The run starts from the model's weights. It trains on the search half, so that the held-out half
judges it as it judges the other candidates.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from undrift.advice.candidates import GRIDS, Candidate
from undrift.data.images import ImageData
from undrift.diffusion.network import device_of
from undrift.diffusion.pipelines import load_pipeline, network_in, quiet_diffusers
from undrift.exceptions import InvalidInput
from undrift.regularizer.options import RegularizerConfig
from undrift.remedies.registry import apply_remedy
from undrift.remedies.sampler import without_remedy
from undrift.training import building, runs
from undrift.training.checkpoint import StartingPoint, last_checkpoint
from undrift.training.config import IN_MEMORY, ChainConfig, TrainConfig

FEATURES, POPULATION = "network+pixels", 256
RUN, START = "fine-tune", "fine-tune-start"
BATCH_SIZE = 64


@dataclass
class FineTune:
    """A fine-tune by the regularizer.

    Arguments:
        steps: Training steps.
        folder: The folder in which its run is, and where it starts.
        seed: Seed of the run.
    """

    steps: int
    folder: Path
    seed: int

    def check(self, pipeline: Any, data: ImageData) -> None:  # noqa: ANN401
        """Check that the network can be trained on the data.

        Raises:
            InvalidInput: If it cannot.
        """
        if len(data) < BATCH_SIZE:
            raise InvalidInput(
                f"{len(data)} images of the search half are too few to train on: leave out "
                f"fine_tune, or give {2 * BATCH_SIZE} or more"
            )
        building.starting_network(
            TrainConfig(), data, StartingPoint("the model", pipeline=pipeline)
        )

    def config(self, best: Candidate) -> TrainConfig:
        """The configuration of the run: the best variant, on the chain of a candidate."""
        return TrainConfig(
            method="regularized",
            data=IN_MEMORY,
            steps=self.steps,
            batch_size=BATCH_SIZE,
            seed=self.seed,
            start_from=str(self.folder / START),
            output=str(self.folder / RUN),
            resume=last_checkpoint(self.folder / RUN / "checkpoints") is not None,
            sample_every=0,
            chain=ChainConfig(sampler=type(best.scheduler).__name__),
            regularizer=RegularizerConfig(
                num_inference_steps=best.num_inference_steps,
                features=FEATURES,
                population=POPULATION,
            ),
        )

    def candidate(
        self,
        pipeline: Any,  # noqa: ANN401
        best: Candidate,
        data: ImageData,
        *,
        progress: bool,
    ) -> Candidate:
        """The chain of a candidate over the fine-tuned network.

        What its remedy estimates from data is estimated again: it belongs to a network.
        """
        network = network_in(self.run(pipeline, best, data, progress=progress))
        network.to(device_of(best.sampler.network))
        chain = without_remedy(best.sampler).with_network(network)
        sampler = apply_remedy(chain, best.remedy, data.images, seed=self.seed, check_range=False)
        return replace(best, solver=f"fine-tuned, {best.solver}", sampler=sampler)

    def run(self, pipeline: Any, best: Candidate, data: ImageData, *, progress: bool) -> Any:  # noqa: ANN401
        """The pipeline of the fine-tuned model; a run that was stopped continues."""
        if not (self.folder / RUN / "result.json").is_file():
            self._write_start(pipeline, best)
            runs.train(self.config(best), data, progress=progress)
            shutil.rmtree(self.folder / START)
        return load_pipeline(self.folder / RUN)

    def _write_start(self, pipeline: Any, best: Candidate) -> None:  # noqa: ANN401
        """The model, its scheduler with the options of the candidate's, which passes them on."""
        own, config = pipeline.scheduler, dict(best.scheduler.config)
        names = {name for options in GRIDS.values() for name in options}
        names |= {"solver_order", "algorithm_type"}
        passed = {name: config[name] for name in names & config.keys()}
        values = {k: v for k, v in own.config.items() if not k.startswith("_")} | passed
        with quiet_diffusers():
            parts = pipeline.components | {"scheduler": type(own).from_config(values)}
            type(pipeline)(**parts).save_pretrained(self.folder / START)
