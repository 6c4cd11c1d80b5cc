r"""A chain with a remedy: a sampler around a sampler.

It keeps three things apart: the *base* without the remedy, the *chain* that runs in its place, with
the wrapped network, and the bare *network*, from which weights, devices and image shapes are read.
Remedies can be applied to a chain that has one already.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from undrift.diffusion.denoiser import Prediction
from undrift.diffusion.network import device_of
from undrift.diffusion.sampler import GaussianKernel, RandomSource, Sampler, State
from undrift.exceptions import InvalidInput
from undrift.measurement.data import check_data_range
from undrift.remedies.remedy import Remedy, UnfitChain

Network = Callable[..., Any]


class RemediedSampler(Sampler):
    """A chain with a remedy.

    Arguments:
        base: The chain without it, which is left as it is.
        remedy: The remedy.
        estimate: What the remedy estimated from data, if it does.

    Attributes:
        chain: The base with the wrapped network.
        network: The bare network behind the chain, without any remedy.

    Raises:
        InvalidInput: If the remedy cannot be applied to the base.

    What was estimated belongs to one network and one grid: a chain over another network, or with
    another number of steps, has no estimate, and says so when it is sampled.
    """

    def __init__(self, base: Sampler, remedy: Remedy, estimate: Any = None) -> None:  # noqa: ANN401
        super().__init__(base.grid)
        self.base, self.remedy, self.estimate = base, remedy, estimate
        self.network, self.schedule, self.space = base.network, base.schedule, base.space
        self.prediction_type = base.prediction_type
        self.chain = rewired(base, lambda network: remedy.wrapped(network, base, estimate))

    def estimated(
        self,
        data: Tensor | None,
        seed: int = 0,
        num_data: int = 1000,
        *,
        check_range: bool = True,
    ) -> RemediedSampler:
        """The same chain with the remedy estimated from data.

        Arguments:
            data: Images, with shape :math:`(n, *)`, scaled as the samples of the model.
            seed: Seed of the draws.
            num_data: Draws at each time of the chain.
            check_range: Whether to refuse data that are scaled in another way.

        Raises:
            InvalidInput: If there are none, they are scaled in another way, or the model is
                conditional.
        """
        if data is None or not len(data):
            name = self.remedy.remedy
            raise InvalidInput(f"{name} is estimated from data: give the training images")
        if self.is_conditional:
            raise InvalidInput(
                f"{self.remedy.remedy} is estimated from data without conditions: leave it out for "
                "a conditional model"
            )
        if check_range:
            is_scaled = self.space is not None  # whatever images the autoencoder takes
            check_data_range(self.base, data, is_scaled=is_scaled, seed=seed)
        data = data if self.space is None else self.space.encode(data)
        images, generator = data.to(device_of(self.network)), torch.Generator().manual_seed(seed)
        estimate = self.remedy.estimate(self.base, images, num_data, generator)
        return RemediedSampler(self.base, self.remedy, estimate)

    def with_strength(self, strength: float) -> RemediedSampler:
        """The same chain and estimate with another strength."""
        return RemediedSampler(self.base, replace(self.remedy, strength=strength), self.estimate)

    def with_network(self, network: Network) -> RemediedSampler:
        """The same chain, with its remedy, over another network; to be estimated anew."""
        return RemediedSampler(self.base.with_network(network), self.remedy)

    def with_steps(self, num_inference_steps: int) -> RemediedSampler:
        """The same chain, with its remedy, with another number of steps; to be estimated anew."""
        return RemediedSampler(self.base.with_steps(num_inference_steps), self.remedy)

    @property
    def alphas_cumprod(self) -> Tensor | None:
        r""":math:`\bar\alpha` of the timesteps 0 to T − 1 that the network knows, if it does."""
        return self.base.alphas_cumprod

    @property
    def timesteps(self) -> list[float]:
        """The times passed to the network at each step, in the order of the chain."""
        return self.base.timesteps

    def describe(self) -> dict[str, Any]:
        """How this chain was made, in plain data: the base, and the remedies from within."""
        base = self.base.describe()
        own = {"remedy": self.remedy.remedy} | self.remedy.record(self.base, self.estimate)
        return base | {"remedies": [*base.get("remedies", []), own]}

    def prior(self, shape: tuple[int, ...], **options: Any) -> Tensor:  # noqa: ANN401
        """Draws of the base's prior."""
        return self.base.prior(shape, **options)

    def scale(self, t: float) -> tuple[float, float]:
        r""":math:`(\alpha_t, \sigma_t)` of the forward process, which no remedy changes."""
        return self.base.scale(t)

    def predict(self, x_t: Tensor, t: float) -> Prediction:
        r"""The chain's :math:`\hat x_0` and :math:`\hat\epsilon` at a state, neither clipped."""
        return self.chain.predict(x_t, t)

    def x0_hat(self, x_t: Tensor, t: float) -> Tensor:
        r"""The chain's :math:`\hat x_0` at a state, clipped where the chain clips it."""
        return self.chain.x0_hat(x_t, t)

    def kernel(self, x_t: Tensor, t: float, s: float) -> GaussianKernel | None:
        """The density of one step, or None for a chain that has none."""
        return self.remedy.kernel(self.chain, x_t, t, s, self.estimate)

    def step(
        self, x_t: Tensor, t: float, s: float, *, generator: RandomSource | None = None
    ) -> Tensor:
        """One denoising step without history; differentiable."""
        return self.advance(State(t, x_t), s, generator=generator).x

    def advance(self, state: State, s: float, *, generator: RandomSource | None = None) -> State:
        """One denoising step from a state to the time s, with its history; differentiable."""
        return self.remedy.advance(self.chain, state, s, self.estimate, generator)


