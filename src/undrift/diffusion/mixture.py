r"""Data distributions whose forward process is known exactly: mixtures and data sets.

For data :math:`\sum_i w_i N(y_i, S_i)` the forward marginal at :math:`x_t = \alpha x_0 +
\sigma\epsilon` is a mixture again, and so is everything else given :math:`x_t`. With the
responsibilities :math:`r_i(x) \propto w_i N(x; \alpha y_i, \alpha^2 S_i + \sigma^2 I)`,

.. math::
    q_t(x) &= \sum_i w_i N(x; \alpha y_i, \alpha^2 S_i + \sigma^2 I) \\
    E[x_0 | x_t] &= \sum_i r_i \left( y_i + \alpha S_i (\alpha^2 S_i + \sigma^2 I)^{-1}
                    (x_t - \alpha y_i) \right) \qquad \text{(the ideal denoiser)} \\
    \nabla \log q_t(x_t) &= (\alpha E[x_0 | x_t] - x_t) / \sigma^2 \\
    \log q(x_s | x_t) &= \log q(x_t | x_s) + \log q_s(x_s) - \log q_t(x_t)

A data set is the mixture with one point mass per datum (:math:`S_i = 0`). Its ideal denoiser is the
memorizing one: at small t it returns the datum next to :math:`x_t`, so a modular error against it
counts generalization as an error. `Posterior.top_weight` measures how close it is to that.

References:
    | Elucidating the Design Space of Diffusion-Based Generative Models (Karras et al., 2022),
      appendix B.3: the ideal denoiser of a data set
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from undrift.diffusion.sampler import GaussianKernel
from undrift.diffusion.schedule import Schedule
from undrift.exceptions import InvalidInput

MEMORIZING = 0.9
"""Mean responsibility of the nearest datum above which the target counts as memorizing."""


@dataclass(frozen=True)
class Posterior:
    r"""The posterior of the data given a noisy state; batch dimension B.

    Arguments:
        log_density: :math:`\log q_t(x_t)` in nats, with shape :math:`(B,)`.
        mean: :math:`E[x_0|x_t]`, with shape :math:`(B, d)`.
        variance: :math:`Var[x_0|x_t]` of each dimension, with shape :math:`(B, d)`.
        top_weight: Largest responsibility of one component, with shape :math:`(B,)`. Near 1 on a
            data set, the ideal denoiser returns one datum: it memorizes.
    """

    log_density: Tensor
    mean: Tensor
    variance: Tensor
    top_weight: Tensor


class Distribution(ABC):
    """Data whose forward process has exact densities and moments.

    All methods take noisy states with any shape :math:`(B, *)` of :math:`d` numbers per row. They
    compute in float64 and return float64.
    """

    dim: int
    has_density = True

    @abstractmethod
    def sample(self, count: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Independent draws of the data, with shape (count, d)."""

    @abstractmethod
    def posterior(self, x_t: Tensor, alpha: float, sigma: float) -> Posterior:
        r"""Density of :math:`x_t` and moments of :math:`x_0` given :math:`x_t`."""

    @abstractmethod
    def log_prob(self, x_t: Tensor, alpha: float = 1.0, sigma: float = 0.0) -> Tensor:
        r"""Log-density of :math:`\alpha x_0 + \sigma\epsilon` in nats, with shape (B,)."""


