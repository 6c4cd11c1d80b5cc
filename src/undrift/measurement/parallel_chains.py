"""Chains that advance together, and others from other states with the same noise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from undrift.diffusion.batch_size import automatic_batch_size
from undrift.diffusion.condition import bare, draw_labels
from undrift.diffusion.network import device_of, evaluating
from undrift.diffusion.pipelines import state_shape
from undrift.diffusion.sampler import Sampler, State, chain_generators
from undrift.processes import ALONE, Processes

BATCH_SIZE = 250
"""Default number of chains that go through the network at once; it changes no chain."""


class ParallelChains:
    """Many chains that advance together, batch by batch, through one sampler.

    Each chain has its own random generator, whose seed depends on the seed and on its number alone:
    neither the number of chains nor that of batches or processes changes a chain beyond rounding.

    Arguments:
        sampler: The chain.
        states: Where all chains start, with shape :math:`(N, *)`.
        batch_size: Number of chains that go through the network at once, in each process.
        seed: Seed of the noise.
        tick: Called with the number of denoising steps times chains that were run.
        labels: The condition of each chain of a conditional model, with shape :math:`(N,)`.
        processes: Those that share the chains; each of them gets the states of all.
        generators: Sources of noise of the chains of this process; new ones when None.

    Example:
        >>> from undrift import AncestralSampler, CosineSchedule, Denoiser
        >>> denoiser = Denoiser(lambda x_t, t: torch.zeros_like(x_t), CosineSchedule(10), "sample")
        >>> sampler = AncestralSampler(denoiser)
        >>> few = ParallelChains.from_prior(sampler, (3, 2), 2, seed=0).advance(0)
        >>> more = ParallelChains.from_prior(sampler, (5, 2), 5, seed=0).advance(0)
        >>> torch.equal(few, more[:3])
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
        processes: Processes = ALONE,
        generators: list[torch.Generator] | None = None,
    ) -> None:
        self.sampler, self.batch_size, self.processes = sampler, batch_size, processes
        self.tick = tick
        self.t = sampler.grid[0]
        self.all_labels, self.share = labels, processes.share(len(states))
        self.none = states[:0]
        own = generators or chain_generators(seed, self.share, states.device)
        self.batches = [State(self.t, x) for x in self._split(states)]
        self.labels = [None for _ in self.batches] if labels is None else self._split(labels)
        starts = range(0, len(own), batch_size)
        self.generators = [own[start : start + batch_size] for start in starts]

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
        processes: Processes = ALONE,
    ) -> ParallelChains:
        r"""Chains that start from the prior, with shape :math:`(N, *)`, and their conditions."""
        own = chain_generators(seed, processes.share(shape[0]), device)
        x = sampler.prior((len(own), *shape[1:]), generator=own, device=device)
        labels = draw_labels(sampler.network, shape[0], seed)
        return cls(
            sampler, processes.gather(x), batch_size, seed, tick, labels, processes, own
        )  # fmt: skip

    @property
    def states(self) -> Tensor:
        """The states of all chains now, with shape :math:`(N, *)`."""
        return self._joined([state.x for state in self.batches])

    @torch.no_grad()
    def advance(self, t: float) -> Tensor:
        """Run all chains down to time t and return their states."""
        chains = zip(self.batches, self.generators, self.labels, strict=True)
        self.batches = [self._run(batch, t, noise, own) for batch, noise, own in chains]
        self.t = t
        return self.states

    @torch.no_grad()
    def advance_beside(
        self, t: float, starts: Tensor, labels: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Run all chains down to time t, and others with the same noise, row by row.

        The others start without history: a multistep solver begins anew.

        Arguments:
            t: Where both end.
            starts: States of the others at the time where the chains are, with shape
                :math:`(M, *)`, M at most N.
            labels: Their conditions, with shape :math:`(M,)`.

        Returns:
            The states of all chains, and those of the others.
        """
        others, ends, done = self._split(starts), [], []
        known = None if self.all_labels is None else labels
        given = [None for _ in others] if known is None else self._split(known)
        chains = zip(self.batches, self.generators, self.labels, strict=True)
        for i, (batch, noise, own) in enumerate(chains):
            before = [generator.get_state() for generator in noise]
            done.append(self._run(batch, t, noise, own))
            if i < len(others):
                again = [_at(position, starts.device) for position in before[: len(others[i])]]
                ends.append(self._run(State(self.t, others[i]), t, again, given[i]).x)
        self.batches, self.t = done, t
        return self.states, self._joined(ends)

    def _split(self, rows: Tensor) -> list[Tensor]:
        """The rows of this process, in batches; none if there are none."""
        own = rows[self.share]
        return list(own.split(self.batch_size)) if len(own) else []

    def _joined(self, batches: list[Tensor]) -> Tensor:
        """The rows of all processes."""
        return self.processes.gather(torch.cat(batches or [self.none]))

    def _run(
        self, state: State, stop: float, noise: list[torch.Generator], labels: Tensor | None
    ) -> State:
        sampler = self.sampler.given(labels)
        times = sampler.times(state.t, stop)[1:]
        for s in times:
            state = sampler.advance(state, s, generator=noise)
        self.tick(len(times) * len(state.x) * self.processes.count)
        return state


def _at(position: Tensor, device: torch.device) -> torch.Generator:
    """A generator at a position of its stream."""
    return torch.Generator(device).set_state(position)


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
    codes = state_shape(sampler.network) if sampler.space is not None else None
    shape = (count, *(codes or image_shape))
    return as_images(sampler, draw_samples(sampler, shape, seed, **options))


def as_images(sampler: Sampler, samples: Tensor) -> Tensor:
    """Samples of a chain as images, on the CPU, decoded where they are codes of images.

    Arguments:
        sampler: The chain.
        samples: Its final states, with shape :math:`(N, *)`.
    """
    return (samples if sampler.space is None else sampler.space.decode(samples)).cpu()


def network_calls(sampler: Sampler, shape: tuple[int, ...]) -> int:
    """How often a chain calls its network for one sample, counted on one.

    Arguments:
        sampler: The chain.
        shape: Shape of an image.
    """
    calls: list[int] = []
    hook = sampler.network.register_forward_pre_hook(lambda *_: calls.append(1))
    try:
        draw_images(sampler, 1, shape, seed=0)
    finally:
        hook.remove()
    return len(calls)


def draw_samples(
    sampler: Sampler,
    shape: tuple[int, ...],
    seed: int,
    *,
    batch_size: int | None = None,
    tick: Callable[[int], None] = lambda amount: None,
    processes: Processes = ALONE,
) -> Tensor:
    r"""Samples of a chain, for the same seed those that :func:`~undrift.measure` compares.

    Arguments:
        sampler: The chain; its network is put into evaluation mode while it draws.
        shape: Shape of the samples, :math:`(N, *)`.
        seed: Seed of the noise.
        batch_size: Number of chains that go through the network at once, in each process; by the
            size of its activations when None.
        tick: Called with the number of denoising steps times chains that were run.
        processes: Those that share the chains; each of them gets all samples.

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
            processes=processes,
        )
        return chains.advance(0).cpu()
