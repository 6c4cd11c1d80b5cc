r"""A network of one family of diffusion models under a scheduler of another.

Both know the noise level and the estimates. A network that was trained as a denoiser estimates the
data and the noise behind a state of any noise level :math:`\sigma/\alpha` in its range
(:mod:`undrift.diffusion.denoiser`), and every scheduler of diffusers asks for one of their
combinations at a noise level:

=====================  =============================================  ==========================
scheduler              noise level of its timestep                    asks for
=====================  =============================================  ==========================
with a table of betas  interpolated in the table, in its logarithm    :math:`\hat\epsilon`,
                                                                      :math:`\hat x_0` or v
EDM                    :math:`\sigma = e^{4 t}`                       F of its preconditioning
flow matching          :math:`s/(1 - s)` with :math:`s = t/1000`      :math:`\hat\epsilon -
                                                                      \hat x_0`
=====================  =============================================  ==========================

So the network is called in its own terms, and its estimates are handed over in those of the
scheduler: nothing is approximated but the timestep of a network that knows a table, which is
interpolated between two of its steps, as diffusers does on Karras' grids.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from undrift.diffusion.denoiser import (
    FLOW_STEPS,
    Denoiser,
    Prediction,
    estimates,
    split_variance,
)
from undrift.diffusion.timesteps import is_continuous
from undrift.exceptions import InvalidInput

Levels = npt.NDArray[np.float64]
REACH = 1.001
"""What rounding may put a noise level beyond the range that a network knows."""


class Translation:
    r"""What a network needs to be called by the scheduler of another family.

    Arguments:
        denoiser: The denoiser that it was trained as.
        timesteps: The timesteps that it knows, ascending.
        levels: The noise level :math:`\sigma/\alpha` at each of them, finite and ascending.
    """

    def __init__(self, denoiser: Denoiser, timesteps: Levels, levels: Levels) -> None:
        self.denoiser = denoiser
        self.timesteps, self.levels = timesteps, levels

    def check(self, scheduler: Any) -> None:  # noqa: ANN401
        """Check that a scheduler asks for noise levels that the network knows.

        Raises:
            InvalidInput: If one of them is out of range.
        """
        low, high = self.levels[0], self.levels[-1]
        asked = noise_levels(scheduler, scheduler.timesteps.double().cpu().numpy())
        for level in asked[(asked < low / REACH) | (asked > high * REACH)]:
            raise InvalidInput(
                f"{type(scheduler).__name__} has steps at noise of sigma/alpha = {level:.3g}, "
                f"and the network was trained on {low:.3g} to {high:.3g}: choose another"
            )

    def predict(self, network: Any, scheduler: Any, x: Tensor, timestep: Tensor) -> Prediction:  # noqa: ANN401
        """The estimates at a state of a chain of the scheduler.

        Arguments:
            network: The network now.
            scheduler: The scheduler at this step.
            x: States in its scaling, with shape :math:`(B, *)`.
            timestep: Its timestep.
        """
        level, x_t = noise_level(scheduler, timestep), of_unit_variance(scheduler, x, timestep)
        alpha_t = 1 / math.hypot(1, level)
        sigma_t = level * alpha_t
        own = np.interp(np.log(level), np.log(self.levels), self.timesteps)
        rows = torch.full((len(x),), float(own), device=x.device)
        denoiser = self.denoiser.with_network(network)
        output, _ = split_variance(denoiser.output_at(x_t, rows, alpha_t, sigma_t), x)
        return estimates(output, x_t, alpha_t, sigma_t, denoiser.prediction_type)


def noise_levels(scheduler: Any, timesteps: Levels) -> Levels:  # noqa: ANN401
    r""":math:`\sigma/\alpha` at timesteps of a scheduler.

    Arguments:
        scheduler: One with a table of betas, of EDM, of flow matching, or with continuous times.
        timesteps: The timesteps.
    """
    if hasattr(scheduler, "precondition_outputs") or is_continuous(scheduler):
        return np.asarray(np.exp(4 * timesteps), np.float64)
    table = getattr(scheduler, "alphas_cumprod", None)
    with np.errstate(divide="ignore"):  # no signal at the last
        if table is None or scheduler.config.get("use_flow_sigmas"):
            return timesteps / (FLOW_STEPS - timesteps)
        logs = np.log(1 / table.double().cpu().numpy() - 1) / 2
    return np.asarray(np.exp(np.interp(timesteps, np.arange(len(logs)), logs)), np.float64)


def noise_level(scheduler: Any, timestep: Tensor) -> float:  # noqa: ANN401
    r""":math:`\sigma/\alpha` at a timestep of a scheduler."""
    return float(noise_levels(scheduler, np.array([float(timestep)]))[0])


def of_unit_variance(scheduler: Any, x: Tensor, timestep: Tensor) -> Tensor:  # noqa: ANN401
    r"""States in the scaling in which :math:`\alpha_t^2 + \sigma_t^2 = 1`."""
    if not hasattr(scheduler, "scale_model_input"):  # of flow matching
        share = float(timestep) / FLOW_STEPS
        return x / math.hypot(1 - share, share)
    scaled: Tensor = scheduler.scale_model_input(x, timestep)
    if not hasattr(scheduler, "precondition_outputs"):
        return scaled
    sigma = noise_level(scheduler, timestep)
    return scaled * (math.hypot(sigma, float(scheduler.config.sigma_data)) / math.hypot(sigma, 1))


def asked_for(scheduler: Any, x: Tensor, timestep: Tensor, found: Prediction) -> Tensor:  # noqa: ANN401
    """What a scheduler takes as the output of its network, from both estimates.

    Arguments:
        scheduler: The scheduler at this step.
        x: States in its scaling, with shape :math:`(B, *)`.
        timestep: Its timestep.
        found: The estimates there.
    """
    level = noise_level(scheduler, timestep)
    if hasattr(scheduler, "precondition_outputs"):  # c_skip x + c_out F, solved for F
        at = torch.tensor(level, dtype=x.dtype, device=x.device)
        zero = torch.zeros_like(x)
        skipped: Tensor = scheduler.precondition_outputs(x, zero, at)
        scale: Tensor = scheduler.precondition_outputs(zero, zero + 1, at)
        return (found.x0_hat - skipped) / scale
    kind = scheduler.config.get("prediction_type", "flow_prediction")
    if kind == "flow_prediction":
        return found.epsilon_hat - found.x0_hat
    if kind == "epsilon":
        return found.epsilon_hat
    if kind == "sample":
        return found.x0_hat
    alpha_t = 1 / math.hypot(1, level)
    return alpha_t * found.epsilon_hat - level * alpha_t * found.x0_hat
