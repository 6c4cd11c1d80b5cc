"""Errors of the input, each with a message of one line."""

from __future__ import annotations

from collections.abc import Collection


class InvalidInput(ValueError):
    """Input that cannot be used: one line that says what was wrong and what to do.

    The command line prints the message and exits with code 2; library users catch it as a
    :class:`ValueError`.
    """


def check_choice(what: str, value: str, known: Collection[str]) -> None:
    """Check that the value of an option is one of those that are known.

    Raises:
        InvalidInput: If it is none of them.
    """
    if value not in known:
        raise InvalidInput(f"unknown {what} {value!r}: choose {', '.join(known)}")


def reason_of(error: BaseException, most: int = 200) -> str:
    """The message of an error in one line of limited length; its class if it has none."""
    return " ".join(str(error).split())[:most] or type(error).__name__
