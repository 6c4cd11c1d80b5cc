"""A drawing surface: matplotlib figures as inline SVG that takes its colors from the page.

Every plot is drawn twice, for a wide and for a narrow screen, so that its letters keep their size.
Colors are placeholders that become CSS variables: one drawing serves light and dark pages. Nothing
here touches pyplot, and the same data give the same bytes.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from undrift.reporting.content import Profile, number, states
from undrift.reporting.numbers import power_of_ten, scaled, shared_exponent

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Placeholders; the page defines what they look like (colors.css).
INK, MUTED, GRID, PANEL = "#0000e0", "#0000e1", "#0000e2", "#0000e3"
NUM_COLORS = 6
_STEPS = [1, 2, 2.5, 5, 10]
_VARIABLES = {"e0": "--ink", "e1": "--muted", "e2": "--grid", "e3": "--panel"}

_STYLE = mpl.rc_params_from_file(
    Path(__file__).with_name("plots.mplstyle"), use_default_template=False
)


def color(index: int) -> str:
    """Return the placeholder for the color of one model, the same in every plot."""
    return f"#0000c{index % NUM_COLORS}"


@dataclass(frozen=True)
class Surface:
    """A figure to draw on, and whether it is the narrow one."""

    figure: Figure
    is_narrow: bool

    def panels(self, count: int, columns: int = 2, **options: Any) -> list[Axes]:
        """Return that many axes: in a row of columns on wide pages, stacked on narrow ones."""
        columns = 1 if self.is_narrow else min(columns, count)
        rows = -(-count // columns)
        grid = self.figure.subplots(rows, columns, squeeze=False, **options)
        axes = list(grid.flat)
        for spare in axes[count:]:
            spare.remove()
        return axes[:count]


@dataclass(frozen=True)
class Plot:
    """A drawn plot: its SVG for wide and for narrow pages."""

    wide: str
    narrow: str


def draw(
    name: str,
    alt: str,
    paint: Callable[[Surface], None],
    wide: tuple[int, int] = (984, 340),
    narrow: tuple[int, int] = (340, 270),
) -> Plot:
    """Return a plot, painted once for each page width (sizes in CSS pixels)."""
    drawn = []
    for is_narrow, (width, height) in ((False, wide), (True, narrow)):
        with mpl.rc_context({**_STYLE, "svg.hashsalt": f"{name}-{is_narrow}"}):
            figure = Figure(figsize=(width / 72, height / 72), layout="constrained")
            figure.set_layout_engine(
                "constrained", w_pad=0.06, h_pad=0.06, wspace=0.05, hspace=0.07
            )
            figure.patch.set_alpha(0.0)
            paint(Surface(figure, is_narrow))
            drawn.append(_svg(figure, f"{name}-{'narrow' if is_narrow else 'wide'}", alt))
    return Plot(*drawn)


def _svg(figure: Figure, name: str, alt: str) -> str:
    """Return the figure as an ``<svg>`` element without prologue, metadata or foreign names."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"\s*<(metadata|style)\b.*?</\1>", "", text, flags=re.DOTALL)
    text = _compact(re.sub(r'\sxmlns(:xlink)?="[^"]*"', "", text))
    text = text.replace("xlink:href=", "href=")
    box = re.search(r'viewBox="([^"]*)"', text)
    head = f'<svg viewBox="{box.group(1) if box else ""}" role="img" aria-label="{escape(alt)}">'
    text = re.sub(r"<svg[^>]*>", lambda _: head, text, count=1)
    text = _own_names(text, name)
    return re.sub(r"#0000(e\d|c\d)\b", _variable, text)


def _compact(text: str) -> str:
    """Shorten the markup: two decimals are a hundredth of a pixel; the page chooses the font."""
    text = re.sub(r"<[^>]*>", lambda tag: re.sub(r"\d+\.\d{4,}", _rounded, tag[0]), text)
    text = re.sub(r" font-family: [^;]*;", "", text)
    text = re.sub(r' transform="rotate\(-0 [^"]*"', "", text)
    return re.sub(r"\s*\n\s*(?=[LMCQz\"<])", "", text)


def _rounded(match: re.Match[str]) -> str:
    return f"{float(match[0]):.2f}".rstrip("0").rstrip(".")


def _own_names(text: str, name: str) -> str:
    """Prefix every id, and all references to it, so that plots on one page never share one."""
    text = re.sub(r'\bid="([^"]*)"', rf'id="{name}-\1"', text)
    text = re.sub(r'href="#([^"]*)"', rf'href="#{name}-\1"', text)
    return re.sub(r"url\(#([^)]*)\)", rf"url(#{name}-\1)", text)


def _variable(match: re.Match[str]) -> str:
    code = match.group(1)
    return f"var({_VARIABLES[code]})" if code in _VARIABLES else f"var(--model-{code[1]})"


