"""The YAML file of a study: every name and value in it checked, with what was probably meant."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from undrift.exceptions import InvalidInput

if TYPE_CHECKING:
    from undrift.study.config import StudyConfig

T = TypeVar("T")


def read_plan(path: str) -> StudyConfig:
    """The plan in a YAML file.

    Raises:
        InvalidInput: If the file holds no plan.
        OSError: If there is no such file.
    """
    from undrift.api.configuration import read_yaml
    from undrift.remedies.config import RemedyConfig
    from undrift.study.config import StudyConfig
    from undrift.training.config import MethodConfig

    values = read_yaml(path)
    if not values:
        raise InvalidInput(f"{path} holds no study: give base, methods, steps and seeds")
    methods, remedies = values.pop("methods", None), values.pop("remedies", None)
    plan = _built(StudyConfig, values, path)
    if methods is not None:
        plan.methods = _section(methods, MethodConfig, f"{path}: methods")
    if remedies is not None:
        plan.remedies = _section(remedies, RemedyConfig, f"{path}: remedies")
    return plan


def _section(values: Any, kind: type[T], source: str) -> dict[str, T]:  # noqa: ANN401
    """The configurations of a section that has one for each of its names."""
    if not isinstance(values, Mapping):
        raise InvalidInput(f"{source}: give names, each with its options, not {values!r}")
    for name, options in values.items():
        if not isinstance(options, Mapping):
            raise InvalidInput(f"{source}.{name}: give options by name, not {options!r}")
    return {
        str(name): _built(kind, options, f"{source}.{name}") for name, options in values.items()
    }


def _built(kind: type[T], values: Mapping[str, Any], source: str) -> T:
    from undrift.api.configuration import build, named

    given = dict(named(values, kind, source))
    try:
        return build(kind, given)
    except InvalidInput as error:
        message = str(error).replace(" separated by commas", " in brackets")
        raise InvalidInput(f"{source}: {message}") from None
