r"""Noise schedules: how much signal and noise the forward process leaves at each step.

The forward process is variance preserving,

.. math:: x_t = \alpha_t x_0 + \sigma_t \epsilon, \qquad
          \alpha_t = \sqrt{\bar\alpha_t}, \quad \sigma_t = \sqrt{1 - \bar\alpha_t}, \quad
          \bar\alpha_t = \prod_{s \le t} (1 - \beta_s),

for steps :math:`t = 0, 1, \dots, T`. Step 0 is data: :math:`\bar\alpha_0 = 1`. Hugging Face
diffusers counts its timesteps from 0 to T − 1: its timestep is our :math:`t - 1`.
"""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from undrift.exceptions import InvalidInput, check_choice

Time = float | Tensor
Spacing = Literal["leading", "trailing", "linspace"]
DIFFUSERS_NAMES = ("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid")


class Schedule:
    r"""The table of :math:`\bar\alpha_t` for :math:`t = 0, \dots, T`, in float64.

    Arguments:
        alphas_cumprod: :math:`\bar\alpha_0 = 1, \dots, \bar\alpha_T`, falling and positive, with
            shape :math:`(T + 1,)`. Only the last may be 0 (zero terminal signal, which a network
            that predicts the noise cannot serve). The precision that it comes in is kept as
            ``dtype``.
        name: What the schedule is called in configurations and reports.
        options: Arguments with which a scheduler of diffusers builds the same table.

    Raises:
        InvalidInput: If the table does not start at 1 or does not fall.

    Example:
        >>> schedule = CosineSchedule(100)
        >>> schedule.num_steps, round(schedule.alpha(0), 3), round(schedule.sigma(100), 3)
        (100, 1.0, 1.0)
    """

    def __init__(
        self, alphas_cumprod: Tensor, name: str = "custom", options: dict[str, Any] | None = None
    ) -> None:
        given = torch.as_tensor(alphas_cumprod)
        table = given.double().cpu()
        falls = table.ndim == 1 and len(table) > 1 and bool((table.diff() < 0).all())
        if not falls or table[0] != 1 or table[-1] < 0:
            raise InvalidInput("a schedule needs alphas_cumprod that fall from 1 and stay positive")
        self.alphas_cumprod = table
        self.dtype = given.dtype
        self.betas = 1 - table[1:] / table[:-1]
        self.name = name
        self.options = options or {"trained_betas": self.betas.tolist()}
        self._abar = table.tolist()

    @classmethod
    def from_betas(
        cls, betas: Tensor, name: str = "custom", options: dict[str, Any] | None = None
    ) -> Schedule:
        r"""The schedule with noise variances :math:`\beta_1, \dots, \beta_T`.

        Raises:
            InvalidInput: If a :math:`\beta_t` lies outside of :math:`(0, 1)`.
        """
        return Schedule(_table(betas), name, options)

    @property
    def num_steps(self) -> int:
        """Number of steps :math:`T`."""
        return len(self.betas)

    def step(self, t: float) -> int:
        """A time as a step of the table.

        Raises:
            InvalidInput: If it lies between two steps, or outside of the table.
        """
        if not (0 <= t <= self.num_steps and t == int(t)):
            raise InvalidInput(
                f"time {t:g} is not a step of the noise schedule: choose a whole number from 0 to "
                f"{self.num_steps}"
            )
        return int(t)

    def alpha_bar(self, t: float) -> float:
        r""":math:`\bar\alpha_t`, the share of the variance that is signal.

        Raises:
            InvalidInput: If t is not a step of the table.
        """
        return float(self._abar[self.step(t)])

    def alpha(self, t: float) -> float:
        r""":math:`\alpha_t`, the factor on the data."""
        return math.sqrt(self.alpha_bar(t))

    def sigma(self, t: float) -> float:
        r""":math:`\sigma_t`, the standard deviation of the noise."""
        return math.sqrt(1 - self.alpha_bar(t))

    def alpha_sigma(self, t: Time, like: Tensor) -> tuple[float | Tensor, float | Tensor]:
        r""":math:`(\alpha_t, \sigma_t)` ready to multiply a batch.

        Arguments:
            t: One step, or one for each row of the batch, with shape :math:`(B,)`.
            like: The batch, with shape :math:`(B, *)`: its device, dtype and rank are used.

        Returns:
            Two floats for one step, else two tensors with shape :math:`(B, 1, \dots, 1)`.
        """
        if not isinstance(t, Tensor):
            return self.alpha(t), self.sigma(t)
        abar = self.alphas_cumprod[t.cpu()].view(-1, *[1] * (like.ndim - 1))
        return abar.sqrt().to(like), (1 - abar).sqrt().to(like)

    def time_grid(
        self, num_inference_steps: int | None = None, spacing: Spacing = "trailing"
    ) -> tuple[int, ...]:
        """Descending times from the first state to 0, as diffusers spaces its timesteps.

        Arguments:
            num_inference_steps: Number of denoising steps; all T when None.
            spacing: ``"trailing"`` starts at T, where the prior is right; ``"leading"`` is the
                default of most schedulers of diffusers and starts below T; ``"linspace"`` rounds
                an even grid from T to 1.

        Raises:
            InvalidInput: If the number of steps or the spacing is none of these.

        Example:
            >>> CosineSchedule(100).time_grid(4)
            (100, 75, 50, 25, 0)
        """
        check_choice("spacing", spacing, get_args(Spacing))
        num_steps = self.num_steps
        n = num_steps if num_inference_steps is None else num_inference_steps
        if not 1 <= n <= num_steps:
            raise InvalidInput(f"{n} inference steps asked for: choose 1 to {num_steps}")
        if spacing == "leading":
            times = 1.0 + np.arange(n)[::-1] * (num_steps // n)
        elif spacing == "trailing":
            times = np.arange(num_steps, 0, -num_steps / n)[:n]
        else:
            times = 1.0 + np.linspace(0, num_steps - 1, n)[::-1].round()
        return (*(int(t) for t in times.round()), 0)

    @classmethod
    def from_diffusers(cls, scheduler: Any) -> Schedule:  # noqa: ANN401
        """The schedule that a scheduler of diffusers was built with, from its own table.

        Raises:
            InvalidInput: If the scheduler has no such table (EDM, flow matching).
        """
        alphas_cumprod = getattr(scheduler, "alphas_cumprod", None)
        if alphas_cumprod is None:
            kind = type(scheduler).__name__
            raise InvalidInput(f"{kind} has no betas: give a DDPM-like scheduler of diffusers")
        config, name = scheduler.config, "custom"
        options = {"trained_betas": scheduler.betas.tolist()}
        is_named = config.get("trained_betas") is None and not config.get("rescale_betas_zero_snr")
        if is_named and config.get("beta_schedule") in DIFFUSERS_NAMES:
            name = config["beta_schedule"]
            options = _options(name, config["beta_start"], config["beta_end"])
        return Schedule(torch.cat([alphas_cumprod.new_ones(1), alphas_cumprod]), name, options)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(num_steps={self.num_steps})"


class LinearSchedule(Schedule):
    r"""Betas on a line (Denoising Diffusion Probabilistic Models, Ho et al., 2020).

    The ends default to 1e-4 and 0.02 at T = 1000 and are multiplied by 1000/T elsewhere, so that
    :math:`\bar\alpha_T` is as small for every T.
    """

    _kind = "linear"

    def __init__(
        self,
        num_steps: int = 1000,
        beta_start: float | None = None,
        beta_end: float | None = None,
    ) -> None:
        scale = 1000 / num_steps
        start = 1e-4 * scale if beta_start is None else beta_start
        end = min(0.02 * scale, 0.999) if beta_end is None else beta_end
        betas = self._betas(num_steps, start, end)
        super().__init__(_table(betas), self._kind, _options(self._kind, start, end))

    @staticmethod
    def _betas(num_steps: int, start: float, end: float) -> Tensor:
        return torch.linspace(start, end, num_steps, dtype=torch.float64)


class CosineSchedule(Schedule):
    r""":math:`\bar\alpha_t \propto \cos^2\frac{t/T + 0.008}{1.008}\frac\pi2`, betas capped.

    References:
        | Improved Denoising Diffusion Probabilistic Models (Nichol & Dhariwal, 2021)
    """

    def __init__(self, num_steps: int = 1000, max_beta: float = 0.999) -> None:
        u = torch.arange(num_steps + 1, dtype=torch.float64) / num_steps
        abar = torch.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2
        betas = (1 - abar[1:] / abar[:-1]).clamp(max=max_beta)
        named = {"beta_schedule": "squaredcos_cap_v2"} if max_beta == 0.999 else None
        super().__init__(_table(betas), "cosine", named)


class SigmoidSchedule(LinearSchedule):
    """Betas on a sigmoid from −6 to 6, with the ends of :class:`LinearSchedule`."""

    _kind = "sigmoid"

    @staticmethod
    def _betas(num_steps: int, start: float, end: float) -> Tensor:
        u = torch.linspace(-6, 6, num_steps, dtype=torch.float64)
        return torch.sigmoid(u) * (end - start) + start


SCHEDULES = {"linear": LinearSchedule, "cosine": CosineSchedule, "sigmoid": SigmoidSchedule}


def _table(betas: Tensor) -> Tensor:
    betas = torch.as_tensor(betas, dtype=torch.float64).cpu()
    if betas.ndim != 1 or len(betas) == 0 or not bool(((betas > 0) & (betas < 1)).all()):
        raise InvalidInput("a schedule needs a vector of betas, each between 0 and 1")
    return torch.cat([torch.ones(1, dtype=torch.float64), torch.cumprod(1 - betas, 0)])


def _options(name: str, start: float, end: float) -> dict[str, Any]:
    return {"beta_schedule": name, "beta_start": start, "beta_end": end}
