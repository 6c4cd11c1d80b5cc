r"""Rollouts: states that the model itself made, for a regularizer to compare with forward draws.

A bootstrap rollout starts from true forward draws :math:`x_s \sim q_s` and runs L modules: it shows
the error of L modules. A persistent cohort started from the prior and lives on, one module a call,
as persistent contrastive divergence moves its chains: it shows all the error since T.

Modules are those of the grid that a sampler has. A chain of T = 1000 steps is hardly ever sampled
with all of them, and :func:`strided` gives the chain that is: with times
:math:`\tau_n > \dots > \tau_0 = 0` its modules are :math:`K_{\tau_i}`, which jump from
:math:`\tau_i` to :math:`\tau_{i-1}`, its marginals :math:`p_{\tau_{i-1}} = K_{\tau_i} p_{\tau_i}`,
to be compared with :math:`q_{\tau_{i-1}}`, which knows of no grid.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from undrift.samplers import DenoiserSampler

Gradient = Literal["all", "last"]


def seed_of(*numbers: int) -> int:
    """A seed made of several numbers; neighbors get streams that have nothing in common.

    Example:
        >>> seed_of(0, 1) == seed_of(0, 1), seed_of(0, 1) == seed_of(1, 0)
        (True, False)
    """
    entropy = [number % 2**64 for number in numbers]
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0])


@dataclass
class Streams:
    """Two random streams: choices are shared by all processes of a run, noise is not."""

    choice: torch.Generator
    noise: torch.Generator

    @classmethod
    def seeded(cls, seed: int, rank: int = 0) -> Streams:
        """Streams of one process of a run."""
        choice, noise = torch.Generator(), torch.Generator()
        return cls(choice.manual_seed(seed_of(seed, 0)), noise.manual_seed(seed_of(seed, 1, rank)))

    def integer(self, low: int, high: int) -> int:
        """A shared choice from low to high, both included."""
        return int(torch.randint(low, high + 1, (), generator=self.choice))

    def state_dict(self) -> dict[str, Tensor]:
        """Where both streams are."""
        return {"choice": self.choice.get_state(), "noise": self.noise.get_state()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from there."""
        self.choice.set_state(state["choice"].cpu())
        self.noise.set_state(state["noise"].cpu())


