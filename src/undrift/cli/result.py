"""JSON and YAML output: results as JSON, configurations as YAML."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from os import PathLike, fspath
from typing import Any

import yaml


def to_yaml(config: Any) -> str:
    """A configuration as YAML that ``--config`` reads back to the same configuration."""
    return yaml.safe_dump(plain_data(config), sort_keys=False, allow_unicode=True)


def to_json(result: Any) -> str:
    """A result as one line of JSON; numbers that are not finite become null.

    Example:
        >>> to_json({"a": float("nan"), "b": (1, 2)})
        '{"a": null, "b": [1, 2]}'
    """
    text = json.dumps(plain_data(result))
    return json.dumps(json.loads(text, parse_constant=lambda name: None))


def plain_data(value: Any) -> Any:
    """A value as plain data: mappings, lists, texts, numbers, None.

    Raises:
        TypeError: If there is no obvious way to write the value.
    """
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain_data(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_data(item) for item in value]
    if isinstance(value, PathLike):
        return fspath(value)
    if is_dataclass(value):
        return {field.name: plain_data(getattr(value, field.name)) for field in fields(value)}
    if hasattr(value, "tolist"):  # tensors and arrays
        return plain_data(value.tolist())
    raise TypeError(f"cannot write a {type(value).__name__} as plain data")
