r"""The modular error: divergence of one denoising step from the exact reverse step, in nats.

.. math:: E_{mod}(t) = E_{x_t \sim p_t} KL(K_t(\cdot|x_t) \,\|\, q(\cdot|x_t))

needs a denoising step with a density (ancestral sampling, DDIM with :math:`\eta > 0`) and data
whose reverse conditional is known: a mixture, or the data set itself
(:mod:`undrift.diffusion.mixture`). Let :math:`g = N(m^*, \mathrm{diag}\,v^*)` have the moments of
:math:`q(\cdot|x_t)`, and let :math:`K_t = N(m, \mathrm{diag}\,v)`, :math:`r = v / v^*`. Exactly,

.. math:: KL(K_t \| q) = \underbrace{\sum_i \frac{(m_i - m_i^*)^2}{2 v_i^*}}_{\text{mean}}
            + \underbrace{\tfrac12 \sum_i (r_i - 1 - \log r_i)}_{\text{variance}}
            + \underbrace{E_{x_s \sim K_t} \log\frac{g(x_s)}{q(x_s|x_t)}}_{\text{shape}}.

The first two are closed forms at every state; only the third is drawn, with one :math:`x_s` per
state. It is small where steps are short, so the estimate is far less noisy than the mean of
:math:`\log K_t - \log q`, with the same expectation. It may be negative, because it is not a
divergence.

A large mean term calls for more training, a large variance term for another reverse variance
(without training), a large shape term for shorter steps: no Gaussian step can follow a reverse
conditional with two modes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from undrift.diffusion.mixture import MEMORIZING, ForwardProcess
from undrift.diffusion.sampler import GaussianKernel, Sampler
from undrift.exceptions import InvalidInput
from undrift.processes import ALONE, Processes


@dataclass(frozen=True)
class Estimate:
    """A mean and its standard error."""

    value: float
    standard_error: float

    @classmethod
    def of(cls, terms: Tensor) -> Estimate:
        """The mean of independent terms, with shape (B,)."""
        return cls(float(terms.mean()), float(terms.std()) / math.sqrt(len(terms)))

    def __sub__(self, other: Estimate) -> Estimate:
        """The difference to an independent estimate."""
        spread = math.hypot(self.standard_error, other.standard_error)
        return Estimate(self.value - other.value, spread)


class NoDensity(InvalidInput):
    """No denoising step of a chain has a density, so its divergence does not exist."""


@dataclass(frozen=True)
class ModularError:
    r"""The modular error of one step on one set of states, in nats.

    Arguments:
        t: Time of the states.
        s: Time to which the step leads.
        parts: Mean, variance and shape term of every state, with shape :math:`(3, B)`.
        dim: Numbers in one state.
        variance_factor: What to multiply the reverse variance by for the least modular error,
            :math:`1 / E[\mathrm{mean}_i\, v_i / v^*_i]`.
        top_weight: Mean responsibility of the nearest component; near 1 the target of a
            data set memorizes.
    """

    t: float
    s: float
    parts: Tensor
    dim: int
    variance_factor: float
    top_weight: float

    @property
    def terms(self) -> Tensor:
        """Contributions of the states to the total, with shape (B,)."""
        return self.parts.sum(0)

    @property
    def total(self) -> Estimate:
        r""":math:`E_{mod}`."""
        return Estimate.of(self.terms)

    @property
    def mean(self) -> Estimate:
        """Its mean term."""
        return Estimate.of(self.parts[0])

    @property
    def variance(self) -> Estimate:
        """Its variance term."""
        return Estimate.of(self.parts[1])

    @property
    def shape(self) -> Estimate:
        """The remainder."""
        return Estimate.of(self.parts[2])

    @property
    def memorizing(self) -> bool:
        """Whether the target, if it is a data set, is a single datum."""
        return self.top_weight > MEMORIZING


def modular_error(
    kernel: GaussianKernel,
    x_t: Tensor,
    process: ForwardProcess,
    t: float,
    s: float,
    *,
    x_s: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> ModularError:
    r"""Estimate the modular error of one denoising step on given states.

    Arguments:
        kernel: The step at these states, :math:`K_t(\cdot|x_t)`.
        x_t: States, with shape :math:`(B, *)`: from the sampler for the modular error proper, from
            the forward process for what training sees.
        process: The data under the forward process.
        t: Time of the states.
        s: Time to which the step leads.
        x_s: One draw of the step at each state; drawn when None.
        generator: Source of that draw.

    Raises:
        InvalidInput: If the step adds no noise, or there are fewer than 2 states.

    Example:
        >>> from undrift.diffusion.mixture import GaussianMixture
        >>> from undrift.diffusion.schedule import CosineSchedule
        >>> process = ForwardProcess(GaussianMixture.ring(), CosineSchedule(50))
        >>> x_t = process.draw(500, 30, generator=torch.Generator().manual_seed(0))
        >>> mean, variance = process.reverse_moments(x_t, 30, 29)
        >>> kernel = GaussianKernel(mean + 0.1 * variance.sqrt(), variance)
        >>> error = modular_error(kernel, x_t, process, 30, 29)
        >>> round(error.mean.value, 6), error.variance.value  # two dimensions at 0.1²/2 each
        (0.01, 0.0)
    """
    if len(x_t) < 2:
        raise InvalidInput("a modular error needs at least 2 states")
    mean, variance = in_rows(kernel, process.data.dim)
    if not bool((variance > 0).all()):
        raise InvalidInput("a step without noise has no density: stop one step before")
    kernel = GaussianKernel(mean, variance)
    x_s = kernel.sample(generator) if x_s is None else x_s.flatten(1).double()
    posterior = process.posterior(x_t, t)
    true_mean, true_variance = process.reverse_moments(x_t, t, s, posterior)
    ratio = variance / true_variance
    off = (mean - true_mean).square().div(2 * true_variance).sum(1)
    width = (ratio - 1 - ratio.log()).sum(1) / 2
    log_q = process.forward_log_prob(x_t, x_s, t, s) + process.log_prob(x_s, s)
    log_g = GaussianKernel(true_mean, true_variance).log_prob(x_s)
    return ModularError(
        t=t,
        s=s,
        parts=torch.stack([off, width, log_g - log_q + posterior.log_density]),
        dim=process.data.dim,
        variance_factor=float(1 / ratio.mean()),
        top_weight=float(posterior.top_weight.mean()),
    )


@dataclass(frozen=True)
class ExposedError:
    """The modular error on the sampler's states and on forward draws, in nats.

    Arguments:
        sampled: On the states that the sampler really gets.
        forward: On the states that training sees.
    """

    sampled: ModularError
    forward: ModularError

    @property
    def exposure_bias(self) -> Estimate:
        """The difference: the loss of accuracy on the sampler's states, in nats."""
        return self.sampled.total - self.forward.total


