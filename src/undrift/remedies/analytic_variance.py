r"""Analytic reverse variance: the best one variance a module, without training.

A module :math:`m = a x_t + b \hat x_0` that draws :math:`\lambda^2` of noise knows :math:`x_0` only
up to its posterior spread. With the ideal denoiser the best single variance of a module is

.. math:: v_t^* = \lambda_t^2 + b_t^2\, c_t, \qquad
          c_t = \frac1d E\, \mathrm{tr}\, \mathrm{Cov}(x_0 | x_t)
              = \frac{\sigma_t^2}{\alpha_t^2} (1 - \Gamma_t), \qquad
          \Gamma_t = \frac1d E\|\hat\epsilon(x_t)\|^2
                   = \frac{\sigma_t^2}{d} E\|\nabla \log q_t(x_t)\|^2,

.. math:: b_t = \alpha_s - \frac{\alpha_t}{\sigma_t} \sqrt{\sigma_s^2 - \lambda_t^2},

where :math:`\lambda_t^2` is the small variance for the ancestral sampler and :math:`\eta^2` times
it for DDIM. :math:`\Gamma_t` is estimated once, from forward draws of the data.

**Which mean.** :math:`v^*` minimizes :math:`KL(q \| K_t)`, the divergence that bounds the
likelihood: over states and dimensions it is the arithmetic mean of the true reverse variances. Our
modular error is :math:`KL(K_t \| q)`, the other way round; with :math:`r = v/v^*(x)` its variance
term :math:`E[r - 1 - \log r]` is least at their *harmonic* mean, which is smaller. The two agree
where the true variance is the same everywhere.

As in the released code, :math:`c_t` is bounded by the range of the data (0 to the square of the
chain's clip), the module that leads to data adds no noise, and the noise of the one before it is
bounded so that it changes no pixel by more than ``tolerance`` of 256 levels on average,
:math:`\sqrt{v} \le \text{tolerance} \cdot \tfrac{2}{255} \sqrt{\pi/2}`.

References:
    | Analytic-DPM: an Analytic Estimate of the Optimal Reverse Variance in Diffusion Probabilistic
      Models (Bao et al., 2022)
"""

from __future__ import annotations

import copy
import math
from itertools import pairwise
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from undrift.diffusion.gaussian import AncestralSampler, DDIMSampler
from undrift.diffusion.network import evaluating
from undrift.diffusion.sampler import GaussianKernel, Sampler, State
from undrift.exceptions import InvalidInput
from undrift.remedies.sampler import RemediedSampler, innermost

Estimator = Literal["score", "error"]


