"""Flags, positional arguments, help and YAML file of a command."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from dataclasses import MISSING
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from undrift.api.configuration import named
from undrift.api.options import Option, metavar, options, summary
from undrift.exceptions import InvalidInput
from undrift.storage.reading import read_yaml

PRESETS = Path(__file__).parents[1] / "presets"
"""Folders of YAML files that ``--config`` knows by name, one for each command that has some."""

COMMON = {
    "--print-config": "print the resolved YAML and exit",
    "--json": "print the result as one JSON object",
    "--quiet": "print no progress bars and no messages",
    "-h --help": "show this text and exit",
}


class CommandParser(argparse.ArgumentParser):
    """The command line of one command.

    Arguments:
        name: The command.
        config: The dataclass whose fields are its options.
        positionals: The fields that are written without ``--``.
    """

    def __init__(self, name: str, config: type[Any], positionals: Sequence[str]) -> None:
        super().__init__(
            prog=f"undrift {name}",
            description=summary(config),
            formatter_class=partial(argparse.RawDescriptionHelpFormatter, max_help_position=30),
            allow_abbrev=False,
            add_help=False,
            argument_default=argparse.SUPPRESS,
        )
        self.config, self.positionals = config, positionals
        self.options = options(config)
        self.presets = {path.stem: path for path in sorted((PRESETS / name).glob("*.yaml"))}
        self.usage = self._usage()
        groups: dict[str, Any] = {}
        for option in sorted(self.options, key=lambda option: bool(option.group)):
            title = option.group.rstrip(".") or "options"
            if title not in groups:
                groups[title] = self.add_argument_group(title)
            self._add(groups[title], option)
        self._add_common()

    def read(self, argv: Sequence[str]) -> tuple[dict[str, Any], argparse.Namespace] | None:
        """Values by the keys of the options, and the common flags; None if help was printed."""
        found, rest = self.parse_known_intermixed_args(list(map(_hyphenate, argv)))
        if found.help:
            self.print_help()
            return None
        if rest:
            self.error(self._unknown(rest[0]))
        values = {} if found.config is None else self._from_file(found.config)
        for option in self.options:
            if hasattr(found, option.key):
                values[option.key] = getattr(found, option.key)
            if option.default is MISSING and option.key not in values:
                self.error(f"{self.written(option)} is missing ({option.help.rstrip('.')})")
        return values, found

    def written(self, option: Option) -> str:
        """How an option is written on the command line."""
        return option.key.upper() if option.key in self.positionals else option.flag

    def in_flags(self, message: str) -> str:
        """A message of a function, in which parameters are written as the flags of the command."""
        flags = {option.key: self.written(option) for option in self.options}
        names = r"(?<![\w/.-])[a-z]+(?:_[a-z]+)+(?![\w/.-])|^[a-z]+(?= is -?\d)"
        return re.sub(names, lambda found: flags.get(found[0], found[0]), message)

    def error(self, message: str) -> NoReturn:
        """Raise what the command line ends with, as one line."""
        raise InvalidInput(f"{message.removeprefix('argument ')}; see {self.prog} --help")

    def _from_file(self, path: str) -> dict[str, Any]:
        """The values in a YAML file, or in the preset of that name."""
        if self.presets and not Path(path).is_file():
            if path not in self.presets:
                known = ", ".join(self.presets)
                raise InvalidInput(
                    f"--config {path}: no such file, and none of the presets {known}"
                )
            path = str(self.presets[path])
        return dict(named(read_yaml(path), self.config, path))

    def _unknown(self, token: str) -> str:
        if not token.startswith("-"):
            return f"unexpected argument {token!r}"
        flag = token.partition("=")[0]
        close = get_close_matches(flag, self._option_string_actions, n=1)
        return f"unknown option {flag}" + (f", did you mean {close[0]}?" if close else "")

    def _add(self, group: Any, option: Option) -> None:
        text = _help(option)
        if option.key in self.positionals:  # may be in the YAML instead: read() checks
            nargs, name = "*" if option.is_list else "?", option.key.upper()
            self.add_argument(option.key, metavar=name, nargs=nargs, help=text)
        elif option.is_switch:
            switch = argparse.BooleanOptionalAction
            group.add_argument(option.flag, dest=option.key, action=switch, help=text)
        else:
            name, kind = metavar(option.hint), option.from_text
            group.add_argument(option.flag, dest=option.key, metavar=name, type=kind, help=text)

    def _add_common(self) -> None:
        group = self.add_argument_group("common options")
        presets = f", or from a preset: {', '.join(self.presets)}" if self.presets else ""
        text = f"read options from a YAML file{presets}"
        group.add_argument("--config", metavar="FILE", default=None, help=text)
        for flags, text in COMMON.items():
            group.add_argument(*flags.split(), action="store_true", default=False, help=text)

    def _usage(self) -> str:
        words = [self.prog]
        for option in (option for option in self.options if option.key in self.positionals):
            word = self.written(option) + (" ..." if option.is_list else "")
            words.append(word if option.default is MISSING else f"[{word}]")
        return " ".join([*words, "[--option VALUE ...]"])


def _help(option: Option) -> str:
    text, default = option.help.rstrip("."), option.default
    if default not in (MISSING, None, "", [], ()):
        if option.is_switch:
            default = "on" if default else "off"
        elif isinstance(default, (list, tuple)):
            default = ",".join(map(str, default))
        text = f"{text} [{default}]"
    return text.replace("%", "%%")


def _hyphenate(token: str) -> str:
    """``--num_samples=a_b`` is read as ``--num-samples=a_b``."""
    name, equals, value = token.partition("=")
    return name.replace("_", "-") + equals + value if token.startswith("--") else token
