r"""Samplers with Gaussian denoising steps: ancestral and DDIM.

With :math:`\alpha_{t|s} = \alpha_t/\alpha_s` and
:math:`\sigma^2_{t|s} = \sigma_t^2 - \alpha_{t|s}^2\sigma_s^2 = 1 - \bar\alpha_t/\bar\alpha_s`, the
ancestral step is the posterior of the forward process with :math:`\hat x_0` in place of the data,

.. math:: m = \frac{\alpha_{t|s}\sigma_s^2}{\sigma_t^2} x_t
            + \frac{\alpha_s\sigma_{t|s}^2}{\sigma_t^2} \hat x_0, \qquad
          v = \frac{\sigma_{t|s}^2\sigma_s^2}{\sigma_t^2} \text{ (small)}
          \quad\text{or}\quad \sigma_{t|s}^2 \text{ (large)},

and the DDIM step is
:math:`m = \alpha_s \hat x_0 + \sqrt{\sigma_s^2 - v}\,\hat\epsilon`, :math:`v = \eta^2` times the
small variance. As in diffusers, the ancestral step from t = 1 adds no noise; on a coarse grid the
last step starts above t = 1 and, with the large variance, adds noise to the result.

:math:`1 - \bar\alpha_t/\bar\alpha_s` loses up to four of the seven digits of float32 where the
steps are small. Coefficients are therefore computed in float64; but where the schedule's table came
in float32, as that of a scheduler of diffusers does, they follow its operations in float32, so that
the chain equals the scheduler's own.

References:
    | Denoising Diffusion Probabilistic Models (Ho et al., 2020)
    | Improved Denoising Diffusion Probabilistic Models (Nichol & Dhariwal, 2021)
    | Denoising Diffusion Implicit Models (Song et al., 2021)
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any, Literal, Self, get_args

import numpy as np
import torch
from torch import Tensor

from undrift.diffusion.denoiser import FLOW_STEPS, Denoiser, Prediction
from undrift.diffusion.sampler import GaussianKernel, RandomSource, Sampler
from undrift.diffusion.schedule import Schedule, Spacing
from undrift.exceptions import InvalidInput, check_choice

VarianceType = Literal["fixed_small", "fixed_small_log", "fixed_large", "learned", "learned_range"]


@dataclass(eq=False, repr=False)
class DenoiserSampler(Sampler):
    """The base of all samplers over a :class:`~undrift.diffusion.denoiser.Denoiser`.

    Arguments:
        denoiser: The model.
        num_inference_steps: Number of denoising steps; all T when None.
        spacing: How the grid is spaced, by diffusers' names.
        clip: Bound on the estimate of the data; None to leave it.
    """

    denoiser: Denoiser
    num_inference_steps: int | None = None
    spacing: Spacing = field(default="trailing", kw_only=True)
    clip: float | None = field(default=1.0, kw_only=True)

    def __post_init__(self) -> None:
        """Check the options and lay out the grid."""
        if self.clip is not None and not self.clip > 0:
            raise InvalidInput(f"the data's bound is {self.clip}: choose a positive number or None")
        self.network = self.denoiser.network
        self.schedule: Schedule = self.denoiser.schedule
        self.prediction_type = self.denoiser.prediction_type
        super().__init__(self.schedule.time_grid(self.num_inference_steps, self.spacing))

    def with_network(self, network: Callable[..., Any]) -> Self:
        """The same chain over another network, under the same conditions if it takes them."""
        other = copy.copy(self)
        other.denoiser = self.denoiser.with_network(network)
        other.network = other.denoiser.network
        return other

    def with_steps(self, num_inference_steps: int) -> Self:
        """The same chain on the grid that a sampler with so many steps has.

        Raises:
            InvalidInput: If there are more steps than the schedule has, or none.
        """
        other = copy.copy(self)
        other.num_inference_steps = num_inference_steps
        other.grid = self.schedule.time_grid(num_inference_steps, self.spacing)
        return other

    def scale(self, t: float) -> tuple[float, float]:
        r""":math:`(\alpha_t, \sigma_t)` of the forward process."""
        return self.schedule.alpha(t), self.schedule.sigma(t)

    @property
    def alphas_cumprod(self) -> Tensor | None:
        r""":math:`\bar\alpha` of the timesteps that the network knows; None if it takes sigma."""
        return super().alphas_cumprod if self.denoiser.time_conditioning == "timestep" else None

    @property
    def timesteps(self) -> list[float]:
        """The times passed to the network, one per step, in the order of the chain."""
        if self.denoiser.time_conditioning == "timestep":
            return super().timesteps
        scales = [self.scale(t) for t in self.grid[:-1]]
        if self.denoiser.time_conditioning == "flow":
            return [FLOW_STEPS * sigma / (alpha + sigma) for alpha, sigma in scales]
        sigmas = [sigma / alpha for alpha, sigma in scales]
        is_level = self.denoiser.time_conditioning == "sigma" and self.denoiser.sigma_data is None
        return sigmas if is_level else [math.log(s) / 4 for s in sigmas]

    def predict(self, x_t: Tensor, t: float) -> Prediction:
        r"""The model's :math:`\hat x_0` and :math:`\hat\epsilon` at a state, neither clipped."""
        return self.denoiser.predict(x_t, t)

    def x0_hat(self, x_t: Tensor, t: float) -> Tensor:
        r"""The model's :math:`\hat x_0` at a state, clipped where the chain clips it."""
        return self._clipped(self.predict(x_t, t).x0_hat)

    def _clipped(self, x0_hat: Tensor) -> Tensor:
        return x0_hat if self.clip is None else x0_hat.clamp(-self.clip, self.clip)

    def kernel(self, x_t: Tensor, t: float, s: float) -> GaussianKernel:
        """The Gaussian :math:`K_t(x_s | x_t)`; its variance is 0 where the step adds no noise."""
        prediction = self.predict(x_t, t)
        return self._kernel(x_t, self._clipped(prediction.x0_hat), prediction, t, s)

    def _kernel(
        self, x_t: Tensor, x0_hat: Tensor, prediction: Prediction, t: float, s: float
    ) -> GaussianKernel:
        raise NotImplementedError

    def _alpha_bars(self, t: float, s: float, dtype: torch.dtype) -> tuple[Any, Any, Any]:
        r""":math:`\bar\alpha_t, \bar\alpha_s` and 1 in the precision of the coefficients."""
        is_exact = torch.float64 in (dtype, self.schedule.dtype)
        real = np.float64 if is_exact else np.float32
        return real(self.schedule.alpha_bar(t)), real(self.schedule.alpha_bar(s)), real(1)

    def step(
        self, x_t: Tensor, t: float, s: float, *, generator: RandomSource | None = None
    ) -> Tensor:
        """One denoising step: a draw of :math:`x_s` given :math:`x_t`; differentiable."""
        return self.kernel(x_t, t, s).sample(generator)

    def describe(self) -> dict[str, Any]:
        """The options of this chain, as plain data."""
        names = ("time_conditioning", "sigma_data") if self.alphas_cumprod is None else ()
        return {
            "sampler": type(self).__name__,
            "num_inference_steps": len(self.grid) - 1,
            "num_steps": self.schedule.num_steps,
            "schedule": self.schedule.name,
            "prediction_type": self.prediction_type,
            **{name: getattr(self.denoiser, name) for name in names},
            **{f.name: getattr(self, f.name) for f in fields(self) if f.kw_only},
        }


