"""Plain data into dataclasses, part by part: names and numbers are checked on the way."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from types import NoneType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

T = TypeVar("T")


def read_record(kind: type[T], data: Any, name: str = "") -> T:  # noqa: ANN401
    """An instance of a dataclass whose fields are numbers, tuples of numbers, or such dataclasses.

    Arguments:
        kind: The dataclass.
        data: What JSON holds.
        name: What the data are called in messages.

    Raises:
        ValueError: If a name is unknown or missing, or a value is no finite number.

    Example:
        >>> from undrift.measurement.state import Criterion
        >>> read_record(Criterion, {"max_p_value": 0.05})
        Criterion(max_p_value=0.05, min_standard_errors=2.0)
    """
    if not isinstance(data, Mapping):
        raise ValueError(f"{name or kind.__name__} is {data!r}")
    prefix = f"{name}." if name else ""
    known: dict[str, Any] = {f.name: f.default for f in fields(kind)}  # type: ignore[arg-type]
    if unknown := data.keys() - known.keys():
        raise ValueError(f"the name {prefix}{min(unknown)} is unknown")
    for key, default in known.items():
        if default is MISSING and key not in data:
            raise ValueError(f"{prefix}{key} is missing")
    hints = get_type_hints(kind)
    return kind(**{key: _value(hints[key], data[key], f"{prefix}{key}") for key in data})


def _value(hint: Any, value: Any, name: str) -> Any:  # noqa: ANN401
    kinds = [hint] if get_origin(hint) is tuple else get_args(hint) or [hint]
    if value is None and NoneType in kinds:
        return None
    if is_dataclass(kinds[0]):
        return read_record(kinds[0], value, name)  # type: ignore[arg-type]
    if get_origin(kinds[0]) is tuple:
        is_right = isinstance(value, (list, tuple)) and len(value) == len(get_args(kinds[0]))
        value, parts = tuple(value) if is_right else value, value if is_right else [None]
    else:
        parts = [value]
    if not all(map(_is_number, parts)):
        raise ValueError(f"{name} is {value!r}")
    return value


def _is_number(value: Any) -> bool:  # noqa: ANN401
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
