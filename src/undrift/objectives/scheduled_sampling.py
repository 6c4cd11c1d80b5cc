r"""Scheduled sampling: the network is trained at states made by its own denoising steps.

A row at step t is noised to t + k, k drawn uniformly from 0 to L, brought back to t by k steps of
the chain without gradient, and denoised from there. The target is derived anew from the data: with
:math:`\tilde\epsilon = (\tilde x_t - \alpha_t x_0)/\sigma_t` the pair :math:`(x_0,
\tilde\epsilon)` has the state :math:`\tilde x_t`, and the plain target of that pair is
:math:`\tilde\epsilon`, :math:`x_0` or :math:`(\alpha_t\tilde x_t - x_0)/\sigma_t`.

The method is not consistent: a rolled-out state contains less information about its datum than a
forward draw, so its best output is not that of the ideal denoiser. For data N(0, s²) and ideal
steps with the true reverse variance,

.. math:: E[x_0 | \tilde x_t] = \rho^2\, E[x_0 | x_t{=}\tilde x_t], \qquad
          \rho = \mathrm{corr}(x_t, x_{t+k}):

the estimate of the data is shrunk, the less, the less k steps change.
"""

from __future__ import annotations

import torch
from torch import Tensor

from undrift.diffusion.denoiser import Denoiser
from undrift.diffusion.gaussian import DDIMSampler, DenoiserSampler
from undrift.diffusion.sampler import Sampler
from undrift.exceptions import InvalidInput, Limits
from undrift.objectives.objective import DenoisingObjective, Pair, of_all, per_row
from undrift.objectives.published import LENGTH


class ScheduledSampling(DenoisingObjective):
    r"""Scheduled sampling: up to L denoising steps of the chain, then the plain loss from there.

    They are one step of the sampler's grid long (one step of the schedule where all are used),
    with its clipping and reverse variance. Each row has a separate length, cut where the schedule
    begins; a network call takes only the rows that are not done, so that the cost is L/2 calls
    without gradient.

    Arguments:
        sampler: An ancestral or a DDIM sampler.
        length: L, the largest number of denoising steps; 0 is plain.
        seed: Seed of both random streams.

    Raises:
        InvalidInput: If the length is negative, or this sampler cannot be rolled out.

    References:
        | Scheduled Sampling for Sequence Prediction with Recurrent Neural Networks
          (Bengio et al., 2015)
        | Markup-to-Image Diffusion Models with Scheduled Sampling (Deng et al., 2023)
    """

    def __init__(self, sampler: Sampler, *, length: int = LENGTH, seed: int = 0) -> None:
        super().__init__(sampler, seed=seed)
        Limits(0).check("length of the rollout", length)
        if not isinstance(sampler, DenoiserSampler):
            raise InvalidInput(
                f"scheduled sampling cannot roll out a {type(sampler).__name__}: use a "
                "DDPMScheduler or a DDIMScheduler"
            )
        variance = getattr(sampler, "variance_type", "fixed_small")
        if not variance.startswith("fixed"):
            raise InvalidInput(f"a rollout needs a fixed reverse variance, not {variance!r}")
        self.sampler = sampler
        self.length = length
        self.stride = max(1, round(self.schedule.num_steps / (len(sampler.grid) - 1)))
        self.is_large = variance == "fixed_large"
        self.eta = sampler.eta if isinstance(sampler, DDIMSampler) else 1.0

    def pair(self, denoiser: Denoiser, x_0: Tensor, t: Tensor, epsilon: Tensor) -> Pair:
        """The rolled-out state and the target that is derived from the data."""
        t = t.cpu()
        own, lengths = self.streams["own"], self.length + 1
        k = of_all(lambda n: torch.randint(lengths, (n,), generator=own), t)
        k = torch.minimum(k, (self.schedule.num_steps - t) // self.stride)
        x = self.noisy(x_0, t + k * self.stride, epsilon)
        with torch.no_grad(), self.aside(x_0):
            for left in range(self.length, 0, -1):
                moving, s = k >= left, t + (left - 1) * self.stride
                rows, s = moving.nonzero().flatten().to(x.device), s[moving]
                noise = self.draw(x)[rows] if self.eta > 0 else x.new_zeros(())
                if len(rows):
                    moved = self._denoised(denoiser, x[rows], s + self.stride, s, noise)
                    x = x.index_copy(0, rows, moved)
        alpha_t, sigma_t = self.schedule.alpha_sigma(t, x_0)
        rolled = per_row(k, x_0) > 0
        self.log_change(x, self.noisy(x_0, t, epsilon))
        explained = torch.where(rolled, (x - alpha_t * x_0) / sigma_t, epsilon)
        return x, denoiser.target(x_0, explained, t)

    def _denoised(
        self, denoiser: Denoiser, x_t: Tensor, t: Tensor, s: Tensor, noise: Tensor
    ) -> Tensor:
        r"""One denoising step of rows at different times.

        It is that of DDIM with :math:`\eta = 1` for the ancestral sampler, whose mean is the same
        if :math:`\hat\epsilon` follows the clipped :math:`\hat x_0`.
        """
        prediction = denoiser.predict(x_t, t)
        x0_hat, epsilon_hat = prediction.x0_hat, prediction.epsilon_hat
        alpha_t, sigma_t = self.schedule.alpha_sigma(t, x_t)
        alpha_s, _ = self.schedule.alpha_sigma(s, x_t)
        if self.sampler.clip is not None:
            x0_hat = x0_hat.clamp(-self.sampler.clip, self.sampler.clip)
            if not isinstance(self.sampler, DDIMSampler) or self.sampler.clipped_epsilon:
                epsilon_hat = (x_t - alpha_t * x0_hat) / sigma_t
        abar = self.schedule.alphas_cumprod
        abar_t, abar_s = abar[t], abar[s]
        large = 1 - abar_t / abar_s
        small = large * (1 - abar_s) / (1 - abar_t)
        on_epsilon = (1 - abar_s - self.eta**2 * small).clamp(min=0).sqrt()
        spread = large.sqrt() if self.is_large else self.eta * small.sqrt()
        return (
            alpha_s * x0_hat + per_row(on_epsilon, x_t) * epsilon_hat + per_row(spread, x_t) * noise
        )
