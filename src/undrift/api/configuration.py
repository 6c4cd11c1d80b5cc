"""A configuration dataclass from named values: names and values checked.

``jsonargparse`` checks and converts the values and builds the dataclass. Values go by the dotted
names of the fields, such as ``regularizer.every``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from types import NoneType
from typing import Any, TypeVar, cast, get_args, get_type_hints

import yaml

from undrift.api.options import Option, branches, options, plain, spell
from undrift.exceptions import InvalidInput
from undrift.storage.reading import parse_yaml

T = TypeVar("T")


def named(
    values: Mapping[Any, Any], config: type[Any], source: str, prefix: str = ""
) -> Iterator[tuple[str, Any]]:
    """Dotted names and values of nested mappings, each name one of the dataclass.

    Arguments:
        values: Values by the names of the fields.
        config: The dataclass.
        source: Where they come from, for messages.
        prefix: Prefix of each name.

    Raises:
        InvalidInput: If the dataclass has no field of that name; the message names a similar one.
    """
    types = get_type_hints(config)
    hints = {f.name: types[f.name] for f in fields(config)}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if key not in hints:
            close = get_close_matches(str(key), hints, n=1)
            hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(sorted(hints))}"
            raise InvalidInput(f"{source}: unknown option {name}; {hint}")
        if not is_dataclass(hints[key]):
            yield name, value
        elif isinstance(value, Mapping) or is_dataclass(value):
            inner = value if isinstance(value, Mapping) else vars(value)
            yield from named(inner, hints[key], source, f"{name}.")
        else:
            raise InvalidInput(f"{source}: {name} is a section of options, not {value!r}")


def build(
    config: type[T],
    values: Mapping[str, Any],
    written: Callable[[Option], str] = lambda option: option.key,
) -> T:
    """A configuration from values by dotted names, each checked against its type.

    Arguments:
        config: The dataclass.
        values: Values by their dotted names.
        written: How a message writes the name of an option.

    Raises:
        InvalidInput: If a value is missing or does not fit its type.
    """
    from jsonargparse import ArgumentError, ArgumentParser, set_loader

    for option in options(config):
        if _is_no_number(option.hint, value := values.get(option.key)):
            raise InvalidInput(f"{written(option)}: expected {spell(option.hint)}, got {value!r}")
    set_loader("words", _read_word, (yaml.YAMLError,))
    parser = ArgumentParser(exit_on_error=False, parser_mode="words")
    parser.add_class_arguments(config, "config")
    try:
        parsed = parser.parse_object({f"config.{name}": value for name, value in values.items()})
        return cast(T, parser.instantiate(parsed).config)
    except ArgumentError as error:
        message = str(error)
        wrong = [option for option in options(config) if f'"config.{option.key}"' in message]
        for option in wrong:
            value = values.get(option.key)
            shown = ",".join(map(str, value)) if isinstance(value, list) else value
            message = f"{written(option)}: expected {spell(option.hint)}, got {shown!r}"
        raise InvalidInput(plain(message)) from error


def _is_no_number(hint: Any, value: Any) -> bool:
    """Whether a value is a text, or holds one, where only numbers are meant: 010, 1:30."""
    kinds = set(branches(hint)) - {NoneType}
    if isinstance(value, list):
        kinds = {part for kind in kinds for part in get_args(kind)}
    texts = [v for v in (value if isinstance(value, list) else [value]) if isinstance(v, str)]
    return bool(kinds) and kinds <= {int, float} and not all(map(_is_number, texts))


def _is_number(text: str) -> bool:
    try:
        return not isinstance(_read_word(text), str)
    except yaml.YAMLError:
        return False


def _read_word(text: str) -> Any:
    # YAML reads "#1" as nothing at all, but whoever calls a run "#1" means it.
    value = parse_yaml(text)
    return text if value is None else value
