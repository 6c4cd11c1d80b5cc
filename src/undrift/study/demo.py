"""The study of ``undrift demo``: few denoising steps on the digits, plain and regularized."""

from __future__ import annotations

import os
import shlex
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from undrift.diffusion.pipelines import load_pipeline, sampler_by_name
from undrift.measurement.measure import measure
from undrift.regularizer.options import RegularizerConfig
from undrift.study.config import PLAIN, StudyConfig
from undrift.study.record import StudyRecord, StudyRow
from undrift.training.config import ChainConfig, MethodConfig, TrainConfig
from undrift.training.runs import load

REGULARIZED = "regularized"
SAMPLER = "unipc"


def demo_study(
    *,
    seed: int,
    base_steps: int,
    steps: int,
    num_samples: int,
    num_steps: int,
    num_inference_steps: int,
) -> StudyConfig:
    """The plan: a plain model is continued by plain and by regularized training.

    Both are sampled by UniPC (Zhao et al., 2023) in few steps, and the regularizer follows the same
    chain.

    Arguments:
        seed: Seed of data, noise, weights and samples.
        base_steps: Steps of the plain training.
        steps: Steps of each continuation.
        num_samples: Samples of each that are evaluated.
        num_steps: T, the number of steps of the forward process.
        num_inference_steps: Denoising steps of the chain that is sampled.
    """
    regularizer = RegularizerConfig(
        num_inference_steps=num_inference_steps, features="network+pixels", population=2048
    )
    chain = ChainConfig(num_steps=num_steps, sampler=SAMPLER)
    return StudyConfig(
        TrainConfig(steps=base_steps, chain=chain, checkpoint_every=base_steps, sample_every=0),
        {PLAIN: MethodConfig(), REGULARIZED: MethodConfig("regularized", regularizer)},
        steps=steps,
        seeds=[seed],
        num_samples=num_samples,
        num_inference_steps=num_inference_steps,
        samplers=[SAMPLER],
        workers=min(2, os.cpu_count() or 1),
    )


def measure_models(
    plan: StudyConfig, study: StudyRecord, folder: Path, *, progress: bool
) -> list[dict[str, Any]]:
    """The profile of each model of a study on its chain, all states, with the same noise.

    Arguments:
        plan: The plan; where it has two workers, the models are measured at the same time.
        study: Its results; each profile is saved in the folder of its run.
        folder: Folder of the study.
        progress: Whether to report progress on stderr, of the first model where both are measured
            at the same time.
    """
    parallel = plan.workers > 1
    count = len(study.rows)
    shown = [progress and (index == 0 or not parallel) for index in range(count)]
    context, one_thread = get_context("spawn"), (torch.set_num_threads, (1,))
    pool = ProcessPoolExecutor(plan.workers, context, *one_thread) if parallel else nullcontext()
    with pool as workers:
        each = workers.map if workers else map
        return list(each(_measured, [plan] * count, study.rows, [folder] * count, shown))


def _measured(plan: StudyConfig, row: StudyRow, folder: Path, progress: bool) -> dict[str, Any]:
    """Measure one model, and save its profile with the command that measures it again."""
    run, chain = folder / row.run, plan.chains[0]
    profile = measure(
        sampler_by_name(load_pipeline(run), *chain),
        load(plan.base),
        num_samples=plan.num_samples,
        states="all",
        seed=row.seed,
        label=row.method,
        progress=progress,
    )
    options = {
        "sampler": chain.sampler,
        "num-inference-steps": chain.num_inference_steps,
        "num-samples": plan.num_samples,
        "states": "all",
        "seed": row.seed,
    }
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    command = shlex.join(["undrift", "measure", str(run), *words])
    profile = replace(profile, how=dict(profile.how) | {"model": str(run), "command": command})
    profile.save(run / "profile.json")
    return profile.to_dict()
