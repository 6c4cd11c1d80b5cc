r"""The KL error budget of any chain in low dimension, by particles.

Run N independent chains. After a denoising step with the kernel :math:`K_t` the density of the
sampler is the mixture of the kernels, so for particle i, which came from :math:`x_t^i`,

.. math:: \hat p_{t-1}(x^i) = \frac{1}{N-1} \sum_{j \ne i} K_t(x^i | x_t^j), \qquad
          E_{cumu}(t) \approx \frac1N \sum_i \left[ \log \hat p_{t-1}(x^i) - \log q_{t-1}(x^i)
          + \tfrac12 \left( \tfrac{1}{n_i} - \tfrac{1}{N-1} \right) \right].

Leaving the particle's own kernel out keeps :math:`\hat p` unbiased; its logarithm is then too low
by half its relative variance, which the last term corrects (:math:`n_i` is the effective number
of kernels that :math:`\hat p(x^i)` averages). An :math:`n_i` near 1 means too few particles for
the dimension; `BudgetStep.support` is its median.

The first-order influence of a particle as a *center* vanishes
(:math:`\int p\,K(x|x^j)/p\,dx = 1` for all j), so the standard error of the mean over particles is
the right one.

The contraction is estimated from a **second, independent run**, from its definition,

.. math:: E_{con}(t) = E[\log K_t(x_{t-1}|x_t) + \log p_t(x_t) - \log p_{t-1}(x_{t-1})
                        - \log q(x_t|x_{t-1})],

so that the closure of the budget, a difference of independent numbers, tests the estimates.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from undrift.diffusion.mixture import ForwardProcess
from undrift.diffusion.sampler import GaussianKernel, Sampler
from undrift.exceptions import InvalidInput
from undrift.measurement.modular import (
    Estimate,
    ModularError,
    in_rows,
    modular_error,
    step_kernel,
)


@dataclass(frozen=True)
class ParticleDensity:
    r"""Log-density of the sampler at its own particles, each left out of its own mixture.

    Arguments:
        log_density: :math:`\log \hat p(x^i)`, corrected for the bias of the logarithm, with shape
            :math:`(N,)`, in nats.
        support: :math:`n_i`, the effective number of kernels behind it.
    """

    log_density: Tensor
    support: Tensor


def particle_density(
    x: Tensor, means: Tensor, variances: Tensor, *, block_size: int = 1024
) -> ParticleDensity:
    r"""Density of a mixture of Gaussian kernels at the particles drawn from them.

    Arguments:
        x: Particles; row i was drawn from kernel i. With shape :math:`(N, d)`.
        means: Means of the kernels, with shape :math:`(N, d)`.
        variances: Their variances per dimension, with shape :math:`(N, d)`.
        block_size: Particles at once; memory is :math:`O(\text{block} \times N)`.

    Raises:
        InvalidInput: If there are fewer than 3 particles.

    Example:
        >>> x = torch.randn(2000, 1, generator=torch.Generator().manual_seed(0)).double()
        >>> found = particle_density(x, 0 * x, 0 * x + 1).log_density
        >>> bool((found + x[:, 0] ** 2 / 2 + 0.918939).abs().max() < 1e-6)
        True
    """
    count = len(x)
    if count < 3:
        raise InvalidInput("a particle mixture needs at least 3 particles")
    precision = 1 / variances
    constant = (means.square() * precision + torch.log(2 * math.pi * variances)).sum(1)
    logs, supports = [], []
    for start in range(0, count, block_size):
        rows = x[start : start + block_size]
        kernels = rows @ (means * precision).T - (rows.square() @ precision.T + constant) / 2
        kernels.diagonal(start).fill_(-math.inf)
        log_total = kernels.logsumexp(1)
        crowding = kernels.sub_(log_total[:, None]).exp_().square_().sum(1)
        bias = (1 / (count - 1) - crowding) / 2
        logs.append(log_total - math.log(count - 1) - bias)
        supports.append(1 / crowding)
    return ParticleDensity(torch.cat(logs), torch.cat(supports))


@dataclass(frozen=True)
class BudgetStep:
    r"""The error budget of one step, estimated; None where a divergence does not exist.

    Arguments:
        t: Time of the step.
        s: Time it leads to.
        inherited: :math:`E_{cumu}(t+1)`.
        fresh: :math:`E_{mod}(t)`, with its split.
        forgotten: :math:`E_{con}(t)`, from the second run.
        cumulative: :math:`E_{cumu}(t)`.
        gap: cumulative − (inherited + fresh − forgotten); its standard error allows for the
            particles that the first three share.
        support: Median effective number of kernels behind the sampler's density.
    """

    t: float
    s: float
    inherited: Estimate
    fresh: ModularError
    forgotten: Estimate
    cumulative: Estimate
    gap: Estimate
    support: float

    @property
    def mu(self) -> float | None:
        """Amplification factor; None where the inherited error is not distinguishable from zero."""
        if self.inherited.value <= 2 * self.inherited.standard_error:
            return None
        return 1 - self.forgotten.value / self.inherited.value

    def row(self) -> dict[str, Any]:
        """The step as plain data, in nats, with standard errors under ``..._se``."""
        terms = {
            "inherited": self.inherited,
            "e_mod": self.fresh.total,
            "e_mod_mean": self.fresh.mean,
            "e_mod_variance": self.fresh.variance,
            "e_mod_shape": self.fresh.shape,
            "e_con": self.forgotten,
            "e_cumu": self.cumulative,
            "gap": self.gap,
        }
        row: dict[str, Any] = {"t": self.t, "mu": self.mu, "gap_in_errors": self.gap_in_errors}
        for name, term in terms.items():
            row |= {name: term.value, f"{name}_se": term.standard_error}
        return row | {"support": self.support}

    @property
    def gap_in_errors(self) -> float:
        """The gap in units of its standard error."""
        return self.gap.value / self.gap.standard_error if self.gap.standard_error else 0.0


@dataclass(frozen=True)
class _Step:
    """One step of one run; each particle's contributions to the divergences before and after it."""

    fresh: ModularError
    before: Tensor
    after: Tensor
    forgotten: Tensor
    support: float


