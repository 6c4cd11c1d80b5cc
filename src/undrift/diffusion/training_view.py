r"""A chain of a scheduler as a denoiser to train: the noise levels and the target of its network.

A network is trained on variance-preserving states whatever the scaling of its chain, because it is
called on the same points (:mod:`undrift.diffusion.denoiser`). What differs is how often each noise
level :math:`\sigma/\alpha` is drawn, which a table of T levels gives, each as often as the others:

===================  ============================================================================
a table of betas     its T steps
flow matching        :math:`s/(1 - s)` of the scheduler's training levels s
EDM                  quantiles of :math:`\ln\sigma \sim N(-1.2, 1.2^2)`
continuous time      quantiles of the same distribution
===================  ============================================================================

References:
    | Elucidating the Design Space of Diffusion-Based Generative Models (Karras et al., 2022)
    | Flow Matching for Generative Modeling (Lipman et al., 2023)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from undrift.diffusion.denoiser import Denoiser
from undrift.diffusion.schedule import Schedule
from undrift.diffusion.timesteps import is_continuous
from undrift.exceptions import InvalidInput

LOG_MEAN, LOG_SPREAD = -1.2, 1.2
NUM_LEVELS = 1000
DISTILLED = (
    *("CMStochasticIterativeScheduler", "LCMScheduler", "FlowMatchLCMScheduler", "TCDScheduler"),
)


def trained_view(network: Callable[..., Any], scheduler: Any, predicts: Any) -> Denoiser:  # noqa: ANN401
    """A network under a scheduler of diffusers as the denoiser that it was trained as.

    Arguments:
        network: The network.
        scheduler: Its scheduler.
        predicts: What it predicts, by diffusers' names.

    Raises:
        InvalidInput: If it was not trained by denoising, or what it was trained on is not known.

    Example:
        >>> from diffusers import FlowMatchEulerDiscreteScheduler
        >>> scheduler = FlowMatchEulerDiscreteScheduler()
        >>> found = trained_view(lambda x, t: x, scheduler, "flow_prediction")
        >>> found.time_conditioning, found.schedule.num_steps
        ('flow', 1000)
    """
    kind, config = type(scheduler).__name__, scheduler.config
    if kind in DISTILLED:
        raise InvalidInput(
            f"a network of {kind} was distilled: a denoising loss would undo that; train the model "
            "that it was distilled from"
        )
    if predicts == "flow_prediction":
        return Denoiser(network, _of_flow(scheduler), predicts, time_conditioning="flow")
    if hasattr(scheduler, "precondition_outputs"):
        if config.get("prediction_type", "epsilon") != "epsilon":
            raise InvalidInput(f"only EDM's epsilon preconditioning can be trained, not {predicts}")
        data = float(config.sigma_data)
        return Denoiser(network, _lognormal(), "sample", time_conditioning="sigma", sigma_data=data)
    if is_continuous(scheduler):
        return Denoiser(network, _lognormal(), predicts, time_conditioning="log_sigma")
    if predicts is None or not hasattr(scheduler, "alphas_cumprod"):
        raise InvalidInput(
            f"{kind} does not say what its network was trained on: choose a pipeline with a "
            "scheduler of betas, of EDM or of flow matching"
        )
    return Denoiser(network, Schedule.from_diffusers(scheduler), predicts)


def _of_flow(scheduler: Any) -> Schedule:  # noqa: ANN401
    """The levels that a network of flow matching was trained on, from small to large."""
    count = int(scheduler.config.num_train_timesteps)
    levels = torch.arange(1, count + 1, dtype=torch.float64) / count
    shift = float(scheduler.config.get("shift") or scheduler.config.get("flow_shift") or 1.0)
    levels = shift * levels / (1 + (shift - 1) * levels)
    return _schedule((1 - levels) ** 2 / ((1 - levels) ** 2 + levels**2), "flow")


def _lognormal() -> Schedule:
    """Quantiles of the distribution that EDM draws its levels from."""
    shares = (torch.arange(NUM_LEVELS, dtype=torch.float64) + 0.5) / NUM_LEVELS
    sigma = torch.exp(LOG_MEAN + LOG_SPREAD * torch.special.ndtri(shares))
    return _schedule(1 / (1 + sigma**2), "lognormal")


def _schedule(alpha_bars: Tensor, name: str) -> Schedule:
    return Schedule(torch.cat([alpha_bars.new_ones(1), alpha_bars]), name)
