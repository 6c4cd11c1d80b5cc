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
        labels: The condition of each, of a conditional model.
        next: Where the next one goes.
    """

    saved = ("capacity", "rows", "labels", "next")

    def __init__(self, capacity: int = 0) -> None:
        self.capacity = capacity
        self.rows: Tensor | None = None
        self.labels: Tensor | None = None
        self.next = 0

    def __len__(self) -> int:
        """Return the number of data that are there."""
        return 0 if self.rows is None else len(self.rows)

    @property
    def data(self) -> Tensor | None:
        """The data, the oldest first."""
        return None if self.rows is None else self.rows.roll(-self.next, 0)

    def add(self, x_0: Tensor, labels: Tensor | None = None) -> None:
        """Put a batch in, over the oldest data.

        Arguments:
            x_0: Data, with shape :math:`(B, *)`.
            labels: Their conditions, with shape :math:`(B,)`.
        """
        old, start = len(self), self.next
        self.rows = self._with(self.rows, x_0.detach())
        if labels is not None:
            self.labels = self._with(self.labels, labels)
        start = old if old < self.capacity else start
        self.next = (start + min(len(x_0), self.capacity)) % self.capacity

    def _with(self, old: Tensor | None, new: Tensor) -> Tensor:
        """A ring with new rows over its oldest; one that is not full has its oldest first."""
        new, start = new[-self.capacity :], self.next
        rows = new[:0] if old is None else old.to(new)
        if len(rows) < self.capacity:  # make room after the newest
            rows, start = rows.roll(-start, 0), len(rows)
            rows = torch.cat([rows, new[: self.capacity - len(rows)]])
        places = torch.arange(start, start + len(new), device=new.device) % self.capacity
        return rows.index_copy(0, places, new)

    def draw(
        self, first: int, second: int, generator: torch.Generator, least: int = 2
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Two disjoint sets in random order, smaller in proportion while there are too few data.

        Arguments:
            first: Size of the first set, 2 at least.
            second: Size of the second set, ``least`` at least.
            generator: Source of the order.
            least: Fewest of the second set while there are too few data, of which there have to be
                two more.

        Returns:
            The first set, the places of the second (:meth:`at`), and the conditions of the first.
        """
        assert self.rows is not None
        size = len(self.rows)
        share = min(1.0, size / (first + second))
        first = min(max(2, int(first * share)), size - least)
        order = torch.randperm(size, generator=generator).to(self.rows.device)
        own, others = order[:first], order[first : first + second]
        labels = None if self.labels is None else self.labels[own.to(self.labels.device)]
        return self.rows[own], others, labels

    def at(self, places: Tensor) -> Tensor:
        """The data at some places."""
        assert self.rows is not None
        return self.rows[places]
