r"""Plots in nats: the modular error of each step and its parts, and limits of the cumulative error.

A segment is drawn as wide as it is and as high as its modular error for one step, so that areas are
nats. Where the target memorizes, the modular error also counts what generalizes: that part of the
chain is shaded, and does not set the scale of the linear plot.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from undrift.reporting.canvas import (
    GRID,
    INK,
    MUTED,
    PANEL,
    Plot,
    Surface,
    TimeAxis,
    color,
    describe,
    draw,
    known,
    scale_linear,
    series,
)
from undrift.reporting.content import Profile, State, labels, number, states
from undrift.reporting.nats import PARTS, is_memorizing
from undrift.reporting.numbers import power_of_ten

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PART_COLORS = {"mean": 4, "variance": 5, "shape": 3}
"""Numbers of the page's colors; the first models, which come first, have others."""
DECADES_BELOW = 4.0
"""How far below the largest upper limit a limit of 0 is drawn at least, in powers of ten."""


def modular_plot(profiles: Sequence[Profile]) -> Plot:
    """Return the modular error per step of every model: stacked parts, and all on a log scale."""
    shown = [
        (profile, name)
        for profile, name in zip(profiles, labels(profiles), strict=True)
        if any(number(state, "modular.error") is not None for state in states(profile))
    ]

    def paint(surface: Surface) -> None:
        panels = surface.panels(2 * len(shown))
        for (profile, name), (stacked, lines) in zip(
            shown, zip(panels[::2], panels[1::2], strict=True), strict=True
        ):
            axis, head = TimeAxis.of([profile]), f"{name}: " if len(shown) > 1 else ""
            _paint_stack(stacked, axis, profile, head)
            _paint_lines(lines, axis, profile, head)
            for axes, layer in ((stacked, 3), (lines, 0)):
                _paint_memorizing(axes, axis, profile, layer)
                axis.apply(axes, surface.is_narrow)

    alt = "Modular error of every segment in nats. " + " ".join(
        describe(f"{name}, on {where}", series(profile, key))
        for profile, name in shown
        for key, where in (
            ("modular.error", "the sampler's states"),
            ("modular.error_forward", "true states"),
        )
    )
    rows = len(shown)
    return draw("modular", alt, paint, (984, 330 * rows), (340, 520 * rows))


def _segments(profile: Profile) -> list[tuple[State, State]]:
    """The segments with a modular error: the states where they begin and end."""
    chain = states(profile)
    pairs = zip(chain[:-1], chain[1:], strict=True)
    return [pair for pair in pairs if number(pair[1], "modular.error") is not None]


def _per_step(state: State, key: str) -> float:
    return (number(state, key) or 0.0) / (number(state, "modular.steps") or 1.0)


def _paint_stack(axes: Axes, axis: TimeAxis, profile: Profile, head: str) -> None:
    """Draw the parts on the sampler's states as stacked areas, the error on true ones as a line."""
    segments = _segments(profile)
    left = [axis.place(float(start["t"])) for start, _ in segments]
    width = [axis.place(float(end["t"])) - x for x, (_, end) in zip(left, segments, strict=True)]
    top, bottom = [0.0] * len(segments), [0.0] * len(segments)
    for part in PARTS:
        heights = [_per_step(end, f"modular.{part}") for _, end in segments]
        base = [t if h >= 0 else b for h, t, b in zip(heights, top, bottom, strict=True)]
        axes.bar(
            left, heights, width, base, align="edge", color=color(PART_COLORS[part]),
            edgecolor=PANEL, linewidth=0.8 if len(segments) <= 40 else 0.0, zorder=2,
        )  # fmt: skip
        top = [t + max(h, 0.0) for h, t in zip(heights, top, strict=True)]
        bottom = [b + min(h, 0.0) for h, b in zip(heights, bottom, strict=True)]
    true = [_per_step(end, "modular.error_forward") for _, end in segments]
    edges = [*left, left[-1] + width[-1]]
    axes.stairs(true, edges, color=INK, linewidth=1.8, zorder=4)
    axes.axhline(0, color=MUTED, linewidth=1.0, zorder=1)
    clear = [i for i, (_, end) in enumerate(segments) if not is_memorizing(end)]
    seen = clear or range(len(segments))
    ends = [v for i in seen for v in (top[i], true[i])]
    scale_linear(axes, ends, f"{head}nats per step")
    axes.set_ylim(min(1.15 * min(bottom[i] for i in seen), 0.0), 1.15 * max([*ends, 1e-12]))


