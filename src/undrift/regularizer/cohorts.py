"""Chains of the model that live on between calls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from undrift.diffusion.gaussian import DenoiserSampler
from undrift.regularizer.grid import window_start
from undrift.regularizer.streams import Streams


@dataclass
class PersistentCohorts:
    """Cohorts of chains from the prior; each call moves one of them by one module, in turn.

    At first they are spread evenly over the window by the model as it is then, each by a pass of
    its own: chains with common ancestors would all deviate from their law to the same side, call
    after call, and training would run after the deviation. For the same reason one cohort is too
    few. At the end of the grid a cohort starts again from the prior and is brought to the window
    without gradient: a shorter window means more independent chains for the same number of
    gradients, spent where the error is.

    The way to the window is walked in strides of k modules. That costs less, and larger steps drift
    more: what arrives has the chain's own kind of error, larger, and the gradient tells it from
    noise.

    With n modules on the grid, C cohorts and a window of W, bringing them to their places at first
    takes about :math:`C n ((1 - W)/k + W/2)` passes of a cohort through the network, without
    gradient, and a term :math:`(1 - W)/(k W)` of them in the mean, besides the one that has a
    gradient. A cohort is :math:`C n W` terms old when it ends, made by networks of as many
    different states of training. So n is better small: with T = 1000, C = 4, W = 0.15 and k = 3
    the start takes 1,360 passes and a cohort lives for 600 terms; on a grid of 50 modules it takes
    68 and 32.

    Arguments:
        num_cohorts: How many there are.
        window: Share of the grid, its end at data, in which modules get a gradient.
        stride: k, the modules that one step on the way to the window spans.
    """

    num_cohorts: int = 1
    window: float = 1.0
    stride: int = 1
    states: list[Tensor] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    turn: int = 0

    def __call__(
        self, sampler: DenoiserSampler, starts: Tensor, num_states: int, streams: Streams
    ) -> tuple[Tensor, int]:
        """States with gradient, those of one cohort, and their position on the grid."""
        grid, first = sampler.grid, window_start(sampler.grid, self.window)
        last = len(grid) - 1
        if not self.states:
            self.positions = self.places(grid)
            self.states = [
                self._brought(sampler, starts, num_states, position, streams)
                for position in self.positions
            ]
        c = self.turn
        if self.positions[c] == last:
            self.states[c] = self._brought(sampler, starts, len(self.states[c]), first, streams)
            self.positions[c] = first
        x, position = self.states[c].to(starts), self.positions[c]
        x = sampler.step(x, grid[position], grid[position + 1], generator=streams.noise)
        self.states[c], self.positions[c] = x.detach(), position + 1
        self.turn = (c + 1) % self.num_cohorts
        return x, position + 1

    def places(self, grid: tuple[float, ...]) -> list[int]:
        """Positions on a grid where the cohorts begin, spread evenly over the window."""
        first = window_start(grid, self.window)
        modules = len(grid) - 1 - first
        return [first + modules * c // self.num_cohorts for c in range(self.num_cohorts)]

    def way(self, grid: tuple[float, ...], position: int) -> tuple[float, ...]:
        """Times at which a new cohort stops on its way to a position: coarsely to the window."""
        first = window_start(grid, self.window)
        return (*grid[: first : self.stride], *grid[first : position + 1])

    @property
    def num_chains(self) -> int:
        """How many sets of states live on between calls: the cohorts."""
        return self.num_cohorts

    def starting_passes(self, grid: tuple[float, ...]) -> int:
        """Network calls, each with all states of a cohort, until all cohorts are in their places.

        Arguments:
            grid: The grid of the chain.
        """
        return sum(len(self.way(grid, position)) - 1 for position in self.places(grid))

    def fill(self, grid: tuple[float, ...], draw: Callable[[], Tensor]) -> None:
        """Put states of noise into the places where cohorts begin."""
        self.positions = self.places(grid)
        self.states = [draw() for _ in self.positions]

    @torch.no_grad()
    def _brought(
        self,
        sampler: DenoiserSampler,
        like: Tensor,
        num_states: int,
        position: int,
        streams: Streams,
    ) -> Tensor:
        """New chains from the prior, brought to a position of the grid."""
        shape, noise = (num_states, *like.shape[1:]), streams.noise
        x = sampler.prior(shape, generator=noise, device=like.device, dtype=like.dtype)
        for t, s in pairwise(self.way(sampler.grid, position)):
            x = sampler.step(x, t, s, generator=noise)
        return x

    def state_dict(self) -> dict[str, Any]:
        """What lives on: the chains and where they are."""
        states, positions = list(self.states), list(self.positions)
        return {"states": states, "positions": positions, "turn": self.turn}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there, with as many cohorts as there were."""
        self.states, self.positions = list(state["states"]), list(state["positions"])
        self.turn, self.num_cohorts = int(state["turn"]), len(self.states) or self.num_cohorts
