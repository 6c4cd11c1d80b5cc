r"""MixFlow: the input of the network has the noise of a later time than its label.

A few-step sampler lags behind: its state at time t has the noise of a noisier time. So the network
is trained on such states. With data times :math:`r = 1 - t/T` (1 is data),

.. math:: r \sim \mathrm{Beta}(2, 1), \qquad
          r' \sim U[(1 - \gamma) r, r], \qquad t' = T (1 - r'),

the input is the forward draw :math:`x_{t'}` of the noisier time, the label is t, and the target
is that of the time of the input, :math:`F(x_0, \epsilon, t')`.

The method was published for flow matching, where the target :math:`\epsilon - x_0` does not depend
on the time. Here it is the same derivative: on the circle
:math:`x_\phi = x_0 \cos\phi + \epsilon \sin\phi` of a variance-preserving process the velocity
:math:`dx/d\phi` at :math:`\phi_{t'}` is :math:`v_{t'} = \alpha_{t'}\epsilon - \sigma_{t'} x_0`.
Networks that predict the noise or the data keep their target, which has no time either.

With :math:`\gamma = 0` only the emphasis on late times is left. What :math:`\gamma` should be can
be measured: it is by how much the sampler's states lag.

References:
    | MixFlow Training: Alleviating Exposure Bias with Slowed Interpolation Mixture (2026)
"""

from __future__ import annotations

import torch
from torch import Tensor

from undrift.diffusion.denoiser import Denoiser
from undrift.objectives.objective import DenoisingObjective, Pair, of_all
from undrift.objectives.published import STRENGTHS


class MixFlow(DenoisingObjective):
    r"""MixFlow: input :math:`x_{t'}` of a noisier time :math:`t' \ge t` under the label t.

    The strength is γ, the largest lag as a share of the data time; 0.8 as published for SiT (0.4
    for a model in a representation's space).

    References:
        | MixFlow Training: Alleviating Exposure Bias with Slowed Interpolation Mixture (2026)
    """

    published_strength = STRENGTHS["mixflow"]

    def emphasized(self, t: Tensor) -> Tensor:
        r"""Steps whose data time has the distribution Beta(2, 1), from uniform ones."""
        num_steps = self.schedule.num_steps
        uniform = (t - 1 + self._uniform(t)) / num_steps
        return (num_steps - (num_steps * uniform.sqrt()).long()).clamp(1, num_steps)

    def pair(self, denoiser: Denoiser, x_0: Tensor, t: Tensor, epsilon: Tensor) -> Pair:
        """The draw of a noisier time and the target that belongs to it."""
        num_steps = self.schedule.num_steps
        lag = self.strength * self._uniform(t) * (num_steps - t)
        shown = (t + lag).round().long().clamp(max=num_steps)
        x_t = self.noisy(x_0, shown, epsilon)
        self.log_change(x_t, self.noisy(x_0, t, epsilon))
        return x_t, denoiser.target(x_0, epsilon, shown)

    def _uniform(self, like: Tensor) -> Tensor:
        own = self.streams["own"]
        numbers = of_all(lambda n: torch.rand(n, generator=own, dtype=torch.float64), like)
        return numbers.to(like.device)
