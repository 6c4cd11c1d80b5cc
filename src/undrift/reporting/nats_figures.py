r"""Plots in nats: the modular error of every segment and the limits of the cumulative one.

A segment is drawn as wide as it is and as high as its modular error per step, so that areas are
nats; the part of the chain in which the target memorizes is shaded and does not set the linear
scale.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from undrift.reporting.canvas import (
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
    linear_scale,
    log_scale,
)
from undrift.reporting.chain_figures import has, shade
from undrift.reporting.content import Profile, labels, states
from undrift.reporting.nats import PARTS, is_memorizing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

PART_COLORS = {"mean": 4, "variance": 5, "shape": 3}
"""Numbers of the page's colors; the first models, which come first, have others."""
DECADES_BELOW = 4.0
"""How far below the largest upper limit a limit of 0 is drawn at least, in powers of ten."""


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
            shade(axes, axis, *ends, "target memorizes", layer)


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
