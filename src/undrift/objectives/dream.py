r"""DREAM: the network is trained on noise that contains its own error.

With :math:`\Delta = \mathrm{sg}(\epsilon - \hat\epsilon_\theta(x_t, t))` and
:math:`\lambda_t = \sigma_t^p`, the published method changes input and target to

.. math:: x_t + \sigma_t\lambda_t\Delta, \qquad \epsilon + \lambda_t\Delta.

That is the forward draw of the same data with the noise :math:`\epsilon' = \epsilon +
\lambda_t\Delta`, and its plain target. So the method is the plain loss on rectified noise, which
defines it for networks that predict the data or v: :math:`y(x_0, \epsilon')`. With
:math:`\lambda_t = 1` the input is :math:`\alpha_t\hat x_0 + \sigma_t\epsilon`, the model's own
estimate noised as before; with :math:`\lambda_t = 0` the method is plain.

The first pass runs in the network's own mode. The code published with the paper switches dropout
off in it; that of diffusers, for noise networks only, does not.
"""

from __future__ import annotations

import torch
from torch import Tensor

from undrift.diffusion.denoiser import Denoiser
from undrift.objectives.objective import DenoisingObjective, Pair
from undrift.objectives.published import STRENGTHS


class Dream(DenoisingObjective):
    r"""DREAM: the plain loss on the noise :math:`\epsilon + \sigma_t^p(\epsilon - \hat\epsilon)`.

    The strength is p, 1 as published: a larger p changes less, as :math:`\sigma_t \le 1`. It costs
    one network call without gradient.

    References:
        | DREAM: Diffusion Rectification and Estimation-Adaptive Models (Zhou et al., 2024)
    """

    published_strength = STRENGTHS["dream"]

    def pair(self, denoiser: Denoiser, x_0: Tensor, t: Tensor, epsilon: Tensor) -> Pair:
        """The draw with rectified noise and its target."""
        plain = self.noisy(x_0, t, epsilon)
        with torch.no_grad(), self.aside(x_0):
            delta = epsilon - denoiser.predict(plain, t).epsilon_hat.to(epsilon.dtype)
        _, sigma_t = self.schedule.alpha_sigma(t, x_0)
        rectified = epsilon + sigma_t**self.strength * delta
        x_t = self.noisy(x_0, t, rectified)
        self.log_change(x_t, plain)
        return x_t, denoiser.target(x_0, rectified, t)
