"""YAML and JSON as plain data: what is read is what is written there, or one line says why not.

Of YAML the values of its version 1.2 are read: ``null``, ``true``, ``1``, ``1.5``, ``1e-4`` and
texts. ``010``, ``1:30``, ``yes`` and ``2001-01-01`` are texts as they stand. Tags (``!!int x``),
names that are given twice, and nesting beyond a hundred levels are refused, and so are numbers that
no 64 bits hold.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

import yaml

from undrift.exceptions import InvalidInput, reason_of

MOST_LEVELS = 100
MOST_VALUES = 1_000_000
_LARGEST = 2**63
_NUMBER = r"[-+]?(0|[1-9][0-9]*)"
_FLOAT = rf"{_NUMBER}(\.[0-9]*)?[eE][-+]?[0-9]+|{_NUMBER}\.[0-9]*|[-+]?\.[0-9]+([eE][-+]?[0-9]+)?"
_CORE = (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", _NUMBER, list("-+0123456789")),
    ("float", rf"{_FLOAT}|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", list("-+.0123456789")),
)


class _Loader(yaml.SafeLoader):
    """The plain values of YAML 1.2."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """The mapping, if no name comes twice in it.

        Raises:
            yaml.YAMLError: If one does.
        """
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.YAMLError("a name is a list or a mapping")
            if key.value in seen:
                raise yaml.YAMLError(f"the name {key.value!r} is given twice")
            seen.add(key.value)
        return super().construct_mapping(node, deep)

    def number(self, node: yaml.ScalarNode) -> int | float:
        """A number, as it is written."""
        text = node.value.lower()
        if not re.fullmatch(_NUMBER, text):
            value = float(text.replace(".inf", "inf").replace(".nan", "nan"))
            if math.isfinite(value) or "n" in text:
                return value
        elif len(text) < 30 and abs(whole := int(text)) < _LARGEST:
            return whole
        raise yaml.YAMLError(f"the number {text[:20]} is too large")


class _Dumper(yaml.SafeDumper):
    """Quotes texts that one of the versions of YAML would not read as texts."""


for _name, _pattern, _first in _CORE:
    for _kind in (_Loader, _Dumper):
        _kind.add_implicit_resolver(
            f"tag:yaml.org,2002:{_name}", re.compile(rf"(?:{_pattern})\Z"), _first
        )
for _name in ("int", "float"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_name}", _Loader.number)


def parse_yaml(text: str) -> Any:  # noqa: ANN401
    """The plain data in a text of YAML.

    Raises:
        yaml.YAMLError: If there are none that can be read.

    Example:
        >>> parse_yaml("[010, 1:30, yes, 2001-01-01, 1e-4, 7]")
        ['010', '1:30', 'yes', '2001-01-01', 0.0001, 7]
    """
    level = 0
    for event in yaml.parse(text, _Loader):
        if (tag := getattr(event, "tag", None)) not in (None, "!"):
            raise yaml.YAMLError(f"the tag {tag} is not understood: leave it out")
        level += isinstance(event, yaml.CollectionStartEvent)
        level -= isinstance(event, yaml.CollectionEndEvent)
        if level > MOST_LEVELS:
            raise yaml.YAMLError(f"more than {MOST_LEVELS} levels of brackets")
    value = yaml.load(text, _Loader)  # noqa: S506
    try:
        _check_values(value)
    except ValueError as error:
        raise yaml.YAMLError(str(error)) from None
    return value


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file; an empty file holds an empty one.

    Raises:
        InvalidInput: If the file holds no YAML, no mapping, or a name twice.
        OSError: If the file cannot be read.
    """
    try:
        values = parse_yaml(Path(path).read_text("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{path} is not YAML: {reason_of(error)}") from error
    if not isinstance(values, dict | None):
        raise InvalidInput(f"{path} holds no options: write 'name: value' in each line")
    return values or {}


def to_yaml(values: Any) -> str:  # noqa: ANN401
    """Plain data as YAML that :func:`parse_yaml` reads back.

    Example:
        >>> parse_yaml(to_yaml(texts := ["1e-4", "010", "no", "1:30"])) == texts
        True
    """
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def parse_json(text: str) -> Any:  # noqa: ANN401
    """The plain data in a text of JSON.

    Raises:
        ValueError: If there are none that can be read.
    """
    try:
        value = json.loads(text, parse_constant=_refuse, parse_int=_whole, parse_float=_real)
        _check_values(value)
    except RecursionError:
        raise ValueError(f"more than {MOST_LEVELS} levels of brackets") from None
    return value


def _whole(text: str) -> int:
    if len(text) > 30 or abs(value := int(text)) >= _LARGEST:
        _refuse(text)
    return value


def _real(text: str) -> float:
    if not math.isfinite(value := float(text)):
        _refuse(text)
    return value


def _refuse(text: str) -> NoReturn:
    raise ValueError(f"the number {text[:20]} is too large, or none")


def _check_values(value: Any) -> None:  # noqa: ANN401
    """Check the depth, the number of values, and that texts can be written.

    Raises:
        ValueError: If there are too many, one is nested in itself, or a text is no text.
    """
    level: list[Any] = [value]
    count = 0
    for _ in range(MOST_LEVELS + 2):
        inner: list[Any] = []
        for item in level:
            if isinstance(item, str):
                _check_text(item)
            parts: Iterable[Any] = item if isinstance(item, list) else ()
            if isinstance(item, dict):
                parts = [*item, *item.values()]
            inner.extend(parts)
            if count + len(inner) > MOST_VALUES:
                raise ValueError(f"more than {MOST_VALUES:,} values")
        count += len(inner)
        if not (level := inner):
            return
    raise ValueError(f"more than {MOST_LEVELS} levels of brackets")


def _check_text(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("a text holds half a character (a lone surrogate)") from None
