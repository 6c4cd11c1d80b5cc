"""The data that forward draws are made of."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


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
