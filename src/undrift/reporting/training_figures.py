"""Plots of the training logs: both loss terms, the null floor, gradient norms, the weight."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from undrift.reporting.canvas import Canvas, Plot, color, draw, linear_scale, log_scale
from undrift.reporting.content import TrainingLog, number
from undrift.reporting.numbers import percent, scientific

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

Row = Mapping[str, Any]
MOST_POINTS = 300
"""Points to draw of one curve; longer logs are averaged in blocks."""


class Panel(NamedTuple):
    """One small plot: its title, the key drawn in full, and the key drawn dashed."""

    title: str
    solid: str
    dashed: str = ""


PANELS = (
    Panel("Main loss", "nll"),
    Panel("Loss", "loss"),
    Panel("Regularizer, null floor dashed", "regularizer", "regularizer_null"),
    Panel("Gradient norms, regularizer dashed", "grad_norm_main", "grad_norm_regularizer"),
    Panel("Weight λ of the regularizer", "lambda"),
    Panel("Learning rate", "lr"),
    Panel("Gradient norm", "grad_norm"),
)
TOTALS = {"loss": ("nll",), "grad_norm": ("grad_norm_main", "grad_norm_regularizer")}
"""Sums that are drawn only where none of their parts is logged."""


def values(rows: Sequence[Row], key: str) -> NDArray[np.float64]:
    """One number of every row, NaN where a row lacks it."""
    return np.array([number(row, key) for row in rows], dtype=float)


def points(rows: Sequence[Row], key: str) -> NDArray[np.float64]:
    """Return steps and values of a key, leaving out rows that lack it.

    >>> points([{"step": 1, "nll": 2.0}, {"step": 2}, {"step": 3, "nll": 1.0}], "nll").tolist()
    [[1.0, 3.0], [2.0, 1.0]]
    """
    steps, found = values(rows, "step"), values(rows, key)
    pairs = np.stack([np.where(np.isnan(steps), np.arange(len(rows)), steps), found])
    pairs = pairs[:, np.isfinite(found)]
    size = max(1, -(-pairs.shape[1] // MOST_POINTS))
    blocks = np.split(pairs, range(size, pairs.shape[1], size), axis=1)
    return np.array([block.mean(1) for block in blocks]).T if pairs.size else pairs


def panels(logs: Sequence[TrainingLog]) -> list[Panel]:
    """Return the panels that have something to show: no constant learning rate, no unknown part."""
    found = {key: set(_all(logs, key)) for panel in PANELS for key in panel[1:]}
    if len(found["lr"]) == 1:
        found["lr"] = set()
    for total, parts in TOTALS.items():
        if any(found[part] for part in parts):
            found[total] = set()
    return [panel for panel in PANELS if found[panel.solid] or found[panel.dashed]]


def _all(logs: Sequence[TrainingLog], key: str) -> NDArray[np.float64]:
    every = np.concatenate([np.empty(0), *(values(rows, key) for _, rows in logs)])
    return np.extract(np.isfinite(every), every)


def training_plot(logs: Sequence[TrainingLog], colors: Mapping[str, int]) -> Plot | None:
    """Return the training curves, each in the color that its label has elsewhere."""
    shown = panels(logs)
    if not shown:
        return None

    def draw_on(canvas: Canvas) -> None:
        for axes, panel in zip(canvas.panels(len(shown)), shown, strict=True):
            drawn = [
                _curve(axes, rows, key, color(colors[name]), style)
                for name, rows in logs
                for key, style in ((panel.solid, {}), (panel.dashed, {"linestyle": (0, (3, 2))}))
            ]
            _scale(axes, panel.title, np.concatenate(drawn))
            axes.set_xlabel("training step")
            axes.margins(x=0.02)

    alt = "Training curves. " + " ".join(summary(name, rows) for name, rows in logs)
    rows_wide = -(-len(shown) // 2)
    return draw("training", alt, draw_on, (984, 260 * rows_wide), (340, 235 * len(shown)))


def _curve(
    axes: Axes, rows: Sequence[Row], key: str, tint: str, style: dict[str, Any]
) -> NDArray[np.float64]:
    """Draw one curve, faint as logged and strong as running mean; return its values."""
    x, y = points(rows, key)
    if len(y) >= 40 and key not in ("lambda", "lr"):
        axes.plot(x, y, color=tint, alpha=0.22, linewidth=1.0)
        y = running_mean(y, max(5, len(y) // 20))
    axes.plot(x, y, color=tint, **style)
    return np.asarray(y)


def running_mean(y: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """Mean of each value and its neighbors; beyond the ends, the first and last value repeat.

    >>> running_mean(np.array([3.0, 0.0, 3.0]), 3).tolist()
    [2.0, 2.0, 2.0]
    """
    padded = np.pad(y, (size // 2, size - 1 - size // 2), mode="edge")
    return np.convolve(padded, np.full(size, 1 / size), mode="valid")


def _scale(axes: Axes, title: str, shown: NDArray[np.float64]) -> None:
    """Choose a logarithmic axis for positive values over more than two decades."""
    if shown.min() > 0 and shown.max() / shown.min() > 100:
        log_scale(axes.yaxis)
        axes.set_title(f"{title} (log)")
    else:
        linear_scale(axes.yaxis, shown, title)


def summary(name: str, rows: Sequence[Row]) -> str:
    """Return how strong the regularizer was over the second half of a log, in words.

    >>> rows = [{"step": i, "grad_norm_main": 2.0, "grad_norm_regularizer": 0.6} for i in (1, 2)]
    >>> summary("persistent", rows)
    '“persistent”: the gradient of the regularizer is 30 % of that of the main term (median).'
    """
    keys = ("grad_norm_regularizer", "grad_norm_main", "regularizer", "regularizer_null")
    part, main, value, null = (values(rows[len(rows) // 2 :], key) for key in keys)
    ratio = part[main > 0] / main[main > 0]
    ratio, value, null = (series[np.isfinite(series)] for series in (ratio, value, null))
    parts = []
    if len(ratio):
        size = percent(float(np.median(ratio)))
        parts.append(f"the gradient of the regularizer is {size} of that of the main term (median)")
    if len(value) and len(null):
        sizes = [scientific(float(np.median(series))) for series in (value, null)]
        parts.append(f"its value is {sizes[0]}, against {sizes[1]} without an error (null floor)")
    return f"“{name}”: {'; '.join(parts)}." if parts else ""
