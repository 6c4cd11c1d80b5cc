r"""What all remedies at sampling time have in common: a sampler around a sampler.

A remedy changes how a trained chain runs, and nothing else. It keeps three things apart: the *base*
that it was put around, the *chain* that runs in its place, and the bare *network*, which is what
weights, devices and image shapes are read from. Two levers suffice:

- the call of the network (:func:`rewired`), which every sampler of ours and every scheduler of
  diffusers shares, for remedies that change its output or its time;
- the module :math:`x_t \mapsto x_s`, for remedies that change the state or the noise.

Remedies can be put around each other.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor

from undrift.diffusion.gaussian import DenoiserSampler
from undrift.diffusion.sampler import GaussianKernel, Sampler, State
from undrift.diffusion.scheduler import DiffusersSampler
from undrift.exceptions import InvalidInput

Network = Callable[..., Any]


class RemediedSampler(Sampler):
    """A chain around another chain: the base of all remedies.

    Arguments:
        base: What the remedy is put around; it is left as it is.
        chain: What runs in its place; the base itself when None.
    """

    name: ClassVar[str]

    def __init__(self, base: Sampler, chain: Sampler | None = None) -> None:
        super().__init__(base.grid)
        self.base = base
        self.chain = base if chain is None else chain

    @property
    def network(self) -> Any:  # noqa: ANN401
        """The bare network behind the chain, without any remedy."""
        return getattr(getattr(self.base, "denoiser", self.base), "network", None)

    @property
    def schedule(self) -> Any:  # noqa: ANN401
        """The noise schedule of the base, or None for one that has none of ours."""
        return getattr(self.base, "schedule", None)

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

    def epsilon(self, x_t: Tensor, t: float) -> Tensor:
        r"""The chain's :math:`\hat\epsilon` at a state, with its shape."""
        return self.chain.epsilon(x_t, t)

    def kernel(self, x_t: Tensor, t: float, s: float) -> GaussianKernel | None:
        """The density of one module, or None for a chain that has none."""
        return self.chain.kernel(x_t, t, s)

    def step(
        self, x_t: Tensor, t: float, s: float, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """One module: a draw of :math:`x_s` given :math:`x_t`, with its shape; differentiable."""
        return self.chain.step(x_t, t, s, generator=generator)

    def trajectory(
        self,
        x: Tensor,
        *,
        start: float | None = None,
        stop: float = 0,
        generator: torch.Generator | None = None,
    ) -> Iterator[State]:
        """Yield ``(t, x_t)`` from the first state to the last (see :class:`Sampler`)."""
        return self.chain.trajectory(x, start=start, stop=stop, generator=generator)


def rewired(sampler: Sampler, wrap: Callable[[Network], Network]) -> Sampler:
    """The same chain with a function around its network.

    Raises:
        InvalidInput: If the chain has no network that could be wrapped.
    """
    if isinstance(sampler, RemediedSampler):
        other = copy.copy(sampler)
        other.chain = rewired(sampler.chain, wrap)
        return other
    if isinstance(sampler, DenoiserSampler):
        return sampler.with_network(wrap(sampler.denoiser.network))
    if isinstance(sampler, DiffusersSampler):
        return sampler.with_network(wrap(sampler.network))
    kind = type(sampler).__name__
    raise InvalidInput(f"{kind} shows no network to put a remedy around: use a sampler of undrift")


def innermost(sampler: Sampler) -> Sampler:
    """The chain that runs under all remedies."""
    while isinstance(sampler, RemediedSampler):
        sampler = sampler.chain
    return sampler


def data_estimate(sampler: Sampler, x_t: Tensor, t: float) -> Tensor:
    r"""The chain's :math:`\hat x_0` at a state, clipped where the chain clips it."""
    inner = innermost(sampler)
    if isinstance(inner, DenoiserSampler):
        x0_hat: Tensor = inner.denoiser(x_t, t)
        return x0_hat if inner.clip is None else x0_hat.clamp(-inner.clip, inner.clip)
    if isinstance(inner, DiffusersSampler):
        return inner.x0_hat(x_t, t)
    alpha_t, sigma_t = inner.scale(t)
    return (x_t - sigma_t * inner.epsilon(x_t, t)) / alpha_t


def broadcast(values: Tensor, like: Tensor) -> Tensor:
    """One number a row, ready to multiply a batch."""
    return values.to(like).view(-1, *[1] * (like.ndim - 1))


def noise_table(sampler: Sampler, what: str) -> Tensor:
    r"""The :math:`\bar\alpha` of the timesteps 0, ..., T − 1 that a chain's network was trained on.

    Raises:
        InvalidInput: If the network does not see variance-preserving states at such timesteps.
    """
    inner = innermost(sampler)
    if isinstance(inner, DenoiserSampler):
        return inner.schedule.alphas_cumprod[1:]
    table = getattr(getattr(inner, "scheduler", None), "alphas_cumprod", None)
    if table is None:
        kind = type(getattr(inner, "scheduler", inner)).__name__
        raise InvalidInput(f"{what} needs a schedule of betas, which {kind} has not: leave it out")
    return table.double().cpu()  # type: ignore[no-any-return]


def interpolate(table: Tensor, timestep: Tensor) -> Tensor:
    """A table of timesteps read at any of them, fractional ones too, in float64."""
    at = timestep.detach().cpu().double().clamp(0, len(table) - 1)
    low, high = at.floor().long(), at.ceil().long()
    return torch.lerp(table[low], table[high], at - low)
