"""The heat map of a profile, band × time: the error, its amplification, what is fresh, and when.

Colors are those of the page: orange is too strong (or amplified), blue too weak (or reduced), the
stronger the color the larger the number. A hollow cell holds a number that is not distinguishable
from 0 (of an amplification: from 1); an empty one holds none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from matplotlib.patches import Rectangle

from undrift.reporting.bands import Band, bands, energy_error
from undrift.reporting.canvas import GRID, INK, MUTED, Canvas, Plot, color, draw, thin_ticks
from undrift.reporting.content import Profile
from undrift.reporting.evidence import Estimate
from undrift.reporting.numbers import bracket, percent_number, scaled

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STRONG, WEAK = 1, 0
"""Numbers of the page's colors."""
FAINTEST = 0.12
LABELED = 18
"""Most states for which the numbers are written into the cells of a wide map."""


class Cell(NamedTuple):
    """What one cell of a map shows: text, signed size, whether it is beyond its error bar."""

    text: str
    words: str
    size: float
    is_clear: bool


class Map(NamedTuple):
    """One panel: its title, the cell of a band at a state, and whether it needs a clear one."""

    title: str
    cell: Callable[[Band, int], Cell | None]
    needs_clear: bool = False


def _log_cell(key: str) -> Callable[[Band, int], Cell | None]:
    def cell(band: Band, index: int) -> Cell | None:
        found = band.at(index, key)
        if found is None:
            return None
        text = percent_number(math.expm1(found.value), signed=True)
        return Cell(text, energy_error(found), found.value, not found.low <= 0 <= found.high)

    return cell


def _factor_cell(band: Band, index: int) -> Cell | None:
    found: Estimate | None = dict(band.amplifications()).get(index)
    if found is None:
        return None
    size = math.log(max(abs(found.value), 0.05)) if found.value > 0 else -math.log(20)
    words = f"μ = {bracket(found.value, found.low, found.high)}"
    return Cell(scaled(found.value, 0), words, size, not found.low <= 1 <= found.high)


def _time_cell(band: Band, index: int) -> Cell | None:
    found, t = band.at(index, "effective_time"), band.times[index]
    if found is None:
        return None
    words = f"looks like t = {bracket(found.value, found.low, found.high)}"
    is_clear = not found.low <= t <= found.high
    return Cell(scaled(found.value - t, 0, 1), words, found.value - t, is_clear)


MAPS = (
    Map("error e of the energy, in percent", _log_cell("error")),
    Map("amplification μ of the segment that ends here", _factor_cell),
    Map("fresh error of the segment, in percent", _log_cell("fresh")),
    Map("effective time less t", _time_cell, needs_clear=True),
)


def band_map(profile: Profile, name: str = "bands") -> Plot | None:
    """Error, amplification and fresh error of every band at every state; None without bands.

    Arguments:
        profile: What was measured.
        name: Name of the plot, distinct on a page.
    """
    found = bands(profile)
    if not found or not any(band.final for band in found):
        return None
    shown = [panel for panel in MAPS if _is_shown(panel, found)]

    def draw_on(canvas: Canvas) -> None:
        for axes, panel in zip(canvas.panels(len(shown), columns=1), shown, strict=True):
            _draw(canvas, axes, found, panel)

    rows = 27 * len(found)
    sizes = (984, (rows + 78) * len(shown)), (340, (rows + 78) * len(shown))
    return draw(name, _describe(found), draw_on, *sizes)


def _is_shown(panel: Map, found: Sequence[Band]) -> bool:
    """Whether a panel has a cell, or a clear one where it needs that."""
    return any(cell.is_clear or not panel.needs_clear for *_, cell in _cells(found, panel))


def _cells(found: Sequence[Band], panel: Map) -> list[tuple[int, int, Cell]]:
    """The cells of a panel: row, column, what they show."""
    places = [(row, k) for row, band in enumerate(found) for k in range(len(band.times))]
    cells = [(row, k, panel.cell(found[row], k)) for row, k in places]
    return [(row, k, cell) for row, k, cell in cells if cell]


def _draw(canvas: Canvas, axes: Axes, found: Sequence[Band], panel: Map) -> None:
    cells, count = _cells(found, panel), len(found[0].times)
    is_narrow = canvas.is_narrow
    heads = [f"{found[row].name}, t = {found[row].times[k]:g}: " for row, k, _ in cells]
    texts = [f"{head}{cell.words}" for head, (*_, cell) in zip(heads, cells, strict=True)]
    canvas.mark(axes, [k for _, k, _ in cells], [row for row, *_ in cells], texts)
    largest = max((abs(cell.size) for *_, cell in cells if cell.is_clear), default=1.0) or 1.0
    for row, k, cell in cells:
        tint = color(STRONG if cell.size > 0 else WEAK)
        strength = FAINTEST + (0.85 - FAINTEST) * min(abs(cell.size) / largest, 1.0)
        look = {"facecolor": tint, "alpha": strength} if cell.is_clear else {"facecolor": "none"}
        box = Rectangle((k - 0.47, row - 0.45), 0.94, 0.9, edgecolor=GRID, linewidth=0.8, **look)
        axes.add_patch(box)
        if not is_narrow and count <= LABELED:
            ink = INK if cell.is_clear else MUTED
            axes.text(k, row, cell.text, ha="center", va="center", fontsize=11, color=ink)
    axes.set_title(panel.title)
    axes.set(xlim=(-0.6, count - 0.4), ylim=(-0.6, len(found) - 0.4))
    axes.grid(visible=False)
    axes.set_yticks(range(len(found)), [_short(band) for band in found])
    thin_ticks(axes, [f"{t:g}" for t in found[0].times], 6 if is_narrow else LABELED)
    axes.set_xlabel("noise  ←  t  →  data")


def _short(band: Band) -> str:
    return band.name.replace(" half waves", "").replace(" components", "")


def _describe(found: Sequence[Band]) -> str:
    ends = [
        f"{band.name} {percent_number(math.expm1(band.final.value), signed=True)} %"
        for band in found
        if band.final
    ]
    return f"Error of the energy of each frequency band at the end of the chain: {', '.join(ends)}."
