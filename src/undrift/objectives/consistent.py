r"""Consistent diffusion models: the estimate of the data is a martingale along the reverse process.

For the ideal denoiser :math:`D(x, \tilde\sigma) = E[x_0 | x]` and the true reverse process,
:math:`E[D(x', \tilde\sigma') | x] = D(x, \tilde\sigma)`. From each state of the main term two
independent branches are rolled by the model's own reverse process over a short interval, without
gradient, and

.. math:: \lambda\, (D(x'_1) - D(x)) \cdot (D(x'_2) - D(x)) / d

estimates :math:`\lambda\|E D(x') - D(x)\|^2/d` without bias, because the branches are independent;
single values may be negative.

The published process has the noise level :math:`\tilde\sigma = \sigma_t/\alpha_t` and the state
:math:`x_t/\alpha_t`: :math:`\tilde\sigma' = \tilde\sigma - U(0, 0.05)`, five Euler–Maruyama steps
of :math:`d\tilde x = 2(\tilde x - D)/\tilde\sigma\, d\tilde\sigma + \sqrt{2\tilde\sigma}\,dw` on a
grid that is uniform in :math:`\tilde\sigma^{1/7}`. Here the same steps are taken in the scaling of
the chain, where nothing overflows as :math:`\alpha_t \to 0`; the network is called at fractional
steps (:mod:`undrift.objectives.continuous`); the interval ends at :math:`\tilde\sigma_1`, the
lowest level that the network knows (0.002 in the published code). The first of the five steps needs
no network call: its estimate is that of the main term.

The paper states λ = 10, the default; its released loss has 2 as default. There the main term weighs
:math:`\|\hat x_0 - x_0\|^2` by :math:`4 + 1/\tilde\sigma^2`. Other main terms weigh it otherwise,
so the term is multiplied by the ratio of the weights: at each step it has the published weight
relative to the main term.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from undrift.diffusion.denoiser import Denoiser, estimates
from undrift.diffusion.sampler import Sampler
from undrift.exceptions import Limits
from undrift.objectives.continuous import ContinuousSchedule
from undrift.objectives.objective import (
    TermObjective,
    data_error_weight,
    of_all,
    per_row,
    predict_between,
)
from undrift.objectives.published import STRENGTHS

RHO = 7.0


class ConsistentDiffusion(TermObjective):
    r"""The plain loss plus :math:`\lambda (D(x'_1) - D(x)) \cdot (D(x'_2) - D(x))/d`.

    Arguments:
        model: The sampler, or only the denoiser; its network has to take fractional steps.
        interval: Largest fall of the noise level :math:`\sigma_t/\alpha_t` along a branch.
        num_steps: Euler–Maruyama steps of a branch.
        options: ``strength`` (λ, 10 as in the paper by default), ``log_every`` and ``seed`` of
            :class:`~undrift.objectives.objective.TermObjective`.

    Raises:
        InvalidInput: If an option is invalid.

    References:
        | Consistent Diffusion Models: Mitigating Sampling Drift by Learning to be Consistent
          (Daras et al., 2023)
    """

    published_strength = STRENGTHS["consistent"]

    def __init__(
        self,
        model: Sampler | Denoiser,
        *,
        interval: float = 0.05,
        num_steps: int = 5,
        **options: Any,
    ) -> None:
        super().__init__(model, **options)
        Limits(0, ends="()").check("interval of a branch", interval)
        Limits(1).check("num_steps of a branch", num_steps)
        self.interval = interval
        self.num_steps = num_steps
        self.continuous = ContinuousSchedule(self.schedule)

    def term(self, denoiser: Denoiser, x_t: Tensor, t: Tensor, output: Tensor) -> Tensor:
        """The product of the two branches' differences, weighted, its mean over all dimensions."""
        alpha_t, sigma_t = self.schedule.alpha_sigma(t, x_t)
        start = estimates(output, x_t, alpha_t, sigma_t, denoiser.prediction_type).x0_hat
        grid = self.levels(t)
        with torch.no_grad():
            ends = self.branches(denoiser, x_t, start, grid)
        end = self._estimate(denoiser, ends, grid[-1].repeat(2))
        first, second = end.chunk(2)
        product = (first - start) * (second - start)
        return (self._weight(denoiser, t, x_t) * product).mean()

    def levels(self, t: Tensor) -> Tensor:
        r"""Noise levels of each row's branches, with shape (steps + 1, B), in float64."""
        abar = self.continuous.alpha_bar(t.double() / self.schedule.num_steps)
        high = ((1 - abar) / abar).sqrt()
        own = self.streams["own"]
        fall = self.interval * of_all(lambda n: torch.rand(n, generator=own), t).double()
        lowest = self.schedule.sigma(1) / self.schedule.alpha(1)
        low = torch.maximum(high - fall, torch.full_like(high, lowest)).minimum(high)
        share = torch.linspace(0, 1, self.num_steps + 1, dtype=torch.float64)[:, None]
        return torch.lerp(high ** (1 / RHO), low ** (1 / RHO), share) ** RHO

    def branches(self, denoiser: Denoiser, x: Tensor, start: Tensor, grid: Tensor) -> Tensor:
        r"""Two independent branches from each state, with shape :math:`(2B, *)`.

        Arguments:
            denoiser: The model.
            x: States, with shape :math:`(B, *)`.
            start: :math:`\hat x_0` there.
            grid: Noise levels, with shape :math:`(n, B)`.
        """
        x, x0_hat = torch.cat([x, x]), torch.cat([start, start])
        for step, (level, below) in enumerate(pairwise(grid.repeat(1, 2))):
            if step:
                x0_hat = self._estimate(denoiser, x, level)
            pull = 2 * (below - level) / level
            growth = ((1 + level**2) / (1 + below**2)).sqrt()
            spread = (2 * level * (level - below).clamp(min=0) / (1 + below**2)).sqrt()
            alpha = (1 + level**2).rsqrt()
            drift = per_row(pull, x) * (x - per_row(alpha, x) * x0_hat)
            noise = torch.cat([self.draw(branch) for branch in x.chunk(2)])
            x = per_row(growth, x) * (x + drift) + per_row(spread, x) * noise
        return x

    def _estimate(self, denoiser: Denoiser, x: Tensor, level: Tensor) -> Tensor:
        r""":math:`\hat x_0` at any noise level, one for each row."""
        step, alpha = self.continuous.step(level), (1 + level**2).rsqrt()
        return predict_between(denoiser, x, step, alpha, level * alpha).x0_hat

    def _weight(self, denoiser: Denoiser, t: Tensor, like: Tensor) -> Tensor | float:
        """Weight of the main term over that of the published one."""
        alpha_t, sigma_t = self.schedule.alpha_sigma(t, like)
        own = data_error_weight(denoiser.prediction_type, alpha_t, sigma_t)
        return own / (4 + (alpha_t / sigma_t) ** 2)
