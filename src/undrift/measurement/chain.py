"""All chains from state to state, with a comparison at each, and a few pilot chains before."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from undrift.diffusion.sampler import Sampler
from undrift.exceptions import InvalidInput
from undrift.measurement.budget import error_budget
from undrift.measurement.cumulative import (
    ForwardDraws,
    check_states,
    cumulative_error,
    data_set_limits,
    permutations,
)
from undrift.measurement.exposure import epsilon_norms, variance_error
from undrift.measurement.placement import RESOLVED, candidates
from undrift.measurement.population import Population
from undrift.measurement.state import Budget, ErrorState, Exposure
from undrift.mmd.kernels import Kernel
from undrift.mmd.two_sample import mmd_estimate
from undrift.seeds import stream_seed


@dataclass(frozen=True)
class Pilot:
    """What the pilot chains have shown.

    Arguments:
        deltas: Ning et al.'s variance error, by time.
        errors: Cumulative error, as far as it stands out of its noise, by time.
    """

    deltas: dict[float, float]
    errors: dict[float, float]


@dataclass(frozen=True)
class ChainMeasurement:
    """One measurement of a chain, and what it needs at every state.

    Arguments:
        sampler: The chain.
        forward: Draws from its forward marginals.
        kernel: The kernel; its bandwidth is fixed at each state if it is not yet.
        num_samples: Number of chains.
        num_permutations: Permutations of the test at each state.
        batch_size: Number of chains that go through the network at once.
        seed: Seed of all streams but that of the forward draws.
    """

    sampler: Sampler
    forward: ForwardDraws
    kernel: Kernel
    num_samples: int
    num_permutations: int
    batch_size: int
    seed: int

    @property
    def num_pilots(self) -> int:
        """Number of pilot chains: a sixtieth of all, 16 to 64."""
        return min(max(self.num_samples // 60, 16), 64, len(self.forward.data))

    def pilot(self, count: int, *, compare: bool, tick: Callable[[int], None]) -> Pilot:
        """Run pilot chains from forward draws of known data.

        Arguments:
            count: Number of chains.
            compare: Whether to compare them with forward draws on the way.
            tick: Called with the number of states times steps that were run.
        """
        deltas: dict[float, float] = {}
        errors: dict[float, float] = {}
        if not count:
            return Pilot(deltas, errors)
        grid = self.sampler.grid
        x_0 = self.forward.select(count)
        starts = self.forward.draw(x_0, grid[0])
        chains = Population(
            self.sampler, starts, self.batch_size, stream_seed(self.seed, "ahead"), tick
        )
        halts = set(candidates(grid)) if compare else set()
        for t in grid:
            x = chains.advance(t)
            check_states(x, t, "states that started from forward draws")
            deltas[t] = variance_error(x, x_0, *self.sampler.scale(t))
            if t in halts:
                y = self.forward.draw(self.forward.select(min(1024, self.forward.count)), t)
                found = mmd_estimate(x, y, kernel=self.kernel.fit(y, x), num_permutations=0)
                errors[t] = max(found.mmd_sq - RESOLVED * found.null_sd, 0.0)
        return Pilot(deltas, errors)

    def run(
        self,
        times: tuple[float, ...],
        *,
        budget: bool,
        exposure: bool,
        deltas: dict[float, float],
        empirical: bool = False,
        tick: Callable[[int], None],
    ) -> list[ErrorState]:
        """Advance all chains from state to state and keep the numbers.

        With ``empirical`` they are compared with the data set itself too.
        """
        device, shape = self.forward.data.device, tuple(self.forward.data.shape[1:])
        chains = Population.from_prior(
            self.sampler,
            (self.num_samples, *shape),
            self.batch_size,
            self.seed,
            device=device,
            tick=tick,
        )
        target = self._data_set()
        states: list[ErrorState] = []
        for t in times:
            x = chains.advance(t)
            check_states(x, t, "the sampler's states")
            y = self.forward.at(t)
            error, kl, kernel = cumulative_error(
                x,
                y,
                self.kernel,
                num_permutations=self.num_permutations,
                overlap=self.forward.overlap(t),
                generator=permutations(self.seed, t),
            )
            if empirical:
                kl = data_set_limits(
                    x,
                    target,
                    t,
                    kernel,
                    num_permutations=self.num_permutations,
                    generator=target.generator,
                )
            state = ErrorState(t, *self.sampler.scale(t), error, kl=kl)
            if budget and t != times[0]:
                state = replace(state, budget=self._budget(chains, x, t, kernel))
            if exposure:
                norms = self._epsilon_norms(x, y, t, len(times)) if t > 0 else Exposure()
                state = replace(state, exposure=replace(norms, delta=deltas.get(t)))
            states.append(state)
        return states

    def _data_set(self) -> ForwardDraws:
        """Draws from the data set itself, from a stream of their own."""
        generator = torch.Generator().manual_seed(stream_seed(self.seed, "data set"))
        count = max(self.forward.count, self.num_samples)
        return replace(self.forward, reference="empirical", count=count, generator=generator)

    def _budget(self, chains: Population, x: Tensor, t: float, kernel: Kernel) -> Budget:
        """The terms of the segment that ends here; how much of their errors is due to the data."""
        x_0 = self.forward.select(len(x))
        starts, forward = self.forward.draw_pair(x_0, chains.before[0], t)
        rolled = chains.replay(starts)
        check_states(rolled, t, "states that were rolled out from forward draws")
        overlap = min(1.0, len(x_0) / len(self.forward.data)) if self.forward.overlap(t) else 0.0
        return error_budget(x[: len(x_0)], rolled, forward, kernel, overlap)

    def _epsilon_norms(self, x: Tensor, y: Tensor, t: float, states: int) -> Exposure:
        """Norms of the noise estimate, on as many states as cost one percent of the run."""
        steps = len(self.sampler.grid) - 1
        share = self.num_samples * steps // (200 * states)
        count = min(max(share, 16), self.batch_size, len(x), len(y))
        try:
            return epsilon_norms(self.sampler, x[:count], y[:count], t)
        except InvalidInput:  # a scheduler that does not say what its network predicts
            return Exposure()
