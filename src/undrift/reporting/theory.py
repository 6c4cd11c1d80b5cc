r"""The error budget as one self-contained page: stacked areas per step, and the claims.

Per step the budget reads cumulative + forgotten = inherited + fresh. What arrives (inherited and
fresh) is stacked above zero, the forgotten part is drawn below it; the line is the cumulative one.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup

from undrift.reporting.canvas import (
    INK,
    MUTED,
    Canvas,
    Plot,
    TimeAxis,
    color,
    draw,
    linear_scale,
    log_scale,
)
from undrift.reporting.numbers import MISSING, plus_minus, scientific
from undrift.reporting.page import inline, page_style, template, write_page
from undrift.reporting.tables import Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

Row = Mapping[str, Any]

MOST_ROWS = 60
"""Rows of one table; longer chains are thinned, their last steps kept."""

FEWEST_FACTORS = 5
"""Steps with a defined amplification factor from which a plot of it is drawn."""


@dataclass(frozen=True)
class ChainView:
    """One chain on the page.

    Arguments:
        title: Its heading.
        text: What it is, in a sentence or two.
        rows: Its steps from T downwards, with the keys ``t``, ``inherited``, ``e_mod``,
            ``e_cumu``, ``e_con``, ``mu``; standard errors under ``..._se`` where estimated.
        closure: Whether the budget closes, with the number.
    """

    title: str
    text: str
    rows: Sequence[Row]
    closure: str


@dataclass(frozen=True)
class TheoryPage:
    """What the page shows.

    Arguments:
        title: Its title.
        chains: The chains.
        claims: Claims with ``name``, ``source``, ``verdict`` and ``evidence``.
        command: The command that makes it again.
    """

    title: str
    chains: Sequence[ChainView]
    claims: Sequence[Any] = field(default=())
    command: str = ""


def write_theory(page: TheoryPage, path: str | os.PathLike[str]) -> Path:
    """Write the page as one HTML file.

    Arguments:
        page: What to show.
        path: The file; an existing folder gets a ``theory.html``.

    Returns:
        The path of the file.
    """
    target = Path(path)
    target = target / "theory.html" if target.is_dir() else target
    return write_page(target, render_theory(page))


def render_theory(page: TheoryPage) -> str:
    """The page as text: no script, no request."""
    return template("theory.html.j2").render(
        page=page,
        style=page_style() + Markup(_STYLE),
        chains=[_chain(view, i) for i, view in enumerate(page.chains)],
    )


def _chain(view: ChainView, index: int) -> dict[str, Any]:
    plots = [budget_plot(view, index)]
    if sum(row.get("mu") is not None for row in view.rows) >= FEWEST_FACTORS:
        plots.append(factor_plot(view, index))
    header, body = step_table(view.rows)
    numbers = Table(f"Error budget of {view.title}", header, body)
    return {"view": view, "plots": [inline(plot) for plot in plots], "numbers": numbers}


def budget_plot(view: ChainView, index: int = 0) -> Plot:
    """Stacked areas per step, and next to them shares of what arrives, or the residual.

    Shares of estimates would be ratios of noise at most steps, so estimated budgets show how well
    they close instead.
    """
    keys = ("inherited", "e_mod", "e_con", "e_cumu")
    rows = [row for row in view.rows if all(row.get(key) is not None for key in keys)]
    steps = np.array([row["t"] for row in rows], dtype=float)
    terms = np.array([[row[key] for row in rows] for key in keys])
    arrives = np.maximum(terms[:2], 0.0).sum(0)

    def draw_on(canvas: Canvas) -> None:
        nats, second = canvas.panels(2)
        _areas(nats, steps, terms)
        linear_scale(nats.yaxis, [*arrives, *terms[2]], "nats per step")
        if all("gap_in_errors" in row for row in rows):
            _residual(second, steps, np.array([row["gap_in_errors"] for row in rows]))
        else:
            shares = np.divide(terms, arrives, out=np.zeros_like(terms), where=arrives > 0)
            _areas(second, steps, shares)
            second.set(title="as shares of inherited + fresh", ylim=(-1.15, 1.15))
        for axes in (nats, second):
            TimeAxis(steps).apply(axes, canvas.is_narrow)

    alt = f"Error budget of {view.title}: no step has all terms."
    if rows:
        first, last = rows[0], rows[-1]
        alt = (
            f"Error budget of {view.title}, per step. Cumulative error from "
            f"{scientific(first['inherited'])} nats before step {first['t']:g} to "
            f"{scientific(last['e_cumu'])} after step {last['t']:g}; the last step makes "
            f"{scientific(last['e_mod'])} and removes {scientific(last['e_con'])}."
        )
    return draw(f"budget-{index}", alt, draw_on, (984, 350), (340, 520))


def _areas(axes: Axes, steps: NDArray[Any], terms: NDArray[Any]) -> None:
    """Inherited and fresh above zero, forgotten below, the cumulative error as a line."""
    inherited, fresh, forgotten = np.maximum(terms[:3], 0.0)
    edges = ((0.0, inherited), (inherited, inherited + fresh), (-forgotten, 0.0))
    for i, (low, high) in enumerate(edges):
        axes.fill_between(-steps, low, high, color=color(i), linewidth=0, alpha=0.75, step="mid")
    axes.axhline(0, color=MUTED, linewidth=1.0, zorder=2)
    axes.plot(-steps, terms[3], color=INK, linewidth=1.6, zorder=3)


def _residual(axes: Axes, steps: NDArray[Any], gaps: NDArray[Any]) -> None:
    """Residual of the budget, in standard errors, with the band of three."""
    axes.axhspan(-3, 3, color=MUTED, alpha=0.13, linewidth=0)
    axes.axhline(0, color=MUTED, linewidth=1.0)
    axes.plot(-steps, gaps, color=INK, marker="o", linestyle="none", markersize=4.5)
    reach = 1.15 * max(3.0, np.abs(gaps).max())
    axes.set(title="residual of the budget, in standard errors", ylim=(-reach, reach))


def factor_plot(view: ChainView, index: int = 0) -> Plot:
    r"""Amplification factor :math:`\mu_t` per step, with the paper's lower bound 1."""
    rows = [row for row in view.rows if row.get("mu") is not None]
    steps, values = (np.array([row[key] for row in rows], dtype=float) for key in ("t", "mu"))

    def draw_on(canvas: Canvas) -> None:
        (axes,) = canvas.panels(1)
        log_scale(axes.yaxis, threshold=1.0)
        axes.axhline(1, color=MUTED, linewidth=1.2, linestyle=(0, (4, 3)))
        axes.plot(-steps, values, color=color(0), marker=".", linewidth=1.4)
        axes.set_ylim(min(-0.2, 1.6 * values.min()), 1.5)
        axes.set_title("μₜ (by the paper's claim never below the dashed line)")
        TimeAxis(steps).apply(axes, canvas.is_narrow)

    alt = (
        f"Amplification factor of {view.title}: from {scientific(values.min())} "
        f"to {scientific(values.max())}; never above 1."
    )
    return draw(f"factor-{index}", alt, draw_on, (984, 260), (340, 250))


def step_table(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """The numbers as texts: the header, and thinned rows."""
    names = {
        "t": "t",
        "inherited": "inherited",
        "e_mod": "fresh",
        "e_con": "forgotten",
        "e_cumu": "cumulative",
        "mu": "μ",
        "gap_in_errors": "gap / its error",
    }
    keys = [key for key in names if any(key in row for row in rows)]
    stride = -(-len(rows) // MOST_ROWS)
    kept = list(rows[::-1][::stride])[::-1]
    return [names[key] for key in keys], [[_cell(row, key) for key in keys] for row in kept]


def _cell(row: Row, key: str) -> str:
    value, error = row.get(key), row.get(f"{key}_se")
    if value is None:
        return MISSING
    if key == "t":
        return f"{value:g}"
    if error:
        return plus_minus(value, error)
    return f"{value:.2f}".replace("-", "−") if key == "gap_in_errors" else scientific(value)


_STYLE = """
.verdict-word { font-weight: 650; white-space: nowrap; }
.verdict-word.holds { color: var(--good); } .verdict-word.refuted { color: var(--bad); }
"""