def _paint_lines(axes: Axes, axis: TimeAxis, profile: Profile, head: str) -> None:
    """Draw the parts and both totals per step on a logarithmic scale, at the middle of segments."""
    segments = _segments(profile)
    middle = [
        (axis.place(float(start["t"])) + axis.place(float(end["t"]))) / 2 for start, end in segments
    ]
    lines = {f"modular.{part}": (color(PART_COLORS[part]), "-") for part in PARTS}
    lines["modular.error_forward"] = (INK, "-")
    lines["modular.error"] = (INK, ":")
    values = []
    for key, (ink, style) in lines.items():
        y = [_per_step(end, key) for _, end in segments]
        values += [v for v in y if v > 0]
        y = [v if v > 0 else math.nan for v in y]
        axes.plot(middle, y, style, color=ink, marker="o" if len(y) <= 40 else None, markersize=3.5)
    _scale_log(axes, min(values), max(values))
    axes.set_title(f"{head}the same, logarithmic")


def _scale_log(axes: Axes, low: float, high: float) -> None:
    """Give a logarithmic axis whole powers of ten as ticks."""
    axes.set_yscale("log")
    axes.set_ylim(low / 1.6, high * 6)
    axes.yaxis.set_major_locator(LogLocator(numticks=8))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: _power(y)))


def _power(value: float) -> str:
    exponent = round(math.log10(value))
    return f"{10.0**exponent:g}" if -4 < exponent < 4 else power_of_ten(exponent)


def _paint_memorizing(axes: Axes, axis: TimeAxis, profile: Profile, layer: float = 0) -> None:
    """Shade the segments in which the target leads back to single data."""
    memorizing = [pair for pair in _segments(profile) if is_memorizing(pair[1])]
    if not memorizing:
        return
    first, last = (axis.place(float(memorizing[i][k]["t"])) for i, k in ((0, 0), (-1, 1)))
    axes.axvspan(first, last, color=GRID, alpha=0.6, linewidth=0, zorder=layer)
    share = (last - first) / (axis.place(axis.grid[-1]) - axis.place(axis.grid[0]))
    axes.annotate(
        "target memorizes" if share > 0.3 else "memorizes",
        ((first + last) / 2, 0.97),
        xycoords=("data", "axes fraction"),
        ha="center",
        va="top",
        rotation=0 if share > 0.15 else 90,
        color=INK,
        fontsize=11,
        zorder=5,
    )


# ------------------------------------------------------------------ bracket


def bracket_plot(profiles: Sequence[Profile]) -> Plot:
    """Return the limits of the cumulative error as a band for each model, on a log scale."""
    shown = [i for i, profile in enumerate(profiles) if known(series(profile, "kl.upper"))]
    axis = TimeAxis.of([profiles[i] for i in shown])
    uppers = [v for i in shown for v in known(series(profiles[i], "kl.upper")) if v > 0] or [1.0]
    lowers = [v for i in shown for v in known(series(profiles[i], "kl.lower")) if v > 0]
    floor = min([*lowers, *uppers, max(uppers) / 10**DECADES_BELOW]) / 2

    def paint(surface: Surface) -> None:
        (axes,) = surface.panels(1)
        for i in shown:
            _paint_bracket(axes, axis, profiles[i], i, floor)
        _scale_log(axes, floor, max(uppers))
        axes.set_ylim(bottom=floor)
        axes.set_title("limits of KL(pₜ ‖ qₜ), in nats")
        if len(shown) == 1:
            _paint_memorizing(axes, axis, profiles[shown[0]])
        axis.apply(axes, surface.is_narrow)

    names = labels(profiles)
    alt = "Limits of the cumulative error in nats. " + " ".join(
        describe(f"{names[i]}, {which} limit", series(profiles[i], key))
        for i in shown
        for key, which in (("kl.lower", "lower"), ("kl.upper", "upper"))
    )
    return draw("bracket", alt, paint, (984, 350), (340, 280))


def _paint_bracket(axes: Axes, axis: TimeAxis, profile: Profile, i: int, floor: float) -> None:
    """Draw one band; a lower limit of 0 leaves it open at the bottom."""
    both = [
        (axis.place(float(state["t"])), low, high)
        for state in states(profile)
        if (low := number(state, "kl.lower")) is not None
        and (high := number(state, "kl.upper")) is not None
    ]
    x = [place for place, _, _ in both]
    lows, highs = [max(low, floor) for _, low, _ in both], [max(high, floor) for *_, high in both]
    axes.fill_between(x, lows, highs, color=color(i), alpha=0.2, linewidth=0, zorder=2)
    certain = [low if low > floor else math.nan for low in lows]
    for limits, mark in ((highs, "v"), (certain, "^")):
        axes.plot(x, limits, color=color(i), marker=mark, markersize=8, zorder=4)
