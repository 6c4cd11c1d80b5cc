"""The data that forward draws are made of."""

from __future__ import annotations

import torch
from torch import Tensor

from undrift.regularizer.resumable import Resumable


class ForwardPool(Resumable):
    """The last data that were seen: forward draws need many more of them than one batch has.

    Arguments:
        capacity: How many data are kept; may be raised at any time.

    Attributes:
        rows: The data in a ring, or None before the first batch.
        next: Where the next one goes.
    """

    saved = ("capacity", "rows", "next")

    def __init__(self, capacity: int = 0) -> None:
        self.capacity = capacity
        self.rows: Tensor | None = None
        self.next = 0

    def __len__(self) -> int:
        """Return the number of data that are there."""
        return 0 if self.rows is None else len(self.rows)

    @property
    def data(self) -> Tensor | None:
        """The data, the oldest first."""
        return None if self.rows is None else self.rows.roll(-self.next, 0)

    def add(self, x_0: Tensor) -> None:
        """Put a batch in, over the oldest data.

        Arguments:
            x_0: Data, with shape :math:`(B, *)`.
        """
        x_0 = x_0.detach()[-self.capacity :]
        rows = x_0[:0] if self.rows is None else self.rows.to(x_0)
        if len(rows) < self.capacity:  # make room after the newest
            rows, self.next = rows.roll(-self.next, 0), len(rows)
            rows = torch.cat([rows, x_0[: self.capacity - len(rows)]])
        places = torch.arange(self.next, self.next + len(x_0), device=x_0.device) % self.capacity
        self.rows = rows.index_copy(0, places, x_0)
        self.next = (self.next + len(x_0)) % self.capacity

    def draw(self, first: int, second: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Two disjoint sets in random order, smaller in proportion while there are too few data.

        Arguments:
            first: Size of the first set, 2 at least.
            second: Size of the second set, 2 at least.
            generator: Source of the order.
        """
        assert self.rows is not None
        size = len(self.rows)
        share = min(1.0, size / (first + second))
        first = min(max(2, int(first * share)), size - 2)
        order = torch.randperm(size, generator=generator).to(self.rows.device)
        return self.rows[order[:first]], self.rows[order[first : first + second]]