@dataclass(eq=False, repr=False, kw_only=True)
class AncestralSampler(DenoiserSampler):
    r"""The sampler of DDPM: every denoising step draws from a Gaussian posterior.

    Arguments:
        denoiser: The model.
        num_inference_steps: Number of denoising steps; all T when None.
        variance_type: Reverse variance, by diffusers' names (``"fixed_small_log"`` is
            ``"fixed_small"``); the learned ones need a network with twice the channels.
        spacing: How the grid is spaced.
        clip: Bound on the estimate of the data; None to leave it.

    Raises:
        InvalidInput: If the variance type is unknown, or learned with a network that learns none.

    Example:
        >>> from undrift.diffusion.schedule import CosineSchedule
        >>> denoiser = Denoiser(lambda x_t, t: torch.zeros_like(x_t), CosineSchedule(10), "sample")
        >>> sampler = AncestralSampler(denoiser, num_inference_steps=5)
        >>> x_T = sampler.prior((2, 1, 4, 4), generator=torch.Generator().manual_seed(0))
        >>> [t for t, x_t in sampler.trajectory(x_T)]
        [10, 8, 6, 4, 2, 0]
    """

    variance_type: VarianceType = "fixed_small"

    def __post_init__(self) -> None:
        """Check the options and lay out the grid."""
        super().__post_init__()
        check_choice("variance type", self.variance_type, get_args(VarianceType))

    def _kernel(
        self, x_t: Tensor, x0_hat: Tensor, prediction: Prediction, t: float, s: float
    ) -> GaussianKernel:
        abar_t, abar_s, one = self._alpha_bars(t, s, x_t.dtype)
        keep = abar_t / abar_s
        large = one - keep
        sigma_t_sq, sigma_s_sq = one - abar_t, one - abar_s
        on_x0_hat = float(np.sqrt(abar_s) * large / sigma_t_sq)
        on_x_t = float(np.sqrt(keep) * sigma_s_sq / sigma_t_sq)
        mean = torch.add(on_x0_hat * x0_hat, x_t, alpha=on_x_t)
        if t == 1:
            return GaussianKernel(mean, 0.0)
        small = sigma_s_sq / sigma_t_sq * large
        return GaussianKernel(mean, self._variance(prediction, float(small), float(large)))

    def _variance(self, prediction: Prediction, small: float, large: float) -> float | Tensor:
        if self.variance_type in ("fixed_small", "fixed_small_log"):
            return small
        if self.variance_type == "fixed_large":
            return large
        learned = prediction.variance_output
        if learned is None:
            raise InvalidInput(
                f"variance type {self.variance_type!r} needs a network with twice the channels"
            )
        if self.variance_type == "learned":
            return learned
        share = (learned + 1) / 2
        return torch.exp(share * math.log(large) + (1 - share) * math.log(max(small, 1e-20)))


