"""Errors of the input, each with a message of one line, and the checks that raise them."""

from __future__ import annotations

import math
from collections.abc import Collection
from difflib import get_close_matches
from typing import NamedTuple
from unicodedata import category


class InvalidInput(ValueError):
    """Input that cannot be used: one line that says what was wrong and what to do.

    The command line prints the message and exits with code 2; library users catch it as a
    :class:`ValueError`.
    """


class Interrupted(KeyboardInterrupt):
    """Work that was asked to stop and has saved what it did; the message says how it goes on.

    Arguments:
        message: One line.
        number: The signal that asked.
    """

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message, number)
        self.message, self.number = message, number

    def __str__(self) -> str:
        """Return the message."""
        return self.message


def check_choice(what: str, value: str, known: Collection[str]) -> None:
    """Check that the value of an option is one of those that are known; a similar one is named.

    Raises:
        InvalidInput: If it is none of them.
    """
    if value not in known:
        close = get_close_matches(value, known, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise InvalidInput(f"unknown {what} {value!r}: {hint}choose {', '.join(known)}")


class Limits(NamedTuple):
    """The numbers that an option can have.

    Arguments:
        low: The lower end.
        high: The upper end.
        ends: Which ends belong to them: ``"[)"``, ``"()"`` or ``"(]"``.
        is_whole: Whether only whole numbers are meant.

    Example:
        >>> str(Limits(0, 1)), str(Limits(0, 1, "(]")), str(Limits(1)), str(FINITE)
        ('at least 0 and less than 1', 'above 0 and at most 1', 'at least 1', 'a finite number')
        >>> Limits(0).includes(0), Limits(0, ends="()").includes(0), FINITE.includes(math.nan)
        (True, False, False)
    """

    low: float
    high: float = math.inf
    ends: str = "[)"
    is_whole: bool = False

    def __str__(self) -> str:
        """Return what to choose."""
        if self == FINITE:
            return "a finite number"
        text = f"{'at least' if self.ends[0] == '[' else 'above'} {self.low:g}"
        if self.high < math.inf:
            text += f" and {'at most' if self.ends[1] == ']' else 'less than'} {self.high:g}"
        return f"a whole number, {text}" if self.is_whole else text

    def includes(self, value: float) -> bool:
        """Whether it is one of them."""
        if self.low < value < self.high:
            return not (self.is_whole and value % 1)
        return (value, self.ends[0]) == (self.low, "[") or (value, self.ends[1]) == (self.high, "]")

    def check(self, name: str, value: float | None) -> None:
        """Check that a number is one of them; None is not checked.

        Raises:
            InvalidInput: Names it, and what to choose.
        """
        if value is not None and not self.includes(value):
            raise InvalidInput(f"{name} is {value}: choose {self}")


FINITE = Limits(-math.inf, ends="()")


def printable(text: str) -> str:
    r"""A text without control characters, which could write anywhere on a terminal.

    Example:
        >>> printable("\x1b[2Jname") == r"\x1b[2Jname"
        True
    """
    return "".join(c if category(c) != "Cc" or c in "\n\t" else repr(c)[1:-1] for c in text)


def reason_of(error: BaseException, most: int = 200) -> str:
    """The message of an error in one line of limited length; its class if it has none."""
    return " ".join(str(error).split())[:most] or type(error).__name__
