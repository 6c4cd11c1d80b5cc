r"""From a dataclass to a command: the adapter that all commands share.

A command is a module ``undrift/cli/NAME.py`` with

- ``Config``, a dataclass whose docstring says under ``Arguments:`` what each field is for. Its
  fields are the command's options; nested dataclasses, literals, unions, lists and paths are fine.
  A field without default has to be given.
- ``POSITIONALS``, the names of the fields that are written without ``--`` (optional). The last one
  may be a list: it takes all that is left.
- ``run(config)``, which does the work, prints the result for the terminal, and returns what
  ``--json`` prints: a mapping of what JSON can hold (tensors, arrays, paths and dataclasses are
  converted), or None.
- ``SHARED``, which is true for a command whose work several processes share, started by
  ``accelerate launch`` or ``torchrun``. All of them run it, and the first one prints. Any other
  command is run by the first process alone.

The module must not import torch when it is imported: heavy imports belong into ``run``, so that
``undrift NAME --help`` is quick. Results go to stdout; messages go to the logger ``undrift`` and
progress bars to stderr. ``--quiet`` leaves both out: a progress bar asks ``session().quiet``.

argparse reads the command line, because it lets us choose how options look and keeps ``--help``
quick; jsonargparse checks and converts the values and builds the dataclass. Flags override the YAML
of ``--config``, which overrides the defaults.
"""

from __future__ import annotations

import logging
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from contextvars import ContextVar
from dataclasses import dataclass
from types import ModuleType

from undrift.api import launch
from undrift.api.configuration import build
from undrift.cli.parser import CommandParser
from undrift.cli.result import to_json, to_yaml
from undrift.exceptions import InvalidInput, printable


@dataclass(frozen=True)
class Session:
    """The invocation of the running command.

    Arguments:
        command: The command line, which the result repeats.
        json: Whether stdout holds one JSON object and nothing else.
        quiet: Whether to leave out progress bars and messages.
    """

    command: str = "undrift"
    json: bool = False
    quiet: bool = False


_session: ContextVar[Session] = ContextVar("session")


def session() -> Session:
    """The session of the command that is running."""
    return _session.get(Session())


def execute(name: str, module: ModuleType, argv: Sequence[str]) -> int:
    """Parse what follows the name of a command, run it, and print its result.

    Raises:
        InvalidInput: If the command line, the YAML or the input of the command cannot be used.
    """
    parser = CommandParser(name, module.Config, tuple(getattr(module, "POSITIONALS", ())))
    found = parser.read(argv)
    if found is None:
        return 0
    values, given = found
    config = build(module.Config, values, parser.written)
    if given.print_config:
        sys.stdout.write(to_yaml(config))
        return 0
    is_main, is_shared = launch.rank() == 0, getattr(module, "SHARED", False)
    if not is_shared:
        if not is_main:
            return 0
        launch.alone()
    called = Session(
        shlex.join(["undrift", name, *argv]), given.json, given.quiet or not is_main
    )  # fmt: skip
    with _messages(called), _output(given.json, is_main):
        try:
            result = module.run(config)
        except InvalidInput as error:
            raise InvalidInput(parser.in_flags(str(error))) from error
    launch.leave()
    if given.json and is_main:
        print(to_json({**(result or {}), "config": config}))
    return 0


@contextmanager
def _output(json: bool, is_main: bool) -> Iterator[None]:
    """Keep stdout for one JSON object, and for the first of several processes."""
    if not is_main:
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
            yield
    else:
        with redirect_stdout(sys.stderr) if json else nullcontext():
            yield


class _Printable(logging.Formatter):
    """Writes messages without control characters."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the message."""
        return printable(super().format(record))


@contextmanager
def _messages(called: Session) -> Iterator[None]:
    """Send the library's log to stderr while a command runs."""
    logger, handler = logging.getLogger("undrift"), logging.StreamHandler(sys.stderr)
    level, token = logger.level, _session.set(called)
    handler.setFormatter(_Printable("%(message)s"))
    logger.setLevel(logging.WARNING if called.quiet else logging.INFO)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        _session.reset(token)