@dataclass(eq=False, repr=False, kw_only=True)
class DDIMSampler(DenoiserSampler):
    r"""The sampler of DDIM: deterministic for :math:`\eta = 0`, ancestral for :math:`\eta = 1`.

    Arguments:
        denoiser: The model.
        num_inference_steps: Number of denoising steps; all T when None.
        eta: :math:`\eta`, the share of the small reverse standard deviation that is drawn.
        spacing: How the grid is spaced.
        clip: Bound on the estimate of the data; None to leave it.
        clipped_epsilon: Whether the noise estimate follows a clipped estimate of the data
            (``use_clipped_model_output`` of diffusers).

    Raises:
        InvalidInput: If eta lies outside of [0, 1].
    """

    eta: float = 0.0
    clipped_epsilon: bool = False

    def __post_init__(self) -> None:
        """Check the options and lay out the grid."""
        super().__post_init__()
        if not 0 <= self.eta <= 1:
            raise InvalidInput(f"eta is {self.eta}: choose a number from 0 to 1")

    def _kernel(
        self, x_t: Tensor, x0_hat: Tensor, prediction: Prediction, t: float, s: float
    ) -> GaussianKernel:
        abar_t, abar_s, one = self._alpha_bars(t, s, x_t.dtype)
        small = (one - abar_s) / (one - abar_t) * (one - abar_t / abar_s)
        variance = small * small.dtype.type(self.eta) ** 2
        epsilon_hat = prediction.epsilon_hat
        if self.clipped_epsilon:
            epsilon_hat = (x_t - float(np.sqrt(abar_t)) * x0_hat) / float(np.sqrt(one - abar_t))
        on_epsilon_hat = math.sqrt(max(one - abar_s - variance, 0.0))
        mean = torch.add(float(np.sqrt(abar_s)) * x0_hat, epsilon_hat, alpha=on_epsilon_hat)
        return GaussianKernel(mean, float(variance))
