r"""Plots of what happens along the chain: cumulative error, budget, amplification, exposure, nats.

All share one horizontal axis, from noise on the left to data on the right, and one color per model.
Bands and whiskers are 95 % intervals. A value that is undefined is a gap, never a zero. In nats, a
segment is drawn as wide as it is and as high as its modular error per step, so that areas are nats;
the part of the chain in which the target memorizes is shaded and does not set the linear scale.
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
from undrift.reporting.nats import PARTS, is_memorizing
from undrift.reporting.numbers import Z_95

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

LOGARITHMIC_FROM = 30.0
"""Ratio of the largest error to the noise from which a second, logarithmic panel is drawn."""
PART_COLORS = {"mean": 4, "variance": 5, "shape": 3}
"""Numbers of the page's colors; the first models, which come first, have others."""
DECADES_BELOW = 4.0
"""How far below the largest upper limit a limit of 0 is drawn at least, in powers of ten."""


@dataclass(frozen=True)
class Quantity:
    """A number of every state, drawn as one line per model in a panel.

    Arguments:
        key: Where the number is in a state.
        title: Title of the panel.
        words: What it is, for the alternative text.
        reference: Where a horizontal line is drawn; 1 for factors, whose axis has its own scale.
        threshold: Where the axis turns logarithmic; 0 for a linear one.
    """

    key: str
    title: str
    words: str
    reference: float = 0.0
    threshold: float = 0.0


CUMULATIVE = Quantity("error.mmd_sq", "D²ₜ, linear", "Cumulative error D squared")
FACTORS = (
    Quantity("budget.amplification", "λₜ, of one segment", "Amplification of every segment", 1.0),
    Quantity("downstream_gain", "Gₜ, of all that follow", "Downstream gain", 1.0),
)
EXPOSURE = (
    Quantity("exposure.delta", "δₜ, variance error", "Variance error"),
    Quantity("exposure.eps_norm_gap", "ε-norm gap, sampled − forward", "ε-norm gap"),
)


def has(profiles: Sequence[Profile], *keys: str) -> bool:
    """Return whether any state of any profile holds one of these numbers."""
    return any(np.isfinite(column(profile, key)).any() for profile in profiles for key in keys)


def _describe_all(profiles: Sequence[Profile], key: str, words: str) -> str:
    lines = [describe(name, p, key) for p, name in zip(profiles, labels(profiles), strict=True)]
    return " ".join([f"{words}.", *lines])


def cumulative_plot(profiles: Sequence[Profile]) -> Plot | None:
    """The cumulative error with its bands, linear and, where it is large, logarithmic."""
    spreads = np.concatenate([column(p, "error.null_sd") for p in profiles])
    spreads = spreads[spreads > 0]
    shown = [CUMULATIVE]
    if len(spreads):
        noise = Z_95 * np.median(spreads)
        highs = [_ends(p, CUMULATIVE.key)[1] for p in profiles]
        if np.nanmax(np.concatenate(highs), initial=0.0) > LOGARITHMIC_FROM * noise:
            threshold = 10.0 ** round(math.log10(noise))
            title = "D²ₜ, logarithmic above the noise"
            shown.append(replace(CUMULATIVE, title=title, threshold=threshold))
    return _lines("cumulative", profiles, shown)


def amplification_plot(profiles: Sequence[Profile]) -> Plot | None:
    """The amplification of every segment and the gain of everything downstream."""
    return _lines("amplification", profiles, FACTORS)


def exposure_plot(profiles: Sequence[Profile]) -> Plot | None:
    """Ning et al.'s variance error and the gap of the predicted noise's norm."""
    return _lines("exposure", profiles, EXPOSURE)


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
    alt = " ".join(_describe_all(profiles, key, words) for key, words in keys.items())
    return draw(name, alt, draw_on, (984, 340), (340, 255 * len(shown)))


