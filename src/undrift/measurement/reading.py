"""Records as JSON files: plain data into dataclasses, with every name and number checked."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from functools import cache
from pathlib import Path
from types import NoneType
from typing import Any, ClassVar, Self, TypeVar, get_args, get_origin, get_type_hints

from undrift.exceptions import InvalidInput
from undrift.storage.reading import parse_json
from undrift.storage.writing import written

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
        return parse_json(Path(path).read_text("utf-8"))
    except FileNotFoundError:
        raise InvalidInput(f"no such file: {path}") from None
    except ValueError as error:
        raise InvalidInput(f"{path} is no {name}: it is not JSON ({error})") from None
    except OSError as error:
        raise InvalidInput(f"cannot read {path}: {error.strerror}") from None


def write_json(
    path: str | os.PathLike[str],
    value: Any,  # noqa: ANN401
    default: Callable[[Any], Any] | None = str,
    *,
    rows: bool = False,
) -> Path:
    """Write plain data, completely or not at all; numbers that JSON does not know become null.

    Arguments:
        path: The file.
        value: The data.
        default: What makes plain data of other objects; None to refuse them.
        rows: Whether each row of the lists in a mapping is on one line.

    Returns:
        The file.
    """
    plain = _finite(value)
    text = _in_rows(plain, default) if rows else json.dumps(plain, indent=1, default=default)
    with written(path) as part:
        part.write_text(text + "\n", "utf-8")
    return Path(path)


def _in_rows(value: Mapping[str, Any], default: Callable[[Any], Any] | None) -> str:
    """A mapping as JSON, each value on a line, and each row of a list."""
    lines = []
    for key, item in value.items():
        text = json.dumps(item, default=default)
        if isinstance(item, list) and item:
            text = ",\n  ".join(json.dumps(row, default=default) for row in item)
            text = f"[\n  {text}\n ]"
        lines.append(f" {json.dumps(key)}: {text}")
    return "{\n" + ",\n".join(lines) + "\n}"


@dataclass(frozen=True)
class Schema:
    """Kind and version of a JSON record, and its name in messages.

    Arguments:
        kind: Its ``"kind"``.
        version: Its ``"schema_version"``.
        name: What the record is called.
        command: The command of undrift that writes it.
    """

    kind: str
    version: int
    name: str
    command: str


class Record:
    """A dataclass that is a JSON file with a kind and a schema version."""

    schema: ClassVar[Schema]

    def to_dict(self) -> dict[str, Any]:
        """Plain data with a schema version, as they are written to JSON."""
        schema = {"kind": self.schema.kind, "schema_version": self.schema.version}
        return {**schema, **asdict(self)}  # type: ignore[call-overload]

    @classmethod
    def from_dict(cls, data: Any, source: str = "this") -> Self:  # noqa: ANN401
        """Read plain data.

        Arguments:
            data: What :meth:`to_dict` returned.
            source: Where they are from, for messages.

        Raises:
            InvalidInput: If they are of another kind or schema version, or damaged.
        """
        schema = cls.schema
        if not isinstance(data, Mapping) or data.get("kind") != schema.kind:
            raise InvalidInput(
                f"{source} is no {schema.name}: make one with undrift {schema.command}"
            )
        version = data.get("schema_version")
        if version != schema.version:
            is_older = isinstance(version, int) and version < schema.version
            raise InvalidInput(
                f"{source} has schema version {version}, this undrift reads {schema.version}: "
                + (f"{schema.command} again" if is_older else "update undrift")
            )
        values = {key: data[key] for key in data if key not in ("kind", "schema_version")}
        try:
            return read_record(cls, values, schema.name.split()[-1])
        except ValueError as error:
            raise InvalidInput(f"{source} is a damaged {schema.name}: {error}") from None

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a JSON file.

        Raises:
            InvalidInput: If there is no such file, or it holds no such record that can be read.
        """
        return cls.from_dict(load_json(path, cls.schema.name), str(path))


def read_record(kind: type[T], data: Any, name: str = "") -> T:  # noqa: ANN401
    """An instance of a dataclass, with each value checked against the type of its field.

    Arguments:
        kind: The dataclass; its fields may be numbers, texts, dataclasses, and lists, tuples and
            dictionaries of them.
        data: What JSON holds.
        name: What the data are called in messages.

    Raises:
        ValueError: If a name is unknown or missing, or a value has another type or is not finite.

    Example:
        >>> from undrift.measurement.state import KLLimits
        >>> read_record(KLLimits, {"lower": 0.5}).lower
        0.5
    """
    if not isinstance(data, Mapping):
        raise ValueError(f"{name or kind.__name__} is {data!r}")
    prefix = f"{name}." if name else ""
    hints = _hints(kind)  # type: ignore[arg-type]
    if unknown := data.keys() - hints.keys():
        raise ValueError(f"the name {prefix}{min(unknown)} is unknown")
    for own in fields(kind):  # type: ignore[arg-type]
        if own.name not in data and own.default is own.default_factory is MISSING:
            raise ValueError(f"{prefix}{own.name} is missing")
    return kind(**{key: _value(hints[key], data[key], f"{prefix}{key}") for key in data})


@cache
def _hints(kind: type) -> dict[str, Any]:
    """The type of each field of a record."""
    return {key: hint for key, hint in get_type_hints(kind).items() if key != "schema"}


def _value(hint: Any, value: Any, name: str) -> Any:  # noqa: ANN401
    kinds = get_args(hint) if NoneType in get_args(hint) else (hint,)
    if value is None and NoneType in kinds:
        return None
    origin, parts = get_origin(kinds[0]) or kinds[0], get_args(kinds[0])
    if is_dataclass(origin):
        return read_record(origin, value, name)  # type: ignore[arg-type]
    is_row = isinstance(value, list | tuple)
    if is_row and (origin is list or parts[1:] == (...,)):
        return origin(_value(parts[0], item, f"{name}[{k}]") for k, item in enumerate(value))
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


def _finite(value: Any) -> Any:  # noqa: ANN401
    """The same plain data with None for numbers that JSON does not know."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value
