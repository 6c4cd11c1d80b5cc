r"""One walk down the chain: all chains from state to state, a few of them ahead."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from undrift.diffusion.sampler import Sampler
from undrift.exceptions import InvalidInput
from undrift.measurement.budget import budget_terms
from undrift.measurement.cumulative import (
    ForwardDraws,
    check_states,
    cumulative_error,
    data_set_error,
)
from undrift.measurement.exposure import epsilon_norms, variance_error
from undrift.measurement.placement import RESOLVED, candidates
from undrift.measurement.population import Population
from undrift.measurement.state import ErrorState
from undrift.mmd.estimate import mmd_estimate
from undrift.mmd.kernels import Kernel
from undrift.seeds import stream_seed


@dataclass(frozen=True)
class Scout:
    """What the chains ahead have seen.

    Arguments:
        deltas: Ning et al.'s variance error, by time.
        errors: Cumulative error, as far as it stands out of its noise, by time.
    """

    deltas: dict[float, float]
    errors: dict[float, float]


@dataclass(frozen=True)
class Walk:
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
    def num_ahead(self) -> int:
        """Number of chains that go ahead: a sixtieth, 16 to 64."""
        return min(max(self.num_samples // 60, 16), 64, len(self.forward.data))

    def scout(self, count: int, *, look_out: bool, tick: Callable[[int], None]) -> Scout:
        """Send chains ahead from forward draws, which remember their data."""
        deltas: dict[float, float] = {}
        errors: dict[float, float] = {}
        if not count:
            return Scout(deltas, errors)
        grid = self.sampler.grid
        x_0 = self.forward.select(count)
        starts = self.forward.draw(x_0, grid[0])
        chains = Population(
            self.sampler, starts, self.batch_size, stream_seed(self.seed, "ahead"), tick
        )
        halts = set(candidates(grid)) if look_out else set()
        for t in grid:
            x = chains.advance(t)
            check_states(x, t, "states that started from forward draws")
            deltas[t] = variance_error(x, x_0, *self.sampler.scale(t))
            if t in halts:
                y = self.forward.draw(self.forward.select(min(1024, self.forward.count)), t)
                found = mmd_estimate(x, y, kernel=self.kernel.fit(y, x), num_permutations=0)
                errors[t] = max(found.mmd_sq - RESOLVED * found.null_sd, 0.0)
        return Scout(deltas, errors)

    def run(
        self,
        times: tuple[float, ...],
        *,
        budget: bool,
        exposure: bool,
        deltas: dict[float, float],
        bracket: bool = False,
        tick: Callable[[int], None],
    ) -> list[ErrorState]:
        """Advance all chains from state to state and keep the numbers.

        With ``bracket`` they are compared with the data set itself too.
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
        permutations = torch.Generator().manual_seed(stream_seed(self.seed, "permutations"))
        target = self._data_set()
        records = []
        for t in times:
            x = chains.advance(t)
            check_states(x, t, "the sampler's states")
            y = self.forward.draw(self.forward.select(), t)
            alpha, sigma = self.sampler.scale(t)
            record: dict[str, Any] = {"t": t, "alpha": alpha, "sigma": sigma}
            found = cumulative_error(
                x,
                y,
                self.kernel,
                num_permutations=self.num_permutations,
                overlap=self.forward.overlap,
                generator=permutations,
            )
            record |= found.numbers | {"delta": deltas.get(t)}
            if bracket:
                record |= data_set_error(
                    x,
                    target,
                    t,
                    found.kernel,
                    num_permutations=self.num_permutations,
                    generator=target.generator,
                )
            if budget and t != times[0]:
                record |= self._budget(chains, x, t, found.kernel)
            if exposure and t > 0:
                record |= self._epsilon_norms(x, y, t, len(times))
            records.append(ErrorState(**record))
        return records

    def _data_set(self) -> ForwardDraws:
        """Draws from the data set itself, from a stream of their own."""
        generator = torch.Generator().manual_seed(stream_seed(self.seed, "data set"))
        count = max(self.forward.count, self.num_samples)
        return replace(self.forward, reference="empirical", count=count, generator=generator)

    def _budget(self, chains: Population, x: Tensor, t: float, kernel: Kernel) -> dict[str, Any]:
        """The terms of the segment that ends here; how much of their errors is due to the data."""
        x_0 = self.forward.select(len(x))
        starts, forward = self.forward.draw_pair(x_0, chains.before[0], t)
        rolled = chains.replay(starts)
        check_states(rolled, t, "states that were rolled out from forward draws")
        terms = budget_terms(x[: len(x_0)], rolled, forward, kernel)
        overlap = min(1.0, len(x_0) / len(self.forward.data)) if self.forward.overlap else 0.0
        return vars(terms) | {
            "fresh_sq_data_se": terms.fresh_sq_se * overlap**0.5,
            "inherited_sq_data_se": terms.inherited_sq_se * (overlap / 2) ** 0.5,
        }

    def _epsilon_norms(self, x: Tensor, y: Tensor, t: float, states: int) -> dict[str, Any]:
        """Norms of the noise estimate, on as many states as cost one percent of the run."""
        modules = len(self.sampler.grid) - 1
        share = self.num_samples * modules // (200 * states)
        count = min(max(share, 16), self.batch_size, len(x), len(y))
        try:
            norms = epsilon_norms(self.sampler, x[:count], y[:count], t)
        except InvalidInput:  # a scheduler that does not say what its network predicts
            return {}
        return {
            "eps_norm_sampled": norms.sampled,
            "eps_norm_forward": norms.forward,
            "eps_norm_gap": norms.sampled - norms.forward,
            "eps_norm_gap_se": norms.gap_se,
        }
