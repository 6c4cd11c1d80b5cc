"""Rollouts, and the short one from true forward draws."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from undrift.diffusion.sampler import Sampler, State
from undrift.regularizer.grid import window_start
from undrift.regularizer.streams import Streams

Gradient = Literal["all", "last"]


class Rollout(Protocol):
    """Makes states to compare; remembers what has to live on between calls."""

    def __call__(
        self, sampler: Sampler, starts: Tensor, num_states: int, streams: Streams
    ) -> tuple[Tensor, int]:
        """States with gradient, and their position on the grid.

        Arguments:
            sampler: The chain.
            starts: Data to start from, no more than ``num_states``, with shape :math:`(B, *)`.
            num_states: How many states are wanted.
            streams: Random streams.
        """

    @property
    def num_chains(self) -> int:
        """How many sets of states live on between calls."""

    def starting_passes(self, grid: tuple[float, ...]) -> int:
        """Network calls of the first call on a grid, besides those of every call."""

    def fill(self, grid: tuple[float, ...], draw: Callable[[], Tensor]) -> None:
        """Take states of noise for those that live on, and be as long as possible from now on."""

    def state_dict(self) -> dict[str, Any]:
        """What lives on."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""


@dataclass
class BootstrapRollout:
    """L denoising steps from true forward draws to a time of the grid that is drawn uniformly.

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
        self, sampler: Sampler, starts: Tensor, num_states: int, streams: Streams
    ) -> tuple[Tensor, int]:
        """States with gradient, one for each start, and their position on the grid."""
        del num_states
        grid = sampler.grid
        first = window_start(grid, self.window) + 1
        final = len(grid) - 1 if self.last_step else max(first, len(grid) - 2)
        end = streams.integer(first, final)
        length = streams.integer(1, self.length) if self.random_length else self.length
        begin = max(0, end - length)
        x = sampler.forward(starts, grid[begin], generator=streams.noise)
        state = State(grid[begin], x)
        with torch.set_grad_enabled(self.gradient == "all" and torch.is_grad_enabled()):
            for s in grid[begin + 1 : end]:
                state = sampler.advance(state, s, generator=streams.noise)
        return sampler.advance(state, grid[end], generator=streams.noise).x, end

    num_chains = 0

    def starting_passes(self, grid: tuple[float, ...]) -> int:
        """Network calls of the first call besides those of every call: none."""
        return 0

    def fill(self, grid: tuple[float, ...], draw: Callable[[], Tensor]) -> None:
        """Roll out as many denoising steps as possible from now on."""
        self.random_length = False

    def state_dict(self) -> dict[str, Any]:
        """What lives on: nothing."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
