"""The record of a measurement: its states, how it was made, and its file."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from undrift.exceptions import InvalidInput
from undrift.measurement.reading import Record, Schema, write_json
from undrift.measurement.scalar_state import Statistic
from undrift.measurement.state import ErrorState
from undrift.reporting.numbers import plus_minus, probability

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from pandas import DataFrame


@dataclass(frozen=True, repr=False)
class ErrorProfile(Record):
    """The error of a chain after each of its measured states, from T down to 0.

    Arguments:
        states: One record per state, t descending.
        num_samples: Number of chains that were run.
        num_forward: Number of forward draws at each state.
        how: How it was made, in plain data: sampler, data, kernel, seed, versions, command.
        label: What it is called in reports.
        created: When it was made, as ISO 8601 writes it.
        statistics: What the ``scalars`` of each state are about.
    """

    schema = Schema("undrift.profile", 3, "error profile", "measure")
    states: tuple[ErrorState, ...]
    num_samples: int
    num_forward: int
    how: Mapping[str, Any] = field(default_factory=dict)
    label: str = "model"
    created: str = ""
    statistics: tuple[Statistic, ...] = ()

    @property
    def final(self) -> ErrorState:
        """The last state: the samples."""
        return self.states[-1]

    @property
    def seeds(self) -> list[int]:
        """The seeds of the measurements that went into it."""
        seed = self.how.get("seed")
        return list(seed) if isinstance(seed, (list, tuple)) else [] if seed is None else [seed]

    def gains(self) -> dict[float, float]:
        """Times and downstream gains, where defined: a regularizer's measured weights."""
        return {s.t: s.downstream_gain for s in self.states if s.downstream_gain is not None}

    @classmethod
    def from_dict(cls, data: Any, source: str = "this") -> Self:  # noqa: ANN401
        """Read plain data; what ``--json`` adds to them is left out.

        Raises:
            InvalidInput: If it is no profile, one of another schema, or damaged.
        """
        if isinstance(data, Mapping):
            data = {key: data[key] for key in data if key not in ("saved", "config")}
        profile = super().from_dict(data, source)
        times = [state.t for state in profile.states]
        if not times or any(t <= s for t, s in pairwise(times)):
            raise InvalidInput(f"{source} is a damaged error profile: its times do not decrease")
        if any(len(state.scalars) != len(profile.statistics) for state in profile.states):
            raise InvalidInput(f"{source} is a damaged error profile: its statistics do not match")
        return profile

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write JSON; the file appears complete or not at all."""
        return write_json(path, self.to_dict(), default=None)

    def merge(self, *others: ErrorProfile) -> ErrorProfile:
        """One profile of measurements of the same chain at the same states with other seeds.

        See :func:`undrift.measurement.merge.merge_profiles`.

        Raises:
            InvalidInput: If the profiles are of other states, of another chain or other data, or
                made with the same seed.
        """
        from undrift.measurement.merge import merge_profiles

        return merge_profiles([self, *others])

    def __len__(self) -> int:
        """Number of states."""
        return len(self.states)

    def __iter__(self) -> Iterator[ErrorState]:
        """The states, from T down to 0."""
        return iter(self.states)

    def __repr__(self) -> str:
        """The final error in one line: label, sampler, steps, :math:`D_0^2`, p-value."""
        sampler = self.how.get("sampler")
        sampler = sampler if isinstance(sampler, Mapping) else {}
        parts = [repr(self.label)]
        parts += [str(sampler["sampler"])] if "sampler" in sampler else []
        parts += [f"{n} steps"] if (n := sampler.get("num_inference_steps")) else []
        error = plus_minus(self.final.mmd_sq, self.final.mmd_sq_se)
        parts += [f"D₀² = {error}", probability(self.final.p_value)]
        return f"ErrorProfile({', '.join(parts)})"

    def _repr_html_(self) -> str:
        """All states as a small HTML table, for notebooks."""
        from undrift.reporting.tables import chain_table, html_table

        return html_table(chain_table(self.to_dict()))

    def summary(self) -> str:
        """All states as a text table.

        See :mod:`undrift.measurement.state` for what its columns are.
        """
        from undrift.reporting.tables import as_text, chain_table

        return as_text(chain_table(self.to_dict()))

    def plot(self, ax: Axes | None = None) -> Axes:
        r"""Draw :math:`D_t^2` along the chain, with its 95 % band.

        Arguments:
            ax: Where to draw; a new figure when None.
        """
        from undrift.reporting.chain_figures import plot_on

        return plot_on(self.to_dict(), ax)

    def to_pandas(self) -> DataFrame:
        """A data frame with one row per state, indexed by t; parts are prefixes: ``error.mmd_sq``.

        Raises:
            InvalidInput: If pandas is not installed.
        """
        try:
            import pandas as pd
        except ImportError:
            raise InvalidInput("to_pandas needs pandas: pip install pandas") from None
        known = [{k: v for k, v in asdict(s).items() if v is not None} for s in self.states]
        return pd.json_normalize(known).set_index("t")

    def report(self, path: str | os.PathLike[str]) -> Path:
        """Write a self-contained HTML page about this profile.

        Arguments:
            path: The file to write; an existing folder gets a ``report.html``.
        """
        from undrift.reporting.content import ReportInput
        from undrift.reporting.html import write_report

        return write_report(ReportInput(f"Error along the chain of {self.label}", [self]), path)
