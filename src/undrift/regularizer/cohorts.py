"""Chains of the model that live on between calls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from undrift.diffusion.sampler import Sampler, State
from undrift.regularizer.grid import window_start
from undrift.regularizer.streams import Streams


@dataclass
class PersistentCohorts:
    """Cohorts of chains from the prior; each call moves one of them by one step, in turn.

    At first they are spread evenly over the window by the model as it is then, each by a pass of
    its own: chains with common ancestors would all deviate from their law to the same side, call
    after call, and training would run after the deviation. For the same reason one cohort is too
    few. At the end of the grid a cohort starts again from the prior and is brought to the window
    without gradient: a shorter window means more independent chains for the same number of
    gradients, spent where the error is.

    On the way to the window one step spans k steps of the grid. That costs less, and larger steps
    have larger errors, of the chain's own kind, which are easier to distinguish from noise.

    With n steps on the grid, C cohorts and a window of W, bringing them to their places at first
    takes about :math:`C n ((1 - W)/k + W/2)` passes of a cohort through the network, without
    gradient, and a term :math:`(1 - W)/(k W)` of them in the mean, besides the one that has a
    gradient. A cohort is :math:`C n W` terms old when it ends, made by networks of as many
    different states of training. So n is better small: with T = 1000, C = 4, W = 0.15 and k = 3
    the start takes 1,360 passes and a cohort lives for 600 terms; on a grid of 50 steps it takes
    68 and 32.

    Arguments:
        num_cohorts: How many there are.
        window: Share of the grid, its end at data, in which steps get a gradient.
        stride: k, the steps of the grid that one step on the way to the window spans.
    """

    num_cohorts: int = 1
    window: float = 1.0
    stride: int = 1
    states: list[State] = field(default_factory=list)
    turn: int = 0

    def __call__(
        self, sampler: Sampler, starts: Tensor, num_states: int, streams: Streams
    ) -> tuple[Tensor, int]:
        """States with gradient, those of one cohort, and their position on the grid."""
        grid, first = sampler.grid, window_start(sampler.grid, self.window)
        if not self.states:
            self.states = [
                self._brought(sampler, starts, num_states, position, streams)
                for position in self.places(grid)
            ]
        c = self.turn
        if self.states[c].t == grid[-1]:
            count = len(self.states[c].x)
            self.states[c] = self._brought(sampler, starts, count, first, streams)
        position = grid.index(self.states[c].t) + 1
        before = self.states[c].to(starts)
        state = sampler.advance(before, grid[position], generator=streams.noise)
        self.states[c] = state.detach()
        self.turn = (c + 1) % self.num_cohorts
        return state.x, position

    def places(self, grid: tuple[float, ...]) -> list[int]:
        """Positions on a grid where the cohorts begin, spread evenly over the window."""
        first = window_start(grid, self.window)
        steps = len(grid) - 1 - first
        return [first + steps * c // self.num_cohorts for c in range(self.num_cohorts)]

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
        self.states = [State(grid[position], draw()) for position in self.places(grid)]

    @torch.no_grad()
    def _brought(
        self,
        sampler: Sampler,
        like: Tensor,
        num_states: int,
        position: int,
        streams: Streams,
    ) -> State:
        """New chains from the prior, brought to a position of the grid."""
        shape, noise = (num_states, *like.shape[1:]), streams.noise
        x = sampler.prior(shape, generator=noise, device=like.device, dtype=like.dtype)
        first, *times = self.way(sampler.grid, position)
        state = State(first, x)
        for s in times:
            state = sampler.advance(state, s, generator=noise)
        return state

    def state_dict(self) -> dict[str, Any]:
        """What lives on: the chains, their times and histories."""
        return {"states": [dict(vars(state)) for state in self.states], "turn": self.turn}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there, with as many cohorts as there were."""
        self.states = [State(**saved) for saved in state["states"]]
        self.turn, self.num_cohorts = int(state["turn"]), len(self.states) or self.num_cohorts
