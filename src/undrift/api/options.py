r"""The fields of a configuration dataclass, seen as command-line options.

A field ``regularizer.every`` is written ``--regularizer.every`` on the command line and
``regularizer: {every: ...}`` in a YAML file. Its help is its description in
the docstring of the dataclass, under ``Arguments:``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

_WORDS = {  # one of them, several of them, and what stands for the value in the help
    bool: ("true or false", "true/false", "BOOL"),
    int: ("an integer", "integers", "INT"),
    float: ("a number", "numbers", "NUMBER"),
    str: ("text", "texts", "TEXT"),
    Path: ("a path", "paths", "PATH"),
    dict: ("a mapping", "mappings", "VALUE"),
    NoneType: ("null", "nulls", "null"),
}


@dataclass(frozen=True)
class Option:
    """One leaf of the configuration.

    Arguments:
        key: Names of the fields that lead to it, with dots between them.
        hint: Its type.
        default: Its default, or :data:`dataclasses.MISSING` if it has to be given.
        help: Its description in the docstring.
        group: Description of the nested dataclass that it belongs to.
    """

    key: str
    hint: Any
    default: Any
    help: str
    group: str

    @property
    def flag(self) -> str:
        """Its name on the command line."""
        return "--" + self.key.replace("_", "-")

    @property
    def is_switch(self) -> bool:
        """Whether it is on or off, and takes no value on the command line."""
        return set(branches(self.hint)) in ({bool}, {bool, NoneType})

    @property
    def is_list(self) -> bool:
        """Whether it takes nothing but lists."""
        return all(_is_list(kind) for kind in branches(self.hint) if kind is not NoneType)

    def from_text(self, text: str) -> Any:
        """The value of a text: ``null``, or a list of items separated by commas."""
        kinds = branches(self.hint)
        if text == "null" and NoneType in kinds:
            return None
        listed = self.is_list or ("," in text and any(map(_is_list, kinds)))
        if listed and not text.startswith("["):
            return [item.strip() for item in text.split(",") if item.strip()]
        return text


def options(config: type[Any]) -> list[Option]:
    """All leaves of a configuration dataclass, in the order in which it declares them."""
    return list(_leaves(config, None, "", ""))


def summary(config: type[Any]) -> str:
    """The docstring of a dataclass up to its first section."""
    from docstring_parser import parse

    return plain(parse(config.__doc__ or "").description or "")


def plain(text: str) -> str:
    """Text without the marks that only documentation pages can show."""
    return re.sub(r":[a-z]+:`([^`]*)`", r"\1", text).replace("``", "")


def branches(hint: Any) -> tuple[Any, ...]:
    """The alternatives of a union; a type that is none is its own only alternative."""
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def spell(hint: Any, *, plural: bool = False) -> str:
    """A type in words.

    Example:
        >>> spell(int | None)
        'an integer or null'
        >>> spell(list[float])
        'numbers separated by commas'
        >>> spell(Literal["all", "some"] | int)
        'all, some or an integer'
    """
    words: list[str] = []
    for branch in branches(hint):
        origin, arguments = get_origin(branch) or branch, get_args(branch)
        if origin is Literal:
            words += map(str, arguments)
        elif _is_list(branch):
            count = f"{len(arguments)} " if origin is tuple else ""
            words.append(f"{count}{spell(arguments[0], plural=True)} separated by commas")
        else:
            words.append(_WORDS[origin][plural])
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def metavar(hint: Any) -> str:
    """The placeholder of a value in the help.

    Example:
        >>> metavar(Literal["u", "v"]), metavar(list[int]), metavar(int | Literal["all"])
        ('{u,v}', 'INT,...', 'INT|all')
    """
    kinds = [kind for kind in branches(hint) if kind is not NoneType]
    if len(kinds) == 1 and get_origin(kinds[0]) is Literal:
        return "{" + ",".join(map(str, get_args(kinds[0]))) + "}"
    return "|".join(map(_metavar, kinds))


def _metavar(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return "|".join(map(str, get_args(kind)))
    if _is_list(kind):
        return f"{metavar(get_args(kind)[0])},..."
    return _WORDS[get_origin(kind) or kind][2]


def _is_list(kind: Any) -> bool:
    return get_origin(kind) in (list, tuple)


def _leaves(config: type[Any], parent: Any, prefix: str, group: str) -> Iterator[Option]:
    """The leaves below a dataclass, whose defaults are those that its parent gives it."""
    hints, helps = get_type_hints(config), _helps(config)
    for field in fields(config):
        hint, text = hints[field.name], helps.get(field.name, "")
        text = " ".join(filter(None, [text, field.metadata.get("help")]))
        default = field.default_factory() if callable(field.default_factory) else field.default
        default = default if parent is None else getattr(parent, field.name)
        key = f"{prefix}{field.name}"
        if is_dataclass(hint):
            yield from _leaves(hint, default, f"{key}.", text)  # type: ignore[arg-type]
        else:
            yield Option(key, hint, default, text, group)


def _helps(config: type[Any]) -> dict[str, str]:
    """Descriptions of the fields in the docstrings of a dataclass and its bases."""
    from docstring_parser import parse

    return {
        entry.arg_name: plain(" ".join((entry.description or "").split()))
        for base in reversed(config.__mro__)
        for entry in parse(base.__doc__ or "").params
    }
