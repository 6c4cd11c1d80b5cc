"""The study of ``undrift demo``: the digits, plain and regularized, by one seed."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from undrift.data.images import ImageData
from undrift.diffusion.pipelines import load_pipeline
from undrift.measurement.measure import measure
from undrift.study.config import PLAIN, StudyConfig
from undrift.study.record import StudyRecord
from undrift.training.config import ChainConfig, MethodConfig, TrainConfig

REGULARIZED = "regularized"
NUM_STATES = 12


def demo_study(
    *, seed: int, base_steps: int, steps: int, num_samples: int, num_steps: int
) -> StudyConfig:
    """The plan: a plain model is continued by plain and by regularized training.

    Arguments:
        seed: Seed of data, noise, weights and samples.
        base_steps: Steps of the plain training.
        steps: Steps of each continuation.
        num_samples: Samples of each that are evaluated.
        num_steps: T, the number of steps of the chain.
    """
    return StudyConfig(
        TrainConfig(steps=base_steps, chain=ChainConfig(num_steps=num_steps)),
        {PLAIN: MethodConfig(), REGULARIZED: MethodConfig("regularized")},
        steps=steps,
        seeds=[seed],
        num_samples=num_samples,
        workers=min(2, os.cpu_count() or 1),
    )


def measure_models(
    study: StudyRecord, folder: Path, data: ImageData, *, progress: bool
) -> list[dict[str, Any]]:
    """The profile of each model of a study, at the same states and with the same noise.

    Arguments:
        study: The study; each profile is saved in the folder of its run.
        folder: Folder of the study.
        data: The images that the models were trained on.
        progress: Whether to draw progress bars on stderr.
    """
    states: int | list[float] = NUM_STATES
    profiles = []
    for row in study.rows:
        profile = measure(
            load_pipeline(folder / row.run),
            data,
            num_samples=study.config["num_samples"],
            states=states,
            seed=row.seed,
            label=row.method,
            progress=progress,
        )
        states = [state.t for state in profile.states]
        how = dict(profile.how) | {"model": str(folder / row.run), "command": study.command}
        profile = replace(profile, how=how)
        profile.save(folder / row.run / "profile.json")
        profiles.append(profile.to_dict())
    return profiles
