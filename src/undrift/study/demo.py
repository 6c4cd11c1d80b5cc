"""The study of ``undrift demo``: few denoising steps on the digits, plain and regularized."""

from __future__ import annotations

import os

from undrift.regularizer.options import RegularizerConfig
from undrift.study.config import PLAIN, StudyConfig
from undrift.training.config import ChainConfig, MethodConfig, TrainConfig

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
    chain. Both are measured on it, and the samples of the measurement are judged.

    Arguments:
        seed: Seed of data, noise, weights and samples.
        base_steps: Steps of the plain training.
        steps: Steps of each continuation.
        num_samples: Samples of each that are measured and judged.
        num_steps: T, the number of steps of the forward process.
        num_inference_steps: Denoising steps of the chain that is sampled.
    """
    regularizer = RegularizerConfig(
        num_inference_steps=num_inference_steps, features="network+pixels", population=256
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
        measure=True,
        workers=min(2, os.cpu_count() or 1),
    )
