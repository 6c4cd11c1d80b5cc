"""Chains that advance together, and can be run again from other states with the same noise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from undrift.diffusion.batch_size import automatic_batch_size
from undrift.diffusion.condition import bare, draw_labels
from undrift.diffusion.network import device_of, evaluating
from undrift.diffusion.pipelines import state_shape
from undrift.diffusion.sampler import Sampler, State
from undrift.seeds import stream_seed

BATCH_SIZE = 250
"""Default number of chains that go through the network at once; each batch has its own stream."""


class ParallelChains:
    """Many chains that advance together, batch by batch, through one sampler.

    Each batch has its own random generator. The generators' states are stored before each advance,
    so that a segment can be run again from other states with the same noise; a multistep solver
    then starts without its history.

    Arguments:
        sampler: The chain.
        states: Where all chains start, with shape :math:`(N, *)`.
        batch_size: Number of chains that go through the network at once.
        seed: Seed of the noise.
        tick: Called with the number of denoising steps times chains that were run.
        labels: The condition of each chain of a conditional model, with shape :math:`(N,)`.

    Example:
        >>> from undrift import AncestralSampler, CosineSchedule, Denoiser
        >>> denoiser = Denoiser(lambda x_t, t: torch.zeros_like(x_t), CosineSchedule(10), "sample")
        >>> chains = ParallelChains.from_prior(AncestralSampler(denoiser), (5, 2), 3, seed=0)
        >>> x_5 = chains.advance(5).clone()
        >>> x_2 = chains.advance(2)
        >>> bool((chains.replay(x_5) == x_2).all())
        True
    """

    def __init__(
        self,
        sampler: Sampler,
        states: Tensor,
        batch_size: int,
        seed: int,
        tick: Callable[[int], None] = lambda amount: None,
        labels: Tensor | None = None,
    ) -> None:
        self.sampler = sampler
        self.tick = tick
        self.t = sampler.grid[0]
        self.batches = [State(self.t, x) for x in states.split(batch_size)]
        self.labels = _split(labels, [len(batch.x) for batch in self.batches])
        self.generators = [
            torch.Generator(device=states.device).manual_seed(stream_seed(seed, "noise", i))
            for i in range(len(self.batches))
        ]
        self.before = self.t, [g.get_state() for g in self.generators]

    @classmethod
    def from_prior(
        cls,
        sampler: Sampler,
        shape: tuple[int, ...],
        batch_size: int,
        seed: int,
        *,
        device: torch.device | str | None = None,
        tick: Callable[[int], None] = lambda amount: None,
    ) -> ParallelChains:
        r"""Chains that start from the prior, with shape :math:`(N, *)`, and their conditions."""
        generator = torch.Generator(device=device or "cpu").manual_seed(stream_seed(seed, "prior"))
        x = sampler.prior(shape, generator=generator, device=device)
        return cls(sampler, x, batch_size, seed, tick, draw_labels(sampler.network, len(x), seed))

    @property
    def states(self) -> Tensor:
        """The states of all chains now, with shape :math:`(N, *)`."""
        return torch.cat([state.x for state in self.batches])

    @property
    def all_labels(self) -> Tensor | None:
        """The conditions of all chains, with shape :math:`(N,)`."""
        known = [labels for labels in self.labels if labels is not None]
        return torch.cat(known) if known else None

    @torch.no_grad()
    def advance(self, t: float) -> Tensor:
        """Run all chains down to time t and return their states."""
        self.before = self.t, [g.get_state() for g in self.generators]
        for i, generator in enumerate(self.generators):
            self.batches[i] = self._run(self.batches[i], t, generator, self.labels[i])
        self.t = t
        return self.states

    @torch.no_grad()
    def replay(self, starts: Tensor, labels: Tensor | None = None) -> Tensor:
        """Run the last segment again from other states, with the same noise row by row.

        Arguments:
            starts: States where the segment begins, with shape :math:`(M, *)`, M at most N.
            labels: Their conditions, with shape :math:`(M,)`.
        """
        start, random_states = self.before
        ends, done = [], 0
        chains = zip(self.batches, random_states, self.labels, strict=True)
        for batch, random_state, own in chains:
            rows = starts[done : done + len(batch.x)]
            if len(rows) == 0:
                break
            # noise is drawn for whole batches: a short one is padded with other rows
            filled = State(start, torch.cat([rows, batch.x[len(rows) :]]))
            generator = torch.Generator(device=starts.device)
            generator.set_state(random_state)
            given = None
            if labels is not None and own is not None:
                given = torch.cat([labels[done : done + len(rows)].to(own), own[len(rows) :]])
            ends.append(self._run(filled, self.t, generator, given).x[: len(rows)])
            done += len(rows)
        return torch.cat(ends)

    def _run(
        self, state: State, stop: float, generator: torch.Generator, labels: Tensor | None
    ) -> State:
        sampler = self.sampler.given(labels)
        times = sampler.times(state.t, stop)[1:]
        for s in times:
            state = sampler.advance(state, s, generator=generator)
        self.tick(len(times) * len(state.x))
        return state


def _split(labels: Tensor | None, sizes: list[int]) -> list[Tensor | None]:
    """The conditions of each batch."""
    return [None] * len(sizes) if labels is None else list(labels.split(sizes))


def draw_images(
    sampler: Sampler,
    count: int,
    image_shape: tuple[int, ...],
    seed: int,
    **options: Any,  # noqa: ANN401
) -> Tensor:
    """Samples of a chain as images, decoded where its states are codes of them.

    Arguments:
        sampler: The chain.
        count: Number of images, N.
        image_shape: Shape of one image, for a network that does not say it.
        seed: Seed of the noise.
        options: More options of :func:`draw_samples`.

    Returns:
        The images, on the CPU, with shape :math:`(N, *)`.
    """
    if sampler.space is None:
        return draw_samples(sampler, (count, *image_shape), seed, **options)
    shape = state_shape(sampler.network) or image_shape
    return sampler.space.decode(draw_samples(sampler, (count, *shape), seed, **options)).cpu()


def draw_samples(
    sampler: Sampler,
    shape: tuple[int, ...],
    seed: int,
    *,
    batch_size: int | None = None,
    tick: Callable[[int], None] = lambda amount: None,
) -> Tensor:
    r"""Samples of a chain, for the same seed those that :func:`~undrift.measure` compares.

    Arguments:
        sampler: The chain; its network is put into evaluation mode while it draws.
        shape: Shape of the samples, :math:`(N, *)`.
        seed: Seed of the noise.
        batch_size: Number of chains that go through the network at once; by the size of its
            activations when None.
        tick: Called with the number of denoising steps times chains that were run.

    Returns:
        The samples, on the CPU, with shape :math:`(N, *)`.
    """
    network = sampler.network
    with evaluating(network):
        chains = ParallelChains.from_prior(
            sampler,
            shape,
            batch_size or automatic_batch_size(bare(network), shape[1:]),
            seed,
            device=device_of(network),
            tick=tick,
        )
        return chains.advance(0).cpu()
