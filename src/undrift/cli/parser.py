"""How a command looks to the person who types it: flags, positionals, help, and the YAML file."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Mapping, Sequence
from dataclasses import MISSING, dataclass
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import yaml

from undrift.cli.options import Option, metavar, options, summary
from undrift.cli.result import plain_data
from undrift.exceptions import InvalidInput

PRESETS = Path(__file__).parents[1] / "presets"
"""Folders of YAML files that ``--config`` knows by name, one for each command that has some."""


@dataclass(frozen=True)
class Given:
    """What the command line and the YAML say: values as nested mappings, and the common flags."""

    values: Mapping[str, Any]
    json: bool
    quiet: bool
    print_config: bool


class Surface(argparse.ArgumentParser):
    """How a command looks to the person who types it."""

    def __init__(self, name: str, config: type[Any], positionals: Sequence[str]) -> None:
        super().__init__(
            prog=f"undrift {name}",
            description=summary(config),
            formatter_class=partial(argparse.RawDescriptionHelpFormatter, max_help_position=30),
            allow_abbrev=False,
            add_help=False,
            argument_default=argparse.SUPPRESS,
        )
        self.leaves = options(config)
        self.presets = {path.stem: path for path in sorted((PRESETS / name).glob("*.yaml"))}
        self.usage = self._usage(positionals)
        groups: dict[str, argparse._ArgumentGroup] = {}
        for option in sorted(self.leaves, key=lambda leaf: bool(leaf.group)):
            if option.key in positionals:
                _add_positional(self, option)
                continue
            title = option.group.rstrip(".") or "options"
            if title not in groups:
                groups[title] = self.add_argument_group(title)
            _add_option(groups[title], option)
        _add_common(self.add_argument_group("common options"), self.presets)

    def read(self, argv: Sequence[str]) -> Given | None:
        """What was asked for; None if it was help, which is then printed."""
        found, rest = self.parse_known_intermixed_args([_hyphenate(token) for token in argv])
        flags = vars(found)
        if flags.pop("help", False):
            self.print_help()
            return None
        if rest:
            self.error(self._unknown(rest[0]))
        common = {key: flags.pop(key, False) for key in ("json", "quiet", "print_config")}
        path = flags.pop("config", None)
        values: dict[str, Any] = {} if path is None else _read_yaml(self._found(path), self.leaves)
        for option in self.leaves:
            if option.key in flags:
                _put(values, option.path, flags[option.key])
        return Given(values, **common)

    def error(self, message: str) -> NoReturn:
        """Leave it to the door to print one line."""
        raise InvalidInput(f"{message.removeprefix('argument ')}; see {self.prog} --help")

    def _found(self, path: str) -> str:
        """The file that was asked for, or the preset of that name."""
        if Path(path).is_file() or not self.presets:
            return path
        if path not in self.presets:
            known = ", ".join(self.presets)
            raise InvalidInput(f"--config {path}: no such file, and none of the presets {known}")
        return str(self.presets[path])

    def _usage(self, positionals: Sequence[str]) -> str:
        words = []
        for option in self.leaves:
            if option.key in positionals:
                word = option.key.upper() + (" ..." if _takes_all(option) else "")
                words.append(word if option.default is MISSING else f"[{word}]")
        return " ".join([self.prog, *words, "[--option VALUE ...]"])

    def _unknown(self, token: str) -> str:
        if not token.startswith("-"):
            return f"unexpected argument {token!r}"
        flag = token.partition("=")[0]
        known = [name for action in self._actions for name in action.option_strings]
        close = get_close_matches(flag, known, n=1)
        return f"unknown option {flag}" + (f", did you mean {close[0]}?" if close else "")


def _add_common(group: argparse._ArgumentGroup, presets: Collection[str]) -> None:
    switch, named = "store_true", f", or from a preset: {', '.join(presets)}" if presets else ""
    group.add_argument("--config", metavar="FILE", help=f"read options from a YAML file{named}")
    group.add_argument("--print-config", action=switch, help="print the resolved YAML and exit")
    group.add_argument("--json", action=switch, help="print the result as one JSON object")
    group.add_argument("--quiet", action=switch, help="no progress bars, no talk")
    group.add_argument("-h", "--help", action=switch, help="show this text and exit")


def _add_positional(parser: Surface, option: Option) -> None:
    # Never required here, for the YAML may say it; build() tells what is missing.
    nargs = "*" if _takes_all(option) else "?"
    parser.add_argument(option.key, metavar=option.key.upper(), nargs=nargs, help=_help(option))


def _add_option(group: argparse._ArgumentGroup, option: Option) -> None:
    if option.is_switch:
        group.add_argument(
            option.flag,
            dest=option.key,
            action=argparse.BooleanOptionalAction,
            default=argparse.SUPPRESS,
            help=_help(option),
        )
    else:
        group.add_argument(
            option.flag,
            dest=option.key,
            metavar=metavar(option.hint),
            type=option.from_text,
            help=_help(option),
        )


def _help(option: Option) -> str:
    text = option.help.rstrip(".")
    if option.default not in (MISSING, None, "", [], ()):
        default = plain_data(option.default)
        if option.is_switch:
            default = "on" if default else "off"
        elif isinstance(default, list):
            default = ",".join(map(str, default))
        text = f"{text} [{default}]"
    return text.replace("%", "%%")


def _takes_all(option: Option) -> bool:
    return isinstance(option.from_text("a"), list)


def _hyphenate(token: str) -> str:
    """``--num_samples=a_b`` is read as ``--num-samples=a_b``."""
    name, equals, value = token.partition("=")
    return name.replace("_", "-") + equals + value if token.startswith("--") else token


def _read_yaml(path: str, leaves: Sequence[Option]) -> dict[str, Any]:
    with open(path, encoding="utf-8") as file:
        try:
            values = yaml.safe_load(file)
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise InvalidInput(f"{path} is not YAML: {error}") from error
    if not isinstance(values, dict | None):
        raise InvalidInput(f"{path} holds no options: it must say 'name: value' line by line")
    _check_keys(values or {}, (), leaves, path)
    return values or {}


def _check_keys(
    values: Mapping[Any, Any], prefix: tuple[str, ...], leaves: Sequence[Option], file: str
) -> None:
    depth = len(prefix)
    paths = [option.path for option in leaves if option.path[:depth] == prefix]
    known = {path[depth] for path in paths}
    for key, value in values.items():
        name = ".".join([*prefix, str(key)])
        if key not in known:
            close = get_close_matches(str(key), known, n=1)
            hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(sorted(known))}"
            raise InvalidInput(f"{file}: unknown option {name}; {hint}")
        if (*prefix, key) in paths:
            continue
        if not isinstance(value, Mapping):
            raise InvalidInput(f"{file}: {name} holds options of its own, not {value!r}")
        _check_keys(value, (*prefix, key), leaves, file)


def _put(values: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    *parents, last = path
    for parent in parents:
        values = values.setdefault(parent, {})
    values[last] = value
