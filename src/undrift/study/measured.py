"""The measurement of a trained run of a study, whose samples are those that are judged."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from undrift.diffusion.sampler import Sampler
from undrift.measurement.measure import measure
from undrift.measurement.parallel_chains import as_images
from undrift.quality.judges import Judges
from undrift.study.config import Chain


def measured_samples(
    sampler: Sampler, judges: Judges, chain: Chain, run: Path, file: Path, *, label: str, seed: int
) -> Tensor:
    """Measure a chain, save its profile, and return its samples as images, with shape (N, C, H, W).

    Arguments:
        sampler: The chain of the run.
        judges: What the samples will be compared with.
        chain: The names of the sampler and its number of steps, for the command.
        run: Folder of the run.
        file: Where to save the profile.
        label: Name of the profile in reports.
        seed: Seed of all noise.
    """
    samples: list[Tensor] = []

    def keep(t: float, x: Tensor) -> None:
        if t == 0:
            samples.append(as_images(sampler, x))

    profile = measure(
        sampler,
        judges.data,
        num_samples=judges.num_samples,
        num_forward=len(judges.reference),
        states="all",
        seed=seed,
        label=label,
        progress=False,
        on_state=keep,
    )
    how = {"model": str(run), "command": _command(run, judges, chain, seed)}
    replace(profile, how=dict(profile.how) | how).save(file)
    return samples[0]


def _command(run: Path, judges: Judges, chain: Chain, seed: int) -> str:
    """The command that measures the same again."""
    options = {
        "sampler": chain.sampler,
        "num-inference-steps": chain.num_inference_steps,
        "num-samples": judges.num_samples,
        "num-forward": judges.num_reference,
        "states": "all",
        "seed": seed,
    }
    given = [(f"--{name}", str(value)) for name, value in options.items() if value is not None]
    return shlex.join(["undrift", "measure", str(run), *(word for pair in given for word in pair)])
