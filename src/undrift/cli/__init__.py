"""The command line: ``undrift COMMAND ...``.

One module a command, imported only when it is called; results go to stdout, messages and progress
to stderr. Input that cannot be used ends with one line on stderr and exit code 2; any other
exception is a bug and shows its traceback.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module

from undrift import __version__
from undrift.exceptions import InvalidInput

COMMANDS = {
    "demo": "train on digits, measure plain against regularized, write a report",
    "train": "train a diffusion model, with or without a regularizer",
    "sample": "draw images from a trained model",
    "measure": "measure how the error of a model accumulates along its chain",
    "evaluate": "distances between the samples of a model and the data",
    "tune": "find the strength of a remedy at sampling time",
    "compare": "compare methods over seeds and budgets",
    "report": "turn profiles into one self-contained HTML page",
    "theory": "the error budget of exact models, in closed form",
    "cite": "how to cite undrift and the paper it builds on",
}

_FILE_ERRORS = (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code.

    Arguments:
        argv: The arguments after ``undrift`` on the command line; ``sys.argv[1:]`` when None.

    Returns:
        0 on success, 2 if the input cannot be used, 130 if interrupted, 141 if the reader of the
        output closed its pipe.
    """
    try:
        code = _dispatch(sys.argv[1:] if argv is None else list(argv))
        sys.stdout.flush()
    except BrokenPipeError:
        # Buffered output cannot be written any more: keep the interpreter from trying at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except InvalidInput as error:
        return _complain(str(error))
    except _FILE_ERRORS as error:
        return _complain(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except KeyboardInterrupt:
        print("undrift: interrupted", file=sys.stderr)
        return 130
    return code


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
    print("undrift: error:", " ".join(message.split()), file=sys.stderr)
    return 2
