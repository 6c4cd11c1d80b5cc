"""Ranges that numbers have to lie in."""

from __future__ import annotations

import math
from typing import NamedTuple

from undrift.exceptions import InvalidInput


class Limits(NamedTuple):
    """An interval of numbers.

    Arguments:
        low: Its lower end.
        high: Its upper end.
        ends: Which ends belong to it: ``"[)"``, ``"()"`` or ``"(]"``.

    Example:
        >>> str(Limits(0, 1)), str(Limits(0, 1, "(]")), str(Limits(1))
        ('at least 0 and less than 1', 'above 0 and at most 1', 'at least 1')
    """

    low: float
    high: float = math.inf
    ends: str = "[)"

    def __str__(self) -> str:
        """Return what to choose, in words."""
        low = f"{'at least' if self.ends[0] == '[' else 'above'} {self.low:g}"
        if self.high == math.inf:
            return low
        return f"{low} and {'at most' if self.ends[1] == ']' else 'less than'} {self.high:g}"

    def check(self, name: str, value: float | None) -> None:
        """Stop at a number outside of the interval; None is no number.

        Raises:
            InvalidInput: Names it, and what to choose.
        """
        if value is None:
            return
        above = value >= self.low if self.ends[0] == "[" else value > self.low
        below = value <= self.high if self.ends[1] == "]" else value < self.high
        if not (above and below):
            raise InvalidInput(f"{name} is {value}: choose {self}")
