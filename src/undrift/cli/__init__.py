"""The command line: ``undrift COMMAND ...``.

One module a command, imported only when it is called; results go to stdout, messages and progress
to stderr. Input that cannot be used ends with one line on stderr and exit code 2; any other
exception is a bug and shows its traceback.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from difflib import get_close_matches
from importlib import import_module

from undrift import __version__
from undrift.exceptions import Interrupted, InvalidInput, printable

COMMANDS = {
    "demo": "train on digits, measure plain against regularized, write a report",
    "train": "train a diffusion model, with or without a regularizer",
    "sample": "draw images from a trained model",
    "measure": "measure how the error of a model accumulates along its chain",
    "evaluate": "distances between the samples of a model and the data",
    "tune": "find the strength of a remedy at sampling time",
    "advise": "find the best solver, time grid and remedy at a number of network calls",
    "compare": "compare methods over seeds and budgets",
    "report": "turn profiles into one self-contained HTML page",
    "theory": "the error budget of exact models, in closed form",
    "cite": "how to cite undrift and the paper it builds on",
}


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""Errors of writing; those without a file are about stdout."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code.

    Arguments:
        argv: The arguments after ``undrift`` on the command line; ``sys.argv[1:]`` when None.

    Returns:
        0 on success, 2 if the input cannot be used, 130 if interrupted (143 by SIGTERM), 141 if the
        reader of the output closed its pipe.
    """
    if sys.stderr is None:  # closed: messages go nowhere, never among the results
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    if sys.stdout is None:
        return _complain("stdout is closed: give the results a place, such as > /dev/null")
    try:
        code = _dispatch(sys.argv[1:] if argv is None else list(argv))
        _flush()
    except BrokenPipeError:
        _drop_output()
        return 141
    except InvalidInput as error:
        return _complain(str(error))
    except OSError as error:
        with suppress(OSError):
            _flush()
        where = error.filename or ("stdout" if error.errno in _FULL else None)
        reason = error.strerror or str(error)
        return _complain(f"{where}: {reason}" if where else reason)
    except Interrupted as stopped:
        print("undrift:", printable(str(stopped)), file=sys.stderr)
        return 128 + stopped.number
    except KeyboardInterrupt:
        print("undrift: interrupted", file=sys.stderr)
        return 130
    return code


def _flush() -> None:
    """Write what is left of the output.

    Raises:
        OSError: If that fails; names stdout.
    """
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        _drop_output()
        raise OSError(error.errno, error.strerror, "stdout") from None


def _drop_output() -> None:
    """Keep the interpreter from trying to write at exit what cannot be written."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _dispatch(argv: list[str]) -> int:
    name, *rest = argv or ["--help"]
    if name in ("-h", "--help"):
        print(_overview())
        return 0
    if name in ("-V", "--version"):
        print(f"undrift {__version__}")
        return 0
    if name.startswith("-"):
        raise InvalidInput(f"unknown option {name} before the command; see undrift --help")
    if name not in COMMANDS:
        close = get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {close[0]}?" if close else f"choose from {', '.join(COMMANDS)}"
        raise InvalidInput(f"unknown command {name!r}: {hint}")

    from undrift.cli.command import execute

    return execute(name, import_module(f"{__name__}.{name}"), rest)


def _overview() -> str:
    width = max(map(len, COMMANDS))
    lines = "\n".join(f"  {name:<{width}}  {text}" for name, text in COMMANDS.items())
    return f"""usage: undrift COMMAND [ARGUMENT ...] [--option VALUE ...]

Measure how the error of a diffusion model accumulates along its sampling chain,
and train the model to accumulate less.

commands:
{lines}

options:
  -h, --help     show this text; after a command, that command's options
  -V, --version  show the version"""


def _complain(message: str) -> int:
    print("undrift: error:", printable(" ".join(message.split())), file=sys.stderr)
    return 2
