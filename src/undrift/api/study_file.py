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

    return plan_of(read_yaml(path), path)


def plan_of(values: Mapping[str, Any], source: str) -> StudyConfig:
    """A plan from the sections of a study file.

    Arguments:
        values: The sections by name.
        source: Where they were given, for messages.

    Raises:
        InvalidInput: If they are no plan.
    """
    from undrift.remedies.config import RemedyConfig
    from undrift.study.config import StudyConfig
    from undrift.training.config import MethodConfig

    if not values:
        raise InvalidInput(f"{source} holds no study: give base, methods, steps and seeds")
    sections = {"methods": MethodConfig, "remedies": RemedyConfig}
    own = {name: value for name, value in values.items() if name not in sections}
    plan = _built(StudyConfig, own, source)
    for name, kind in sections.items():
        if name in values:
            setattr(plan, name, _section(values[name], kind, f"{source}: {name}"))
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
