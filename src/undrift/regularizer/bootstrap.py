"""Rollouts, and the short one from forward draws."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from undrift.diffusion.sampler import Sampler, State, chain_generators
from undrift.processes import Processes
from undrift.regularizer.resumable import Resumable, Streams
from undrift.regularizer.weighting import window_start
from undrift.seeds import drawn_seed

Gradient = Literal["all", "last"]


class Rollout(Resumable, ABC):
    """Makes states to compare with forward draws; its state is what it keeps between calls."""

    @abstractmethod
    def __call__(
        self,
        sampler: Sampler,
        starts: Tensor,
        num_states: int,
        streams: Streams,
        labels: Tensor | None = None,
    ) -> tuple[Tensor, int]:
        """States with gradient, and their position on the grid.

        Arguments:
            sampler: The chain.
            starts: Data to start from, no more than ``num_states``, with shape :math:`(B, *)`, the
                same in all processes.
            num_states: How many states of all processes are wanted.
            streams: Random streams, ``choice`` and ``noise``.
            labels: The conditions of the data, of a conditional model.

        Returns:
            The states of this process.
        """

    @property
    def num_chains(self) -> int:
        """How many sets of states are kept between calls."""
        return 0

    def starting_passes(self, grid: tuple[float, ...]) -> int:
        """Network calls of the first call on a grid, besides those of every call."""
        return 0

    @abstractmethod
    def fill(self, grid: tuple[float, ...], draw: Callable[[], Tensor]) -> None:
        """Replace the kept states by noise, and make rollouts as long as possible from now on."""


def rollout_streams(seed: int) -> Streams:
    """Random streams of rollouts."""
    return Streams(seed, ["choice", "noise"])


def chain_noise(streams: Streams, num_states: int) -> list[torch.Generator]:
    """Sources of noise for the chains of this process in one rollout, one for each.

    Arguments:
        streams: Random streams of rollouts.
        num_states: Number of chains of all processes.
    """
    seed = drawn_seed(streams["noise"])
    return chain_generators(seed, Processes.running().share(num_states))


def integer(low: int, high: int, generator: torch.Generator) -> int:
    """A random integer from low to high, both included."""
    return int(torch.randint(low, high + 1, (), generator=generator))


@dataclass
class BootstrapRollout(Rollout):
    """L denoising steps from forward draws to a time of the grid that is drawn uniformly.

    Arguments:
        length: L, cut where the grid begins.
        gradient: Whether it goes through ``"all"`` steps or the ``"last"`` only.
        random_length: Draws the length from 1 to L, as the released code does.
        last_step: Whether the step that ends at data is ever the last one.
        window: Share of the grid, its end at data, in which the last step lies.
    """

    length: int
    gradient: Gradient = "all"
    random_length: bool = False
    last_step: bool = True
    window: float = 1.0

    def __call__(
        self,
        sampler: Sampler,
        starts: Tensor,
        num_states: int,
        streams: Streams,
        labels: Tensor | None = None,
    ) -> tuple[Tensor, int]:
        """States with gradient, one for each start, and their position on the grid."""
        grid, choice = sampler.grid, streams["choice"]
        first = window_start(grid, self.window) + 1
        final = len(grid) - 1 if self.last_step else max(first, len(grid) - 2)
        end = integer(first, final, choice)
        length = integer(1, self.length, choice) if self.random_length else self.length
        begin = max(0, end - length)
        noise, share = chain_noise(streams, len(starts)), Processes.running().share(len(starts))
        sampler = sampler.given(None if labels is None else labels[share])
        state = State(grid[begin], sampler.forward(starts[share], grid[begin], generator=noise))
        with torch.set_grad_enabled(self.gradient == "all" and torch.is_grad_enabled()):
            for s in grid[begin + 1 : end]:
                state = sampler.advance(state, s, generator=noise)
        return sampler.advance(state, grid[end], generator=noise).x, end

    def fill(self, grid: tuple[float, ...], draw: Callable[[], Tensor]) -> None:
        """Roll out as many denoising steps as possible from now on."""
        self.random_length = False
