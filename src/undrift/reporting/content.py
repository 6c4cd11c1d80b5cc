"""What goes into a report: plain data, nothing that needs a tensor library.

A report is rendered from records (profiles, logs, images) and never measures anything itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from undrift.exceptions import InvalidInput

if TYPE_CHECKING:
    from PIL.Image import Image

TITLE = "How the error accumulates along the chain"
"""Heading of a report where none is given."""

PLAIN = "plain"
"""The method of a study that all others are compared with."""

Profile: TypeAlias = Mapping[str, Any]
"""A measurement as :class:`undrift.measurement.profile.ErrorProfile` writes it."""

State: TypeAlias = Mapping[str, Any]
"""One state of a profile: ``t``, ``error``, ``budget``, … (a part may be ``None``)."""

SampleGrid: TypeAlias = "tuple[str, Image | bytes] | tuple[str, Image | bytes, str | None]"
TrainingLog: TypeAlias = "tuple[str, Sequence[Mapping[str, Any]]]"
QualityRow: TypeAlias = "tuple[str, str, float | None, float | None]"


@dataclass(frozen=True)
class Finding:
    """One thing that the data say: a topic, a headline and the numbers behind it."""

    topic: str
    headline: str
    detail: str


@dataclass(frozen=True)
class Step:
    """One thing to do next: why, and the command."""

    reason: str
    command: str


@dataclass(frozen=True)
class ReportInput:
    r"""Everything that one report shows; sections without data are left out.

    Arguments:
        title: Heading of the page.
        profiles: Error profiles (objects or their plain data); the first is the baseline.
        sample_grids: ``(label, image or PNG bytes[, caption])``, the data itself included.
        training_logs: ``(label, rows)``; a row has ``step`` and any of ``loss``, ``nll``,
            ``regularizer``, ``regularizer_null``, ``grad_norm_main``,
            ``grad_norm_regularizer``, ``lambda``, ``lr``.
        quality: ``(label, metric, value, standard error)``.
        command: The command line that makes this report again.
        config: How it was configured (nested dictionaries are flattened for show).
        versions: Software versions.
        notes: Sentences to print with the verdict.

    Raises:
        InvalidInput: If there is nothing to report, or a profile has no states.

    Example:
        >>> state = {"t": 0, "error": {"mmd_sq": 2e-3, "mmd_sq_se": 1e-4, "p_value": 0.01}}
        >>> ReportInput("Digits", [{"label": "plain", "states": [state]}]).title
        'Digits'
    """

    title: str
    profiles: Sequence[Any] = ()
    sample_grids: Sequence[SampleGrid] = ()
    training_logs: Sequence[TrainingLog] = ()
    quality: Sequence[QualityRow] = ()
    command: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()

    def __post_init__(self) -> None:
        """Profiles become plain data; what cannot be shown is refused."""
        object.__setattr__(self, "profiles", records(self.profiles))
        if not (self.profiles or self.sample_grids or self.training_logs or self.quality):
            raise InvalidInput("Nothing to report: give at least one profile, log or sample grid.")
        for index, profile in enumerate(self.profiles):
            if not profile.get("states"):
                name = profile.get("label") or f"number {index + 1}"
                raise InvalidInput(f"Profile {name!r} has no states: measure it again.")


def number(record: Mapping[str, Any], key: str) -> float | None:
    """Return a finite number of a record, or None where it is absent, null, NaN or infinite.

    >>> record = {"a": 2, "b": float("nan"), "c": None, "part": {"d": 3}}
    >>> [number(record, key) for key in ("a", "b", "c", "c.d", "part.d", "e")]
    [2.0, None, None, None, 3.0, None]
    """
    value: Any = record
    for name in key.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def records(profiles: Sequence[Any]) -> list[Profile]:
    """Profiles as plain data: an :class:`~undrift.measurement.profile.ErrorProfile` is written."""
    return [p if isinstance(p, Mapping) else p.to_dict() for p in profiles]


def states(profile: Profile) -> list[State]:
    """Return the states of a profile from :math:`t = T` down to 0."""
    return sorted(profile["states"], key=lambda state: -float(state["t"]))


def label(profile: Profile) -> str:
    """Return the name of the model that a profile belongs to."""
    return str(profile.get("label") or "model")


def labels(profiles: Sequence[Profile]) -> list[str]:
    """Return one distinct name for each profile: repeated names are numbered.

    >>> labels([{"label": "plain"}, {"label": "plain"}, {}])
    ['plain', 'plain (2)', 'model']
    """
    names: list[str] = []
    for profile in profiles:
        name, count = label(profile), 1
        while name in names:
            count += 1
            name = f"{label(profile)} ({count})"
        names.append(name)
    return names


def by_topic(found: Sequence[Finding]) -> list[tuple[str, list[Finding]]]:
    """Findings by what they are about, in the order in which topics come up."""
    topics: dict[str, list[Finding]] = {}
    for finding in found:
        topics.setdefault(finding.topic, []).append(finding)
    return list(topics.items())
