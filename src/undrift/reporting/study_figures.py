"""Plots of a study: paired changes, values by seed, profiles, error against quality."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.ticker import MaxNLocator

from undrift.reporting.canvas import (
    GRID,
    INK,
    MUTED,
    NUM_COLORS,
    PANEL,
    Canvas,
    Plot,
    TimeAxis,
    color,
    column,
    draw,
    linear_scale,
    log_scale,
    tick_text,
)
from undrift.reporting.chain_figures import draw_line
from undrift.reporting.content import number
from undrift.reporting.numbers import Z_95, scaled
from undrift.reporting.study_content import (
    BUDGETS,
    NAMES,
    PROTOCOLS,
    Row,
    Study,
    change_text,
    changes,
    groups,
    methods,
    where,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import XAxis, YAxis

METRICS = ("mmd_sq", "frechet")
QUALITY = ("frechet", "kernel_distance")
"""What is drawn against the number of network calls."""
QUALITY_SIZES = ((984, 400), (340, 600))
MARKERS = ("o", "s", "^", "D")
NUDGE = {"steps": -0.14, "compute": 0.14}
MOST_CHANGE = 1.5
"""Changes beyond which the axis of a plot is cut."""


def marker(index: int) -> str:
    """The mark of a method: another one where the colors begin again."""
    return MARKERS[index // NUM_COLORS % len(MARKERS)]


def change_plot(study: Study, protocol: str) -> Plot | None:
    """Paired changes against plain: mean, interval, and each seed."""
    found = {
        metric: [r for p, b in groups(study) if p == protocol for r in changes(study, p, b, metric)]
        for metric in METRICS
    }
    rows = [row for metric in METRICS for row in found[metric]]
    names = [m for m in methods(study) if m in {row["method"] for row in rows}]
    if not names:
        return None

    def panel(axes: Axes, metric: str, is_narrow: bool) -> None:
        for row in found[metric]:
            _change(axes, row, names.index(row["method"]), _nudge(study, row))
        axes.axvline(0, color=MUTED, linewidth=1.2, zorder=1)
        _percent_axis(axes, found[metric], 3 if is_narrow else 5)
        for row in found[metric]:
            if row["mean"] > (edge := axes.get_xlim()[1]):  # beyond the axis: in words
                y = names.index(row["method"]) + _nudge(study, row)
                text = f"{_percent(round(row['mean'], 2))} →"
                axes.text(edge, y, text, ha="right", va="center", color=INK, fontsize=11.5)
        axes.set_title(f"{NAMES[metric]} against plain")

    words = "; ".join(
        f"{r['method']}, {NAMES[r['metric']]}, {BUDGETS[r['budget']]}: {change_text(r)}"
        for r in rows
    )
    name = f"changes-{protocol}{suffix(study)}"
    return _row_plot(name, f"Paired changes. {words}.", names, panel)


def value_plot(study: Study, protocol: str) -> Plot | None:
    """Absolute values of every seed, a bar at their mean."""
    rows = [row for row in study["rows"] if row["protocol"] == protocol]
    names = [m for m in methods(study) if any(row["method"] == m for row in rows)]
    if not names:
        return None

    def panel(axes: Axes, metric: str, is_narrow: bool) -> None:  # noqa: ARG001
        found: dict[tuple[str, str], list[float]] = {}
        for row in rows:
            if (value := number(row, metric)) is not None:
                found.setdefault((row["method"], row["budget"]), []).append(value)
        for (name, budget), values in found.items():
            place = names.index(name)
            y, tint = place + _nudge(study, {"protocol": protocol, "budget": budget}), color(place)
            face = tint if budget == "steps" else PANEL
            axes.vlines(np.mean(values), y - 0.13, y + 0.13, color=INK, linewidth=2, zorder=2)
            axes.scatter(
                values, [y] * len(values), s=34, color=face, edgecolors=tint, lw=1.5, zorder=3
            )
        linear_scale(axes.xaxis, [v for values in found.values() for v in values], NAMES[metric])

    alt = f"D₀² and Fréchet distance of each seed, {PROTOCOLS.get(protocol, protocol)}."
    return _row_plot(f"values-{protocol}{suffix(study)}", alt, names, panel)


def suffix(study: Study) -> str:
    """What tells the plots of a part of a study from those of the others."""
    return f"-{slug(study['part'])}" if "part" in study else ""


def slug(text: str) -> str:
    """Words as a part of a file name.

    >>> slug("dpm-solver++, 10 steps")
    'dpm-solver-10-steps'
    """
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def quality_plots(study: Study, protocol: str, budget: str) -> dict[str, Plot]:
    """Quality against network calls, by what the plots show: the best samplers, and each sampler.

    A curve for each method: means over seeds, with standard deviations. The best sampler is the one
    of each method at each number of calls. None where there is one number of calls.
    """
    group = (protocol, budget)
    rows = [row for row in study["rows"] if (row["protocol"], row["budget"]) == group]
    samplers = list(dict.fromkeys(row["sampler"] for row in rows))
    parts = {name: [row for row in rows if row["sampler"] == name] for name in samplers}
    if len(samplers) > 1:
        parts = {"best sampler": [row for row in rows if row["is_best_sampler"]]} | parts
    return {
        name: _quality_plot(own, methods(study), f"{where(*group, study)}, {name}")
        for name, own in parts.items()
        if len({row["network_calls"] for row in own}) > 1
    }


def quality_panel(
    axes: Axes, curves: Sequence[tuple[str, Mapping[int, Sequence[float]]]], calls: Sequence[int]
) -> None:
    """Means over seeds with standard deviations against network calls, on logarithmic axes.

    Arguments:
        axes: Where to draw.
        curves: The label and the values by number of network calls of each, in the order of colors.
        calls: All numbers of network calls.
    """
    for k, (label, own) in enumerate(curves):
        means = np.array([np.mean(v) for v in own.values()])
        spread = np.array([np.std(v, ddof=1) if len(v) > 1 else 0.0 for v in own.values()])
        axes.errorbar(
            [*own], means, spread, label=label, capsize=3, color=color(k), marker=marker(k)
        )
    _positive_scale(axes.yaxis, [v for _, own in curves for found in own.values() for v in found])
    log_scale(axes.xaxis)
    axes.set_xticks(calls, [str(count) for count in calls])
    axes.set_xlabel("network calls")


def quality_legend(canvas: Canvas, axes: Axes, columns: int) -> None:
    """The names of the curves, above all panels."""
    canvas.figure.legend(
        *axes.get_legend_handles_labels(),
        loc="outside upper left",
        ncols=2 if canvas.is_narrow else columns,
        frameon=False,
        labelcolor=INK,
    )


def _quality_plot(rows: Sequence[Row], names: Sequence[str], title: str) -> Plot:
    """Each metric of quality in a panel, with a curve for each method."""
    values: dict[tuple[str, str], dict[int, list[float]]] = {}
    for row, metric in product(rows, QUALITY):
        if (value := number(row, metric)) is not None:
            own = values.setdefault((row["method"], metric), {})
            own.setdefault(row["network_calls"], []).append(value)
    calls = sorted({row["network_calls"] for row in rows})

    def draw_on(canvas: Canvas) -> None:
        panels = canvas.panels(2)
        for axes, metric in zip(panels, QUALITY, strict=True):
            curves = [(name, values.get((name, metric), {})) for name in names]
            quality_panel(axes, [(name, dict(sorted(own.items()))) for name, own in curves], calls)
            axes.set_title(NAMES[metric])
        quality_legend(canvas, panels[0], columns=6)

    alt = "; ".join(
        f"{name}: Fréchet {scaled(float(np.mean(v)), 0)} with {count} calls"
        for name in names
        for count, v in values.get((name, "frechet"), {}).items()
    )
    return draw(f"quality-{slug(title)}", f"Quality, {title}. {alt}.", draw_on, *QUALITY_SIZES)


def _row_plot(
    name: str, alt: str, names: Sequence[str], panel: Callable[[Axes, str, bool], None]
) -> Plot:
    """A panel for each metric with one row per method, the first on top."""

    def draw_on(canvas: Canvas) -> None:
        for axes, metric in zip(canvas.panels(2), METRICS, strict=True):
            panel(axes, metric, canvas.is_narrow)
            axes.set_yticks(range(len(names)), list(names))
            axes.set_ylim(len(names) - 0.5, -0.5)
            axes.tick_params(axis="y", labelcolor=INK)
            axes.grid(visible=True, axis="x")
            axes.grid(visible=False, axis="y")

    height = 70 + 34 * len(names)
    return draw(name, alt, draw_on, (984, height), (340, 2 * height))


def _nudge(study: Study, row: Row) -> float:
    """How far from the middle of its row a budget is drawn, where there are two of them."""
    budgets = [budget for protocol, budget in groups(study) if protocol == row["protocol"]]
    return NUDGE[row["budget"]] if len(budgets) > 1 else 0.0


def _change(axes: Axes, row: Row, place: int, nudge: float) -> None:
    """Draw one paired change: its seeds, its interval and its mean."""
    y, tint = place + nudge, color(place + 1)
    seeds = row["changes"]
    axes.scatter(seeds, [y] * len(seeds), s=15, color=INK, alpha=0.45, zorder=3.5, lw=0)
    if row["interval"]:
        axes.hlines(y, *row["interval"], color=tint, linewidth=2.4, alpha=0.6, zorder=3)
    face = tint if row["budget"] == "steps" else PANEL
    axes.plot([row["mean"]], [y], marker="o", markersize=8, color=tint, mfc=face, mew=1.8, zorder=4)


def _percent_axis(axes: Axes, rows: Sequence[Row], ticks: int) -> None:
    """An axis of percent that holds all means and seeds, and intervals as far as reasonable."""
    shown = [0.0, *(value for row in rows for value in (row["mean"], *row["changes"]))]
    ends = [0.0, *(end for row in rows for end in row["interval"] or [])]
    low = min(*shown, 0.0, max(min(ends), -1.05))
    high = max(*shown, min(max(ends), max(*shown, 0.25) * 1.5))
    high = min(high, max(MOST_CHANGE, low + 0.2))
    margin = 0.06 * (high - low) or 0.1
    axes.set_xlim(low - margin, high + margin)
    axes.xaxis.set_major_locator(MaxNLocator(ticks, steps=[1, 2, 2.5, 5, 10]))
    axes.xaxis.set_major_formatter(lambda x, _: _percent(x))


def _percent(value: float) -> str:
    """A change for a tick.

    >>> _percent(-0.25), _percent(0.0), _percent(0.025)
    ('−25 %', '0', '+2.5 %')
    """
    value = round(100 * value, 6)
    return f"{value:+g} %".replace("-", "−") if value else "0"


def profile_plot(profiles: Sequence[Row], remedies: Sequence[str]) -> Plot:
    """The cumulative error along the chain of each method, without remedy and with each."""
    names = list(dict.fromkeys(row["method"] for row in profiles))
    axis = TimeAxis.of(profiles)

    def draw_on(canvas: Canvas) -> None:
        for axes, name in zip(canvas.panels(len(names), sharey=True), names, strict=True):
            for row in (row for row in profiles if row["method"] == name):
                x, y = axis.place(column(row, "t")), column(row, "mmd_sq")
                index = list(remedies).index(row["remedy"])
                if index == 0:
                    half = Z_95 * np.nan_to_num(column(row, "mmd_sq_se"))
                    axes.fill_between(x, y - half, y + half, color=color(0), alpha=0.14, lw=0)
                width = 1.8 if index else 2.6
                draw_line(axes, x, y, index, marker=marker(index), linewidth=width)
            axes.axhline(0, color=MUTED, linewidth=1.2, zorder=1)
            axis.apply(axes, canvas.is_narrow or len(names) > 1)
            every = np.concatenate([column(row, "mmd_sq") for row in profiles])
            linear_scale(axes.yaxis, every, f"Dₜ² of {name}")

    alt = "Cumulative error along the chain, " + "; ".join(
        f"{row['method']} with remedy {row['remedy']}: {row['states'][-1]['mmd_sq']:.2g} at the end"
        for row in profiles
    )
    return draw("remedies", alt, draw_on, (984, 340), (340, 270 * len(names)))


def scatter_plot(study: Study, points: Sequence[Row], names: Sequence[str]) -> Plot:
    """The Fréchet distance of every evaluation against its cumulative error."""

    def draw_on(canvas: Canvas) -> None:
        [axes] = canvas.panels(1)
        for point in points:
            k, is_final = names.index(point["method"]), point.get("step") is None
            axes.scatter(
                point["mmd_sq"],
                point["frechet"],
                s=52 if is_final else 26,
                color=color(k) if is_final else "none",
                edgecolors=PANEL if is_final else color(k),
                marker=marker(k),
                linewidths=1.0 if is_final else 1.4,
                zorder=3 if is_final else 2,
            )
        _positive_scale(axes.xaxis, [p["mmd_sq"] for p in points])
        _positive_scale(axes.yaxis, [p["frechet"] for p in points])
        axes.grid(visible=True, axis="both", color=GRID)
        axes.set_xlabel("D₀²")
        axes.set_title("Fréchet distance")

    alt = f"Fréchet distance against D₀² of {len(points)} evaluations."
    return draw(f"scatter{suffix(study)}", alt, draw_on, (984, 420), (340, 320))


def _positive_scale(axis: XAxis | YAxis, values: Sequence[float]) -> None:
    """A logarithmic axis for positive values over more than a factor of eight."""
    if min(values) > 0 and max(values) / min(values) > 8:
        log_scale(axis, subs=(1.0, 2.0, 5.0))
        return
    axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    axis.set_major_formatter(lambda v, _: tick_text(v))
