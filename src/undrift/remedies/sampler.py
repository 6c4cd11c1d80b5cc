r"""What all remedies at sampling time have in common: a sampler around a sampler.

A remedy changes how a trained chain runs, and nothing else. It keeps three things apart: the *base*
that it was put around, the *chain* that runs in its place, and the bare *network*, which is what
weights, devices and image shapes are read from. A remedy defines one of two methods, or both:

- ``chain_over``, which puts a function around the network (:func:`rewired`), for remedies that
  change its output or its time;
- ``advance``, the denoising step, for remedies that change the state or the noise.

Remedies can be put around each other.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from undrift.diffusion.denoiser import Prediction
from undrift.diffusion.sampler import GaussianKernel, Sampler, State
from undrift.exceptions import InvalidInput

Network = Callable[..., Any]


class RemediedSampler(Sampler):
    """A chain around another chain: the base of all remedies.

    A subclass sets its options before it calls this constructor, which calls ``chain_over``.

    Arguments:
        base: What the remedy is put around; it is left as it is.

    Attributes:
        chain: What runs in its place.
        network: The bare network behind the chain, without any remedy.
    """

    name: ClassVar[str]

    def __init__(self, base: Sampler) -> None:
        super().__init__(base.grid)
        self.base = base
        self.network, self.schedule = base.network, base.schedule
        self.prediction_type = base.prediction_type
        self.chain = self.chain_over(base)

    def chain_over(self, base: Sampler) -> Sampler:
        """What runs in the place of a base: the base itself, or with another network."""
        return base

    def around(self, base: Sampler) -> Self:
        """The same remedy around another base."""
        other = copy.copy(self)
        RemediedSampler.__init__(other, base)
        return other

    def with_network(self, network: Network) -> Self:
        """The same chain, with its remedy, over another network."""
        return self.around(self.base.with_network(network))

    def with_steps(self, num_inference_steps: int) -> Self:
        """The same chain, with its remedy, with another number of steps."""
        return self.around(self.base.with_steps(num_inference_steps))

    @property
    def alphas_cumprod(self) -> Tensor | None:
        r""":math:`\bar\alpha` of the timesteps 0 to T − 1 that the network knows, if it does."""
        return self.base.alphas_cumprod

    @property
    def timesteps(self) -> list[float]:
        """What the network is told at the start of each step, in the order of the chain."""
        return self.base.timesteps

    def options(self) -> dict[str, Any]:
        """What was chosen about the remedy, in plain data."""
        return {}

    def describe(self) -> dict[str, Any]:
        """How this chain was made, in plain data: the base, and the remedies from within."""
        base = self.base.describe()
        own = {"remedy": self.name} | self.options()
        return base | {"remedies": [*base.get("remedies", []), own]}

    def prior(
        self,
        shape: tuple[int, ...],
        *,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """Draws of the base's prior."""
        return self.base.prior(shape, generator=generator, device=device, dtype=dtype)

    def scale(self, t: float) -> tuple[float, float]:
        r""":math:`(\alpha_t, \sigma_t)` of the forward process, which no remedy changes."""
        return self.base.scale(t)

    def predict(self, x_t: Tensor, t: float) -> Prediction:
        r"""The chain's :math:`\hat x_0` and :math:`\hat\epsilon` at a state, neither clipped."""
        return self.chain.predict(x_t, t)

    def epsilon(self, x_t: Tensor, t: float) -> Tensor:
        r"""The chain's :math:`\hat\epsilon` at a state, with its shape."""
        return self.chain.epsilon(x_t, t)

    def x0_hat(self, x_t: Tensor, t: float) -> Tensor:
        r"""The chain's :math:`\hat x_0` at a state, clipped where the chain clips it."""
        return self.chain.x0_hat(x_t, t)

    def kernel(self, x_t: Tensor, t: float, s: float) -> GaussianKernel | None:
        """The density of one step, or None for a chain that has none."""
        return self.chain.kernel(x_t, t, s)

    def step(
        self, x_t: Tensor, t: float, s: float, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """One denoising step without history; differentiable."""
        return self.advance(State(t, x_t), s, generator=generator).x

    def advance(self, state: State, s: float, *, generator: torch.Generator | None = None) -> State:
        """One denoising step from a state to the time s, with its history; differentiable."""
        return self.chain.advance(state, s, generator=generator)


def rewired(sampler: Sampler, wrap: Callable[[Network], Network]) -> Sampler:
    """The same chain with a function around its network.

    Raises:
        InvalidInput: If the chain has no network that could be wrapped.
    """
    if isinstance(sampler, RemediedSampler):
        other = copy.copy(sampler)
        other.chain = rewired(sampler.chain, wrap)
        return other
    if sampler.network is None:
        kind = type(sampler).__name__
        raise InvalidInput(
            f"{kind} shows no network to put a remedy around: use a sampler of undrift"
        )
    return sampler.with_network(wrap(sampler.network))


def innermost(sampler: Sampler) -> Sampler:
    """The chain that runs under all remedies."""
    while isinstance(sampler, RemediedSampler):
        sampler = sampler.chain
    return sampler


def broadcast(values: Tensor, like: Tensor) -> Tensor:
    """One number a row, ready to multiply a batch."""
    return values.to(like).view(-1, *[1] * (like.ndim - 1))


def noise_table(sampler: Sampler, what: str) -> Tensor:
    r"""The :math:`\bar\alpha` of the timesteps 0, ..., T − 1 that a chain's network was trained on.

    Raises:
        InvalidInput: If the network does not see variance-preserving states at such timesteps.
    """
    table = sampler.alphas_cumprod
    if table is None:
        inner = innermost(sampler)
        kind = type(getattr(inner, "scheduler", inner)).__name__
        raise InvalidInput(f"{what} needs a schedule of betas, which {kind} has not: leave it out")
    return table


def interpolate(table: Tensor, timestep: Tensor) -> Tensor:
    """A table of timesteps read at any of them, fractional ones too, in float64."""
    at = timestep.detach().cpu().double().clamp(0, len(table) - 1)
    low, high = at.floor().long(), at.ceil().long()
    return torch.lerp(table[low], table[high], at - low)
