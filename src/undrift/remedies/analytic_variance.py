r"""Analytic reverse variance: the best single variance of each denoising step, without training.

A denoising step :math:`m = a x_t + b \hat x_0` that draws noise of variance :math:`\lambda^2` knows
:math:`x_0` only up to its posterior spread. With the ideal denoiser its best single variance is

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
chain's clip), the step that leads to data adds no noise, and the noise of the step before it is
bounded so that it changes no pixel by more than ``tolerance`` of 256 levels on average,
:math:`\sqrt{v} \le \text{tolerance} \cdot \tfrac{2}{255} \sqrt{\pi/2}`.

References:
    | Analytic-DPM: an Analytic Estimate of the Optimal Reverse Variance in Diffusion Probabilistic
      Models (Bao et al., 2022)
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from undrift.exceptions import InvalidInput, Limits
from undrift.remedies.remedy import Remedy, Strengths, UnfitChain

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from undrift.diffusion.gaussian import AncestralSampler, DDIMSampler
    from undrift.diffusion.sampler import GaussianKernel, RandomSource, Sampler, State

BATCH_SIZE = 250
"""Draws that go through the network at once."""


class Posterior(NamedTuple):
    """The estimate: :math:`c_t` at every time of the chain, and the draws that it stems from."""

    spread: dict[float, float]
    num_data: int


@dataclass(frozen=True)
class AnalyticVariance(Remedy):
    r"""Uses the optimal single variance of each denoising step, estimated from data.

    A deterministic DDIM sampler becomes a stochastic one.

    Arguments:
        strength: Factor on the analytic variance; 1 is the paper's.
        tolerance: Bound on the noise of the last step that has any, in levels of a pixel; 2 in the
            paper for the ancestral sampler, 1 for DDIM on CIFAR-10; 0 for no bound.
        estimator: ``score`` takes :math:`c_t` from the mean squared norm of the score, as
            published; ``error`` (ours) from the denoiser's own squared error
            :math:`E\|x_0 - \hat x_0\|^2/d`: the same for the ideal denoiser, with much less noise
            at large t, and larger for a worse one. It is also used where a schedule ends without
            signal, where the score does not determine the data.

    Example:
        >>> import torch
        >>> from undrift import AncestralSampler, CosineSchedule, Denoiser, apply_remedy
        >>> schedule = CosineSchedule(20)
        >>> def ideal(x_t, timestep):  # of data N(0, 1): the best estimate of the noise
        ...     return schedule.sigma(int(timestep[0]) + 1) * x_t
        >>> base = AncestralSampler(Denoiser(ideal, schedule), clip=None)
        >>> data = torch.randn(4000, 8, generator=torch.Generator().manual_seed(0))
        >>> sampler = apply_remedy(base, AnalyticVariance(tolerance=0), data)
        >>> beta_10 = float(schedule.betas[9])  # the true reverse variance of these data
        >>> round(sampler.kernel(data, 10, 9).variance / beta_10, 1)
        1.0
    """

    tolerance: float = 2.0
    estimator: Literal["score", "error"] = "score"

    remedy = "analytic_variance"
    estimate_type = Posterior
    strengths = Strengths(
        "factor on the analytic variance",
        default=1.0,
        grid=(0.6, 0.8, 1.0, 1.25, 1.6),
    )
    limits: ClassVar = {"strength": Limits(0, ends="()"), "tolerance": Limits(0)}

    @property
    def needs_data(self) -> bool:
        """Always: the spread of the data is estimated."""
        return True

    def wrapped(self, network: Any, base: Sampler, estimate: Any) -> Any:  # noqa: ANN401
        """The network itself.

        Raises:
            InvalidInput: If the base has no Gaussian denoising steps whose variance can be chosen.
        """
        from undrift.remedies.sampler import RemediedSampler, layers

        _gaussian(base)
        for layer in layers(base):
            if isinstance(layer, RemediedSampler) and layer.remedy.changes_steps:
                name = layer.remedy.remedy
                raise InvalidInput(
                    f"the analytic variance is that of a denoising step before {name}: apply it to "
                    f"the sampler first, then {name}"
                )
        return network

    def estimate(
        self, base: Sampler, data: Tensor, num_data: int, generator: torch.Generator
    ) -> Posterior:
        r"""Estimate :math:`c_t` at every time of the chain, from forward draws.

        One call of the network, in evaluation mode, for each of ``num_data`` images and time; a
        tenth of what sampling 10 times as many images costs. The relative error of
        :math:`\Gamma_t` is about :math:`\sqrt{2 / (N d)}`.
        """
        import torch

        from undrift.diffusion.network import evaluating

        if num_data < len(data):
            images = data[torch.randperm(len(data), generator=generator)[:num_data]]
        else:
            images = data[torch.arange(num_data) % len(data)]
        spread = {}
        with torch.no_grad(), evaluating(base.network):
            for t in base.grid[:-1]:
                terms = [self._terms(base, x_0, t, generator) for x_0 in images.split(BATCH_SIZE)]
                spread[t] = self._spread(base, float(torch.cat(terms).mean()), t)
        return Posterior(spread, num_data)

    def _terms(self, base: Sampler, x_0: Tensor, t: float, generator: torch.Generator) -> Tensor:
        r""":math:`\|\hat\epsilon\|^2/d`, or :math:`\|x_0 - \hat x_0\|^2/d`, of each draw."""
        prediction = base.predict(base.forward(x_0, t, generator=generator), t)
        is_score = self._is_score(base, t)
        terms = prediction.epsilon_hat if is_score else x_0 - prediction.x0_hat
        return terms.flatten(1).double().square().mean(1)

    def _is_score(self, base: Sampler, t: float) -> bool:
        return self.estimator == "score" and base.scale(t)[0] > 0

    def _spread(self, base: Sampler, mean: float, t: float) -> float:
        """The posterior variance of the data per dimension, within the range of the data."""
        (alpha_t, sigma_t), clip = base.scale(t), _gaussian(base).clip
        spread = (sigma_t / alpha_t) ** 2 * (1 - mean) if self._is_score(base, t) else mean
        return min(max(spread, 0.0), math.inf if clip is None else clip**2)

    def _variance(self, chain: Sampler, t: float, s: float, estimate: Posterior | None) -> float:
        r""":math:`v_t` of the denoising step from t to s, per dimension."""
        if estimate is None or t not in estimate.spread:
            raise InvalidInput(
                f"the analytic variance at time {t:g} is not estimated: use apply_remedy with data"
            )
        if s == 0:
            return 0.0
        (alpha_t, sigma_t), (alpha_s, sigma_s) = chain.scale(t), chain.scale(s)
        eta = getattr(_gaussian(chain), "eta", 1.0)
        drawn = eta**2 * (1 - (alpha_t / alpha_s) ** 2) * (sigma_s / sigma_t) ** 2
        weight = alpha_s - alpha_t / sigma_t * math.sqrt(max(sigma_s**2 - drawn, 0.0))
        variance = self.value * (drawn + weight**2 * estimate.spread[t])
        if self.tolerance and s == chain.grid[-2]:
            variance = min(variance, (self.tolerance * 2 / 255) ** 2 * math.pi / 2)
        return variance

    def kernel(
        self, chain: Sampler, x_t: Tensor, t: float, s: float, estimate: Posterior | None
    ) -> GaussianKernel:
        """The Gaussian of the base with the analytic variance."""
        kernel = chain.kernel(x_t, t, s)
        assert kernel is not None
        return replace(kernel, variance=self._variance(chain, t, s, estimate))

    def advance(
        self,
        chain: Sampler,
        state: State,
        s: float,
        estimate: Posterior | None,
        generator: RandomSource | None,
    ) -> State:
        """One draw from the kernel; differentiable."""
        kernel = self.kernel(chain, state.x, state.t, s, estimate)
        return type(state)(s, kernel.sample(generator))

    def record(self, base: Sampler, estimate: Posterior | None) -> dict[str, Any]:
        """The options, and the variances that were estimated."""
        own: dict[str, Any] = {"num_data": 0, "variances": []}
        if estimate is not None:
            found = [self._variance(base, t, s, estimate) for t, s in pairwise(base.grid)]
            own = {"num_data": estimate.num_data, "variances": [float(f"{v:.6g}") for v in found]}
        return super().record(base, estimate) | own


def _gaussian(sampler: Sampler) -> AncestralSampler | DDIMSampler:
    """The chain under all remedies, whose denoising steps are Gaussians.

    Raises:
        UnfitChain: If they are not.
    """
    from undrift.diffusion.gaussian import AncestralSampler, DDIMSampler
    from undrift.remedies.sampler import innermost

    inner = innermost(sampler)
    if not isinstance(inner, AncestralSampler | DDIMSampler):
        kind = type(getattr(inner, "scheduler", inner)).__name__
        raise UnfitChain(
            f"the analytic variance needs Gaussian denoising steps, which {kind} has not: use the "
            "sampler ancestral or ddim"
        )
    return inner
