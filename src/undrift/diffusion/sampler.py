r"""The chain of denoising steps, from noise to data.

A sampler is a chain of denoising steps :math:`K_{t_n}, \dots, K_{t_1}` on a descending grid of
times, which are real numbers. One step maps a state :math:`x_t` to a random state :math:`x_s`,
:math:`s < t`; running the chain from the prior gives :math:`p_s = K_t p_t`, to be compared with the
forward marginal :math:`q_s`. The chain is a generator of states, so that measurements need no
hooks:

    >>> for t, x_t in sampler.trajectory(x_T, generator=generator):  # doctest: +SKIP
    ...     print(t, x_t.std())

A multistep solver needs its last outputs too: they are the state's history, which
:meth:`Sampler.advance` takes and passes on. A state can be advanced more than once.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from undrift.diffusion.condition import ConditionalNetwork
from undrift.diffusion.denoiser import Prediction
from undrift.diffusion.latents import LatentSpace
from undrift.diffusion.schedule import Schedule
from undrift.exceptions import InvalidInput
from undrift.seeds import chain_seed


@dataclass(frozen=True)
class State:
    """A state of a chain, which unpacks as ``t, x_t``.

    Arguments:
        t: Its time.
        x: :math:`x_t`, with shape :math:`(B, *)`.
        history: What a multistep solver keeps of its last steps: tensors, numbers, and lists and
            dictionaries of them; None if nothing.
    """

    t: float
    x: Tensor
    history: Any = None

    def __iter__(self) -> Iterator[Any]:
        return iter((self.t, self.x))

    def detach(self) -> State:
        """The same state without its graph, and without that of its history."""
        return State(self.t, self.x.detach(), _mapped(self.history, Tensor.detach))

    def to(self, like: Tensor) -> State:
        """The same state and history on the device and in the precision of a tensor."""

        def moved(value: Tensor) -> Tensor:
            return value.to(like) if value.ndim else value

        return State(self.t, self.x.to(like), _mapped(self.history, moved))


def _mapped(tree: Any, change: Callable[[Tensor], Tensor]) -> Any:  # noqa: ANN401
    """Lists and dictionaries with all tensors in them changed."""
    if isinstance(tree, Tensor):
        return change(tree)
    if isinstance(tree, dict):
        return {key: _mapped(value, change) for key, value in tree.items()}
    return [_mapped(value, change) for value in tree] if isinstance(tree, list) else tree


RandomSource = torch.Generator | list[torch.Generator]
"""One generator for a batch, or one for each of its rows, as the pipelines of diffusers take them:
what a row draws then depends on no other row."""


def draw_noise(like: Tensor, generator: RandomSource | None = None) -> Tensor:
    """Standard Gaussian noise with the shape, device and dtype of a tensor.

    A generator of the CPU also serves a tensor on an accelerator: the draws are then the same on
    every device.

    Raises:
        InvalidInput: If there is a list of generators, but not one for each row.
    """
    if isinstance(generator, list):
        return _draw_rows(like, generator)
    device = generator.device if generator is not None else like.device
    noise = torch.randn(like.shape, generator=generator, device=device, dtype=like.dtype)
    return noise.to(like.device)


def _draw_rows(like: Tensor, generators: list[torch.Generator]) -> Tensor:
    if len(generators) != len(like):
        raise InvalidInput(f"{len(generators)} generators for {len(like)} rows: give as many")
    noise = torch.empty(like.shape, device=generators[0].device, dtype=like.dtype)
    for row, generator in zip(noise.unbind(), generators, strict=True):
        row.normal_(generator=generator)
    return noise.to(like.device)


def chain_generators(
    seed: int, chains: slice, device: torch.device | str | None = None
) -> list[torch.Generator]:
    """The sources of noise of some chains; each draws its prior first, then its steps.

    Pipelines of diffusers take such a list too, and then make the same images.

    Arguments:
        seed: Seed of all chains.
        chains: Which of them, from start to stop.
        device: Where the noise is drawn; the CPU when None.
    """
    numbers = range(chains.start, chains.stop)
    where = torch.device(device or "cpu")
    return [torch.Generator(where).manual_seed(chain_seed(seed, number)) for number in numbers]


@dataclass(frozen=True)
class GaussianKernel:
    r"""The density :math:`K_t(x_s | x_t) = N(x_s; m, v I)` of one denoising step.

    Arguments:
        mean: :math:`m`, with shape :math:`(B, *)`.
        variance: :math:`v`, per dimension: a number, or a tensor that broadcasts to the mean.
    """

    mean: Tensor
    variance: float | Tensor

    def sample(self, generator: RandomSource | None = None) -> Tensor:
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
            raise InvalidInput("a step without noise has no density: stop one step before")
        terms = (x_s - self.mean) ** 2 / variance + torch.log(2 * math.pi * variance)
        return -0.5 * terms.expand_as(x_s).flatten(1).sum(1)


class Sampler(ABC):
    r"""A chain of denoising steps on a grid of times.

    A subclass defines :meth:`step`, :meth:`scale` and :meth:`describe`; :meth:`predict` too for
    what is measured on its estimates, and :meth:`advance` instead of ``step`` if its steps depend
    on those before. Noise is drawn by :func:`draw_noise`: where many chains run, each row has its
    own generator.

    Arguments:
        grid: Descending times, from that of the prior to 0.

    Attributes:
        network: The network that it samples from, or None.
        space: What encodes images as its states, or None where the states are the images.
        schedule: The table of its noise schedule, or None if its times are no steps of one.
        prediction_type: What its network predicts, by diffusers' names, or None if not known.
    """

    network: Any = None
    space: LatentSpace | None = None
    schedule: Schedule | None = None
    prediction_type: Any = None

    def __init__(self, grid: tuple[float, ...]) -> None:
        self.grid = grid

    @abstractmethod
    def step(
        self, x_t: Tensor, t: float, s: float, *, generator: RandomSource | None = None
    ) -> Tensor:
        """One denoising step without history: :math:`x_s` given :math:`x_t`; differentiable."""

    @abstractmethod
    def scale(self, t: float) -> tuple[float, float]:
        r""":math:`(\alpha_t, \sigma_t)` of the forward process, in the scaling of the states."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """The options of this chain, as plain data."""

    def advance(self, state: State, s: float, *, generator: RandomSource | None = None) -> State:
        """One denoising step from a state to the time s, with its history; differentiable."""
        return State(s, self.step(state.x, state.t, s, generator=generator))

    def predict(self, x_t: Tensor, t: float) -> Prediction:
        r"""The model's :math:`\hat x_0` and :math:`\hat\epsilon` at a state, neither clipped.

        Raises:
            InvalidInput: If what the network predicts is not known.
        """
        raise InvalidInput(f"{type(self).__name__} has no known prediction type: define predict")

    def epsilon(self, x_t: Tensor, t: float) -> Tensor:
        r"""The model's :math:`\hat\epsilon` at a state, with its shape."""
        return self.predict(x_t, t).epsilon_hat

    def x0_hat(self, x_t: Tensor, t: float) -> Tensor:
        r"""The model's :math:`\hat x_0` at a state, clipped where the chain clips it."""
        return self.predict(x_t, t).x0_hat

    def with_network(self, network: Callable[..., Any]) -> Sampler:
        """The same chain over another network.

        Raises:
            InvalidInput: If the chain defines no such method.
        """
        raise InvalidInput(
            f"{type(self).__name__} has no network that could be replaced: define with_network, "
            "or use a sampler of undrift"
        )

    def with_steps(self, num_inference_steps: int) -> Sampler:
        """The same chain with another number of steps.

        Raises:
            InvalidInput: If the chain defines no such method, or has no grid with so many.
        """
        raise InvalidInput(
            f"{type(self).__name__} has one grid of times: build it with {num_inference_steps} "
            "steps, or define with_steps"
        )

    def given(self, labels: Tensor | None) -> Sampler:
        """The same chain under conditions, one for each row; itself if there are none.

        Raises:
            InvalidInput: If its network has no conditions.
        """
        if labels is None:
            return self
        if not self.is_conditional:
            raise InvalidInput("the model has no conditions: leave the labels out")
        return self.with_network(self.network.given(labels))

    def over(self, labels: Tensor | None) -> Sampler:
        """The same chain with its conditions drawn from those of data, if it has conditions.

        Raises:
            InvalidInput: If one of them is out of range.
        """
        if labels is None or not self.is_conditional:
            return self
        return self.with_network(self.network.over(labels))

    @property
    def is_conditional(self) -> bool:
        """Whether each row has a condition of its own."""
        return isinstance(self.network, ConditionalNetwork)

    @property
    def alphas_cumprod(self) -> Tensor | None:
        r""":math:`\bar\alpha` of the timesteps 0 to T − 1 that the network knows, if it does."""
        return None if self.schedule is None else self.schedule.alphas_cumprod[1:]

    @property
    def timesteps(self) -> list[float]:
        """The timesteps passed to the network, one per step, in the order of the chain."""
        return [t - 1 for t in self.grid[:-1]]

    def forward(self, x_0: Tensor, t: float, *, generator: RandomSource | None = None) -> Tensor:
        r"""A draw of :math:`\alpha_t x_0 + \sigma_t\epsilon`, with the shape of :math:`x_0`."""
        if t == 0:
            return x_0
        alpha_t, sigma_t = self.scale(t)
        return torch.add(alpha_t * x_0, draw_noise(x_0, generator), alpha=sigma_t)

    def kernel(self, x_t: Tensor, t: float, s: float) -> GaussianKernel | None:
        """The density of one step, or None for a chain that has none."""
        del x_t, t, s
        return None

    def prior(
        self,
        shape: tuple[int, ...],
        *,
        generator: RandomSource | None = None,
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
        generator: RandomSource | None = None,
    ) -> Iterator[State]:
        """Yield the states ``(t, x_t)`` from the first, ``x`` itself, to the last.

        Arguments:
            x: State at the start, with shape :math:`(B, *)`.
            start: Time of ``x``; the first time of the grid when None.
            stop: Time of the last state.
            generator: Source of the steps' noise: one, or a list of one for each row.
        """
        times = self.times(start, stop)
        state = State(times[0], x)
        yield state
        for s in times[1:]:
            state = self.advance(state, s, generator=generator)
            yield state

    def sample(
        self,
        shape: tuple[int, ...],
        *,
        generator: RandomSource | None = None,
        **options: Any,  # noqa: ANN401
    ) -> Tensor:
        """Samples of :math:`p_0`: the whole chain from the prior, without gradient.

        Arguments:
            shape: Shape of the samples, :math:`(B, *)`.
            generator: Source of all random numbers.
            options: Device and dtype of the prior.
        """
        x = self.prior(shape, generator=generator, **options)
        with torch.no_grad():
            for _, x_t in self.trajectory(x, generator=generator):
                x = x_t
        return x
