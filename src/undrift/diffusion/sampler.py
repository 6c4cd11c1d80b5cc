r"""The chain of denoising modules, from noise to data.

A sampler is a chain of modules :math:`K_{t_n}, \dots, K_{t_1}` on a descending grid of times. One
module maps a state :math:`x_t` to a random state :math:`x_s`, :math:`s < t`; running the chain
from the prior gives :math:`p_s = K_t p_t`, to be compared with the forward marginal :math:`q_s`.
The chain is a generator of states, so that whoever measures it needs no hook:

    >>> for t, x_t in sampler.trajectory(x_T, generator=generator):  # doctest: +SKIP
    ...     print(t, x_t.std())
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from undrift.exceptions import InvalidInput

State = tuple[float, Tensor]


def draw_noise(like: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Standard Gaussian noise with the shape, device and dtype of a tensor.

    A generator of the CPU also serves a tensor on an accelerator: the draws are then the same on
    every device.
    """
    device = generator.device if generator is not None else like.device
    noise = torch.randn(like.shape, generator=generator, device=device, dtype=like.dtype)
    return noise.to(like.device)


@dataclass(frozen=True)
class GaussianKernel:
    r"""The density :math:`K_t(x_s | x_t) = N(x_s; m, v I)` of one module.

    Arguments:
        mean: :math:`m`, with shape :math:`(B, *)`.
        variance: :math:`v`, per dimension: a number, or a tensor that broadcasts to the mean.
    """

    mean: Tensor
    variance: float | Tensor

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """One draw for each row; the mean itself (and no random number) where v is 0."""
        if isinstance(self.variance, float):
            if self.variance == 0:
                return self.mean
            noise = draw_noise(self.mean, generator)
            return torch.add(self.mean, noise, alpha=math.sqrt(self.variance))
        return self.mean + self.variance.sqrt() * draw_noise(self.mean, generator)

    def log_prob(self, x_s: Tensor) -> Tensor:
        """Log-density of each row, in nats, with shape :math:`(B,)`.

        Raises:
            InvalidInput: If the variance is 0: a point mass has no density.
        """
        variance = torch.as_tensor(self.variance, dtype=x_s.dtype, device=x_s.device)
        if bool((variance <= 0).any()):
            raise InvalidInput("a module without noise has no density: stop one step before")
        terms = (x_s - self.mean) ** 2 / variance + torch.log(2 * math.pi * variance)
        return -0.5 * terms.expand_as(x_s).flatten(1).sum(1)


class Sampler(ABC):
    """A chain of denoising modules on a grid of times.

    Arguments:
        grid: Descending times, from that of the prior to 0.
    """

    def __init__(self, grid: tuple[float, ...]) -> None:
        self.grid = grid

    @abstractmethod
    def step(
        self, x_t: Tensor, t: float, s: float, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """One module: a draw of :math:`x_s` given :math:`x_t`, with its shape; differentiable."""

    @abstractmethod
    def scale(self, t: float) -> tuple[float, float]:
        r""":math:`(\alpha_t, \sigma_t)` of the forward process, in the scaling of the states."""

    @abstractmethod
    def epsilon(self, x_t: Tensor, t: float) -> Tensor:
        r"""The model's :math:`\hat\epsilon` at a state, with its shape."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """How this chain was made, in plain data."""

    def forward(self, x_0: Tensor, t: float, *, generator: torch.Generator | None = None) -> Tensor:
        r"""A draw of :math:`\alpha_t x_0 + \sigma_t\epsilon`, with the shape of :math:`x_0`."""
        if t == 0:
            return x_0
        alpha_t, sigma_t = self.scale(t)
        return torch.add(alpha_t * x_0, draw_noise(x_0, generator), alpha=sigma_t)

    def kernel(self, x_t: Tensor, t: float, s: float) -> GaussianKernel | None:
        """The density of one module, or None for a chain that has none."""
        del x_t, t, s
        return None

    def prior(
        self,
        shape: tuple[int, ...],
        *,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """Draws of the prior :math:`N(0, I)`, from which the chain starts."""
        return draw_noise(torch.empty(shape, device=device, dtype=dtype), generator)

    def times(self, start: float | None = None, stop: float = 0) -> tuple[float, ...]:
        """The part of the grid between two of its times, both included.

        Raises:
            InvalidInput: If one of them is not on the grid, or the stop is before the start.
        """
        start = self.grid[0] if start is None else start
        for t in (start, stop):
            if t not in self.grid:
                raise InvalidInput(
                    f"time {t} is not on the sampler's grid of {len(self.grid)} times from "
                    f"{self.grid[0]:g} to 0"
                )
        if start < stop:
            raise InvalidInput(f"a chain cannot run from time {start:g} up to {stop:g}")
        return tuple(t for t in self.grid if stop <= t <= start)

    def trajectory(
        self,
        x: Tensor,
        *,
        start: float | None = None,
        stop: float = 0,
        generator: torch.Generator | None = None,
    ) -> Iterator[State]:
        """Yield ``(t, x_t)`` from the first state, ``x`` itself, to the last.

        Arguments:
            x: State at the start, with shape :math:`(B, *)`.
            start: Time of ``x``; the first time of the grid when None.
            stop: Time of the last state.
            generator: Source of the modules' noise.
        """
        times = self.times(start, stop)
        yield times[0], x
        for t, s in pairwise(times):
            x = self.step(x, t, s, generator=generator)
            yield s, x

    def sample(
        self,
        shape: tuple[int, ...],
        *,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """Run the whole chain from the prior, without gradient: samples of :math:`p_0`."""
        with torch.no_grad():
            x = self.prior(shape, generator=generator, device=device, dtype=dtype)
            for _, state in self.trajectory(x, generator=generator):
                x = state
        return x