def memorizing_from(t: float) -> str:
    """The warning that the target memorizes from a time on."""
    return (
        f"From t = {t:g} down the exact reverse step of the data set concentrates on single "
        "training images: a modular error there also counts generalization as an error."
    )


@torch.no_grad()
def modular_errors(
    sampler: Sampler,
    process: ForwardProcess,
    shape: tuple[int, ...],
    *,
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float32,
    batch_size: int = 512,
    device: torch.device | str | None = None,
    tick: Callable[[int], None] = lambda amount: None,
    processes: Processes = ALONE,
) -> Iterator[ExposedError]:
    r"""Run the chain and yield the modular error of each step that has one, from T downwards.

    Steps without noise (the last one of the usual samplers) have none and are left out; so is a
    step to data without density. Each step takes one network call for the sampled states and one
    for the forward draws.

    Arguments:
        sampler: The chain.
        process: The data under the forward process of the same schedule.
        shape: Number of states and shape of one, :math:`(B, *)`.
        generator: Source of all draws.
        dtype: Type of the states that the network sees; all else is float64.
        batch_size: States in one call of the network.
        device: Where the network is; the CPU when None. All else is done on the CPU.
        tick: Called with the number of denoising steps times states that were run.
        processes: Those that share the calls of the network; all else is done by each.

    Raises:
        NoDensity: If no step of the chain has a density.
    """
    x_t, found = sampler.prior(shape, generator=generator, dtype=dtype), False
    options = process.data.dim, batch_size, processes
    for t, s in pairwise(sampler.grid):
        kernel = step_kernel(sampler, x_t.to(device), t, s, *options)
        x_s = kernel.sample(generator)
        tick(len(x_t))
        is_noisy = bool((torch.as_tensor(kernel.variance) > 0).all())
        if is_noisy and (s > 0 or process.data.has_density):
            drawn = process.draw(shape[0], t, generator=generator).reshape(shape).to(dtype)
            seen = step_kernel(sampler, drawn.to(device), t, s, *options)
            tick(len(drawn))
            found = True
            yield ExposedError(
                modular_error(kernel, x_t, process, t, s, x_s=x_s),
                modular_error(seen, drawn, process, t, s, generator=generator),
            )
        x_t = x_s.reshape(shape).to(dtype)
    if not found:
        raise NoDensity(
            "no denoising step of this chain has a density: use eta > 0, or measure only the MMD"
        )


def step_kernel(
    sampler: Sampler,
    x_t: Tensor,
    t: float,
    s: float,
    dim: int,
    batch_size: int = 512,
    processes: Processes = ALONE,
) -> GaussianKernel:
    """The density of one denoising step, from batches of states, in rows (:func:`in_rows`).

    Raises:
        NoDensity: If the chain has none.
        InvalidInput: If a state does not have d numbers.
    """
    parts = []
    for batch in x_t[processes.share(len(x_t))].split(batch_size):
        kernel = sampler.kernel(batch, t, s)
        if kernel is None:
            raise NoDensity(f"{type(sampler).__name__} has no density: measure only the MMD")
        parts.append(in_rows(kernel, dim))
    mean, variance = (processes.gather(torch.cat(each)) for each in zip(*parts, strict=True))
    return GaussianKernel(mean, variance)


def in_rows(kernel: GaussianKernel, dim: int) -> tuple[Tensor, Tensor]:
    """Mean and variance of a denoising step as float64 rows on the CPU, each with shape (B, d).

    Raises:
        InvalidInput: If a state does not have d numbers.
    """
    mean = kernel.mean.detach().double()
    variance = torch.as_tensor(kernel.variance, dtype=torch.float64, device=mean.device)
    if mean[0].numel() != dim:
        raise InvalidInput(f"the chain's states have {mean[0].numel()} numbers, the data {dim}")
    return mean.flatten(1).cpu(), variance.detach().expand_as(mean).flatten(1).cpu()
