"""The YAML file of a study: every name and value in it checked, with what was probably meant."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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
    from undrift.storage.reading import read_yaml

    return plan_of(read_yaml(path), path)


def plan_of(values: Mapping[str, Any], source: str) -> StudyConfig:
    """A plan from the sections of a study file.

    Arguments:
        values: The sections by name.
        source: Where they were given, for messages.

    Raises:
        InvalidInput: If they are no plan.
    """
    from undrift.remedies.registry import remedy_named
    from undrift.study.config import StudyConfig
    from undrift.training.config import MethodConfig

    if not values:
        raise InvalidInput(f"{source} holds no study: give base, methods, steps and seeds")
    own = {name: value for name, value in values.items() if name not in ("methods", "remedies")}
    plan = _built(StudyConfig, own, source)
    if "methods" in values:
        methods = _section(values["methods"], f"{source}: methods")
        plan.methods = {
            name: _built(MethodConfig, options, where) for name, where, options in methods
        }
    if "remedies" in values:
        for name, where, options in _section(values["remedies"], f"{source}: remedies"):
            try:
                kind = remedy_named(str(options.pop("remedy", None)))
            except InvalidInput as error:
                raise InvalidInput(f"{where}: {error}") from None
            plan.remedies[name] = _built(kind, options, where)
    return plan


def _section(values: Any, source: str) -> Iterator[tuple[str, str, dict[str, Any]]]:  # noqa: ANN401
    """The names of a section, where each is given, and its options."""
    if not isinstance(values, Mapping):
        raise InvalidInput(f"{source}: give names, each with its options, not {values!r}")
    for name, options in values.items():
        if not isinstance(options, Mapping):
            raise InvalidInput(f"{source}.{name}: give options by name, not {options!r}")
        yield str(name), f"{source}.{name}", dict(options)


def _built(kind: type[T], values: Mapping[str, Any], source: str) -> T:
    from undrift.api.configuration import build, named

    given = dict(named(values, kind, source))
    try:
        return build(kind, given)
    except InvalidInput as error:
        message = str(error).replace(" separated by commas", " in brackets")
        raise InvalidInput(f"{source}: {message}") from None