class ForwardPool:
    """The last data that were seen: forward draws take many more of them than one batch has.

    Arguments:
        capacity: How many data are kept; may be raised at any time.
    """

    def __init__(self, capacity: int = 0) -> None:
        self.capacity = capacity
        self._rows: Tensor | None = None
        self._size = 0
        self._next = 0

    def __len__(self) -> int:
        """Return the number of data that are there."""
        return self._size

    @property
    def data(self) -> Tensor | None:
        """The data, the oldest first."""
        if self._rows is None:
            return None
        oldest = self._next if self._size == len(self._rows) else 0
        return self._rows[: self._size].roll(-oldest, 0)

    def add(self, x_0: Tensor) -> None:
        """Put a batch in, over the oldest data.

        Arguments:
            x_0: Data, with shape :math:`(B, *)`.
        """
        x_0 = x_0.detach()[-self.capacity :]
        if self._rows is None or len(self._rows) < self.capacity or self._rows.device != x_0.device:
            self._make_room(x_0)
        assert self._rows is not None
        places = torch.arange(self._next, self._next + len(x_0), device=x_0.device)
        self._rows[places % self.capacity] = x_0
        self._size = min(self._size + len(x_0), self.capacity)
        self._next = (self._next + len(x_0)) % self.capacity

    def draw(self, first: int, second: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Two disjoint sets in random order, smaller in proportion while there are too few data.

        Arguments:
            first: Size of the first set, 2 at least.
            second: Size of the second set, 2 at least.
            generator: Source of the order.
        """
        assert self._rows is not None
        share = min(1.0, self._size / (first + second))
        first = min(max(2, int(first * share)), self._size - 2)
        second = min(second, self._size - first)
        order = torch.randperm(self._size, generator=generator).to(self._rows.device)
        return self._rows[order[:first]], self._rows[order[first : first + second]]

    def state_dict(self) -> dict[str, Any]:
        """The data as they lie, and where the next one goes."""
        rows = None if self._rows is None else self._rows[: self._size].clone()
        return {"rows": rows, "next": self._next, "capacity": self.capacity}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Hold these data instead, in the same places, so that draws go on exactly."""
        self.capacity, self._rows, self._size = int(state["capacity"]), None, 0
        if state["rows"] is not None:
            self._make_room(state["rows"])
            self.add(state["rows"])
        self._next = int(state["next"])

    def _make_room(self, like: Tensor) -> None:
        """Lay the data out anew, the oldest first, in memory for all that there may be."""
        old = self.data
        self._rows = like.new_empty((self.capacity, *like.shape[1:]))
        if old is not None:
            self._rows[: self._size] = old.to(like)
        self._next = self._size % self.capacity


class Rollout(Protocol):
    """Makes states to compare; remembers what has to live on between calls."""

    def __call__(
        self, sampler: DenoiserSampler, starts: Tensor, num_states: int, streams: Streams
    ) -> tuple[Tensor, int]:
        """States with gradient, and their position on the grid.

        Arguments:
            sampler: The chain.
            starts: Data to start from, no more than ``num_states``, with shape :math:`(B, *)`.
            num_states: How many states are wanted.
            streams: Random streams.
        """

    def state_dict(self) -> dict[str, Any]:
        """What lives on."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""


@dataclass
class BootstrapRollout:
    """L modules from true forward draws to a step that is drawn uniformly.

    Arguments:
        length: L, cut where the grid begins.
        gradient: Whether it goes through ``"all"`` modules or the ``"last"`` only.
        random_length: Draws the length from 1 to L, as the released code does.
        last_module: Whether the module that ends at data is ever the last one.
        window: Share of the grid, its end at data, in which the last module lies.
    """

    length: int
    gradient: Gradient = "all"
    random_length: bool = False
    last_module: bool = True
    window: float = 1.0

    def __call__(
        self, sampler: DenoiserSampler, starts: Tensor, num_states: int, streams: Streams
    ) -> tuple[Tensor, int]:
        """States with gradient, one for each start, and their position on the grid."""
        del num_states
        grid = sampler.grid
        first = window_start(grid, self.window) + 1
        final = len(grid) - 1 if self.last_module else max(first, len(grid) - 2)
        end = streams.integer(first, final)
        length = streams.integer(1, self.length) if self.random_length else self.length
        begin = max(0, end - length)
        x = sampler.forward(starts, grid[begin], generator=streams.noise)
        with torch.set_grad_enabled(self.gradient == "all" and torch.is_grad_enabled()):
            states = sampler.trajectory(
                x, start=grid[begin], stop=grid[end - 1], generator=streams.noise
            )
            for _, state in states:
                x = state
        last = int(grid[end - 1]), int(grid[end])
        return sampler.step(x, *last, generator=streams.noise), end

    def state_dict(self) -> dict[str, Any]:
        """What lives on: nothing."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""


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
    different states of training. So n is better small: with T = 1000, C = 4, W = 0.3 and k = 5 the
    start takes 1,160 passes and a cohort lives for 1,200 terms; on a grid of 50 modules it takes 58
    and 60.

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
        x = sampler.step(x, int(grid[position]), int(grid[position + 1]), generator=streams.noise)
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
            x = sampler.step(x, int(t), int(s), generator=noise)
        return x

    def state_dict(self) -> dict[str, Any]:
        """What lives on: the chains and where they are."""
        states, positions = list(self.states), list(self.positions)
        return {"states": states, "positions": positions, "turn": self.turn}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there, with as many cohorts as there were."""
        self.states, self.positions = list(state["states"]), list(state["positions"])
        self.turn, self.num_cohorts = int(state["turn"]), len(self.states) or self.num_cohorts


def strided(sampler: DenoiserSampler, num_inference_steps: int | None) -> DenoiserSampler:
    """The same chain on a coarser grid, as a sampler with fewer steps has it.

    Arguments:
        sampler: The chain.
        num_inference_steps: Number of modules; those that it has when None.

    Raises:
        InvalidInput: If there are more modules than steps, or none.
    """
    if num_inference_steps is None:
        return sampler
    other = copy.copy(sampler)
    other.grid = sampler.schedule.time_grid(num_inference_steps, sampler.spacing)
    return other


def window_start(grid: tuple[float, ...], window: float) -> int:
    """Position on a grid where a window begins that holds this share of the modules, one at least.

    Example:
        >>> window_start((4, 3, 2, 1, 0), 0.5), window_start((4, 3, 2, 1, 0), 1.0)
        (2, 0)
    """
    modules = len(grid) - 1
    return modules - max(1, round(window * modules))
