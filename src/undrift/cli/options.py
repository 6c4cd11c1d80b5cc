r"""The fields of a configuration dataclass, seen as command-line options.

A field ``regularizer.every_k_steps`` is written ``--regularizer.every-k-steps`` on the command
line and ``regularizer: {every_k_steps: ...}`` in a YAML file. Its help is what the docstring of
the dataclass says under ``Arguments:``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, fields, is_dataclass
from os import PathLike
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

_PLURALS = {
    bool: ("true or false", "true/false"),
    int: ("an integer", "integers"),
    float: ("a number", "numbers"),
    str: ("text", "texts"),
    NoneType: ("null", "nulls"),
}
_METAVARS = {int: "INT", float: "NUMBER", str: "TEXT", bool: "BOOL", NoneType: "null"}


@dataclass(frozen=True)
class Option:
    """One leaf of the configuration.

    Arguments:
        path: Names of the fields that lead to it.
        hint: Its type.
        default: Its default, or :data:`dataclasses.MISSING` if it has to be given.
        help: What its docstring says.
        group: What the docstring says of the nested dataclass it belongs to.
    """

    path: tuple[str, ...]
    hint: Any
    default: Any
    help: str
    group: str

    @property
    def key(self) -> str:
        """Its name in jsonargparse."""
        return ".".join(self.path)

    @property
    def flag(self) -> str:
        """Its name on the command line."""
        return "--" + self.key.replace("_", "-")

    @property
    def is_switch(self) -> bool:
        """Whether it is on or off, and takes no value on the command line."""
        return set(branches(self.hint)) in ({bool}, {bool, NoneType})

    def from_text(self, text: str) -> Any:
        """What was meant by the text: ``null``, or a list of items separated by commas."""
        kinds = set(branches(self.hint)) - {NoneType}
        lists = {kind for kind in kinds if _is_list(kind)}
        if text == "null" and NoneType in branches(self.hint):
            return None
        if lists and not text.startswith("[") and (lists == kinds or "," in text):
            return [item.strip() for item in text.split(",") if item.strip()]
        return text


def options(config: type[Any]) -> list[Option]:
    """All leaves of a configuration dataclass, in the order in which it declares them."""
    return list(_walk(config, None, (), ""))


def summary(config: type[Any]) -> str:
    """What the docstring of the dataclass says before its sections."""
    from docstring_parser import parse

    doc = parse(_documentation(config))
    return plain("\n\n".join(filter(None, [doc.short_description, doc.long_description])))


def plain(text: str) -> str:
    """Text without the marks that only documentation pages can show."""
    return re.sub(r":[a-z]+:`([^`]*)`", r"\1", text).replace("``", "")


def branches(hint: Any) -> tuple[Any, ...]:
    """The alternatives of a union; a type that is none is its own only alternative."""
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def spell(hint: Any, *, plural: bool = False) -> str:
    """What a type asks for, in words.

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
        origin, arguments = get_origin(branch), get_args(branch)
        if origin is Literal:
            words += map(str, arguments)
        elif _is_list(branch):
            items = [item for item in arguments if item is not ...] or [str]
            count = f"{len(items)} " if origin is tuple and ... not in arguments else ""
            words.append(f"{count}{spell(items[0], plural=True)} separated by commas")
        elif branch in _PLURALS:
            words.append(_PLURALS[branch][plural])
        elif isinstance(branch, type) and issubclass(branch, PathLike):
            words.append("paths" if plural else "a path")
        elif origin is dict:
            words.append("a mapping")
        else:
            words.append(getattr(branch, "__name__", str(branch)))
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def metavar(hint: Any) -> str:
    """What stands for the value in the help.

    Example:
        >>> metavar(Literal["u", "v"]), metavar(list[int]), metavar(int | Literal["all"])
        ('{u,v}', 'INT,...', 'INT|all')
    """
    alternatives = [branch for branch in branches(hint) if branch is not NoneType]
    words = [_metavar(branch) for branch in alternatives]
    if len(words) == 1 and get_origin(alternatives[0]) is Literal:
        return "{" + words[0].replace("|", ",") + "}"
    return "|".join(words)


def _metavar(branch: Any) -> str:
    arguments = get_args(branch)
    if get_origin(branch) is Literal:
        return "|".join(map(str, arguments))
    if _is_list(branch):
        return f"{metavar(arguments[0]) if arguments else 'TEXT'},..."
    if isinstance(branch, type) and issubclass(branch, PathLike):
        return "PATH"
    return _METAVARS.get(branch, "VALUE")


def _is_list(branch: Any) -> bool:
    return (get_origin(branch) or branch) in (list, tuple)


def _walk(
    config: type[Any], instance: Any, prefix: tuple[str, ...], group: str
) -> Iterator[Option]:
    hints = get_type_hints(config)
    helps = _helps(config)
    for field in fields(config):
        if not field.init:
            continue
        path, hint = (*prefix, field.name), hints[field.name]
        default = getattr(instance, field.name) if instance is not None else _default(field)
        help_text = helps.get(field.name, "")
        if is_dataclass(hint):
            inner = None if default is MISSING else default
            yield from _walk(hint, inner, path, help_text or field.name)  # type: ignore[arg-type]
        else:
            yield Option(path, hint, default, help_text, group)


def _default(field: Any) -> Any:
    return field.default_factory() if field.default_factory is not MISSING else field.default


def _helps(config: type[Any]) -> dict[str, str]:
    from docstring_parser import parse

    return {
        entry.arg_name: plain(" ".join((entry.description or "").split()))
        for base in reversed(config.__mro__)
        if is_dataclass(base)
        for entry in parse(_documentation(base)).params
    }


def _documentation(config: type[Any]) -> str:
    text = config.__doc__ or ""
    return "" if text.startswith(f"{config.__name__}(") else text  # dataclass wrote that one
