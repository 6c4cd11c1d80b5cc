"""A configuration dataclass from named values: YAML read, names and values checked.

``jsonargparse`` checks and converts the values and builds the dataclass. Values go by the dotted
names of the fields, such as ``regularizer.every``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar, cast, get_type_hints

import yaml

from undrift.api.options import Option, options, plain, spell
from undrift.exceptions import InvalidInput

T = TypeVar("T")


class UniqueKeys(yaml.SafeLoader):
    """A YAML loader that refuses a name that is given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """The mapping, if no name comes twice in it."""
        keys = [key.value for key, _ in node.value]
        if twice := [key for key in keys if keys.count(key) > 1]:
            raise yaml.YAMLError(f"the name {twice[0]!r} is given twice")
        return super().construct_mapping(node, deep)


def read_yaml(path: str) -> dict[str, Any]:
    """The mapping in a YAML file; an empty file holds an empty one.

    Raises:
        InvalidInput: If the file holds no YAML, no mapping, or a name twice.
        OSError: If the file cannot be read.
    """
    try:
        values = yaml.load(Path(path).read_text("utf-8"), UniqueKeys)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{path} is not YAML: {error}") from error
    if not isinstance(values, dict | None):
        raise InvalidInput(f"{path} holds no options: write 'name: value' in each line")
    return values or {}


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


def _read_word(text: str) -> Any:
    # YAML reads "#1" as nothing at all, but whoever calls a run "#1" means it.
    from jsonargparse import get_loader

    value = get_loader("yaml")(text)
    return text if value is None else value