def _panel(axes: Axes, axis: TimeAxis, profiles: Sequence[Profile], quantity: Quantity) -> None:
    """Draw one quantity of all models, with its intervals, on its scale."""
    is_factor = quantity.reference == 1
    values, limits = [], []
    for i, profile in enumerate(profiles):
        nudge = 0.008 * (i - (len(profiles) - 1) / 2) if is_factor else 0.0
        x = axis.place(column(profile, "t")) + nudge * (axis.ends[1] - axis.ends[0])
        low, high = _ends(profile, quantity.key)
        if is_factor:
            axes.vlines(x, np.maximum(low, 0), high, color=color(i), linewidth=1.4, alpha=0.75)
        else:
            axes.fill_between(x, low, high, color=color(i), alpha=0.2, linewidth=0)
        values.append(column(profile, quantity.key))
        limits += [low, high]
        draw_line(axes, x, values[-1], i)
    axes.set_title(quantity.title)
    axes.axhline(quantity.reference, color=MUTED, linewidth=1.0, zorder=1)
    if is_factor:
        defined = [column(p, "t")[np.isfinite(column(p, quantity.key))] for p in profiles]
        _shade(axes, axis, axis.grid[0], np.concatenate(defined).max(), "undefined", 0)
        factor_scale(axes.yaxis, np.concatenate(values))
        return
    if quantity.key == CUMULATIVE.key:
        _shade_null(axes, axis, profiles)
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


