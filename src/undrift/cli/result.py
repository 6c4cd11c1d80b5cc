"""JSON and YAML output: results as JSON, configurations as YAML."""

from __future__ import annotations

import json
from dataclasses import fields, is_dataclass
from os import PathLike, fspath
from typing import Any

from undrift.storage.reading import to_yaml as dump


def to_yaml(config: Any) -> str:
    """A configuration as YAML that ``--config`` reads back to the same configuration."""
    values = json.loads(json.dumps(config, default=_plain))
    return dump(values)


def to_json(result: Any) -> str:
    """A result as one line of JSON; numbers that are not finite become null.

    Example:
        >>> to_json({"a": float("nan"), "b": (1, 2)})
        '{"a": null, "b": [1, 2]}'
    """
    text = json.dumps(result, default=_plain)
    return json.dumps(json.loads(text, parse_constant=lambda name: None))


def _plain(value: Any) -> Any:
    """What JSON does not know as plain data.

    Raises:
        TypeError: If there is no obvious way to write the value.
    """
    if isinstance(value, PathLike):
        return fspath(value)
    if is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    if hasattr(value, "tolist"):  # tensors and arrays
        return value.tolist()
    raise TypeError(f"cannot write a {type(value).__name__} as plain data")
