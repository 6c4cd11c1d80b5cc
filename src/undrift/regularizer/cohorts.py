"""Chains of the model that are kept between calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor

from undrift.diffusion.sampler import Sampler, State
from undrift.processes import Processes
from undrift.regularizer.bootstrap import Rollout, chain_noise
from undrift.regularizer.resumable import Streams
from undrift.regularizer.weighting import window_start

Kind = TypeVar("Kind")


@dataclass
class PersistentCohorts(Rollout):
    """Cohorts of chains from the prior; each call moves one of them by one step, in turn.

    At first they are spread evenly over the window by the model as it is then, each by a separate
    pass: chains with common ancestors would all deviate from their distribution in the same
    direction, call after call, and training would follow that deviation. For the same reason one
    cohort is too few. At the end of the grid a cohort starts again from the prior and is brought to
    the window without gradient: a shorter window means more independent chains for the same number
    of gradients, in the part of the chain where the error is.

    On the way to the window one step spans k steps of the grid. That costs less, and larger steps
    have larger errors, of the same kind as those of the chain, which are easier to distinguish from
    noise.

    With n steps on the grid, C cohorts and a window of W, bringing them to their places at first
    takes about :math:`C n ((1 - W)/k + W/2)` passes of a cohort through the network, without
    gradient, and a term takes :math:`(1 - W)/(k W)` of them on average, besides the one that has a
    gradient. A cohort is :math:`C n W` terms old when it ends, made with the weights of as many
    training steps. So choose a small n: with T = 1000, C = 4, W = 0.15 and k = 3 the start takes
    1,360 passes and a cohort is used for 600 terms; on a grid of 50 steps the start takes 68 passes
    and a cohort is used for 32 terms.

    With a gradient through the last K steps a cohort keeps its last K states, and a term makes the
    last K steps anew from the oldest of them, with the weights of now and new noise: K network
    calls instead of one. The activations of all of them are kept for the backward pass, so that the
    memory of a term is K times that of K = 1. With K as large as the chain it is the gradient
    through the whole chain, from a noise that stays the same until the cohort starts again.

    Under a conditional model each chain of a cohort keeps the condition that it is drawn with at
    the prior, from those of the data; conditions are drawn independently of the data that they
    come from, so that the states of a cohort are independent draws.

    Arguments:
        num_cohorts: How many there are.
        window: Share of the grid, its end at data, in which steps get a gradient.
        stride: k, the steps of the grid that one step on the way to the window spans.
        gradient_steps: K, the denoising steps that the gradient goes through.
    """

    num_cohorts: int = 1
    window: float = 1.0
    stride: int = 1
    gradient_steps: int = 1
    paths: list[list[State]] = field(default_factory=list)
    labels: list[Tensor | None] = field(default_factory=list)
    turn: int = 0
    size: int | None = None

    def __call__(
        self,
        sampler: Sampler,
        starts: Tensor,
        num_states: int,
        streams: Streams,
        labels: Tensor | None = None,
    ) -> tuple[Tensor, int]:
        """States with gradient, those of one cohort, and their position on the grid."""
        self.size = self.size or num_states
        grid, noise = sampler.grid, chain_noise(streams, self.size)
        first = window_start(grid, self.window)
        if not self.labels:
            self.labels = [self._drawn(labels, streams) for _ in range(self.num_cohorts)]
        if not self.paths:
            like = starts.new_empty(len(noise), *starts.shape[1:])
            self.paths = [
                self._brought(sampler.given(own), like, position, noise)
                for position, own in zip(self.places(grid), self.labels, strict=True)
            ]
        c = self.turn
        path = [state.to(starts) for state in self.paths[c]]
        if path[-1].t == grid[-1]:
            self.labels[c] = self._drawn(labels, streams)
            path = self._brought(sampler.given(self.labels[c]), path[-1].x, first, noise)
        sampler = sampler.given(self.labels[c])
        position = grid.index(path[-1].t) + 1
        made = path[:1]
        for s in grid[grid.index(made[0].t) + 1 : position + 1]:
            made.append(sampler.advance(made[-1], s, generator=noise))
        self.paths[c] = self._kept([state.detach() for state in made])
        self.turn = (c + 1) % self.num_cohorts
        return made[-1].x, position

    @property
    def states(self) -> list[State]:
        """The newest state of each cohort."""
        return [path[-1] for path in self.paths]

    def _kept(self, path: Sequence[Kind]) -> list[Kind]:
        """The end of a path that the next term needs."""
        return list(path[-self.gradient_steps :])

    def places(self, grid: tuple[float, ...]) -> list[int]:
        """Positions on a grid where the cohorts begin, spread evenly over the window."""
        first = window_start(grid, self.window)
        steps = len(grid) - 1 - first
        return [first + steps * c // self.num_cohorts for c in range(self.num_cohorts)]

    def way(self, grid: tuple[float, ...], position: int) -> tuple[float, ...]:
        """Times at which a new cohort stops on its way to a position: coarsely to the window."""
        fine = max(0, window_start(grid, self.window) - self.gradient_steps + 1)
        return (*grid[: fine : self.stride], *grid[fine : position + 1])

    @property
    def num_chains(self) -> int:
        """How many sets of states are kept between calls: the last ones of all cohorts."""
        return self.num_cohorts * self.gradient_steps

    def starting_passes(self, grid: tuple[float, ...]) -> int:
        """Network calls, each with a whole cohort, that bring all cohorts to their places."""
        return sum(len(self.way(grid, position)) - 1 for position in self.places(grid))

    def fill(self, grid: tuple[float, ...], draw: Callable[[], Tensor]) -> None:
        """Put states of noise into the places where cohorts begin."""
        self.paths = [
            [State(t, draw()) for t in self._kept(grid[: position + 1])]
            for position in self.places(grid)
        ]

    @torch.no_grad()
    def _brought(
        self, sampler: Sampler, like: Tensor, position: int, noise: list[torch.Generator]
    ) -> list[State]:
        """The last states of new chains from the prior, brought to a position of the grid."""
        x = sampler.prior(like.shape, generator=noise, device=like.device, dtype=like.dtype)
        first, *times = self.way(sampler.grid, position)
        path = [State(first, x)]
        for s in times:
            path = self._kept([*path, sampler.advance(path[-1], s, generator=noise)])
        return path

    def _drawn(self, labels: Tensor | None, streams: Streams) -> Tensor | None:
        """Conditions of this process' chains of a cohort, drawn from those of data, if any."""
        if labels is None:
            return None
        assert self.size is not None
        chosen = torch.randint(len(labels), (self.size,), generator=streams["noise"])
        return labels[chosen[Processes.running().share(self.size)].to(labels.device)]

    def state_dict(self) -> dict[str, Any]:
        """The chains, their times, histories and conditions."""
        paths = [[dict(vars(state)) for state in path] for path in self.paths]
        own = {"labels": list(self.labels), "turn": self.turn, "size": self.size}
        return {"paths": paths} | own

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a saved state, with as many cohorts as there were."""
        self.paths = [[State(**saved) for saved in path] for path in state["paths"]]
        self.labels, self.size = list(state["labels"]), state["size"]
        self.turn, self.num_cohorts = int(state["turn"]), len(self.paths) or self.num_cohorts