class AnalyticVarianceSampler(RemediedSampler):
    r"""The ancestral or the DDIM sampler with the analytic reverse variance.

    It has to be fitted once. A deterministic DDIM sampler becomes a stochastic one.

    Arguments:
        base: An :class:`AncestralSampler` or :class:`DDIMSampler`, with or without another remedy
            on its network.
        factor: Factor on the analytic variance; 1 is the paper's.
        tolerance: Bound on the noise of the last module that has any, in levels of a pixel; 2 in
            the paper for the ancestral sampler, 1 for DDIM on CIFAR-10; None for no bound.
        estimator: ``"score"`` takes :math:`c_t` from the mean squared norm of the score, as
            published; ``"error"`` (ours) from the denoiser's own squared error
            :math:`E\|x_0 - \hat x_0\|^2/d`: the same for the ideal denoiser, with much less noise
            at large t, and larger for a worse one. It also serves where a schedule ends without
            signal, of which the score says nothing.

    Raises:
        InvalidInput: If the base has no Gaussian modules whose variance could be chosen.

    Example:
        >>> from undrift import CosineSchedule, Denoiser
        >>> schedule = CosineSchedule(20)
        >>> def ideal(x_t, timestep):  # of data N(0, 1): the best estimate of the noise
        ...     return schedule.sigma(int(timestep[0]) + 1) * x_t
        >>> base = AncestralSampler(Denoiser(ideal, schedule), clip=None)
        >>> data = torch.randn(4000, 8, generator=torch.Generator().manual_seed(0))
        >>> sampler = AnalyticVarianceSampler(base, tolerance=None)
        >>> sampler = sampler.fit(data, generator=torch.Generator().manual_seed(1))
        >>> beta_10 = float(schedule.betas[9])  # the true reverse variance of these data
        >>> round(sampler.variance(10, 9) / beta_10, 1)
        1.0
    """

    name = "analytic_variance"

    def __init__(
        self,
        base: Sampler,
        *,
        factor: float = 1.0,
        tolerance: float | None = 2.0,
        estimator: Estimator = "score",
    ) -> None:
        super().__init__(base)
        inner = innermost(base)
        if not isinstance(inner, AncestralSampler | DDIMSampler):
            kind = type(getattr(inner, "scheduler", inner)).__name__
            raise InvalidInput(
                f"the analytic variance needs Gaussian modules, which {kind} has not: use the "
                "sampler ancestral or ddim"
            )
        if estimator not in get_args(Estimator):
            known = " or ".join(get_args(Estimator))
            raise InvalidInput(f"unknown estimator {estimator!r}: choose {known}")
        if tolerance is not None and not tolerance >= 0:
            raise InvalidInput(f"the tolerance of the analytic variance is {tolerance}: 0 or more")
        if not factor > 0:
            raise InvalidInput(f"the factor on the analytic variance is {factor:g}: above 0")
        if "snr_t" in _layers(base):
            raise InvalidInput(
                "the analytic variance is that of a module before the SNR-t correction: put it "
                "around the sampler first, and the correction around both"
            )
        self.clip = inner.clip
        self.eta = inner.eta if isinstance(inner, DDIMSampler) else 1.0
        self.factor, self.tolerance, self.estimator = factor, tolerance, estimator
        self.spread: dict[float, float] = {}
        self.num_data = 0

    @torch.no_grad()
    def fit(
        self,
        data: Tensor,
        *,
        num_data: int = 1000,
        batch_size: int = 250,
        generator: torch.Generator | None = None,
    ) -> AnalyticVarianceSampler:
        r"""Estimate :math:`c_t` at every time of the chain, from forward draws.

        One call of the network, in evaluation mode, for each of ``num_data`` images and time; a
        tenth of what sampling 10 times as many images costs. The relative error of
        :math:`\Gamma_t` is about :math:`\sqrt{2 / (N d)}`.

        Arguments:
            data: Data, with shape :math:`(n, *)`.
            num_data: Number of draws at each time; a datum is used again where there are fewer.
            batch_size: Draws that go through the network at once.
            generator: Source of the draws.

        Returns:
            The sampler itself.

        Raises:
            InvalidInput: If there are no data.
        """
        if not len(data) or num_data < 1:
            raise InvalidInput("the analytic variance is estimated from data: give at least one")
        rows = torch.arange(num_data) % len(data)
        images = data if num_data < len(data) else data[rows]
        if num_data < len(data):
            images = data[torch.randperm(len(data), generator=generator)[:num_data]]
        with evaluating(self.network):
            for t in self.grid[:-1]:
                terms = [self._terms(batch, t, generator) for batch in images.split(batch_size)]
                self.spread[t] = self._spread(float(torch.cat(terms).mean()), t)
        self.num_data = num_data
        return self

    def with_factor(self, factor: float) -> AnalyticVarianceSampler:
        """The same estimate with another factor on the variance."""
        other = copy.copy(self)
        other.factor = factor
        return other

    def _terms(self, x_0: Tensor, t: float, generator: torch.Generator | None) -> Tensor:
        r""":math:`\|\hat\epsilon\|^2/d`, or :math:`\|x_0 - \hat x_0\|^2/d`, of each draw."""
        x_t = self.base.forward(x_0, t, generator=generator)
        prediction = self.base.predict(x_t, t)
        of_score = self._estimator(t) == "score"
        terms = prediction.epsilon_hat if of_score else x_0 - prediction.x0_hat
        return terms.flatten(1).double().square().mean(1)

    def _estimator(self, t: float) -> Estimator:
        return self.estimator if self.base.scale(t)[0] > 0 else "error"

    def _spread(self, mean: float, t: float) -> float:
        """The posterior variance of the data per dimension, within the range of the data."""
        alpha_t, sigma_t = self.base.scale(t)
        of_score = self._estimator(t) == "score"
        spread = (sigma_t / alpha_t) ** 2 * (1 - mean) if of_score else mean
        bound = math.inf if self.clip is None else self.clip**2
        return min(max(spread, 0.0), bound)

    def variance(self, t: float, s: float) -> float:
        r""":math:`v_t` of the module from t to s, per dimension.

        Raises:
            InvalidInput: If the sampler was not fitted.
        """
        if t not in self.spread:
            raise InvalidInput("the analytic variance is not fitted: call fit(data) first")
        if s == 0:
            return 0.0
        (alpha_t, sigma_t), (alpha_s, sigma_s) = self.base.scale(t), self.base.scale(s)
        large = 1 - (alpha_t / alpha_s) ** 2
        drawn = self.eta**2 * large * (sigma_s / sigma_t) ** 2
        weight = alpha_s - alpha_t / sigma_t * math.sqrt(max(sigma_s**2 - drawn, 0.0))
        variance = self.factor * (drawn + weight**2 * self.spread[t])
        if self.tolerance is not None and s == self.grid[-2]:
            variance = min(variance, (self.tolerance * 2 / 255) ** 2 * math.pi / 2)
        return variance

    def kernel(self, x_t: Tensor, t: float, s: float) -> GaussianKernel | None:
        """The Gaussian of the base with the analytic variance."""
        kernel = self.chain.kernel(x_t, t, s)
        if kernel is None:
            return None
        return GaussianKernel(kernel.mean, self.variance(t, s))

    def advance(self, state: State, s: float, *, generator: torch.Generator | None = None) -> State:
        """One draw from the kernel; differentiable."""
        kernel = self.kernel(state.x, state.t, s)
        assert kernel is not None
        return State(s, kernel.sample(generator))

    def options(self) -> dict[str, Any]:
        """What was chosen, and the variances that came out."""
        fitted = [self.variance(t, s) for t, s in pairwise(self.grid) if self.spread]
        return {
            "factor": self.factor,
            "tolerance": self.tolerance,
            "estimator": self.estimator,
            "num_data": self.num_data,
            "variances": [float(f"{v:.6g}") for v in fitted],
        }


def _layers(sampler: Sampler) -> list[str]:
    """Names of the remedies around a chain, from without."""
    names = []
    while isinstance(sampler, RemediedSampler):
        names.append(sampler.name)
        sampler = sampler.chain
    return names
