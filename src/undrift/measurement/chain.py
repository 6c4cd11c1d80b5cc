"""All chains from state to state, with a comparison at each, and a few pilot chains before."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from undrift.diffusion.sampler import Sampler
from undrift.exceptions import InvalidInput
from undrift.measurement.budget import segment_budget
from undrift.measurement.cumulative import (
    check_states,
    cumulative_error,
    data_set_limits,
    permutations,
)
from undrift.measurement.exposure import epsilon_norms, variance_error
from undrift.measurement.feature_error import FeatureSpace, feature_error
from undrift.measurement.forward_draws import ForwardDraws, PairedDraws
from undrift.measurement.growth import CALLS, chain_growth
from undrift.measurement.modular_segments import data_process, segment_errors
from undrift.measurement.parallel_chains import ParallelChains
from undrift.measurement.placement import RESOLVED, candidates, place_states
from undrift.measurement.scalar_budget import ScalarBudget
from undrift.measurement.state import Budget, CumulativeError, ErrorState, Exposure
from undrift.mmd.kernel import Kernel
from undrift.mmd.two_sample import mmd_estimate
from undrift.processes import ALONE, Processes
from undrift.seeds import stream_seed

Tick = Callable[[int], None]


@dataclass(frozen=True)
class Pilot:
    """Results of the pilot chains.

    Arguments:
        deltas: Ning et al.'s variance error and its standard error, by time.
        errors: Cumulative error less the part that is not distinguishable from noise, by time.
    """

    deltas: dict[float, tuple[float, float]]
    errors: dict[float, float]


@dataclass(frozen=True)
class ChainMeasurement:
    """One measurement of a chain.

    Arguments:
        sampler: The chain.
        forward: Draws from its forward marginals.
        kernel: The kernel; its bandwidth is fixed at each state if it is not yet.
        num_samples: Number of chains.
        num_permutations: Permutations of the test at each state.
        batch_size: Number of chains that go through the network at once.
        seed: Seed of all streams but that of the forward draws.
        budget: Whether to run each segment once more, from forward draws.
        exposure: Whether to measure exposure bias.
        num_modular: Number of chains for the modular error; 0 for none.
        num_growth: Number of chains for the growth of perturbations; 0 for none.
        spaces: Other spaces in which the states are compared, by name.
        processes: Those that share the chains.
        on_state: Called with the time and the states of all chains at each compared state.
    """

    sampler: Sampler
    forward: ForwardDraws
    kernel: Kernel
    num_samples: int
    num_permutations: int
    batch_size: int
    seed: int
    budget: bool = True
    exposure: bool = True
    num_modular: int = 0
    num_growth: int = 0
    spaces: Mapping[str, FeatureSpace] = field(default_factory=dict)
    processes: Processes = ALONE
    on_state: Callable[[float, Tensor], None] = lambda t, x: None

    @property
    def num_pilots(self) -> int:
        """Number of pilot chains: a sixtieth of all, 16 to 64; none without their conditions."""
        if self.sampler.is_conditional and self.forward.labels is None:
            return 0
        return min(max(self.num_samples // 60, 16), 64, len(self.forward.data))

    @property
    def num_known(self) -> int:
        """Number of chains that start from known data: the pilots, for δ one for each 24 of all."""
        most = min(self.num_samples // 24, 1000, len(self.forward.data))
        return max(self.num_pilots, most if self.num_pilots and self.exposure else 0)

    def num_calls(self, states: int | tuple[float, ...]) -> int:
        """Denoising steps times chains of a measurement, and states that pass other spaces."""
        pilots = self.num_known if self.exposure or isinstance(states, int) else 0
        passes = 2 if self.budget else 1
        chains = self.num_samples * passes + pilots + 2 * self.num_modular
        chains += CALLS * self.num_growth
        count = states if isinstance(states, int) else len(states)
        compared = count * len(self.spaces) * (self.num_samples + self.forward.count)
        return (len(self.sampler.grid) - 1) * chains + compared

    def run(
        self, states: int | tuple[float, ...], tick: Tick
    ) -> tuple[list[ErrorState], dict[str, Any]]:
        """Measure the chain.

        Arguments:
            states: Times of the states, or their number, to be placed where the error grows.
            tick: Called with the number of denoising steps times chains that were run.

        Returns:
            The states, without ratios, and how the modular errors were measured.
        """
        grid, placed = self.sampler.grid, isinstance(states, int)
        wanted = (self.exposure or placed) and self.num_pilots
        pilot = self.pilot(compare=placed, tick=tick) if wanted else Pilot({}, {})
        if isinstance(states, int):
            scales = list(map(self.sampler.scale, grid))
            states = place_states(grid, scales, states, pilot.errors)
        if self.num_modular:
            states = tuple(t for t in grid if t in {*states, *grid[-2:]})
        measured, data = self._advance(states, pilot.deltas, tick), self.forward.data
        if self.num_growth:
            grown = chain_growth(
                self.sampler, states, (self.num_growth, *data.shape[1:]),
                seed=self.seed, batch_size=self.batch_size, device=data.device, tick=tick,
            )  # fmt: skip
            measured = [replace(state, growth=grown.get(state.t)) for state in measured]
        if not self.num_modular:
            return measured, {}
        nats = segment_errors(
            self.sampler, data_process(self.sampler, data), states,
            (self.num_modular, *data.shape[1:]),
            seed=self.seed, batch_size=self.batch_size, device=data.device, tick=tick,
            processes=self.processes,
        )  # fmt: skip
        return [nats.added_to(state) for state in measured], {"modular": nats.how}

    def pilot(self, *, compare: bool, tick: Tick) -> Pilot:
        """Run pilot chains from forward draws of known data.

        Arguments:
            compare: Whether to compare them with forward draws at some states.
            tick: Called with the number of denoising steps times chains that were run.
        """
        grid, found, few = self.sampler.grid, Pilot({}, {}), self.num_pilots
        rows, starts = self._starts()
        x_0, seed = self.forward.data[rows], stream_seed(self.seed, "ahead")
        chains = ParallelChains(
            self.sampler, starts, self.batch_size, seed, tick,
            self.forward.labels_of(rows), self.processes,
        )  # fmt: skip
        compared = set(candidates(grid)) if compare else set()
        for t in grid:
            x = chains.advance(t)
            check_states(x, t, "states that started from forward draws")
            found.deltas[t] = variance_error(x, x_0, *self.sampler.scale(t))
            if t in compared:
                y = self.forward.draw(self.forward.select(min(1024, self.forward.count)), t)
                kernel = self.kernel.fit(y, x[:few])
                error = mmd_estimate(x[:few], y, kernel=kernel, num_permutations=0)
                found.errors[t] = max(error.mmd_sq - RESOLVED * error.null_sd, 0.0)
        return found

    def _starts(self) -> tuple[Tensor, Tensor]:
        """The data that chains of known data start from, and their forward draws at the start.

        Those beyond the pilots have a stream of their own: they change no other draw.
        """
        generator = torch.Generator().manual_seed(stream_seed(self.seed, "known data"))
        rows, starts = [], []
        for draws, count in (
            (self.forward, self.num_pilots),
            (replace(self.forward, generator=generator), self.num_known - self.num_pilots),
        ):
            rows.append(draws.rows(count))
            starts.append(draws.draw(self.forward.data[rows[-1]], self.sampler.grid[0]))
        return torch.cat(rows), torch.cat(starts)

    def _advance(
        self, times: tuple[float, ...], deltas: dict[float, tuple[float, float]], tick: Tick
    ) -> list[ErrorState]:
        """Run all chains from state to state and compare them at each with forward draws."""
        data, states = self.forward.data, []
        chains = ParallelChains.from_prior(
            self.sampler, (self.num_samples, *data.shape[1:]), self.batch_size, self.seed,
            device=data.device, tick=tick, processes=self.processes,
        )  # fmt: skip
        target, options = self._data_set(), {"num_permutations": self.num_permutations}
        for t in times:
            x, rolled = self._through(chains, t)
            check_states(x, t, "the sampler's states")
            self.on_state(t, x)
            rows, overlap = self.forward.rows_at(t), self.forward.overlap(t)
            y = self.forward.draw(data[rows], t)
            error, kl, kernel = cumulative_error(
                x, y, self.kernel, overlap=overlap, generator=permutations(self.seed, t), **options
            )
            if self.num_modular:
                kl = data_set_limits(x, target, t, kernel, **options)
            state = ErrorState(t, *self.sampler.scale(t), error, kl=kl)
            if self.spaces:
                state = replace(state, features=self._in_spaces(x, y, t, overlap, tick))
            if rolled is not None:
                check_states(rolled, t, "states of chains from forward draws")
                state = replace(state, budget=self._budget(x, rolled, t, kernel))
            scalars, effective = self.scalars.at(t, x, rolled), self.scalars.effective_time()
            state = replace(state, scalars=scalars, effective_time=effective)
            if self.exposure:
                labels = chains.all_labels, self.forward.labels_of(rows)
                norms = self._epsilon_norms(x, y, t, len(times), labels)
                delta, delta_se = deltas.get(t, (None, None))
                norms = replace(norms, delta=delta, delta_se=delta_se)
                state = replace(state, exposure=norms)
            states.append(state)
        return states

    def _in_spaces(
        self, x: Tensor, y: Tensor, t: float, overlap: float, tick: Tick
    ) -> dict[str, CumulativeError]:
        """The cumulative error of a state in the other spaces."""
        found = {}
        for name, space in self.spaces.items():
            found[name] = feature_error(
                space, x, y, t,
                batch_size=self.batch_size, num_permutations=self.num_permutations,
                overlap=overlap, generator=permutations(self.seed, t),
            )  # fmt: skip
            tick(len(x) + len(y))
        return found

    def _through(self, chains: ParallelChains, t: float) -> tuple[Tensor, Tensor | None]:
        """The states at the end of the next segment; with a budget those from forward draws too."""
        if self.budget and t != chains.t:
            return chains.advance_beside(t, self.pairs.at(chains.t), self.pairs.labels)
        return chains.advance(t), None

    def _data_set(self) -> ForwardDraws:
        """Draws from the data set itself, from a separate random stream."""
        generator = torch.Generator().manual_seed(stream_seed(self.seed, "data set"))
        count = max(self.forward.count, self.num_samples)
        return replace(self.forward, reference="empirical", count=count, generator=generator)

    @cached_property
    def pairs(self) -> PairedDraws:
        """Forward draws of one choice of data and noise, where the second pass starts."""
        return self.forward.paired(self.num_samples)

    @cached_property
    def scalars(self) -> ScalarBudget:
        """The errors of statistics, state by state."""
        return ScalarBudget(self.pairs, self.sampler)

    def _budget(self, x: Tensor, rolled: Tensor, t: float, kernel: Kernel) -> Budget:
        """Fresh and inherited error of the segment that ends at this state, of different data."""
        count, n = len(x), len(self.forward.data)
        if self.pairs.is_population:
            count = min(count, n)
        overlap = min(1.0, count / n) if self.forward.overlap(t) else 0.0
        forward = self.pairs.at(t)[:count]
        return segment_budget(x[:count], rolled[:count], forward, kernel, overlap)

    def _epsilon_norms(
        self,
        x: Tensor,
        y: Tensor,
        t: float,
        num_states: int,
        labels: tuple[Tensor | None, Tensor | None],
    ) -> Exposure:
        """Norms of the noise estimate, on 64 states, or as many as cost one percent of the run."""
        if t == 0:
            return Exposure()
        steps = len(self.sampler.grid) - 1
        share = self.num_samples * steps // (200 * num_states)
        count = min(max(share, 64), len(x), len(y))
        of_x, of_y = labels
        known = None if of_x is None or of_y is None else torch.cat([of_x[:count], of_y[:count]])
        try:
            return epsilon_norms(
                self.sampler, x[:count], y[:count], t, labels=known, batch_size=self.batch_size
            )
        except InvalidInput:  # the scheduler has no prediction type
            return Exposure()