def particle_budget(
    sampler: Sampler,
    process: ForwardProcess,
    num_particles: int = 2000,
    *,
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float32,
) -> Iterator[BudgetStep]:
    r"""Estimate the error budget of each step, from T down to the last one with a density.

    Two runs of the chain; time and memory of each step are those of an N × N matrix (in blocks).

    Arguments:
        sampler: The chain, over states with shape :math:`(B, d)`, started from :math:`N(0, I)`.
        process: The data under the forward process of the same schedule.
        num_particles: N, of each run.
        generator: Source of all draws.
        dtype: Type of the states that the network sees; all else is float64.

    Raises:
        InvalidInput: If the chain has no density, or there are fewer than 3 particles.
    """
    runs = [_run(sampler, process, num_particles, generator, dtype) for _ in range(2)]
    for a, b in zip(*runs, strict=True):
        forgotten, kept = Estimate.of(b.forgotten), Estimate.of(a.after - a.before - a.fresh.terms)
        error = math.hypot(kept.standard_error, forgotten.standard_error)
        yield BudgetStep(
            t=a.fresh.t,
            s=a.fresh.s,
            inherited=Estimate.of(a.before),
            fresh=a.fresh,
            forgotten=forgotten,
            cumulative=Estimate.of(a.after),
            gap=Estimate(kept.value + forgotten.value, error),
            support=min(a.support, b.support),
        )


def _run(
    sampler: Sampler,
    process: ForwardProcess,
    count: int,
    generator: torch.Generator | None,
    dtype: torch.dtype,
) -> Iterator[_Step]:
    """One run of the chain with the densities of its particles."""
    dim = process.data.dim
    x_t = sampler.prior((count, dim), generator=generator, dtype=torch.float64)
    log_p_t = GaussianKernel(torch.zeros_like(x_t), 1.0).log_prob(x_t)
    log_q_t = process.log_prob(x_t, sampler.grid[0])
    for t, s in pairwise(sampler.grid):
        with torch.no_grad():
            kernel = step_kernel(sampler, x_t.to(dtype), t, s, dim, batch_size=count)
        mean, variance = in_rows(kernel, dim)
        if not bool((variance > 0).all()):
            if t < sampler.grid[0]:
                return
            raise InvalidInput(
                "no denoising step of this chain has a density: use eta > 0, or measure only MMD"
            )
        x_s = kernel.sample(generator)
        density = particle_density(x_s, mean, variance)
        log_p_s, log_q_s = density.log_density, process.log_prob(x_s, s)
        joint = kernel.log_prob(x_s) + log_p_t
        yield _Step(
            fresh=modular_error(kernel, x_t, process, t, s, x_s=x_s),
            before=log_p_t - log_q_t,
            after=log_p_s - log_q_s,
            forgotten=joint - log_p_s - process.forward_log_prob(x_t, x_s, t, s),
            support=float(density.support.median()),
        )
        x_t, log_p_t, log_q_t = x_s, log_p_s, log_q_s
