"""Many chains that advance together, and that run again from other states with the same noise."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import torch
from torch import Tensor

from undrift.diffusion.sampler import Sampler
from undrift.seeds import stream_seed


class Population:
    """Many chains that advance together, batch by batch, through one sampler.

    Each batch is a stream of states with a random generator of its own; only the states of now are
    held. Before each advance the generators' states are kept, so that a segment can be run again
    from other states with the same noise.

    Arguments:
        sampler: The chain.
        states: Where all chains start, with shape :math:`(N, *)`.
        batch_size: Number of chains that go through the network at once.
        seed: Seed of the noise.
        tick: Called with the number of modules times chains that were run.

    Example:
        >>> from undrift import AncestralSampler, CosineSchedule, Denoiser
        >>> denoiser = Denoiser(lambda x_t, t: torch.zeros_like(x_t), CosineSchedule(10), "sample")
        >>> chains = Population.from_prior(AncestralSampler(denoiser), (5, 2), 3, seed=0)
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
    ) -> None:
        self.sampler = sampler
        self.tick = tick
        self.t = sampler.grid[0]
        self.batches = list(states.split(batch_size))
        self.generators = [
            torch.Generator(device=states.device).manual_seed(stream_seed(seed, "noise", i))
            for i in range(len(self.batches))
        ]
        self.streams = [
            sampler.trajectory(batch, generator=generator)
            for batch, generator in zip(self.batches, self.generators, strict=True)
        ]
        for stream in self.streams:
            next(stream)
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
    ) -> Population:
        r"""Chains that start from the prior, with shape :math:`(N, *)`."""
        generator = torch.Generator(device=device or "cpu").manual_seed(stream_seed(seed, "prior"))
        x = sampler.prior(shape, generator=generator, device=device)
        return cls(sampler, x, batch_size, seed, tick)

    @property
    def states(self) -> Tensor:
        """The states of all chains now, with shape :math:`(N, *)`."""
        return torch.cat(self.batches)

    @torch.no_grad()
    def advance(self, t: float) -> Tensor:
        """Run all chains down to time t and return their states."""
        self.before = self.t, [g.get_state() for g in self.generators]
        modules = self._modules(self.t, t)
        for i, stream in enumerate(self.streams):
            at, x = self.t, self.batches[i]
            while at != t:
                at, x = next(stream)
            self.batches[i] = x
            self.tick(modules * len(x))
        self.t = t
        return self.states

    @torch.no_grad()
    def replay(self, starts: Tensor) -> Tensor:
        """Run the last segment again from other states, with the same noise row by row.

        Arguments:
            starts: States where the segment begins, with shape :math:`(M, *)`, M at most N.
        """
        start, random_states = self.before
        ends, done = [], 0
        for batch, random_state in zip(self.batches, random_states, strict=True):
            rows = starts[done : done + len(batch)]
            if len(rows) == 0:
                break
            # noise is drawn for whole batches: a short one is filled up with any rows
            filled = torch.cat([rows, batch[len(rows) :]])
            generator = torch.Generator(device=starts.device)
            generator.set_state(random_state)
            states = self.sampler.trajectory(filled, start=start, stop=self.t, generator=generator)
            (_, x), *_ = deque(states, maxlen=1)
            ends.append(x[: len(rows)])
            done += len(rows)
            self.tick(self._modules(start, self.t) * len(batch))
        return torch.cat(ends)

    def _modules(self, t: float, s: float) -> int:
        return self.sampler.grid.index(s) - self.sampler.grid.index(t)
