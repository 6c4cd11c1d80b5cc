"""Our samplers in the place of schedulers of diffusers that take the same steps."""

from __future__ import annotations

from typing import Any, cast

from undrift.diffusion.denoiser import Denoiser
from undrift.diffusion.gaussian import AncestralSampler, DDIMSampler, VarianceType
from undrift.diffusion.sampler import Sampler
from undrift.diffusion.schedule import Schedule


def our_sampler(
    name: str,
    network: Any,  # noqa: ANN401
    scheduler: Any,  # noqa: ANN401
    num_inference_steps: int | None,
    eta: float = 0.0,
) -> Sampler:
    """Our sampler of a name, with the clipping and the spacing of a scheduler."""
    config = scheduler.config
    schedule = Schedule.from_diffusers(scheduler)
    denoiser = Denoiser(network, schedule, config.prediction_type)
    clip = float(config.get("clip_sample_range", 1.0)) if config.get("clip_sample") else None
    spacing = config.get("timestep_spacing", "leading")
    if name == "ddim":
        return DDIMSampler(denoiser, num_inference_steps, eta=eta, clip=clip, spacing=spacing)
    kind = cast(VarianceType, config.get("variance_type") or "fixed_small")
    return AncestralSampler(
        denoiser, num_inference_steps, variance_type=kind, clip=clip, spacing=spacing
    )


def is_beyond_ours(scheduler: Any) -> bool:  # noqa: ANN401
    """Whether a scheduler has an option that our samplers do not have."""
    config = scheduler.config
    shifted = config.get("steps_offset") and config.get("timestep_spacing") == "leading"
    other = config.get("thresholding") or config.get("variance_type") == "fixed_large_log"
    return bool(shifted or other)


def is_ours(scheduler: Any, num_inference_steps: int | None) -> bool:  # noqa: ANN401
    """Whether one of our samplers takes the same steps as a scheduler."""
    kind, config = type(scheduler).__name__, scheduler.config
    other = is_beyond_ours(scheduler) or config.get("rescale_betas_zero_snr")
    if other or kind not in ("DDPMScheduler", "DDIMScheduler"):
        return False
    if kind == "DDPMScheduler":
        return True
    steps = config.num_train_timesteps
    count = num_inference_steps or steps
    # DDIM continues from a time by T // n, which only some grids meet
    meets = config.timestep_spacing == "leading" or steps % count == 0
    is_even = meets and (config.timestep_spacing != "linspace" or count == steps)
    return bool(is_even and config.set_alpha_to_one)
