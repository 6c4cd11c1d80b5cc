"""The YAML file of a study: every name and value in it checked, with what was probably meant."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from undrift.exceptions import InvalidInput

if TYPE_CHECKING:
    from undrift.study.config import StudyConfig


def read_plan(path: str) -> StudyConfig:
    """The plan in a YAML file.

    Raises:
        InvalidInput: If there is no such file, or it is no plan.
    """
    import yaml

    from undrift.remedies.config import RemedyConfig
    from undrift.study.config import StudyConfig
    from undrift.training.config import MethodConfig

    if not Path(path).is_file():
        raise InvalidInput(f"no such study file: {path}")
    try:
        values = yaml.load(Path(path).read_text("utf-8"), _unique_keys())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{path} is no YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise InvalidInput(f"{path} holds no study: give base, methods, steps and seeds")
    _check_names(values, StudyConfig, "")
    named = {"methods": MethodConfig, "remedies": RemedyConfig}
    parts = {
        key: _named(values.pop(key), key, kind) for key, kind in named.items() if key in values
    }
    plan: StudyConfig = _built(StudyConfig, values, "")
    for key, part in parts.items():
        setattr(plan, key, part)
    return plan


def _named(values: Any, key: str, kind: type[Any]) -> dict[str, Any]:  # noqa: ANN401
    """The configurations of a section that has one for each of its names."""
    if not isinstance(values, dict):
        raise InvalidInput(f"{key}: give names, each with its options, not {values!r}")
    found = {}
    for name, options in values.items():
        if not isinstance(options, dict):
            raise InvalidInput(f"{key}.{name}: give options, such as {_example(kind)}")
        _check_names(options, kind, f"{key}.{name}.")
        found[str(name)] = _built(kind, options, f"{key}.{name}: ")
    return found


def _built(kind: type[Any], values: Mapping[str, Any], prefix: str) -> Any:  # noqa: ANN401
    from undrift.cli.command import build

    try:
        return build(kind, values, (), "undrift compare")
    except InvalidInput as error:
        raise InvalidInput(f"{prefix}{_in_yaml(str(error))}") from None


def _in_yaml(message: str) -> str:
    """What the command line says of an option, for a file.

    Example:
        >>> _in_yaml("--num-samples: expected an integer, got 'x'")
        "num_samples: expected an integer, got 'x'"
    """
    flag = re.match(r"--([\w.-]+)", message)
    told = flag[1].replace("-", "_") + message[flag.end() :] if flag else message
    return told.replace(" separated by commas", " in brackets")


def _check_names(values: Mapping[str, Any], kind: type[Any], prefix: str) -> None:
    """Stop at a name that a dataclass does not have, in it or in those it is made of."""
    hints = get_type_hints(kind)
    for name, value in values.items():
        if name not in hints:
            close = get_close_matches(str(name), hints, n=1)
            hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(hints)}"
            raise InvalidInput(f"{prefix}{name} is no option: {hint}")
        if is_dataclass(hints[name]) and isinstance(value, Mapping):
            _check_names(value, hints[name], f"{prefix}{name}.")


def _example(kind: type[Any]) -> str:
    """An option of a dataclass with its default."""
    first = next(f for f in fields(kind) if f.default is not MISSING)
    return f"{{{first.name}: {first.default}}}"


def _unique_keys() -> Any:  # noqa: ANN401
    """A YAML loader that refuses a name that is given twice."""
    import yaml

    class UniqueKeys(yaml.SafeLoader):
        def construct_mapping(self, node: Any, deep: bool = False) -> Any:  # noqa: ANN401
            keys = [key.value for key, _ in node.value]
            twice = {key for key in keys if keys.count(key) > 1}
            if twice:
                raise yaml.YAMLError(f"the name {twice.pop()!r} is given twice")
            return super().construct_mapping(node, deep)

    return UniqueKeys
