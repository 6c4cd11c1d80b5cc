r"""Forward draws :math:`q_t` of a data set, to compare the states of a chain with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from undrift.diffusion.sampler import Sampler
from undrift.seeds import drawn_seed

Reference = Literal["population", "empirical"]


@dataclass(frozen=True)
class ForwardDraws:
    r"""Draws from the forward marginals :math:`q_t` of a data set.

    With the ``"population"`` as reference each datum is used at most once for a state, so that the
    draws are independent draws from what the data were drawn from. With the ``"empirical"``
    distribution data are drawn with replacement: the target is the data set itself, which only a
    model that has memorized it matches.

    Arguments:
        data: Data, with shape :math:`(n, *)`.
        sampler: The chain, whose forward process is used.
        count: Number of draws for each state.
        reference: ``"population"`` or ``"empirical"``.
        generator: Source of the draws.
        labels: The condition of each datum, with shape :math:`(n,)`, for a conditional model.
    """

    data: Tensor
    sampler: Sampler
    count: int
    reference: Reference
    generator: torch.Generator
    labels: Tensor | None = None

    def rows(self, count: int | None = None) -> Tensor:
        """Which data are taken for one state, with shape :math:`(M,)`."""
        n, count = len(self.data), self.count if count is None else count
        if self.reference == "population":
            return torch.randperm(n, generator=self.generator)[:count]
        return torch.randint(n, (count,), generator=self.generator)

    def rows_at(self, t: float) -> Tensor:
        """Which data a state is compared with; at t = 0 the images that samples are scored by."""
        if t == 0 and self.reference == "population":
            return evenly_spread(len(self.data), self.count)
        return self.rows()

    def labels_of(self, rows: Tensor) -> Tensor | None:
        """The conditions of these data; None for a model without."""
        return None if self.labels is None else self.labels[rows]

    def select(self, count: int | None = None) -> Tensor:
        """Data for one state, with shape :math:`(M, *)`."""
        return self.data[self.rows(count)]

    def draw(self, x_0: Tensor, t: float) -> Tensor:
        """The forward process at time t from these data."""
        return self.sampler.forward(x_0, t, generator=self.generator)

    def paired(self, count: int) -> PairedDraws:
        """Draws of one choice of data and noise, to be compared at several times.

        Arguments:
            count: Number of draws; of a population with fewer data each is used several times, the
                first time before any is used again.
        """
        rows = self.rows(count)
        rows = rows[torch.arange(count) % len(rows)]
        seed = drawn_seed(self.generator)
        return PairedDraws(self, rows, seed)

    def overlap(self, t: float) -> float:
        """Share of the draws of one state that another measurement of the same data uses too."""
        if self.reference == "empirical":
            return 0.0
        return 1.0 if t == 0 else min(1.0, self.count / len(self.data))


class PairedDraws:
    r"""Forward draws of the same data with the same noise at every time.

    Arguments:
        source: The draws that they are some of.
        rows: Which data, with shape :math:`(N,)`.
        seed: Seed of the noise.
    """

    def __init__(self, source: ForwardDraws, rows: Tensor, seed: int) -> None:
        self.data, self.x_0, self.rows = source.data, source.data[rows], rows
        self.labels = source.labels_of(rows)
        self.is_population = source.reference == "population"
        self.units = rows if self.is_population else torch.arange(len(rows))
        """Which of the draws are independent: those of different data of a population."""
        self._sampler, self._seed = source.sampler, seed

    def __len__(self) -> int:
        """Number of draws."""
        return len(self.x_0)

    def at(self, t: float) -> Tensor:
        """The draws at one time, with shape :math:`(N, *)`."""
        generator = torch.Generator().manual_seed(self._seed)
        return self._sampler.forward(self.x_0, t, generator=generator)


def evenly_spread(num_data: int, count: int) -> Tensor:
    """Rows of ``count`` data, evenly spread over all of them; all, in order, where no more are.

    Example:
        >>> evenly_spread(5, 2).tolist(), evenly_spread(3, 9).tolist()
        ([0, 2], [0, 1, 2])
    """
    count = min(count, num_data)
    return torch.arange(count) * num_data // count


def default_count(data: Tensor, num_samples: int, reference: Reference) -> int:
    """How many forward draws: all data, up to four times the samples."""
    most = 4 * num_samples
    return min(len(data), most) if reference == "population" else max(num_samples, 2)