def without_remedy(sampler: Sampler) -> Sampler:
    """The chain behind all remedies."""
    while isinstance(sampler, RemediedSampler):
        sampler = sampler.base
    return sampler


def rewired(sampler: Sampler, wrap: Callable[[Network], Network]) -> Sampler:
    """The same chain with a function around its network.

    Raises:
        InvalidInput: If the chain has no network that could be wrapped, or calls it in the terms of
            another scheduler, in which the function would not know its times.
    """
    if isinstance(sampler, RemediedSampler):
        other = copy.copy(sampler)
        other.chain = rewired(sampler.chain, wrap)
        return other
    if sampler.network is None:
        kind = type(sampler).__name__
        raise InvalidInput(
            f"{kind} has no network that a remedy could wrap: use a sampler of undrift"
        )
    wrapped = wrap(sampler.network)
    if wrapped is not sampler.network and getattr(sampler, "translation", None) is not None:
        raise InvalidInput(
            "a remedy that changes the network's output or time does not serve a sampler of "
            "another family than the network's: choose another, or the model's own sampler"
        )
    return sampler.with_network(wrapped)


def layers(sampler: Sampler) -> Iterator[Sampler]:
    """A chain, the chain within its outermost remedy, and so on to the one without any."""
    yield sampler
    while isinstance(sampler, RemediedSampler):
        sampler = sampler.chain
        yield sampler


def innermost(sampler: Sampler) -> Sampler:
    """The chain that runs under all remedies."""
    return list(layers(sampler))[-1]


def moved(chain: Sampler, t: float, after: State, x: Tensor) -> State:
    r"""A state that was just reached from time t, with another x, from which its solver continues.

    The corrector of UniPC and the second step of PNDM compute :math:`x_s = c\, x_t + \dots` again
    from the state before, which is in the history. Where x moves by :math:`\Delta`, that state is
    moved by :math:`\Delta/c`: the solver continues from the new x, as one without a corrector does.

    Raises:
        UnfitChain: If the solver computes its state again in another way.
    """
    if after.t == 0 or x is after.x:
        return replace(after, x=x)

    def carried(history: Any) -> Any:  # noqa: ANN401
        if not isinstance(history, dict):
            return history
        known = {name: history.get(name) for name in ("last_sample", "cur_sample")}
        states = {
            name: before + (x - after.x) / _carried(chain, name, t, after.t)
            for name, before in known.items()
            if isinstance(before, Tensor)
        }
        return {name: carried(value) for name, value in history.items()} | states

    return replace(after, x=x, history=carried(after.history))


def _carried(chain: Sampler, name: str, t: float, s: float) -> float:
    """The factor on the state at time t in what a solver computes at time s."""
    scheduler: Any = innermost(chain).scheduler  # type: ignore[attr-defined]
    predicts_data = scheduler.config.get("predict_x0")
    if name == "last_sample" and predicts_data is None:
        raise UnfitChain(
            f"{type(scheduler).__name__} computes each state again from the one before, which a "
            "remedy cannot change: choose another solver"
        )
    part = 1 if name == "last_sample" and predicts_data else 0  # of sigma, or of alpha
    return chain.scale(s)[part] / chain.scale(t)[part]


def broadcast(values: Tensor, like: Tensor) -> Tensor:
    """One number per row, ready to multiply a batch."""
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
