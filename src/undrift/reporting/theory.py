r"""The error budget as one self-contained page: stacked areas per step, and the claims.

Per step the budget reads cumulative + forgotten = inherited + fresh. What arrives (inherited and
fresh) is stacked above zero, what the step forgets hangs below it, and the line is what remains.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup, escape

from undrift.reporting.canvas import INK, MUTED, Plot, Surface, TimeAxis, color, draw, scale_linear
from undrift.reporting.numbers import MISSING, plus_minus, scientific
from undrift.reporting.page import inline, page_style, template, write_page

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Row = Mapping[str, Any]

MOST_ROWS = 60
"""Rows of one table; longer chains are thinned, their last steps kept."""

FEWEST_FACTORS = 5
"""Steps with a defined amplification factor from which a plot of it is worth its room."""


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
    """Write the page as one HTML file, whole or not at all.

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
    return template("theory.html.j2", lowered=_lowered).render(
        page=page,
        style=page_style() + Markup(_STYLE),
        chains=[_chain(view, i) for i, view in enumerate(page.chains)],
    )


def _chain(view: ChainView, index: int) -> dict[str, Any]:
    plots = [budget_plot(view, index)]
    if sum(row.get("mu") is not None for row in view.rows) >= FEWEST_FACTORS:
        plots.append(factor_plot(view, index))
    header, body = step_table(view.rows)
    drawn = [inline(plot) for plot in plots]
    return {"view": view, "plots": drawn, "header": header, "body": body}


def budget_plot(view: ChainView, index: int = 0) -> Plot:
    """Stacked areas per step, and beside them shares of what arrives, or the closure gap.

    Shares of estimates would be ratios of noise at most steps, so estimated budgets show how well
    they close instead.
    """
    rows = [row for row in view.rows if _complete(row)]
    steps = [float(row["t"]) for row in rows]
    inherited, fresh, forgotten, left = (
        [float(row[key]) for row in rows] for key in ("inherited", "e_mod", "e_con", "e_cumu")
    )
    arrives = [max(a, 0.0) + max(b, 0.0) for a, b in zip(inherited, fresh, strict=True)]

    def paint(surface: Surface) -> None:
        nats, beside = surface.panels(2)
        _paint_areas(nats, steps, inherited, fresh, forgotten, left)
        scale_linear(nats, [*arrives, *[-x for x in forgotten]], "nats per step")
        if all("gap_in_errors" in row for row in rows):
            _paint_gaps(beside, steps, [float(row["gap_in_errors"]) for row in rows])
        else:
            part = [_share(series, arrives) for series in (inherited, fresh, forgotten, left)]
            _paint_areas(beside, steps, *part)
            beside.set_title("as shares of inherited + fresh")
            beside.set_ylim(-1.15, 1.15)
        for axes in (nats, beside):
            TimeAxis(steps).apply(axes, surface.is_narrow)

    alt = _words(view.title, rows)
    return draw(f"budget-{index}", alt, paint, (984, 350), (340, 520))


def _paint_areas(
    axes: Axes,
    steps: Sequence[float],
    inherited: Sequence[float],
    fresh: Sequence[float],
    forgotten: Sequence[float],
    left: Sequence[float],
) -> None:
    """Inherited and fresh above zero, forgotten below, what is left as a line."""
    x = [-t for t in steps]
    base = [max(value, 0.0) for value in inherited]
    top = [a + max(b, 0.0) for a, b in zip(base, fresh, strict=True)]
    below = [-max(value, 0.0) for value in forgotten]
    options: dict[str, Any] = {"linewidth": 0, "alpha": 0.75, "step": "mid"}
    axes.fill_between(x, 0, base, color=color(0), **options)
    axes.fill_between(x, base, top, color=color(1), **options)
    axes.fill_between(x, below, 0, color=color(2), **options)
    axes.axhline(0, color=MUTED, linewidth=1.0, zorder=2)
    axes.plot(x, left, color=INK, linewidth=1.6, zorder=3)


def _paint_gaps(axes: Axes, steps: Sequence[float], gaps: Sequence[float]) -> None:
    """What the budget fails to close by, in standard errors, with the band of three."""
    axes.axhspan(-3, 3, color=MUTED, alpha=0.13, linewidth=0)
    axes.axhline(0, color=MUTED, linewidth=1.0)
    axes.plot([-t for t in steps], gaps, color=INK, marker="o", linestyle="none", markersize=4.5)
    reach = 1.15 * max(3.0, *map(abs, gaps))
    axes.set_ylim(-reach, reach)
    axes.set_title("what fails to close, in standard errors")


def factor_plot(view: ChainView, index: int = 0) -> Plot:
    r"""Amplification factor :math:`\mu_t` per step, with the paper's lower bound 1."""
    pairs = [(float(r["t"]), float(r["mu"])) for r in view.rows if r.get("mu") is not None]
    values = [value for _, value in pairs]
    decades = range(max(math.ceil(math.log10(max(-min(values), 1.0))), 0) + 1)

    def paint(surface: Surface) -> None:
        (axes,) = surface.panels(1)
        axes.set_yscale("symlog", linthresh=1.0, linscale=0.8)
        axes.axhline(1, color=MUTED, linewidth=1.2, linestyle=(0, (4, 3)))
        axes.plot([-t for t, _ in pairs], values, color=color(0), marker=".", linewidth=1.4)
        ticks = [*(-(10.0**k) for k in decades), 0.0, 1.0]
        stride = max(1, len(ticks) // 6)
        shown = sorted({0.0, 1.0, *ticks[:-2][::stride]})
        axes.set_yticks(shown, [f"{tick:g}".replace("-", "−") for tick in shown])
        axes.yaxis.minorticks_off()
        axes.set_ylim(min(-0.2, 1.6 * min(values)), 1.5)
        axes.set_title("μₜ (by the paper's claim never below the dashed line)")
        TimeAxis(t for t, _ in pairs).apply(axes, surface.is_narrow)

    alt = (
        f"Amplification factor of {view.title}: from {scientific(min(values))} "
        f"to {scientific(max(values))}; never above 1."
    )
    return draw(f"factor-{index}", alt, paint, (984, 260), (340, 250))


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


def _lowered(text: str) -> Markup:
    """Text whose indices after an underscore stand below the line.

    >>> _lowered("μ_t < σ_t²")
    Markup('μ<sub>t</sub> &lt; σ<sub>t</sub>²')
    """
    return Markup(re.sub(r"_([a-zA-Zα-ω]+|\d+)", r"<sub>\1</sub>", str(escape(text))))


def _complete(row: Row) -> bool:
    return all(row.get(key) is not None for key in ("inherited", "e_mod", "e_con", "e_cumu"))


def _share(values: Sequence[float], scale: Sequence[float]) -> list[float]:
    return [v / s if s > 0 else 0.0 for v, s in zip(values, scale, strict=True)]


def _words(title: str, rows: Sequence[Row]) -> str:
    """The plot in words, for people who do not see it."""
    if not rows:
        return f"Error budget of {title}: no step has all terms."
    first, last = rows[0], rows[-1]
    return (
        f"Error budget of {title}, per step. Cumulative error from "
        f"{scientific(first['inherited'])} nats before step {first['t']:g} to "
        f"{scientific(last['e_cumu'])} after step {last['t']:g}; the last step makes "
        f"{scientific(last['e_mod'])} and forgets {scientific(last['e_con'])}."
    )


_STYLE = """
.verdict-word { font-weight: 650; white-space: nowrap; }
.verdict-word.holds { color: var(--good); } .verdict-word.refuted { color: var(--bad); }
"""
