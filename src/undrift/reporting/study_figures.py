"""Plots of a study: paired changes, values by seed, profiles, error against quality."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from undrift.reporting.canvas import (
    GRID,
    INK,
    MUTED,
    NUM_COLORS,
    PANEL,
    Plot,
    Surface,
    TimeAxis,
    color,
    draw,
    scale_linear,
)
from undrift.reporting.content import number
from undrift.reporting.numbers import Z_95, common_exponent, power_of_ten, scaled
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
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

METRICS = ("mmd_sq", "frechet")
MARKERS = ("o", "s", "^", "D")
FILLED = {"steps": True, "compute": False}
NUDGE = {"steps": -0.14, "compute": 0.14}
MOST_CHANGE = 1.5
"""Changes beyond which the axis of a plot is cut."""


def marker(index: int) -> str:
    """The mark of a method: another one where the colors begin again."""
    return MARKERS[index // NUM_COLORS % len(MARKERS)]


def change_plot(study: Study, protocol: str) -> Plot | None:
    """Paired changes against plain: mean, interval, and each seed."""
    budgets = [b for p, b in groups(study) if p == protocol]
    found = {
        (metric, budget): changes(study, protocol, budget, metric)
        for metric in METRICS
        for budget in budgets
    }
    names = [m for m in methods(study) if any(_of(rows, m) for rows in found.values())]
    if not names:
        return None

    def paint(surface: Surface) -> None:
        for axes, metric in zip(surface.panels(2), METRICS, strict=True):
            for budget in budgets:
                for row in found[metric, budget]:
                    _change(axes, row, names.index(row["method"]), budget, len(budgets) > 1)
            axes.axvline(0, color=MUTED, linewidth=1.2, zorder=1)
            _rows(axes, names)
            shown = [row for budget in budgets for row in found[metric, budget]]
            _percent_axis(axes, shown, 3 if surface.is_narrow else 5)
            _beyond(axes, shown, names)
            axes.set_title(f"{NAMES[metric]} against plain")

    words = "; ".join(
        f"{row['method']}, {NAMES[metric]}, {BUDGETS[budget]}: {change_text(row)}"
        for (metric, budget), rows in found.items()
        for row in rows
    )
    height = 70 + 34 * len(names)
    return draw(
        f"changes-{protocol}", f"Paired changes. {words}.", paint, (984, height), (340, 2 * height)
    )


def _change(axes: Axes, row: Row, place: int, budget: str, has_both: bool) -> None:
    y = place + (NUDGE[budget] if has_both else 0.0)
    tint = color(place + 1)
    axes.scatter(
        row["changes"], [y] * len(row["changes"]), s=15, color=INK, alpha=0.45, zorder=3.5, lw=0
    )
    if row["interval"]:
        axes.plot(row["interval"], [y, y], color=tint, linewidth=2.4, alpha=0.6, zorder=3)
    face = tint if FILLED[budget] else PANEL
    axes.plot([row["mean"]], [y], marker="o", markersize=8, color=tint, mfc=face, mew=1.8, zorder=4)


def _rows(axes: Axes, names: Sequence[str]) -> None:
    """One row for each method, the first on top."""
    axes.set_yticks(range(len(names)), list(names))
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.tick_params(axis="y", labelcolor=INK)
    axes.grid(visible=True, axis="x")
    axes.grid(visible=False, axis="y")


def _percent_axis(axes: Axes, rows: Sequence[Row], ticks: int) -> None:
    """An axis of percent that holds all means and seeds, and intervals as far as reasonable."""
    shown = [value for row in rows for value in (row["mean"], *row["changes"])]
    ends = [end for row in rows for end in row["interval"] or []]
    low = min([0.0, *shown, max(min(ends, default=0.0), -1.05)])
    high = max([0.0, *shown, min(max(ends, default=0.0), max([*shown, 0.25]) * 1.5)])
    high = min(high, max(MOST_CHANGE, low + 0.2))
    margin = 0.06 * (high - low)
    axes.set_xlim(low - margin, high + margin)
    axes.xaxis.set_major_locator(MaxNLocator(ticks, steps=[1, 2, 2.5, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: _percent(x)))


def _beyond(axes: Axes, rows: Sequence[Row], names: Sequence[str]) -> None:
    """Say in words where a mean lies that the axis does not reach."""
    edge = axes.get_xlim()[1]
    for row in rows:
        if row["mean"] > edge:
            y = names.index(row["method"]) + NUDGE[row["budget"]]
            text = f"{_percent(round(row['mean'], 2))} →"
            axes.text(edge, y, text, ha="right", va="center", color=INK, fontsize=11.5)


def _percent(value: float) -> str:
    """A change for a tick.

    >>> _percent(-0.25), _percent(0.0), _percent(0.025)
    ('−25 %', '0', '+2.5 %')
    """
    text = f"{round(100 * value, 6):+g} %".replace("-", "−")
    return "0" if round(100 * value, 6) == 0 else text


def value_plot(study: Study, protocol: str) -> Plot | None:
    """Absolute values of every seed, a bar at their mean."""
    rows = [row for row in study["rows"] if row["protocol"] == protocol]
    budgets = [b for p, b in groups(study) if p == protocol]
    names = [m for m in methods(study) if any(row["method"] == m for row in rows)]
    if not rows:
        return None

    def paint(surface: Surface) -> None:
        for axes, metric in zip(surface.panels(2), METRICS, strict=True):
            for budget in budgets:
                for k, name in enumerate(names):
                    values = [
                        value
                        for row in rows
                        if (row["method"], row["budget"]) == (name, budget)
                        and (value := number(row, metric)) is not None
                    ]
                    _values(axes, values, k, budget, len(budgets) > 1)
            _rows(axes, names)
            exponent = common_exponent([number(row, metric) for row in rows])
            _scaled_axis(axes, exponent)
            suffix = f"  (×{power_of_ten(exponent)})" if exponent else ""
            axes.set_title(f"{NAMES[metric]}{suffix}")

    height = 70 + 34 * len(names)
    alt = f"D₀² and Fréchet distance of each seed, {PROTOCOLS.get(protocol, protocol)}."
    return draw(f"values-{protocol}", alt, paint, (984, height), (340, 2 * height))


def _values(axes: Axes, values: Sequence[float], place: int, budget: str, has_both: bool) -> None:
    if not values:
        return
    y = place + (NUDGE[budget] if has_both else 0.0)
    tint = color(place)
    face = tint if FILLED[budget] else PANEL
    mean = sum(values) / len(values)
    axes.plot([mean, mean], [y - 0.13, y + 0.13], color=INK, linewidth=2, zorder=2)
    axes.scatter(values, [y] * len(values), s=34, color=face, edgecolors=tint, lw=1.5, zorder=3)


def _scaled_axis(axes: Axes, exponent: int) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x / 10.0**exponent:g}"))


def profile_plot(profiles: Sequence[Row], remedies: Sequence[str]) -> Plot:
    """The cumulative error along the chain of each method, without remedy and with each."""
    names = list(dict.fromkeys(row["method"] for row in profiles))
    axis = TimeAxis.of(list(profiles))

    def paint(surface: Surface) -> None:
        every = [state["mmd_sq"] for row in profiles for state in row["states"]]
        panels = surface.panels(len(names), sharey=True)
        for axes, name in zip(panels, names, strict=True):
            for row in (row for row in profiles if row["method"] == name):
                _profile(axes, axis, row, list(remedies).index(row["remedy"]))
            axes.axhline(0, color=MUTED, linewidth=1.2, zorder=1)
            axis.apply(axes, surface.is_narrow or len(names) > 1)
            scale_linear(axes, every, f"Dₜ² of {name}")

    alt = "Cumulative error along the chain, " + "; ".join(
        f"{row['method']} with remedy {row['remedy']}: {row['states'][-1]['mmd_sq']:.2g} at the end"
        for row in profiles
    )
    return draw("remedies", alt, paint, (984, 340), (340, 270 * len(names)))


def _profile(axes: Axes, axis: TimeAxis, row: Row, index: int) -> None:
    x = [axis.place(state["t"]) for state in row["states"]]
    y = [state["mmd_sq"] for state in row["states"]]
    half = [Z_95 * (state.get("mmd_sq_se") or 0.0) for state in row["states"]]
    low, high = ([v + sign * h for v, h in zip(y, half, strict=True)] for sign in (-1, 1))
    if index == 0:
        axes.fill_between(x, low, high, color=color(0), alpha=0.14, linewidth=0)
    axes.plot(
        x,
        y,
        color=color(index),
        marker=marker(index),
        markeredgecolor=PANEL,
        markeredgewidth=1.0,
        linewidth=2.6 if index == 0 else 1.8,
        zorder=4 if index == 0 else 3,
    )


def scatter_plot(study: Study, points: Sequence[Row], names: Sequence[str]) -> Plot:
    """The Fréchet distance of every judgment against its cumulative error."""

    def paint(surface: Surface) -> None:
        [axes] = surface.panels(1)
        for k, name in enumerate(names):
            for is_final in (False, True):
                own = [p for p in points if p["method"] == name and ("step" not in p) == is_final]
                axes.scatter(
                    [p["mmd_sq"] for p in own],
                    [p["frechet"] for p in own],
                    s=52 if is_final else 26,
                    color=color(k) if is_final else "none",
                    edgecolors=PANEL if is_final else color(k),
                    marker=marker(k),
                    linewidths=1.0 if is_final else 1.4,
                    zorder=3 if is_final else 2,
                )
        _maybe_log(axes, "x", [p["mmd_sq"] for p in points])
        _maybe_log(axes, "y", [p["frechet"] for p in points])
        axes.grid(visible=True, axis="both", color=GRID)
        axes.set_xlabel("D₀²")
        axes.set_title("Fréchet distance")

    found = (study["correlation"].get("mmd_sq") or {}).get("overall")
    told = f" Rank correlation {scaled(found['rho'], 0)}." if found else ""
    alt = f"Fréchet distance against D₀² of {len(points)} judgments.{told}"
    return draw("scatter", alt, paint, (984, 420), (340, 320))


def _maybe_log(axes: Axes, which: str, values: Sequence[float]) -> None:
    """A logarithmic axis for positive values over more than a factor of eight."""
    target: Any = axes.xaxis if which == "x" else axes.yaxis
    exponent = common_exponent(values)
    if min(values) > 0 and max(values) / min(values) > 8:
        (axes.set_xscale if which == "x" else axes.set_yscale)("log")
        target.set_major_locator(LogLocator(10, subs=(1.0, 2.0, 5.0)))
        target.set_minor_formatter(NullFormatter())
        target.set_major_formatter(FuncFormatter(lambda v, _: _short(v)))
        return
    target.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    target.set_major_formatter(FuncFormatter(lambda v, _: f"{v / 10.0**exponent:g}"))
    if exponent:
        target.set_major_formatter(FuncFormatter(lambda v, _: _short(v)))


def _short(value: float) -> str:
    """A number for a tick.

    >>> _short(0.0005), _short(20.0)
    ('5×10⁻⁴', '20')
    """
    exponent = common_exponent([value])
    return f"{value / 10.0**exponent:.3g}" + (f"×{power_of_ten(exponent)}" if exponent else "")


def _of(rows: Sequence[Mapping[str, Any]], method: str) -> bool:
    return any(row["method"] == method for row in rows)
