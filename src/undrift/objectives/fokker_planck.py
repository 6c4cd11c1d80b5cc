r"""FP-Diffusion: the score satisfies the equation of the scores of the forward marginals.

With :math:`s = \nabla\log q_\tau` and :math:`d x = -\frac12 g^2 x\,d\tau + g\,dw` on [0, 1],

.. math:: \partial_\tau s = \tfrac12 g^2 \nabla u, \qquad
          u = \nabla\cdot s + \|s\|^2 + x\cdot s .

The published term is :math:`\lambda\, g^2 \|\partial_\tau s - \frac12 g^2\nabla u\|^2 / d^2` with
λ = 0.15, at the states of the main term. The divergence is estimated with one probe z,
:math:`z\cdot\nabla(z\cdot s)`; the time derivative by finite differences of unequal steps
:math:`h_s = 10^{-3}` (back) and :math:`h_d = 5\cdot 10^{-4}` (ahead), of second order.

**Weight.** The published main term is a sum over dimensions, :math:`\frac12 g^2 \|s_\theta +
\epsilon/\sigma\|^2`; the plain loss is a mean, without that weight. The same λ would be
:math:`g^2 d/(2\sigma^2)` times as strong (some 10,000 times in the middle of CIFAR-10's process).
So the term is multiplied by the ratio of the weights: at each step it has the weight relative to
the main term that it has in the released configuration. (That has a second term, 0.01 times the
norm of the scalar :math:`\frac12 g^2 u`, which does not vanish for the true score; it is left out.
The released training function ignores both weights and therefore trains with the plain loss.)

**Where the term is left out.** Below :math:`\tau = 10 h_s` the finite differences of a score like
:math:`\tau^{-1/2}` are off by more than half a percent (at :math:`\tau < h_s` the released code
takes the root of a negative number). Where :math:`g^2` exceeds 20, the largest of the published
process, as it does in the last tenth of a cosine schedule, its high powers would make a few steps
dominate.

The released code draws Gaussian probes; here they are signs, which have less variance.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from undrift.diffusion.denoiser import Denoiser
from undrift.diffusion.sampler import Sampler
from undrift.exceptions import InvalidInput
from undrift.objectives.continuous import ContinuousSchedule
from undrift.objectives.objective import (
    TermObjective,
    data_error_weight,
    of_all,
    per_row,
    predict_between,
)
from undrift.objectives.published import STRENGTHS

LARGEST_BETA = 20.0
FIRST_TIME = 10  # in units of the step back


class ScoreFokkerPlanck(TermObjective):
    r"""The plain loss plus a penalty on the residual of the score Fokker–Planck equation.

    It costs two more passes and two gradients by the state that are themselves differentiated. Use
    it in full precision: differences of outputs in half precision are rounding noise.

    Arguments:
        model: The sampler, or only the denoiser; its network has to take fractional steps.
        back: :math:`h_s`, in units of the whole process.
        ahead: :math:`h_d`.
        options: ``strength`` (λ, 0.15 as in the paper by default), ``log_every`` and ``seed`` of
            :class:`~undrift.objectives.objective.TermObjective`.

    Raises:
        InvalidInput: If an option is invalid.

    References:
        | FP-Diffusion: Improving Score-based Diffusion Models by Enforcing the Underlying Score
          Fokker-Planck Equation (Lai et al., 2023)
    """

    published_strength = STRENGTHS["fokker_planck"]

    def __init__(
        self, model: Sampler | Denoiser, *, back: float = 1e-3, ahead: float = 5e-4, **options: Any
    ) -> None:
        super().__init__(model, **options)
        if not (0 < back < 1 / FIRST_TIME and 0 < ahead < 1):
            raise InvalidInput(f"steps {back} and {ahead} of the differences: choose near 1e-3")
        self.back, self.ahead = back, ahead
        self.continuous = ContinuousSchedule(self.schedule)

    def term(self, denoiser: Denoiser, x_t: Tensor, t: Tensor, output: Tensor) -> Tensor:
        r"""The weighted square of the residual, per dimension, its mean over the batch."""
        tau = t.cpu().double() / self.schedule.num_steps
        weight = self._weight(denoiser, tau, x_t[0].numel())
        inside = (tau >= FIRST_TIME * self.back) & (self.continuous.beta(tau) <= LARGEST_BETA)
        rows, signs = inside.nonzero().flatten(), self._signs(x_t)
        if not len(rows):
            return 0.0 * x_t.sum()
        x, signs = x_t[rows.to(x_t.device)], signs[rows]
        residual = self.residual(denoiser, x, tau[rows], signs)
        squares = residual.flatten(1).square().sum(1)
        return (weight[rows].to(squares) * squares).sum() / len(x_t)

    def _signs(self, like: Tensor) -> Tensor:
        """Random signs, as 0 and 1, in the shape of a batch."""
        own, dims = self.streams["own"], like.shape[1:]
        return of_all(lambda n: torch.randint(2, (n, *dims), generator=own), like)

    def residual(
        self, denoiser: Denoiser, x: Tensor, tau: Tensor, signs: Tensor | None = None
    ) -> Tensor:
        r""":math:`\partial_\tau s - \frac12 g^2\nabla u`, with the shape of the states and graph.

        Arguments:
            denoiser: The model.
            x: States, with shape :math:`(B, *)`.
            tau: Their times in (0, 1), with shape :math:`(B,)`.
            signs: Random signs of the sketch, as 0 and 1; drawn when None.
        """
        signs = self._signs(x) if signs is None else signs
        tau = tau.double()  # the differences are too small for less
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):  # the others have one derivative
            x = x.detach().requires_grad_()
            s = self.score(denoiser, x, tau)
            probe = (2 * signs - 1).to(x)
            (sketch,) = torch.autograd.grad((s * probe).sum(), x, create_graph=True)
            u = (sketch * probe + s * s + x * s).sum()
            (gradient,) = torch.autograd.grad(u, x, create_graph=True)
            x = x.detach()
            before = self.score(denoiser, x, tau - self.back)
            after = self.score(denoiser, x, tau + self.ahead)
        h_s, h_d = self.back, self.ahead
        change = h_s**2 * (after - s) + h_d**2 * (s - before)
        return (
            change / (h_s * h_d * (h_s + h_d))
            - per_row(self.continuous.beta(tau) / 2, x) * gradient
        )

    def score(self, denoiser: Denoiser, x: Tensor, tau: Tensor) -> Tensor:
        r"""The model's score :math:`-\hat\epsilon/\sigma(\tau)` at any time."""
        abar = self.continuous.alpha_bar(tau)
        step, sigma = self.schedule.num_steps * tau, (1 - abar).sqrt()
        prediction = predict_between(denoiser, x, step, abar.sqrt(), sigma)
        return -prediction.epsilon_hat / per_row(sigma, x)

    def _weight(self, denoiser: Denoiser, tau: Tensor, dim: int) -> Tensor:
        r""":math:`g^2/d^2` times the weight of the main term over that of the published one."""
        abar = self.continuous.alpha_bar(tau)
        alpha, sigma = abar.sqrt(), (1 - abar).sqrt()
        own = data_error_weight(denoiser.prediction_type, alpha, sigma) / dim
        return own / (abar / sigma**4 / 2) / dim**2
