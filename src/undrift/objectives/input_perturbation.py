r"""Input perturbation: the input of the network is noisier than its target.

The input is :math:`y_t = \alpha_t x_0 + \sigma_t(\epsilon + \gamma\xi)`, :math:`\xi` independent
and standard normal; the target is that of the clean pair :math:`(x_0, \epsilon)`. As
:math:`\epsilon + \gamma\xi = \sqrt{1+\gamma^2}\,\epsilon'`, the input is a forward draw of another
schedule, :math:`\sigma'_t = \sqrt{1+\gamma^2}\,\sigma_t`, and
:math:`E[\epsilon | y_t] = E[\epsilon' | y_t]/\sqrt{1+\gamma^2}`: the method trains on a rescaled
schedule, with a target that is shrunk in its noise part.

For a network that predicts the noise the clean target is :math:`\epsilon`, as published. Networks
of the two other kinds have *their* clean target, :math:`x_0` or
:math:`v = \alpha_t\epsilon - \sigma_t x_0`: the target is unchanged. The
alternative, the output that stands for :math:`\hat\epsilon = \epsilon` at the perturbed input, is
:math:`x_0 + \gamma\sigma_t\xi/\alpha_t` or :math:`v - \gamma\sigma_t^2\xi/\alpha_t`: it has the
same optimum in the noise network's terms, but a target without bound where the signal ends.

The difference matters: with the clean v as target the implied noise is

.. math:: \hat\epsilon = \sigma_t y_t + \alpha_t E[v|y_t]
          = (1 + \sigma_t^2\gamma^2)\,E[\epsilon|y_t],

and for Gaussian data of variance 1, where :math:`E[v|y_t] = 0` for every γ, the method changes
nothing. What was published is the method on a network that predicts the noise.
"""

from __future__ import annotations

from torch import Tensor

from undrift.diffusion.denoiser import Denoiser
from undrift.objectives.objective import DenoisingObjective, Pair
from undrift.objectives.published import STRENGTHS


class InputPerturbation(DenoisingObjective):
    r"""Input perturbation: input :math:`\alpha_t x_0 + \sigma_t(\epsilon + \gamma\xi)`.

    The strength is γ, 0.1 as published (0.15 on CIFAR-10).

    References:
        | Input Perturbation Reduces Exposure Bias in Diffusion Models (Ning et al., 2023)
    """

    published_strength = STRENGTHS["input_perturbation"]

    def pair(self, denoiser: Denoiser, x_0: Tensor, t: Tensor, epsilon: Tensor) -> Pair:
        """The perturbed draw and the target of the clean pair."""
        x_t = self.noisy(x_0, t, epsilon + self.strength * self.draw(x_0))
        self.log_change(x_t, self.noisy(x_0, t, epsilon))
        return x_t, denoiser.target(x_0, epsilon, t)
