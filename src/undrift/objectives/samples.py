r"""Losses of finished samples, with the gradient through the whole chain.

From noise :math:`x_T \sim N(0, I)` the network that is trained makes samples :math:`x_0 = K_1
\cdots K_T\, x_T` by the few denoising steps of its sampler, each of them kept for the backward
pass, and a distance between their features and those of data is the loss. There is no denoising
term: nothing ties the network to the noise levels between, and it is fitted to this chain.

The memory for the backward pass is that of a plain step with as many images, times the number of
network calls of the chain, and that of the feature network: ten steps keep ten times the
activations of a plain training step.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from undrift.diffusion.denoiser import Denoiser
from undrift.diffusion.sampler import Sampler, State, chain_generators
from undrift.exceptions import InvalidInput
from undrift.objectives.objective import Objective
from undrift.processes import Processes, gather
from undrift.regularizer.comparison import comparing
from undrift.regularizer.spaces import PixelSpace, Space
from undrift.seeds import drawn_seed


class SampleObjective(Objective):
    """A loss of finished samples, as many as there are data in a batch.

    Under a conditional model each sample has a condition, drawn from those of the data.

    Arguments:
        sampler: The chain, with as few steps as the model will be sampled with.
        space: What is compared; pixels when None.
        seed: Seed of the noise.

    Raises:
        InvalidInput: If the sampler shows no network that could be trained.
    """

    saved = ("streams", "space")

    def __init__(self, sampler: Sampler, *, space: Space | None = None, seed: int = 0) -> None:
        super().__init__(seed=seed)
        if sampler.network is None:
            raise InvalidInput(f"{type(sampler).__name__} shows no network that could be trained")
        self.sampler = sampler
        self.space = space or PixelSpace()

    def __call__(
        self, model: nn.Module, x_0: Tensor, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """The distance of new samples to data, with the graph of the whole chain.

        Arguments:
            model: The network that is trained, wrapped or not, or a denoiser over it; a conditional
                one under the conditions of the data.
            x_0: Data, with shape :math:`(B, *)`.
            generator: Without effect: all noise is from the stream ``own``.

        Returns:
            A scalar.

        Raises:
            InvalidInput: If the samples are not finite.
        """
        samples = self.samples(model, x_0)
        if not bool(samples.isfinite().all()):
            raise InvalidInput(
                f"samples of {type(self).__name__} hold NaN or infinity: lower the learning rate"
            )
        with comparing(samples, 0):
            return self.distance(model, samples, x_0)

    @abstractmethod
    def distance(self, model: nn.Module, samples: Tensor, x_0: Tensor) -> Tensor:
        """The distance of samples to data, differentiable.

        Arguments:
            model: The network that made the samples.
            samples: Samples, with their graph.
            x_0: Data, as many.
        """

    def samples(self, model: nn.Module, like: Tensor) -> Tensor:
        """New samples of the model in the shape of a batch."""
        network = model.network if isinstance(model, Denoiser) else model
        sampler, processes = self.sampler.with_network(network), Processes.running()
        seed = drawn_seed(self.streams["own"])
        noise = chain_generators(seed, processes.share(len(like) * processes.count))
        labels = getattr(sampler.network, "labels", None)
        if labels is not None:  # independent of the data that they come from, as the samples are
            labels, own = processes.gather(labels), self.streams["own"]
            chosen = processes.drawn(
                lambda n: torch.randint(len(labels), (n,), generator=own), len(like)
            )
            sampler = sampler.given(labels[chosen.to(labels.device)])
        first, *times = sampler.grid
        options: Any = {"generator": noise, "device": like.device, "dtype": like.dtype}
        state = State(first, sampler.prior(tuple(like.shape), **options))
        for s in times:
            state = sampler.advance(state, s, generator=noise)
        return state.x

    def features(self, samples: Tensor) -> list[Tensor]:
        """Blocks of features of the samples of all processes."""
        return self.space(gather(samples), 0)
