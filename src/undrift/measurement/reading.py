"""Reads records from JSON: plain data into dataclasses, with every name and number checked."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from types import NoneType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from undrift.exceptions import InvalidInput

T = TypeVar("T")


def load_json(path: str | os.PathLike[str], name: str) -> Any:  # noqa: ANN401
    """The plain data of a JSON file.

    Arguments:
        path: The file.
        name: What the file should be, for messages.

    Raises:
        InvalidInput: If there is no such file, or it cannot be read as JSON.
    """
    try:
        return json.loads(Path(path).read_text("utf-8"))
    except FileNotFoundError:
        raise InvalidInput(f"no such file: {path}") from None
    except ValueError as error:
        raise InvalidInput(f"{path} is no {name}: it is not JSON ({error})") from None
    except OSError as error:
        raise InvalidInput(f"cannot read {path}: {error.strerror}") from None


def check_kind(
    data: Any,  # noqa: ANN401
    kind: str,
    version: int,
    source: str,
    name: str,
    command: str,
) -> None:
    """Check that plain data are a record of a kind, in the schema version that is read.

    Arguments:
        data: The plain data.
        kind: Their ``"kind"``.
        version: Their ``"schema_version"``.
        source: Where they are from, for messages.
        name: What the record is called.
        command: The command of undrift that writes it.

    Raises:
        InvalidInput: If they are not.
    """
    if not isinstance(data, Mapping) or data.get("kind") != kind:
        raise InvalidInput(f"{source} is no {name}: make one with undrift {command}")
    found = data.get("schema_version")
    if found != version:
        is_older = isinstance(found, int) and found < version
        raise InvalidInput(
            f"{source} has schema version {found}, this undrift reads {version}: "
            + (f"{command} again" if is_older else "update undrift")
        )


def read_record(kind: type[T], data: Any, name: str = "") -> T:  # noqa: ANN401
    """An instance of a dataclass, its fields as their types ask for.

    Arguments:
        kind: The dataclass; its fields may be numbers, texts, dataclasses, and lists, tuples and
            dictionaries of them.
        data: What JSON holds.
        name: What the data are called in messages.

    Raises:
        ValueError: If a name is unknown or missing, or a value is none of its type or not finite.

    Example:
        >>> from undrift.measurement.state import Criterion
        >>> read_record(Criterion, {"max_p_value": 0.05})
        Criterion(max_p_value=0.05, min_standard_errors=2.0)
    """
    if not isinstance(data, Mapping):
        raise ValueError(f"{name or kind.__name__} is {data!r}")
    prefix, hints = f"{name}." if name else "", get_type_hints(kind)
    if unknown := data.keys() - hints.keys():
        raise ValueError(f"the name {prefix}{min(unknown)} is unknown")
    for own in fields(kind):  # type: ignore[arg-type]
        if own.name not in data and own.default is own.default_factory is MISSING:
            raise ValueError(f"{prefix}{own.name} is missing")
    return kind(**{key: _value(hints[key], data[key], f"{prefix}{key}") for key in data})


def _value(hint: Any, value: Any, name: str) -> Any:  # noqa: ANN401
    kinds = get_args(hint) if NoneType in get_args(hint) else (hint,)
    if value is None and NoneType in kinds:
        return None
    origin, parts = get_origin(kinds[0]) or kinds[0], get_args(kinds[0])
    if is_dataclass(origin):
        return read_record(origin, value, name)  # type: ignore[arg-type]
    is_row = isinstance(value, list | tuple)
    if origin is list and is_row:
        return [_value(parts[0], item, f"{name}[{k}]") for k, item in enumerate(value)]
    if origin is tuple and is_row and len(value) == len(parts):
        pairs = zip(parts, value, strict=True)
        return tuple(_value(part, item, f"{name}[{k}]") for k, (part, item) in enumerate(pairs))
    if origin is dict and isinstance(value, Mapping):
        return {key: _value(parts[1], item, f"{name}.{key}") for key, item in value.items()}
    wanted: Any = {float: (int, float), Any: object}.get(origin, origin)
    is_boolean = isinstance(value, bool) and origin in (int, float)
    is_infinite = origin is float and isinstance(value, float) and not math.isfinite(value)
    if origin is tuple or not isinstance(value, wanted) or is_boolean or is_infinite:
        raise ValueError(f"{name} is {value!r}")
    return value
