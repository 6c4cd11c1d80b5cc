r"""Plots of what happens along the chain: cumulative error, budget, amplification, exposure.

All share one horizontal axis, from noise on the left to data on the right, and one color per model.
Bands and whiskers are 95 % intervals. A value that is undefined is a gap, never a zero.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from undrift.reporting import evidence
from undrift.reporting.canvas import (
    GRID,
    INK,
    MUTED,
    PANEL,
    Canvas,
    Plot,
    TimeAxis,
    color,
    column,
    describe,
    draw,
    factor_scale,
    linear_scale,
    log_scale,
    thin_ticks,
)
from undrift.reporting.content import Profile, label, labels, states
from undrift.reporting.effective_time import shifted
from undrift.reporting.features import feature_names
from undrift.reporting.numbers import Z_95

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

LOGARITHMIC_FROM = 30.0
"""Ratio of the largest error to the noise from which a second, logarithmic panel is drawn."""
PIECES = ("fresh", "inherited")
"""Parts of the budget of a segment."""


@dataclass(frozen=True)
class Quantity:
    """A number of every state, drawn as one line per model in a panel.

    Arguments:
        key: Where the number is in a state.
        title: Title of the panel.
        words: What it is, for the alternative text.
        reference: Where a horizontal line is drawn; 1 for factors, whose axis has its own scale.
        threshold: Where the axis turns logarithmic; 0 for a linear one.
        less: Where in a state the number is that is subtracted, if there is one.
    """

    key: str
    title: str
    words: str
    reference: float = 0.0
    threshold: float = 0.0
    less: str = ""


CUMULATIVE = Quantity("error.mmd_sq", "D²ₜ, linear", "Cumulative error D squared")
FACTORS = (
    Quantity("budget.amplification", "λₜ, of one segment", "Amplification of every segment", 1.0),
    Quantity("downstream_gain", "Gₜ, of all that follow", "Downstream gain", 1.0),
)
EXPOSURE = (
    Quantity("exposure.delta", "δₜ, variance error", "Variance error"),
    Quantity("exposure.eps_norm_gap", "ε-norm gap, sampled − forward", "ε-norm gap"),
)

EFFECTIVE_TIME = Quantity("effective_time.time", "effective time − t", "Effective time", less="t")
GROWTH = (
    Quantity("growth.mean", "mean growth", "Mean growth of perturbations in a segment", 1.0),
    Quantity("growth.max", "largest growth", "Largest growth of perturbations in a segment", 1.0),
)


def has(profiles: Sequence[Profile], *keys: str) -> bool:
    """Return whether any state of any profile holds one of these numbers."""
    return any(np.isfinite(column(profile, key)).any() for profile in profiles for key in keys)


def describe_all(profiles: Sequence[Profile], key: str, words: str) -> str:
    """One number of all models along the chain as text."""
    lines = [describe(name, p, key) for p, name in zip(profiles, labels(profiles), strict=True)]
    return " ".join([f"{words}.", *lines])


def cumulative_plot(profiles: Sequence[Profile]) -> Plot | None:
    """The cumulative error on a logarithmic scale, where it is large against the noise."""
    spreads = np.concatenate([column(p, "error.null_sd") for p in profiles])
    spreads = spreads[spreads > 0]
    if not len(spreads):
        return None
    noise = Z_95 * np.median(spreads)
    highs = [interval_ends(p, CUMULATIVE.key)[1] for p in profiles]
    if np.nanmax(np.concatenate(highs), initial=0.0) <= LOGARITHMIC_FROM * noise:
        return None
    threshold = 10.0 ** round(math.log10(noise))
    title = "D²ₜ, logarithmic above the noise"
    return _lines("cumulative", profiles, [replace(CUMULATIVE, title=title, threshold=threshold)])


def amplification_plot(profiles: Sequence[Profile]) -> Plot | None:
    """The amplification of every segment and the gain of everything downstream.

    None where no model has more than one factor: the gains would repeat it.
    """
    key = FACTORS[0].key
    if not any(np.isfinite(column(profile, key)).sum() > 1 for profile in profiles):
        return None
    return _lines("amplification", profiles, FACTORS)


def exposure_plot(profiles: Sequence[Profile]) -> Plot | None:
    """Ning et al.'s variance error, and the gap of the predicted noise's norm with its intervals.

    The variance error has no zero to compare it with, so it is drawn for several models only.
    """
    return _lines("exposure", profiles, EXPOSURE[len(profiles) == 1 :])


def effective_time_plot(profiles: Sequence[Profile]) -> Plot | None:
    """How much later or earlier the states look than they are; None where no shift is clear."""
    return _lines("time", profiles, [EFFECTIVE_TIME]) if any(map(shifted, profiles)) else None


def growth_plot(profiles: Sequence[Profile]) -> Plot | None:
    """Mean and largest growth of small perturbations in every segment."""
    return _lines("growth", profiles, GROWTH)


def features_plot(profiles: Sequence[Profile]) -> Plot | None:
    """The cumulative error in pixels, and beside it in each of the other features."""
    names = feature_names(profiles)
    if not names:
        return None
    others = [
        Quantity(f"features.{name}.mmd_sq", name, f"In the features {name}") for name in names
    ]
    return _lines("features", profiles, [replace(CUMULATIVE, title="pixels"), *others])


def _lines(name: str, profiles: Sequence[Profile], quantities: Sequence[Quantity]) -> Plot | None:
    """One panel for each quantity that there are values of, one line per model."""
    shown = [q for q in quantities if has(profiles, q.key)]
    if not shown:
        return None
    axis = TimeAxis.of(profiles)

    def draw_on(canvas: Canvas) -> None:
        for axes, quantity in zip(canvas.panels(len(shown)), shown, strict=True):
            _panel(axes, axis, profiles, quantity)
            axis.apply(axes, canvas.is_narrow)

    keys = {q.key: q.words for q in shown}
    alt = " ".join(describe_all(profiles, key, words) for key, words in keys.items())
    rows = -(-len(shown) // 2)
    return draw(name, alt, draw_on, (984, 340 * rows), (340, 255 * len(shown)))


def _panel(axes: Axes, axis: TimeAxis, profiles: Sequence[Profile], quantity: Quantity) -> None:
    """Draw one quantity of all models, with its intervals, on its scale."""
    is_factor = quantity.reference == 1
    values, limits = [], []
    for i, profile in enumerate(profiles):
        nudge = 0.008 * (i - (len(profiles) - 1) / 2) if is_factor else 0.0
        x = axis.place(column(profile, "t")) + nudge * (axis.ends[1] - axis.ends[0])
        zero = column(profile, quantity.less) if quantity.less else 0.0
        low, high = interval_ends(profile, quantity.key) - zero
        if is_factor:
            axes.vlines(x, np.maximum(low, 0), high, color=color(i), linewidth=1.4, alpha=0.75)
        else:
            axes.fill_between(x, low, high, color=color(i), alpha=0.2, linewidth=0)
        values.append(column(profile, quantity.key) - zero)
        limits += [low, high]
        draw_line(axes, x, values[-1], i)
    axes.set_title(quantity.title)
    axes.axhline(quantity.reference, color=MUTED, linewidth=1.0, zorder=1)
    if is_factor:
        defined = [column(p, "t")[np.isfinite(column(p, quantity.key))] for p in profiles]
        if quantity in FACTORS:
            shade(axes, axis, axis.grid[0], np.concatenate(defined).max(), "undefined", 0)
        factor_scale(axes.yaxis, np.concatenate(values))
        return
    part, _, name = quantity.key.rpartition(".")
    if name == "mmd_sq":
        shade_null(axes, axis, profiles, part)
    every = np.concatenate(values + limits)
    if quantity.threshold:
        low, high = np.nanmin(every, initial=-quantity.threshold), np.nanmax(every)
        log_scale(axes.yaxis, quantity.threshold)
        axes.set_ylim(1.1 * low, 1.25 * high)
    else:
        linear_scale(axes.yaxis, every, quantity.title)


def draw_line(axes: Axes, x: NDArray[Any], y: NDArray[Any], i: int, **options: Any) -> None:
    """Draw the values of one model with a mark at every state and gaps where there is none."""
    options = {"marker": "o" if len(y) <= 60 else None, "zorder": 3 + 0.01 * i} | options
    axes.plot(x, y, color=color(i), markeredgecolor=PANEL, markeredgewidth=1.0, **options)


def interval_ends(profile: Profile, key: str) -> NDArray[np.float64]:
    """Lower and upper ends of the 95 % intervals of a quantity, NaN where there is none."""
    chain = states(profile)
    found: list[evidence.Estimate | None] = [None] * len(chain)
    part, _, name = key.rpartition(".")
    if name == "mmd_sq":
        found = [evidence.cumulative(state, part) for state in chain]
    elif key == "budget.amplification":
        pairs = zip(chain[:-1], chain[1:], strict=True)
        found[1:] = [evidence.amplification(*pair) for pair in pairs]
    elif key != "downstream_gain":
        found = [evidence.with_error(state, key) for state in chain]
    unknown = (math.nan, math.nan)
    ends = [(e.low, e.high) if e and math.isfinite(e.se) else unknown for e in found]
    return np.array(ends).T


def plot_on(profile: Profile, ax: Axes | None = None) -> Axes:
    """Draw the cumulative error along the chain, with its band, on the user's axes."""
    if ax is None:
        from matplotlib import pyplot

        ax = pyplot.subplots()[1]
    times = column(profile, "t")
    (line,) = ax.plot(times, column(profile, "error.mmd_sq"), marker="o", label=label(profile))
    low, high = interval_ends(profile, "error.mmd_sq")
    ax.fill_between(times, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
    ax.set(xlabel="t, from noise to data", ylabel="$D_t^2$")
    ax.xaxis.set_inverted(True)
    return ax


def shade_null(
    axes: Axes, axis: TimeAxis, profiles: Sequence[Profile], part: str = "error"
) -> None:
    """Draw where 95 % of the estimates would lie if the model made no error (the widest)."""
    widest = np.full(len(axis.grid), math.nan)
    for profile in profiles:
        at = np.searchsorted(-axis.grid, -column(profile, "t"))
        widest[at] = np.fmax(widest[at], Z_95 * column(profile, f"{part}.null_sd"))
    known = np.isfinite(widest)
    x, y = axis.place(axis.grid[known]), widest[known]
    axes.fill_between(x, -y, y, color=MUTED, alpha=0.17, linewidth=0, zorder=0.5)


def shade(axes: Axes, axis: TimeAxis, start: float, stop: float, text: str, layer: float) -> None:
    """Shade a part of the chain and write on it why, where there is room."""
    (first, last), (left, right) = axis.place([start, stop]), axis.ends
    if last <= first:
        return
    axes.axvspan(first, last, color=GRID, alpha=0.5, linewidth=0, zorder=layer)
    is_wide = last - first > 0.2 * (right - left)
    axes.annotate(
        text, ((first + last) / 2, 0.97), xycoords=("data", "axes fraction"), ha="center",
        va="top", rotation=0 if is_wide else 90, color=INK, fontsize=11, zorder=5,
    )  # fmt: skip


# ------------------------------------------------------------------ fresh and inherited


def budget_plot(profiles: Sequence[Profile], exponent: int) -> Plot | None:
    """Squares of the fresh and the inherited error of every segment, beside the cumulative one.

    Arguments:
        profiles: What was measured.
        exponent: The power of ten in which squared errors are written.
    """
    named = zip(profiles, labels(profiles), strict=True)
    shown = [(i, p, name) for i, (p, name) in enumerate(named) if has([p], *map(_square, PIECES))]
    if not shown:
        return None

    def draw_on(canvas: Canvas) -> None:
        panels = canvas.panels(len(shown), sharey=True)
        values = []
        for axes, (i, profile, _) in zip(panels, shown, strict=True):
            values.append(_budget_points(axes, profile, i, canvas.is_narrow))
        for axes, (i, _, name) in zip(panels, shown, strict=True):
            title = name if len(name) <= 28 else name[:27] + "…"
            linear_scale(axes.yaxis, np.concatenate(values), title, exponent)
            axes.set_title(axes.get_title("left"), color=color(i), fontweight="bold")
            axes.tick_params(labelleft=True)

    rows = -(-len(shown) // 2)
    texts = [f"Square of the {piece} error of every segment" for piece in PIECES]
    pairs = zip(map(_square, PIECES), texts, strict=True)
    alt = " ".join(describe_all(profiles, *pair) for pair in pairs)
    return draw("budget", alt, draw_on, (984, 330 * rows), (340, 270 * len(shown)))


def _square(piece: str) -> str:
    return f"budget.{piece}_sq"


def _budget_points(axes: Axes, profile: Profile, i: int, is_narrow: bool) -> NDArray[np.float64]:
    """Draw one model's segments, with 95 % intervals; return the values and their ends."""
    times, count = column(profile, "t")[1:], len(states(profile)) - 1
    places, every = np.arange(count), []
    looks: dict[str, dict[str, Any]] = {
        "fresh": {"markerfacecolor": color(i)},
        "inherited": {"markerfacecolor": PANEL, "markeredgewidth": 1.6},
    }
    for side, piece in ((-0.16, "fresh"), (0.16, "inherited")):
        low, high = interval_ends(profile, _square(piece))[:, 1:]
        values = column(profile, _square(piece))[1:]
        axes.vlines(places + side, low, high, color=color(i), linewidth=1.5, alpha=0.8)
        axes.plot(
            places + side, values, "o", color=color(i), markersize=5.5, zorder=3, **looks[piece]
        )
        every += [values, low, high]
    measured = column(profile, CUMULATIVE.key)[1:]
    axes.hlines(measured, places - 0.4, places + 0.4, color=INK, linewidth=1.8, zorder=2)
    axes.axhline(0, color=MUTED, linewidth=1.0)
    axes.set_xlim(-0.7, count - 0.3)
    thin_ticks(axes, [f"{t:g}" for t in times], 6 if is_narrow else 10)
    axes.set_xlabel("segment that arrives at t")
    return np.concatenate([*every, measured])
