"""Schedulers of diffusers with their timesteps set, if they can be run as chains."""

from __future__ import annotations

import copy
import inspect
import logging
from typing import Any

import torch

from undrift.exceptions import InvalidInput, reason_of

logger = logging.getLogger("undrift")
DEFAULT_STEPS = {"LCMScheduler": 4, "TCDScheduler": 4}
"""As diffusers' pipelines have it, of schedulers that cannot take all training steps; else 50."""


def prepared(scheduler: Any, num_inference_steps: int | None, options: dict[str, Any]) -> Any:  # noqa: ANN401
    """A copy of a scheduler with its timesteps set, if it can be run as a chain."""
    kind = type(scheduler).__name__
    is_known = hasattr(scheduler, "alphas_cumprod") or hasattr(scheduler, "sigmas")
    is_forward = hasattr(scheduler, "add_noise") or hasattr(scheduler, "scale_noise")
    if not (is_known and is_forward and hasattr(scheduler, "step")):
        raise InvalidInput(f"{kind} has no forward process: give a scheduler that adds noise")
    if "Inverse" in kind:
        raise InvalidInput(f"{kind} does not run from noise to data: choose one that samples")
    needed = [
        parameter.name
        for parameter in inspect.signature(scheduler.step).parameters.values()
        if parameter.default is parameter.empty and parameter.kind is not parameter.VAR_KEYWORD
    ]
    if len(needed) > 3:
        raise InvalidInput(f"{kind} needs more than a state to step from: {', '.join(needed[3:])}")
    if scheduler.config.get("prediction_type") == "sample":
        _check_takes_data(scheduler)
    if num_inference_steps is None and not options:
        return _with_all_steps(scheduler)
    if num_inference_steps is not None:
        options = options | {"num_inference_steps": num_inference_steps}
    return _with_timesteps(scheduler, options)


def _check_takes_data(scheduler: Any) -> None:  # noqa: ANN401
    """Check that a scheduler takes estimates of the data, which some learn of in their step."""
    scheduler, zero = copy.deepcopy(scheduler), torch.zeros(1, 1, 1, 1)
    try:
        scheduler.set_timesteps(4)
        if hasattr(scheduler, "scale_model_input"):
            scheduler.scale_model_input(zero, scheduler.timesteps[0])
        scheduler.step(zero, scheduler.timesteps[0], zero, return_dict=False)
    except Exception as error:  # whatever a class of diffusers raises: one line of it
        kind = type(scheduler).__name__
        raise InvalidInput(f"{kind} takes no estimate of the data: {reason_of(error)}") from error


def _with_all_steps(scheduler: Any) -> Any:  # noqa: ANN401
    """A copy of a scheduler with all training steps, or with its default where it cannot."""
    kind, steps = type(scheduler).__name__, scheduler.config.get("num_train_timesteps")
    if steps is None:
        raise InvalidInput(f"{kind} has no number of training steps: give num_inference_steps")
    try:
        return _with_timesteps(scheduler, {"num_inference_steps": steps})
    except InvalidInput as error:
        fewer = min(DEFAULT_STEPS.get(kind, 50), max(steps // 2, 1))
        found = _with_timesteps(scheduler, {"num_inference_steps": fewer})
        logger.info("%d denoising steps by default: %s", fewer, error)
        return found


def _with_timesteps(scheduler: Any, options: dict[str, Any]) -> Any:  # noqa: ANN401
    """A copy of a scheduler with its timesteps set, none of them twice or beyond the last."""
    scheduler, kind = copy.deepcopy(scheduler), type(scheduler).__name__
    is_learned = str(scheduler.config.get("variance_type")).startswith("learned")
    if is_learned and not learns_variance(scheduler):  # some would then cut three channels out
        scheduler.register_to_config(variance_type=None)
    count = options.get("num_inference_steps")
    try:
        scheduler.set_timesteps(**options)
    except Exception as error:  # whatever a class of diffusers raises: one line of it
        raise InvalidInput(f"{kind} refuses {count} steps: {reason_of(error)}") from error
    most = scheduler.config.get("num_train_timesteps", 0) // 2
    if count is not None and len(runge_kutta(scheduler)) and not 4 <= count <= most:
        raise InvalidInput(
            f"{kind} starts with three Runge-Kutta steps of half steps, which {count} steps do not "
            f"leave: choose 4 to {most}, or set skip_prk_steps=True"
        )
    if len(scheduler.timesteps) == 0:
        raise InvalidInput(f"{count} inference steps asked for: choose 1 or more")
    sigmas = torch.as_tensor(getattr(scheduler, "sigmas", ()))[:-1]
    if getattr(scheduler, "order", 1) == 1 and bool((sigmas.diff() == 0).any()):
        raise InvalidInput(f"{kind} repeats a time in {count} steps: choose fewer")
    steps = scheduler.config.get("num_train_timesteps", 0)
    if hasattr(scheduler, "alphas_cumprod") and scheduler.timesteps.max() >= steps:
        raise InvalidInput(
            f"{kind} shifts its steps beyond the last of the {steps} training steps: choose fewer "
            "inference steps, or steps_offset=0"
        )
    return scheduler


def runge_kutta(scheduler: Any) -> Any:  # noqa: ANN401
    """The timesteps of the Runge-Kutta steps that PNDM starts with, four for each; or none."""
    found = getattr(scheduler, "prk_timesteps", None)
    return () if found is None or scheduler.config.get("skip_prk_steps") else found


def is_continuous(scheduler: Any) -> bool:  # noqa: ANN401
    """Whether the network gets the logarithm of the noise level instead of a timestep."""
    return bool(scheduler.config.get("timestep_type") == "continuous")


def learns_variance(scheduler: Any) -> bool:  # noqa: ANN401
    """Whether a scheduler takes a learned variance, which those keep as an attribute that do."""
    return str(vars(scheduler).get("variance_type")).startswith("learned")


def starts_without_signal(scheduler: Any) -> bool:  # noqa: ANN401
    r"""Whether the first state is noise alone, for which some tables have 2⁻²⁴ instead of 0."""
    table = getattr(scheduler, "alphas_cumprod", None)
    if table is None or float(scheduler.timesteps[0]) <= len(table) - 2:
        return False
    return bool(scheduler.config.get("rescale_betas_zero_snr") or table[-1] == 0)


def time_of(scheduler: Any, call: int) -> float:  # noqa: ANN401
    """The time of a call: a step from 1 to T, or the noise level where there are no such steps."""
    if hasattr(scheduler, "alphas_cumprod") and not is_continuous(scheduler):
        t = float(scheduler.timesteps[call]) + 1
    else:
        t = float(scheduler.sigmas[call])
    t = float(f"{t:.6g}")
    return int(t) if t.is_integer() else t