class GaussianMixture(Distribution):
    r"""A mixture of k Gaussians.

    Every method costs :math:`O(Bkd^2)`, with memory :math:`O(Bkd)`: for a few components.

    Arguments:
        means: Means of the components, with shape :math:`(k, d)`.
        covs: One variance for all, one per component with shape :math:`(k,)`, or covariances with
            shape :math:`(k, d, d)`; positive definite.
        weights: Weights, with shape :math:`(k,)`; equal when None.

    Raises:
        InvalidInput: If shapes do not fit, a covariance is not positive definite or a weight is
            not positive.

    Example:
        >>> ring = GaussianMixture.ring()
        >>> x_t = ring.sample(4, generator=torch.Generator().manual_seed(0))
        >>> ring.posterior(x_t, alpha=1.0, sigma=1e-3).mean.allclose(x_t, atol=1e-3)
        True
    """

    def __init__(self, means: Tensor, covs: float | Tensor, weights: Tensor | None = None) -> None:
        self.means = torch.as_tensor(means, dtype=torch.float64)
        if self.means.ndim != 2 or not self.means.numel():
            raise InvalidInput("a mixture needs means with one row per component")
        count, self.dim = self.means.shape
        weights = torch.ones(count) if weights is None else weights
        weights = torch.as_tensor(weights, dtype=torch.float64)
        if weights.shape != (count,) or not bool((weights > 0).all()):
            raise InvalidInput("a mixture needs one positive weight per component")
        self.weights = weights / weights.sum()
        cov = torch.as_tensor(covs, dtype=torch.float64)
        if cov.ndim < 2:
            cov = torch.diag_embed(cov.expand(count)[:, None].expand(count, self.dim))
        if cov.shape != (count, self.dim, self.dim):
            raise InvalidInput(f"covs has shape {list(cov.shape)}: it does not fit the means")
        self._spectrum, self._basis = torch.linalg.eigh(cov)  # (k, d), (k, d, d)
        if not bool((self._spectrum > 0).all()):
            raise InvalidInput("a component's covariance is not positive definite")

    @classmethod
    def ring(cls, count: int = 8, radius: float = 1.0, scale: float = 0.1) -> GaussianMixture:
        """Equal Gaussians on a circle in the plane."""
        angle = 2 * math.pi * torch.arange(count, dtype=torch.float64) / count
        return cls(radius * torch.stack([angle.cos(), angle.sin()], 1), scale**2)

    def sample(self, count: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Independent draws, with shape (count, d)."""
        chosen = torch.multinomial(self.weights, count, replacement=True, generator=generator)
        noise = torch.randn(count, self.dim, dtype=torch.float64, generator=generator)
        root = self._basis * self._spectrum.sqrt().unsqueeze(-2)
        return self.means[chosen] + torch.einsum("nij,nj->ni", root[chosen], noise)

    def log_prob(self, x_t: Tensor, alpha: float = 1.0, sigma: float = 0.0) -> Tensor:
        r"""Log-density of :math:`\alpha x_0 + \sigma\epsilon` in nats, with shape (B,)."""
        logits, _, _ = self._components(_rows(x_t, self.dim), alpha, sigma)
        return torch.logsumexp(logits, 1)

    def posterior(self, x_t: Tensor, alpha: float, sigma: float) -> Posterior:
        r"""Density of :math:`x_t` and moments of :math:`x_0` given :math:`x_t`."""
        logits, z, spread = self._components(_rows(x_t, self.dim), alpha, sigma)
        weight = logits.softmax(1)
        pull = alpha * self._spectrum / spread
        centers = self.means + torch.einsum("kij,bkj->bki", self._basis, pull * z)
        within = torch.einsum("kij,kj->ki", self._basis**2, sigma**2 * self._spectrum / spread)
        mean = torch.einsum("bk,bki->bi", weight, centers)
        between = (centers - mean.unsqueeze(1)) ** 2
        variance = torch.einsum("bk,bki->bi", weight, within + between)
        return Posterior(torch.logsumexp(logits, 1), mean, variance, weight.amax(1))

    def _components(self, x: Tensor, alpha: float, sigma: float) -> tuple[Tensor, Tensor, Tensor]:
        """Log joint of state and component (B, k), coordinates (B, k, d), variances (k, d)."""
        spread = alpha**2 * self._spectrum + sigma**2
        z = torch.einsum("kji,bkj->bki", self._basis, x.unsqueeze(1) - alpha * self.means)
        log_norm = torch.log(2 * math.pi * spread).sum(-1)
        logits = self.weights.log() - (z**2 / spread).sum(-1) / 2 - log_norm / 2
        return logits, z, spread


class EmpiricalDistribution(Distribution):
    r"""A data set as a mixture with one point mass per datum.

    .. math:: q_t = \frac1n \sum_i N(\alpha_t y_i, \sigma_t^2 I)

    One matrix product per block of data and states and a running log-sum-exp: time linear in n,
    memory :math:`O(\text{block}^2 + Bd)` beyond the data, never :math:`n \times B \times d`.

    Arguments:
        data: The data, with shape :math:`(n, *)`.
        block_size: Rows of a block, of data and of states alike.

    Raises:
        InvalidInput: If there are no data or a number is not finite.

    Example:
        >>> data = torch.tensor([[0.0], [1.0]])
        >>> EmpiricalDistribution(data).posterior(torch.tensor([[0.5]]), 1.0, 0.5).mean
        tensor([[0.5000]], dtype=torch.float64)
    """

    has_density = False

    def __init__(self, data: Tensor, *, block_size: int = 2048) -> None:
        self.data = data.detach().flatten(1).to("cpu", torch.float64)
        if not self.data.numel():
            raise InvalidInput("the data set is empty")
        if not bool(self.data.isfinite().all()):
            raise InvalidInput("the data hold a number that is not finite")
        self.dim, self.block_size = self.data.shape[1], block_size
        self._half_sq = self.data.square().sum(1) / 2

    def sample(self, count: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Draws with replacement, with shape (count, d)."""
        return self.data[torch.randint(len(self.data), (count,), generator=generator)]

    def log_prob(self, x_t: Tensor, alpha: float = 1.0, sigma: float = 0.0) -> Tensor:
        r"""Log-density of :math:`\alpha x_0 + \sigma\epsilon` in nats, with shape (B,).

        Raises:
            InvalidInput: If sigma is 0: a data set has no density.
        """
        blocks = _rows(x_t, self.dim).split(self.block_size)
        return torch.cat([self._stream(x, alpha, sigma)[0] for x in blocks])

    def posterior(self, x_t: Tensor, alpha: float, sigma: float) -> Posterior:
        r"""Density of :math:`x_t` and moments of :math:`x_0` given :math:`x_t`."""
        parts = []
        for x in _rows(x_t, self.dim).split(self.block_size):
            log_density, top_weight, mean, second = self._stream(x, alpha, sigma, moments=True)
            parts.append((log_density, mean, (second - mean**2).clamp(min=0), top_weight))
        return Posterior(*(torch.cat(column) for column in zip(*parts, strict=True)))

    def _stream(
        self, x: Tensor, alpha: float, sigma: float, *, moments: bool = False
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Log-density, largest responsibility, first and second moment, over blocks of data."""
        if sigma <= 0:
            raise InvalidInput("without noise there is no density here: take a time above 0")
        peak, total = x.new_full((len(x),), -math.inf), x.new_zeros(len(x))
        first, second = torch.zeros_like(x), torch.zeros_like(x)
        blocks = self.data.split(self.block_size), self._half_sq.split(self.block_size)
        for block, half_sq in zip(*blocks, strict=True):
            logits = torch.addmm(
                -(alpha**2) * half_sq, x, block.T, beta=1 / sigma**2, alpha=alpha / sigma**2
            )
            risen = torch.maximum(peak, logits.amax(1))
            fade = torch.exp(peak - risen)
            # The clamp keeps the exponential out of the slow subnormal numbers.
            weight = logits.sub_(risen[:, None]).clamp_(min=-700).exp_()
            total, peak = total * fade + weight.sum(1), risen
            if moments:
                first = torch.addmm(first * fade[:, None], weight, block)
                second = torch.addmm(second * fade[:, None], weight, block**2)
        constant = math.log(len(self.data)) + self.dim / 2 * math.log(2 * math.pi * sigma**2)
        log_density = peak + total.log() - x.square().sum(1) / (2 * sigma**2) - constant
        return log_density, 1 / total, first / total[:, None], second / total[:, None]


class ForwardProcess:
    r"""A distribution of data under a noise schedule: its densities at the times of a chain.

    Arguments:
        data: The data.
        schedule: The noise schedule.

    Example:
        >>> from undrift.diffusion.schedule import CosineSchedule
        >>> process = ForwardProcess(GaussianMixture.ring(), CosineSchedule(50))
        >>> x_t = process.draw(3, 20, generator=torch.Generator().manual_seed(0))
        >>> process.log_prob(x_t, 20).shape
        torch.Size([3])
    """

    def __init__(self, data: Distribution, schedule: Schedule) -> None:
        self.data, self.schedule = data, schedule

    def draw(self, count: int, t: float, *, generator: torch.Generator | None = None) -> Tensor:
        r"""Independent draws of :math:`x_t`, with shape (count, d)."""
        x_0 = self.data.sample(count, generator=generator)
        noise = torch.randn(x_0.shape, dtype=torch.float64, generator=generator)
        return self.schedule.alpha(t) * x_0 + self.schedule.sigma(t) * noise

    def log_prob(self, x_t: Tensor, t: float) -> Tensor:
        r""":math:`\log q_t(x_t)` in nats, with shape (B,)."""
        return self.data.log_prob(x_t, self.schedule.alpha(t), self.schedule.sigma(t))

    def posterior(self, x_t: Tensor, t: float) -> Posterior:
        r"""Density of :math:`x_t` and moments of :math:`x_0` given :math:`x_t`."""
        return self.data.posterior(x_t, self.schedule.alpha(t), self.schedule.sigma(t))

    def forward_log_prob(self, x_t: Tensor, x_s: Tensor, t: float, s: float) -> Tensor:
        r""":math:`\log q(x_t | x_s)` in nats, with shape (B,)."""
        keep = self.schedule.alpha_bar(t) / self.schedule.alpha_bar(s)
        kernel = GaussianKernel(math.sqrt(keep) * _rows(x_s, self.data.dim), 1 - keep)
        return kernel.log_prob(_rows(x_t, self.data.dim))

    def reverse_moments(
        self, x_t: Tensor, t: float, s: float, posterior: Posterior | None = None
    ) -> tuple[Tensor, Tensor]:
        r"""Mean and variance (per dimension) of :math:`q(x_s | x_t)`, each with shape (B, d).

        .. math:: m^* = c_0 E[x_0|x_t] + c_1 x_t, \qquad
                  v^* = c_0^2 Var[x_0|x_t] + \tilde\beta_t

        Arguments:
            x_t: States, with shape :math:`(B, *)`.
            t: Their time.
            s: The earlier time, below t.
            posterior: The result of :meth:`posterior` at the states, to save its cost.
        """
        posterior = self.posterior(x_t, t) if posterior is None else posterior
        abar_t, abar_s = self.schedule.alpha_bar(t), self.schedule.alpha_bar(s)
        beta = 1 - abar_t / abar_s
        pull = math.sqrt(abar_s) * beta / (1 - abar_t)
        keep = math.sqrt(abar_t / abar_s) * (1 - abar_s) / (1 - abar_t)
        mean = pull * posterior.mean + keep * _rows(x_t, self.data.dim)
        return mean, pull**2 * posterior.variance + beta * (1 - abar_s) / (1 - abar_t)


class IdealDenoiser:
    r"""The ideal denoiser as a network: predicts :math:`E[x_0|x_t]` (``"sample"``).

    Wrap it as ``Denoiser(IdealDenoiser(process), schedule, "sample")``. Over a data set it is the
    memorizing denoiser: its samples are the data.

    Arguments:
        process: The forward process.
    """

    def __init__(self, process: ForwardProcess) -> None:
        self.process = process

    def __call__(self, x_t: Tensor, timestep: Tensor) -> Tensor:
        r"""Estimate of the data, with the shape and dtype of :math:`x_t`.

        Arguments:
            x_t: States, with shape :math:`(B, *)`.
            timestep: Steps as diffusers counts them, :math:`t - 1`, with shape :math:`(B,)`.
        """
        x0_hat = torch.empty_like(x_t)
        for step in timestep.unique().tolist():
            rows = timestep == step
            mean = self.process.posterior(x_t[rows], step + 1).mean
            x0_hat[rows] = mean.reshape(x_t[rows].shape).to(x_t)
        return x0_hat


def _rows(x: Tensor, dim: int) -> Tensor:
    """States as float64 rows, with shape (B, d)."""
    rows = x.detach().flatten(1).to("cpu", torch.float64)
    if rows.shape[1] != dim:
        raise InvalidInput(f"states have {rows.shape[1]} numbers, but the data {dim}")
    return rows
