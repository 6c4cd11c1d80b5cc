"""Chains of the model that are kept between calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
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
class Cohort:
    """Chains that move together.

    Arguments:
        path: Their last states, the newest at the end.
        entry: Those with which they entered the window.
        labels: The condition of each, of a conditional model.
        laps: How many times they have entered the window.
    """

    path: list[State]
    entry: list[State]
    labels: Tensor | None = None
    laps: int = 1

    def state_dict(self) -> dict[str, Any]:
        """The states, their times, histories and conditions."""
        paths = {name: [dict(vars(s)) for s in getattr(self, name)] for name in ("path", "entry")}
        return paths | {"labels": self.labels, "laps": self.laps}

    @classmethod
    def restored(cls, saved: Mapping[str, Any]) -> Cohort:
        """The cohort of a saved state."""
        paths = {name: [State(**s) for s in saved[name]] for name in ("path", "entry")}
        return cls(**paths, labels=saved["labels"], laps=int(saved["laps"]))


@dataclass
class PersistentCohorts(Rollout):
    """Cohorts of chains from the prior; each call moves one of them by one step, in turn.

    At first they are spread evenly over the window by the model as it is then, each by a separate
    pass: chains with common ancestors would all deviate from their distribution in the same
    direction, call after call, and training would follow that deviation. For the same reason one
    cohort is too few. At the end of the grid a cohort starts again from the prior and is brought to
    the window without gradient: a shorter window means more independent chains for the same number
    of gradients, in the part of the chain where the error is.

    A cohort may go through the window several times from the states with which it entered, each
    time with the weights of now and, in a stochastic chain, new noise. Then the way to the window
    is paid once for all of its laps, whose chains are not independent of each other: with many laps
    a few starts would stand for all.

    On the way to the window one step spans k steps of the grid. That costs less, and larger steps
    have larger errors, of the same kind as those of the chain, which are easier to distinguish from
    noise.

    With n steps on the grid, C cohorts and a window of W, bringing them to their places at first
    takes about :math:`C n ((1 - W)/k + W/2)` passes of a cohort through the network, without
    gradient, and a term takes :math:`(1 - W)/(k W R)` of them on average with R laps, besides the
    one that has a gradient. A cohort is :math:`C n W R` terms old when it ends, made with the
    weights of as many training steps. So choose a small n: with T = 1000, C = 4, W = 0.15, k = 3
    and one lap the start takes 1,360 passes and a cohort is used for 600 terms; on a grid of 50
    steps the start takes 68 passes and a cohort is used for 32 terms.

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
        laps: R, how many times a cohort goes through the window before it starts again.
    """

    num_cohorts: int = 1
    window: float = 1.0
    stride: int = 1
    gradient_steps: int = 1
    laps: int = 1
    cohorts: list[Cohort] = field(default_factory=list)
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
        noise = chain_noise(streams, self.size)
        like = starts.new_empty(len(noise), *starts.shape[1:])

        def new(position: int) -> Cohort:
            return self._new(sampler, like, position, noise, self._drawn(labels, streams))

        places = self.places(sampler.grid)
        if not self.cohorts:  # those with laps left are spread as well
            cohorts = enumerate(map(new, places))
            self.cohorts = [replace(cohort, laps=1 + c % self.laps) for c, cohort in cohorts]
        cohort = self.cohorts[self.turn]
        if cohort.path[-1].t == sampler.grid[-1]:
            again = replace(cohort, path=cohort.entry, laps=cohort.laps + 1)
            cohort = again if cohort.laps < self.laps else new(places[0])
        made = self._moved(sampler.given(cohort.labels), cohort.path, like, noise)
        kept = self._kept([state.detach() for state in made])
        self.cohorts[self.turn] = replace(cohort, path=kept)
        self.turn = (self.turn + 1) % self.num_cohorts
        return made[-1].x, sampler.grid.index(made[-1].t)

    def _moved(
        self, sampler: Sampler, path: list[State], like: Tensor, noise: list[torch.Generator]
    ) -> list[State]:
        """The states of a path made anew from its first one, and one step more."""
        grid, made = sampler.grid, [path[0].to(like)]
        first, last = grid.index(made[0].t) + 1, grid.index(path[-1].t) + 1
        for s in grid[first : last + 1]:
            made.append(sampler.advance(made[-1], s, generator=noise))
        return made

    @property
    def states(self) -> list[State]:
        """The newest state of each cohort."""
        return [cohort.path[-1] for cohort in self.cohorts]

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
        return self.num_cohorts * self.gradient_steps * (1 if self.laps == 1 else 2)

    def starting_passes(self, grid: tuple[float, ...]) -> int:
        """Network calls, each with a whole cohort, that bring all cohorts to their places."""
        return sum(len(self.way(grid, position)) - 1 for position in self.places(grid))

    def fill(self, grid: tuple[float, ...], draw: Callable[[], Tensor]) -> None:
        """Put states of noise into the places where cohorts begin."""
        paths = [
            [State(t, draw()) for t in self._kept(grid[: position + 1])]
            for position in self.places(grid)
        ]
        self.cohorts = [Cohort(path, path) for path in paths]

    @torch.no_grad()
    def _new(
        self,
        sampler: Sampler,
        like: Tensor,
        position: int,
        noise: list[torch.Generator],
        labels: Tensor | None,
    ) -> Cohort:
        """A cohort of new chains from the prior, brought to a position of the grid."""
        grid, given = sampler.grid, sampler.given(labels)
        x = sampler.prior(like.shape, generator=noise, device=like.device, dtype=like.dtype)
        begin, *times = self.way(grid, position)
        path = entry = [State(begin, x)]
        for s in times:
            path = self._kept([*path, given.advance(path[-1], s, generator=noise)])
            if s >= grid[window_start(grid, self.window)]:
                entry = path
        return Cohort(path, entry, labels)

    def _drawn(self, labels: Tensor | None, streams: Streams) -> Tensor | None:
        """Conditions of this process' chains of a cohort, drawn from those of data, if any."""
        if labels is None:
            return None
        assert self.size is not None
        chosen = torch.randint(len(labels), (self.size,), generator=streams["noise"])
        return labels[chosen[Processes.running().share(self.size)].to(labels.device)]

    def state_dict(self) -> dict[str, Any]:
        """The chains, their times, histories and conditions."""
        cohorts = [cohort.state_dict() for cohort in self.cohorts]
        return {"cohorts": cohorts, "turn": self.turn, "size": self.size}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a saved state, with as many cohorts as there were."""
        self.cohorts = [Cohort.restored(saved) for saved in state["cohorts"]]
        self.turn, self.size = int(state["turn"]), state["size"]
        self.num_cohorts = len(self.cohorts) or self.num_cohorts
