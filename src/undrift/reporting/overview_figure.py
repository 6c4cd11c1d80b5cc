"""The figure of the first screen: the cumulative error with error bars, amplification below it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from undrift.reporting import evidence
from undrift.reporting.bands import Band, bands, clearest
from undrift.reporting.canvas import (
    MUTED,
    Canvas,
    Plot,
    TimeAxis,
    color,
    column,
    draw,
    factor_scale,
    linear_scale,
)
from undrift.reporting.chain_figures import (
    CUMULATIVE,
    describe_all,
    draw_line,
    interval_ends,
    shade_null,
)
from undrift.reporting.content import Profile, labels, states
from undrift.reporting.numbers import bracket

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import ArrayLike, NDArray

NUDGE = 0.008
"""Distance between the whiskers of two models, as a share of the axis."""


class Values(NamedTuple):
    """Values at the states of a model with the ends of their intervals, NaN where undefined."""

    times: NDArray[np.float64]
    values: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


class Factors(NamedTuple):
    """The amplifications of a model, and what they are of."""

    of: str
    found: Values

    @property
    def is_defined(self) -> bool:
        """Whether there is any."""
        return bool(np.isfinite(self.found.values).any())


def overview_plot(profiles: Sequence[Profile], exponent: int) -> Plot | None:
    """The cumulative error of all models, and below it the amplification where any is defined.

    Arguments:
        profiles: What was measured.
        exponent: The power of ten in which squared errors are written.
    """
    if not any(len(profile["states"]) > 1 for profile in profiles):
        return None
    band = chosen_band(profiles[0])
    name = band.name if band else None
    every = [(i, factors_of(profile, name)) for i, profile in enumerate(profiles)]
    factors = [(i, found) for i, found in every if found.is_defined]
    has_factors = bool(factors)
    axis = TimeAxis.of(profiles)

    def draw_on(canvas: Canvas) -> None:
        ratios = {"height_ratios": [5, 3] if has_factors else [1]}
        top, *below = canvas.panels(1 + has_factors, columns=1, gridspec_kw=ratios)
        _cumulative(canvas, top, axis, profiles, exponent)
        for axes in below:
            _amplification(canvas, axes, axis, factors, profiles)
        for axes in (top, *below):
            axis.apply(axes, canvas.is_narrow)
        if below:
            top.set_xlabel("")

    words = describe_all(profiles, CUMULATIVE.key, CUMULATIVE.words)
    words += _describe(factors, labels(profiles)) if has_factors else ""
    heights = (430, 270) if has_factors else (330, 210)
    return draw("overview", words, draw_on, (700, heights[0]), (350, heights[1]))


def _cumulative(
    canvas: Canvas, axes: Axes, axis: TimeAxis, profiles: Sequence[Profile], exponent: int
) -> None:
    every = []
    shade_null(axes, axis, profiles)
    for i, profile in enumerate(profiles):
        found = Values(
            column(profile, "t"),
            column(profile, CUMULATIVE.key),
            *interval_ends(profile, CUMULATIVE.key),
        )
        _series(canvas, axes, _beside(axis, found.times, i, len(profiles)), found, i)
        texts = [
            f"D² = {bracket(*row, exponent)}" if np.isfinite(row).all() else ""
            for row in zip(found.values, found.low, found.high, strict=True)
        ]
        _say(canvas, axes, axis, found, texts, i, labels(profiles)[i])
        every += [found.values, found.low, found.high]
    axes.axhline(0, color=MUTED, linewidth=1.0, zorder=1)
    linear_scale(axes.yaxis, np.concatenate(every), "cumulative error D²ₜ", exponent)


def _amplification(
    canvas: Canvas,
    axes: Axes,
    axis: TimeAxis,
    factors: Sequence[tuple[int, Factors]],
    profiles: Sequence[Profile],
) -> None:
    for i, (of, found) in factors:
        _series(canvas, axes, _beside(axis, found.times, i, len(profiles)), found, i)
        rows = zip(found.values, found.low, found.high, strict=True)
        texts = [f"{of[0]} = {bracket(*row) if np.isfinite(row).all() else row[0]}" for row in rows]
        _say(canvas, axes, axis, found, texts, i, labels(profiles)[i])
    axes.axhline(1, color=MUTED, linewidth=1.0, zorder=1)
    names = list(dict.fromkeys(of for _, (of, _) in factors))
    axes.set_title(f"amplification {' or '.join(names)}")
    factor_scale(axes.yaxis, np.concatenate([found.values for _, (_, found) in factors]))


def _series(canvas: Canvas, axes: Axes, x: NDArray[np.float64], found: Values, i: int) -> None:
    """One line with whiskers, whose names in the drawing say which model it is of."""
    panel = canvas.figure.axes.index(axes)
    whiskers = axes.vlines(x, found.low, found.high, color=color(i), linewidth=1.5, alpha=0.8)
    whiskers.set_gid(f"s{i}-whiskers-{panel}")
    draw_line(axes, x, found.values, i, linewidth=1.8, gid=f"s{i}-line-{panel}")


def _say(
    canvas: Canvas,
    axes: Axes,
    axis: TimeAxis,
    found: Values,
    texts: Sequence[str],
    i: int,
    name: str,
) -> None:
    """Say what each value is, where the pointer is near it."""
    heads = [f"{name}, t = {t:g}: {text}" for t, text in zip(found.times, texts, strict=True)]
    canvas.mark(axes, axis.place(found.times), found.values, heads, i)


def _beside(axis: TimeAxis, times: ArrayLike, i: int, count: int) -> NDArray[np.float64]:
    """Places of states, a little apart for each model so that their whiskers can be told apart."""
    nudge = NUDGE * (i - (count - 1) / 2) * (axis.ends[1] - axis.ends[0])
    return axis.place(times) + nudge


def chosen_band(profile: Profile) -> Band | None:
    """The band that is off the most at the end, else the one with the most factors."""
    found = bands(profile)
    return clearest(found) or max(found, key=lambda b: len([*b.amplifications()]), default=None)


def factors_of(profile: Profile, name: str | None = None) -> Factors:
    r"""The amplifications :math:`\mu` of a band, where that has any, else :math:`\lambda`.

    Arguments:
        profile: What was measured.
        name: The band; the chosen one of the profile if None, or where it has none of that name.
    """
    times = column(profile, "t")
    named = [band for band in bands(profile) if band.name == name]
    band = named[0] if named else chosen_band(profile)
    pairs = list(band.amplifications()) if band else []
    of = f"μ, {band.name}" if band and pairs else "λ of the MMD"
    if not pairs:
        chain = states(profile)
        every = ((i, evidence.amplification(*chain[i - 1 : i + 1])) for i in range(1, len(chain)))
        pairs = [(i, factor) for i, factor in every if factor]
    rows = np.full((3, len(times)), math.nan)
    for i, factor in pairs:
        ends = (factor.low, factor.high) if math.isfinite(factor.low) else (math.nan, math.nan)
        rows[:, i] = factor.value, *ends
    return Factors(of, Values(times, *rows))


def _describe(found: Sequence[tuple[int, Factors]], names: Sequence[str]) -> str:
    """The alternative text of the amplifications."""
    texts = []
    for i, (of, values) in found:
        known = np.isfinite(values.values)
        (first, last), (start, stop) = (x[known][[0, -1]] for x in (values.values, values.times))
        texts.append(
            f" Amplification ({of}) of {names[i]}: {first:.3g} at t = {start:g}, "
            f"{last:.3g} at t = {stop:g}."
        )
    return "".join(texts)
