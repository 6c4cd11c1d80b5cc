"""The figure of the first screen: the cumulative error with error bars, amplification below it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from undrift.reporting import evidence
from undrift.reporting.bands import bands, largest
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

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import ArrayLike, NDArray

NUDGE = 0.008
"""Distance between the whiskers of two models, as a share of the axis."""


class Factors(NamedTuple):
    """The amplifications of a model at its states, NaN where undefined, and what they are of."""

    of: str
    times: NDArray[np.float64]
    values: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


def overview_plot(profiles: Sequence[Profile], exponent: int) -> Plot | None:
    """The cumulative error of all models, and below it the amplification where any is defined.

    Arguments:
        profiles: What was measured.
        exponent: The power of ten in which squared errors are written.
    """
    if not any(len(profile["states"]) > 1 for profile in profiles):
        return None
    every = list(enumerate(map(factors_of, profiles)))
    factors = [(i, found) for i, found in every if np.isfinite(found.values).any()]
    has_factors = bool(factors)
    axis = TimeAxis.of(profiles)

    def draw_on(canvas: Canvas) -> None:
        ratios = {"height_ratios": [5, 3] if has_factors else [1]}
        top, *below = canvas.panels(1 + has_factors, columns=1, gridspec_kw=ratios)
        _cumulative(top, axis, profiles, exponent)
        for axes in below:
            _amplification(axes, axis, factors, len(profiles))
        for axes in (top, *below):
            axis.apply(axes, canvas.is_narrow)
        if below:
            top.set_xlabel("")

    words = describe_all(profiles, CUMULATIVE.key, CUMULATIVE.words)
    words += _describe(factors, labels(profiles)) if has_factors else ""
    heights = (430, 270) if has_factors else (330, 210)
    return draw("overview", words, draw_on, (700, heights[0]), (350, heights[1]))


def _cumulative(axes: Axes, axis: TimeAxis, profiles: Sequence[Profile], exponent: int) -> None:
    every = []
    shade_null(axes, axis, profiles)
    for i, profile in enumerate(profiles):
        values, (low, high) = (
            column(profile, CUMULATIVE.key),
            interval_ends(profile, CUMULATIVE.key),
        )
        x = _beside(axis, column(profile, "t"), i, len(profiles))
        axes.vlines(x, low, high, color=color(i), linewidth=1.5, alpha=0.8)
        draw_line(axes, x, values, i, linewidth=1.8)
        every += [values, low, high]
    axes.axhline(0, color=MUTED, linewidth=1.0, zorder=1)
    linear_scale(axes.yaxis, np.concatenate(every), "cumulative error D²ₜ", exponent)


def _amplification(
    axes: Axes, axis: TimeAxis, found: Sequence[tuple[int, Factors]], count: int
) -> None:
    for i, factors in found:
        x = _beside(axis, factors.times, i, count)
        axes.vlines(x, factors.low, factors.high, color=color(i), linewidth=1.5, alpha=0.8)
        draw_line(axes, x, factors.values, i, linewidth=1.8)
    axes.axhline(1, color=MUTED, linewidth=1.0, zorder=1)
    names = list(dict.fromkeys(factors.of for _, factors in found))
    axes.set_title(f"amplification {' or '.join(names)}")
    factor_scale(axes.yaxis, np.concatenate([factors.values for _, factors in found]))


def _beside(axis: TimeAxis, times: ArrayLike, i: int, count: int) -> NDArray[np.float64]:
    """Places of states, a little apart for each model so that their whiskers can be told apart."""
    nudge = NUDGE * (i - (count - 1) / 2) * (axis.ends[1] - axis.ends[0])
    return axis.place(times) + nudge


def factors_of(profile: Profile) -> Factors:
    r"""The amplifications :math:`\mu` of a band, where bands have any, else :math:`\lambda`.

    The band is the one that is off the most at the end, else the one with the most factors.
    """
    times = column(profile, "t")
    found = bands(profile)
    band = largest(found) or max(found, key=lambda b: len([*b.amplifications()]), default=None)
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
    return Factors(of, times, *rows)


def _describe(found: Sequence[tuple[int, Factors]], names: Sequence[str]) -> str:
    """The alternative text of the amplifications."""
    texts = []
    for i, factors in found:
        known = np.isfinite(factors.values)
        ends = factors.values[known][[0, -1]], factors.times[known][[0, -1]]
        (first, last), (start, stop) = ends
        texts.append(
            f" Amplification ({factors.of}) of {names[i]}: {first:.3g} at t = {start:g}, "
            f"{last:.3g} at t = {stop:g}."
        )
    return "".join(texts)