def _ends(profile: Profile, key: str) -> NDArray[np.float64]:
    """Lower and upper ends of the 95 % intervals of a quantity, NaN where there is none."""
    chain = states(profile)
    found: list[evidence.Estimate | None] = [None] * len(chain)
    if key == "error.mmd_sq":
        found = [evidence.cumulative(state) for state in chain]
    elif key == "budget.amplification":
        pairs = zip(chain[:-1], chain[1:], strict=True)
        found[1:] = [evidence.amplification(*pair) for pair in pairs]
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
    low, high = _ends(profile, "error.mmd_sq")
    ax.fill_between(times, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
    ax.set(xlabel="t, from noise to data", ylabel="$D_t^2$")
    ax.xaxis.set_inverted(True)
    return ax


def _shade_null(axes: Axes, axis: TimeAxis, profiles: Sequence[Profile]) -> None:
    """Draw where 95 % of the estimates would lie if the model made no error (the widest)."""
    widest = np.full(len(axis.grid), math.nan)
    for profile in profiles:
        at = np.searchsorted(-axis.grid, -column(profile, "t"))
        widest[at] = np.fmax(widest[at], Z_95 * column(profile, "error.null_sd"))
    known = np.isfinite(widest)
    x, y = axis.place(axis.grid[known]), widest[known]
    axes.fill_between(x, -y, y, color=MUTED, alpha=0.17, linewidth=0, zorder=0.5)


def _shade(axes: Axes, axis: TimeAxis, start: float, stop: float, text: str, layer: float) -> None:
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


def budget_plot(profiles: Sequence[Profile]) -> Plot | None:
    """Fresh and inherited error of every segment, stacked: the bound on D."""
    named = zip(profiles, labels(profiles), strict=True)
    keys = ("budget.fresh", "budget.inherited")
    shown = [(i, p, name) for i, (p, name) in enumerate(named) if has([p], *keys)]
    if not shown:
        return None
    values = [np.nansum([column(p, key) for key in keys], axis=0) for _, p, _ in shown]

    def draw_on(canvas: Canvas) -> None:
        panels = canvas.panels(len(shown), sharey=True)
        for axes, (i, profile, name) in zip(panels, shown, strict=True):
            _budget_bars(axes, profile, i, canvas.is_narrow)
            title = name if len(name) <= 28 else name[:27] + "…"
            linear_scale(axes.yaxis, np.concatenate(values), title)
            axes.set_title(axes.get_title("left"), color=color(i), fontweight="bold")
            axes.tick_params(labelleft=True)

    rows = -(-len(shown) // 2)
    words = ("Fresh error of every segment", "Inherited error of every segment")
    alt = " ".join(_describe_all(profiles, *pair) for pair in zip(keys, words, strict=True))
    return draw("budget", alt, draw_on, (984, 330 * rows), (340, 270 * len(shown)))


def _budget_bars(axes: Axes, profile: Profile, i: int, is_narrow: bool) -> None:
    """Draw one model's segments as stacked bars, with the measured error as a tick."""
    keys = ("t", "budget.fresh", "budget.inherited", "error.mmd_sq")
    times, fresh, inherited, measured = (column(profile, key)[1:] for key in keys)
    fresh, inherited = np.nan_to_num(fresh), np.nan_to_num(inherited)
    places, count = np.arange(len(times)), len(times)
    bars: dict[str, Any] = {"width": 0.74, "edgecolor": PANEL, "zorder": 2, "color": color(i)}
    bars["linewidth"] = 1.0 if count <= 30 else 0.0
    axes.bar(places, fresh, **bars)
    axes.bar(places, inherited, bottom=fresh, alpha=0.32, **bars)
    measured[fresh + inherited == 0] = math.nan
    height = np.sqrt(np.maximum(measured, 0.0))
    axes.hlines(height, places - 0.42, places + 0.42, color=INK, linewidth=1.8, zorder=3)
    if count <= (16 if is_narrow else 40):
        square, se = (column(profile, f"budget.fresh_sq{end}")[1:] for end in ("", "_se"))
        low, high = (np.sqrt(np.maximum(square + z * se, 0.0)) for z in (-Z_95, Z_95))
        axes.vlines(places, low, high, color=INK, linewidth=1.0, alpha=0.65, zorder=4)
    axes.axhline(0, color=MUTED, linewidth=1.0)
    axes.set_xlim(-0.7, count - 0.3)
    thin_ticks(axes, [f"{t:g}" for t in times], 6 if is_narrow else 10)
    axes.set_xlabel("segment that arrives at t")


# ------------------------------------------------------------------ nats


class _Segments:
    """The segments of a profile with a modular error: where they are, and numbers per step."""

    def __init__(self, profile: Profile, axis: TimeAxis) -> None:
        """Find them."""
        self.profile = profile
        self.index = np.flatnonzero(np.isfinite(column(profile, "modular.error")[1:])) + 1
        self.times = column(profile, "t")
        self.left, self.right = (axis.place(self.times[self.index - k]) for k in (1, 0))
        chain = states(profile)
        self.memorizing = np.array([is_memorizing(chain[i]) for i in self.index])
        steps = np.nan_to_num(column(profile, "modular.steps"), nan=1.0)
        self.steps = np.where(steps > 0, steps, 1.0)

    def per_step(self, key: str) -> NDArray[np.float64]:
        """A modular number of each segment, per step."""
        return (np.nan_to_num(column(self.profile, f"modular.{key}")) / self.steps)[self.index]

    def shade_memorizing(self, axes: Axes, axis: TimeAxis, layer: float = 0) -> None:
        """Shade the segments in which the target is a single datum."""
        found = self.index[self.memorizing]
        if len(found):
            ends = self.times[found[0] - 1], self.times[found[-1]]
            _shade(axes, axis, *ends, "target memorizes", layer)


def modular_plot(profiles: Sequence[Profile]) -> Plot | None:
    """The modular error per step of every model: stacked parts, and all on a log scale."""
    named = zip(profiles, labels(profiles), strict=True)
    shown = [(p, name) for p, name in named if has([p], "modular.error")]
    if not shown:
        return None

    def draw_on(canvas: Canvas) -> None:
        panels = canvas.panels(2 * len(shown))
        for k, (profile, name) in enumerate(shown):
            axis, head = TimeAxis.of([profile]), f"{name}: " if len(shown) > 1 else ""
            found = _Segments(profile, axis)
            for axes, paint, layer in zip(panels[2 * k :], (_stack, _logs), (3, 0), strict=False):
                paint(axes, found, head)
                found.shade_memorizing(axes, axis, layer)
                axis.apply(axes, canvas.is_narrow)

    where = {"error": "the sampler's states", "error_forward": "forward draws"}
    alt = "Modular error of every segment in nats. " + " ".join(
        describe(f"{name}, on {words}", profile, f"modular.{key}")
        for profile, name in shown
        for key, words in where.items()
    )
    return draw("modular", alt, draw_on, (984, 330 * len(shown)), (340, 520 * len(shown)))


def _stack(axes: Axes, found: _Segments, head: str) -> None:
    """Draw the parts on the sampler's states as stacked bars, the error on q as a line."""
    parts = np.array([found.per_step(part) for part in PARTS])
    edge: dict[str, Any] = {"edgecolor": PANEL, "linewidth": 0.8 if len(found.left) <= 40 else 0.0}
    for sign in (1, -1):
        heights = np.maximum(sign * parts, 0.0)
        for part, height, top in zip(PARTS, heights, heights.cumsum(0), strict=True):
            if height.any():
                axes.bar(
                    found.left, sign * height, found.right - found.left, sign * (top - height),
                    align="edge", color=color(PART_COLORS[part]), zorder=2, **edge,
                )  # fmt: skip
    forward = found.per_step("error_forward")
    axes.stairs(forward, [*found.left, found.right[-1]], color=INK, linewidth=1.8, zorder=4)
    axes.axhline(0, color=MUTED, linewidth=1.0, zorder=1)
    seen = slice(None) if found.memorizing.all() else ~found.memorizing
    tops, bottoms = np.maximum(parts, 0.0).sum(0)[seen], np.minimum(parts, 0.0).sum(0)[seen]
    top = max(tops.max(), forward[seen].max(), 1e-12)
    linear_scale(axes.yaxis, top, f"{head}nats per step")
    axes.set_ylim(1.15 * bottoms.min(), 1.15 * top)


def _logs(axes: Axes, found: _Segments, head: str) -> None:
    """Draw the parts and both totals per step on a logarithmic scale, at the middle of segments."""
    looks = {part: (color(PART_COLORS[part]), "-") for part in PARTS}
    looks |= {"error_forward": (INK, "-"), "error": (INK, ":")}
    middle, mark = (found.left + found.right) / 2, "o" if len(found.left) <= 40 else None
    for key, (ink, style) in looks.items():
        values = found.per_step(key)
        values = np.where(values > 0, values, math.nan)
        axes.plot(middle, values, style, color=ink, marker=mark, markersize=3.5)
    log_scale(axes.yaxis)
    axes.set_title(f"{head}the same, logarithmic")


def bracket_plot(profiles: Sequence[Profile]) -> Plot | None:
    """The limits of the cumulative error as a band for each model, on a log scale."""
    names = labels(profiles)
    shown = [i for i, profile in enumerate(profiles) if has([profile], "kl.upper")]
    if not shown:
        return None
    axis = TimeAxis.of([profiles[i] for i in shown])
    limits = {i: [column(profiles[i], f"kl.{end}") for end in ("lower", "upper")] for i in shown}
    every = np.concatenate([ends for pair in limits.values() for ends in pair])
    every = every[every > 0] if (every > 0).any() else np.ones(1)
    floor = min(every.min(), every.max() / 10**DECADES_BELOW) / 2

    def draw_on(canvas: Canvas) -> None:
        (axes,) = canvas.panels(1)
        for i, (low, high) in limits.items():
            x, known = axis.place(column(profiles[i], "t")), np.isfinite(low) & np.isfinite(high)
            x, low, high = x[known], np.maximum(low, floor)[known], np.maximum(high, floor)[known]
            axes.fill_between(x, low, high, color=color(i), alpha=0.2, linewidth=0, zorder=2)
            certified = np.where(low > floor, low, math.nan)  # a limit of 0 leaves the band open
            for values, mark in ((high, "v"), (certified, "^")):
                axes.plot(x, values, color=color(i), marker=mark, markersize=8, zorder=4)
        log_scale(axes.yaxis)
        axes.set_ylim(floor, 6 * every.max())
        axes.set_title("limits of KL(pₜ ‖ qₜ), in nats")
        if len(shown) == 1:
            _Segments(profiles[shown[0]], axis).shade_memorizing(axes, axis)
        axis.apply(axes, canvas.is_narrow)

    alt = "Limits of the cumulative error in nats. " + " ".join(
        describe(f"{names[i]}, {end} limit", profiles[i], f"kl.{end}")
        for i in shown
        for end in ("lower", "upper")
    )
    return draw("bracket", alt, draw_on, (984, 350), (340, 280))
