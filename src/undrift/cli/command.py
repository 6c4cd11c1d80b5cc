r"""From a dataclass to a command: the adapter that all commands share.

A command is a module ``undrift/cli/NAME.py`` with

- ``Config``, a dataclass whose docstring says under ``Arguments:`` what each field is for. Its
  fields are the command's options; nested dataclasses, literals, unions, lists and paths are fine.
  A field without default has to be given.
- ``POSITIONALS``, the names of the fields that are written without ``--`` (optional). The last one
  may be a list: it takes all that is left.
- ``run(config)``, which does the work, prints for people, and returns the result for machines: a
  mapping of what JSON can hold (tensors, arrays, paths and dataclasses are converted), or None.

The module must not import torch when it is imported: heavy imports belong into ``run``, so that
``undrift NAME --help`` is quick. Results go to stdout; talk goes to the logger ``undrift`` and to
progress bars, both on stderr; ``--quiet`` silences them: a progress bar asks ``session().quiet``.

argparse reads the command line, because it lets us choose how options look; jsonargparse checks and
converts the values and builds the dataclass. Flags override the YAML of ``--config``, which
overrides the defaults.
"""

from __future__ import annotations

import logging
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from contextvars import ContextVar
from dataclasses import MISSING, dataclass
from types import ModuleType
from typing import Any

import yaml

from undrift.cli.options import Option, options, plain, spell
from undrift.cli.parser import Surface
from undrift.cli.result import to_json, to_yaml
from undrift.exceptions import InvalidInput


@dataclass(frozen=True)
class Session:
    """How the running command was called.

    Arguments:
        command: The command line, to be repeated by whoever reads the result.
        json: Whether stdout is for machines.
        quiet: Whether to leave out progress bars and talk.
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
    positionals = tuple(getattr(module, "POSITIONALS", ()))
    parser = Surface(name, module.Config, positionals)
    given = parser.read(argv)
    if given is None:
        return 0
    config = build(module.Config, given.values, positionals, parser.prog)
    if given.print_config:
        sys.stdout.write(to_yaml(config))
        return 0
    called = Session(shlex.join(["undrift", name, *argv]), given.json, given.quiet)
    with _talk(called), redirect_stdout(sys.stderr) if given.json else nullcontext():
        result = module.run(config)
    if given.json:
        print(to_json({**(result or {}), "config": config}))
    return 0


def build(
    config: type[Any], values: Mapping[str, Any], positionals: Sequence[str], prog: str
) -> Any:
    """A configuration from nested values, each checked against its type.

    Raises:
        InvalidInput: If a value is missing or does not fit its type.
    """
    from jsonargparse import ArgumentError, ArgumentParser, set_loader

    leaves = {option.key: option for option in options(config)}
    for option in leaves.values():
        if option.default is MISSING and _value_at(values, option.path) is MISSING:
            purpose = f" ({option.help.rstrip('.')})" if option.help else ""
            name = _name(option, positionals)
            raise InvalidInput(f"{name} is missing{purpose}; see {prog} --help")
    set_loader("words", _read_word, (yaml.YAMLError,))
    parser = ArgumentParser(exit_on_error=False, parser_mode="words")
    parser.add_class_arguments(config, "config")
    try:
        return parser.instantiate(parser.parse_object({"config": dict(values)})).config
    except ArgumentError as error:
        raise InvalidInput(_explain(str(error), leaves, values, positionals)) from error


def _read_word(text: str) -> Any:
    # YAML reads "#1" as nothing at all, but whoever calls a run "#1" means it.
    from jsonargparse import get_loader

    value = get_loader("yaml")(text)
    return text if value is None else value


def _value_at(values: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        if not isinstance(values, Mapping) or name not in values:
            return MISSING
        values = values[name]
    return values


def _name(option: Option, positionals: Sequence[str]) -> str:
    return option.key.upper() if option.key in positionals else option.flag


def _explain(
    message: str,
    leaves: Mapping[str, Option],
    values: Mapping[str, Any],
    positionals: Sequence[str],
) -> str:
    """What jsonargparse says of one value, in our words."""
    for key, option in leaves.items():
        if f'"config.{key}"' in message:
            value = _value_at(values, option.path)
            shown = ",".join(map(str, value)) if isinstance(value, list) else value
            name = _name(option, positionals)
            return f"{name}: expected {spell(option.hint)}, got {shown!r}"
    return plain(message)


@contextmanager
def _talk(called: Session) -> Iterator[None]:
    """Lend the library's log a way to stderr while a command runs."""
    logger, handler = logging.getLogger("undrift"), logging.StreamHandler(sys.stderr)
    level, token = logger.level, _session.set(called)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger.setLevel(logging.WARNING if called.quiet else logging.INFO)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        _session.reset(token)
