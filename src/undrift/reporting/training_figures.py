"""Plots of the training logs: both loss terms, the null floor, gradient norms, the weight."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import TYPE_CHECKING, Any

from undrift.reporting.canvas import Plot, Surface, color, draw, scale_linear
from undrift.reporting.content import TrainingLog, number
from undrift.reporting.numbers import percent, scientific

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Row = Mapping[str, Any]
MOST_POINTS = 300
"""Points to draw of one curve; longer logs are averaged in blocks."""


@dataclass(frozen=True)
class Panel:
    """One small plot: the key drawn in full, the key drawn dashed, its title."""

    title: str
    solid: str
    dashed: str | None = None


PANELS = (
    Panel("Main loss", "nll"),
    Panel("Regularizer, null floor dashed", "regularizer", "regularizer_null"),
    Panel("Gradient norms, regularizer dashed", "grad_norm_main", "grad_norm_regularizer"),
    Panel("Weight λ of the regularizer", "lambda"),
    Panel("Learning rate", "lr"),
)


def points(rows: Sequence[Row], key: str) -> tuple[list[float], list[float]]:
    """Return steps and values of a key, leaving out rows that lack it.

    >>> points([{"step": 1, "nll": 2.0}, {"step": 2}, {"step": 3, "nll": 1.0}], "nll")
    ([1.0, 3.0], [2.0, 1.0])
    """
    found = [
        (float(i) if (step := number(row, "step")) is None else step, value)
        for i, row in enumerate(rows)
        if (value := number(row, key)) is not None
    ]
    size = max(1, math.ceil(len(found) / MOST_POINTS))
    blocks = [found[i : i + size] for i in range(0, len(found), size)]
    return [fmean(s for s, _ in b) for b in blocks], [fmean(v for _, v in b) for b in blocks]


def smooth(values: Sequence[float], width: int) -> list[float]:
    """Return the running mean over a centered window, shorter at both ends.

    >>> smooth([0.0, 3.0, 6.0, 3.0], 3)
    [1.5, 3.0, 4.0, 4.5]
    """
    half = width // 2
    return [fmean(values[max(0, i - half) : i + half + 1]) for i in range(len(values))]


def panels(logs: Sequence[TrainingLog]) -> list[Panel]:
    """Return the panels that have something to show: no constant learning rate, no unknown part."""
    rows = [row for _, log in logs for row in log]

    def present(key: str | None) -> bool:
        return key is not None and any(number(row, key) is not None for row in rows)

    rates = {number(row, "lr") for row in rows} - {None}
    found = [p for p in PANELS if present(p.solid) or present(p.dashed)]
    found = [p for p in found if p.solid != "lr" or len(rates) > 1]
    if not present("nll") and present("loss"):
        found.insert(0, Panel("Loss", "loss"))
    if not present("grad_norm_main") and not present("grad_norm_regularizer"):
        found += [Panel("Gradient norm", "grad_norm")] if present("grad_norm") else []
    return found


def training_plot(logs: Sequence[TrainingLog], colors: Mapping[str, int]) -> Plot:
    """Return the training curves, each in the color that its label has elsewhere."""
    shown = panels(logs)

    def paint(surface: Surface) -> None:
        for axes, panel in zip(surface.panels(len(shown)), shown, strict=True):
            values: list[float] = []
            for name, rows in logs:
                tint = color(colors[name])
                values += _curve(axes, rows, panel.solid, tint, False)
                values += _curve(axes, rows, panel.dashed, tint, True) if panel.dashed else []
            _scale(axes, panel, values)
            axes.set_xlabel("training step")
            axes.margins(x=0.02)

    alt = "Training curves. " + " ".join(summary(name, rows) for name, rows in logs)
    rows_wide = -(-len(shown) // 2)
    return draw("training", alt, paint, (984, 260 * rows_wide), (340, 235 * len(shown)))


def _curve(axes: Axes, rows: Sequence[Row], key: str, tint: str, is_dashed: bool) -> list[float]:
    """Draw one curve, faint as logged and strong as running mean; return its values."""
    x, y = points(rows, key)
    if not x:
        return []
    style = {"linestyle": (0, (3, 2)), "linewidth": 1.6} if is_dashed else {}
    if len(y) >= 40 and key not in ("lambda", "lr"):
        axes.plot(x, y, color=tint, alpha=0.22, linewidth=1.0)
        y_smooth = smooth(y, max(5, len(y) // 20))
    else:
        y_smooth = y
    axes.plot(x, y_smooth, color=tint, **style)  # type: ignore[arg-type]
    return y_smooth


def _scale(axes: Axes, panel: Panel, values: Sequence[float]) -> None:
    """Choose a logarithmic axis for positive values over more than two decades."""
    if values and min(values) > 0 and max(values) / min(values) > 100:
        axes.set_yscale("log")
        axes.yaxis.minorticks_off()
        axes.set_title(f"{panel.title} (log)")
        return
    scale_linear(axes, values or [0.0], panel.title)


def summary(name: str, rows: Sequence[Row]) -> str:
    """Return how strong the regularizer was over the second half of a log, in words.

    >>> rows = [{"step": i, "grad_norm_main": 2.0, "grad_norm_regularizer": 0.6} for i in (1, 2)]
    >>> summary("persistent", rows)
    '“persistent”: the gradient of the regularizer is 30 % of that of the main term (median).'
    """
    later = rows[len(rows) // 2 :]
    ratios = [
        r / n
        for row in later
        if (n := number(row, "grad_norm_main"))
        and (r := number(row, "grad_norm_regularizer")) is not None
    ]
    values = [v for row in later if (v := number(row, "regularizer")) is not None]
    floors = [v for row in later if (v := number(row, "regularizer_null")) is not None]
    parts = []
    if ratios:
        parts.append(
            f"the gradient of the regularizer is {percent(median(ratios))} of that of the main "
            "term (median)"
        )
    if values and floors:
        parts.append(
            f"its value is {scientific(median(values))}, against {scientific(median(floors))} "
            "where nothing is wrong"
        )
    return f"“{name}”: {'; '.join(parts)}." if parts else ""