class TimeAxis:
    r"""The horizontal axis of a chain: noise :math:`t = T` on the left, data on the right.

    Linear in t where the states are spread evenly enough to be told apart, else one place each.
    """

    def __init__(self, times: Iterable[float]) -> None:
        """Find the grid of all times."""
        self.grid = sorted(set(times), reverse=True)
        gaps = [a - b for a, b in zip(self.grid[:-1], self.grid[1:], strict=True)]
        even = (self.grid[0] - self.grid[-1]) / max(len(gaps), 1)
        self.is_linear = not gaps or min(gaps) >= 0.2 * even

    def place(self, t: float) -> float:
        """Return where a state stands, in axis units that grow to the right."""
        return -t if self.is_linear else float(self.grid.index(t))

    @classmethod
    def of(cls, profiles: Sequence[Profile]) -> TimeAxis:
        """The axis of all states of all models."""
        return cls(float(s["t"]) for p in profiles for s in states(p))

    @property
    def nudge(self) -> float:
        """A shift along the axis, small enough to keep marks apart without moving them."""
        return 0.008 * (self.place(self.grid[-1]) - self.place(self.grid[0]))

    def apply(self, axes: Axes, is_narrow: bool) -> None:
        """Set limits, ticks and the caption of the axis."""
        low, high = self.place(self.grid[0]), self.place(self.grid[-1])
        margin = 0.02 * (high - low) or 1.0
        axes.set_xlim(low - margin, high + margin)
        if self.is_linear:
            axes.xaxis.set_major_locator(
                MaxNLocator(5 if is_narrow else 6, integer=True, steps=[1, 2, 5, 10])
            )
            axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{-x + 0.0:g}"))
        else:
            thin_ticks(axes, [f"{t:g}" for t in self.grid], 6 if is_narrow else 10)
        name = "step t" if self.is_linear else "t (states evenly spaced)"
        axes.set_xlabel(f"noise  ←  {name}  →  data")


def thin_ticks(axes: Axes, names: Sequence[str], most: int) -> None:
    """Label the places 0, 1, 2, … with about so many names, the first and last one included."""
    last = len(names) - 1
    stride = max(1, -(-len(names) // most))
    places = list(range(last, -1, -stride))[::-1]
    places = [0, *(place for place in places if place > stride / 2)]
    axes.set_xticks(places, [names[place] for place in places])


def scale_linear(axes: Axes, values: Sequence[float], title: str) -> None:
    """Give a linear axis a title with the power of ten that its numbers are in."""
    exponent = shared_exponent(values)
    exponent = 0 if -2 <= exponent <= 3 else exponent
    axes.set_title(f"{title}  (×{power_of_ten(exponent)})" if exponent else title)
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=_STEPS))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: _plain(y / 10.0**exponent)))


def _plain(value: float) -> str:
    return f"{round(value, 6) + 0.0:g}".replace("-", "−")


def scale_symlog(axes: Axes, threshold: float, low: float, high: float) -> None:
    """Give an axis that is linear below the threshold and logarithmic above it."""
    axes.set_yscale("symlog", linthresh=threshold, linscale=0.6)
    first = shared_exponent([threshold])
    decades = [10.0**k for k in range(first, shared_exponent([high]) + 1)]
    below = [-d for d in decades if -d >= low]
    ticks = sorted([*below, 0.0, *decades])
    axes.set_yticks(ticks, [_decade(tick) for tick in ticks])
    axes.yaxis.minorticks_off()
    axes.set_ylim(min(low, -0.3 * threshold) * 1.1, high * 1.25)


def _decade(value: float) -> str:
    if value == 0:
        return "0"
    text = power_of_ten(shared_exponent([value]))
    return f"−{text}" if value < 0 else text


def scale_factor(axes: Axes, values: Sequence[float]) -> None:
    """Give an axis of factors: linear up to 4, beyond that logarithmic above one."""
    top = max([*values, 1.0])
    if top <= 4:
        axes.set_ylim(min([*values, 0.0]), max(1.25, 1.12 * top))
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=_STEPS))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: _plain(y)))
        return
    axes.set_yscale("symlog", linthresh=1.0, linscale=0.8)
    decades = range(shared_exponent([top]) + 1)
    ticks = [0.0, 0.5, *(10.0**k for k in decades)]
    axes.set_yticks(ticks, [_plain(t) if t < 1e4 else _decade(t) for t in ticks])
    axes.yaxis.minorticks_off()
    axes.set_ylim(0, top * 1.3)


def series(profile: Profile, key: str) -> list[tuple[float, float | None]]:
    """Return (t, value) along the chain, with None where a state has no such number."""
    return [(float(state["t"]), number(state, key)) for state in states(profile)]


def known(pairs: Sequence[tuple[float, float | None]]) -> list[float]:
    """Return the values that are there."""
    return [value for _, value in pairs if value is not None]


def describe(name: str, pairs: Sequence[tuple[float, float | None]]) -> str:
    """Return a series in words, for people who do not see the plot."""
    present = [(t, v) for t, v in pairs if v is not None]
    if not present:
        return f"{name}: no values."
    (t_0, first), (t_1, last) = present[0], present[-1]
    exponent = shared_exponent([first, last])
    ends = [scaled(v, exponent) + f" times {10.0**exponent:g}" for v in (first, last)]
    return f"{name}: from {ends[0]} at t = {t_0:g} to {ends[1]} at t = {t_1:g}."
