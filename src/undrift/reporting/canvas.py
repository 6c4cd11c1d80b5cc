"""Matplotlib figures as inline SVG that takes its colors from the page.

Every plot is drawn twice, for a wide and for a narrow screen, so that its letters keep their size.
Colors are placeholders that become CSS variables: one drawing serves light and dark pages. Nothing
here touches pyplot, and the same data give the same bytes.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from undrift.reporting.content import Profile, number, states
from undrift.reporting.numbers import power_of_ten, scaled, shared_exponent, unit

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import XAxis, YAxis
    from numpy.typing import ArrayLike, NDArray

# Placeholders; the page defines what they look like (colors.css).
INK, MUTED, GRID, PANEL = "#0000e0", "#0000e1", "#0000e2", "#0000e3"
NUM_COLORS = 6
_VARIABLES = {"e0": "--ink", "e1": "--muted", "e2": "--grid", "e3": "--panel"}

_STYLE = mpl.rc_params_from_file(
    Path(__file__).with_name("plots.mplstyle"), use_default_template=False
)


def color(index: int) -> str:
    """Return the placeholder for the color of one model, the same in every plot."""
    return f"#0000c{index % NUM_COLORS}"


class Mark(NamedTuple):
    """A point of a drawing, and what it means."""

    axes: Axes
    place: tuple[float, float]
    text: str
    series: int


@dataclass(frozen=True)
class Canvas:
    """A figure to draw on, and whether it is the narrow one."""

    figure: Figure
    is_narrow: bool
    marks: list[Mark] = field(default_factory=list)

    def panels(self, count: int, columns: int = 2, **options: Any) -> list[Axes]:
        """Return that many axes: in a row of columns on wide pages, stacked on narrow ones."""
        columns = 1 if self.is_narrow else min(columns, count)
        axes = self.figure.subplots(-(-count // columns), columns, squeeze=False, **options).ravel()
        for spare in axes[count:]:
            spare.remove()
        return list(axes[:count])

    def mark(
        self, axes: Axes, x: ArrayLike, y: ArrayLike, texts: Sequence[str], series: int = -1
    ) -> None:
        """Say what the points of a drawing mean: the script of a page shows it under the pointer.

        Arguments:
            axes: Where they are drawn.
            x: Their places; a point that is not finite has none.
            y: Likewise.
            texts: What is said at each.
            series: Number of the model that they belong to, which a reader can hide.
        """
        places = np.stack([np.asarray(x, dtype=float), np.asarray(y, dtype=float)], axis=1)
        for place, text in zip(places, texts, strict=True):
            if np.isfinite(place).all():
                self.marks.append(Mark(axes, (float(place[0]), float(place[1])), text, series))

    def points(self) -> str:
        """All marks as JSON, in the units of the drawing: x, y, series, text."""
        height = 72 * self.figure.get_figheight()
        found = []
        for axes, place, text, series in self.marks:
            x, y = axes.transData.transform(place) * 72 / self.figure.dpi
            found.append([round(float(x), 1), round(float(height - y), 1), series, text])
        return json.dumps(found, ensure_ascii=False, separators=(",", ":"))


@dataclass(frozen=True)
class Plot:
    """A drawn plot: its SVG for wide and for narrow pages."""

    wide: str
    narrow: str


def draw(
    name: str,
    alt: str,
    draw_on: Callable[[Canvas], None],
    wide: tuple[int, int] = (984, 340),
    narrow: tuple[int, int] = (340, 270),
) -> Plot:
    """Return a plot, drawn once for each page width (sizes in CSS pixels)."""
    drawn = []
    for is_narrow, (width, height) in ((False, wide), (True, narrow)):
        with mpl.rc_context({**_STYLE, "svg.hashsalt": f"{name}-{is_narrow}"}):
            figure = Figure(figsize=(width / 72, height / 72), layout="constrained")
            figure.set_layout_engine(
                "constrained", w_pad=0.06, h_pad=0.06, wspace=0.05, hspace=0.07
            )
            figure.patch.set_alpha(0.0)
            canvas = Canvas(figure, is_narrow)
            draw_on(canvas)
            drawn.append(_svg(canvas, f"{name}-{'narrow' if is_narrow else 'wide'}", alt))
    return Plot(*drawn)


def _svg(canvas: Canvas, name: str, alt: str) -> str:
    """Return the figure as an ``<svg>`` element without prologue, metadata or foreign names."""
    buffer = io.StringIO()
    canvas.figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"\s*<(metadata|style)\b.*?</\1>", "", text, flags=re.DOTALL)
    text = _compact(re.sub(r'\sxmlns(:xlink)?="[^"]*"', "", text))
    text = text.replace("xlink:href=", "href=")
    box = re.search(r'viewBox="([^"]*)"', text)
    points = f' data-points="{escape(canvas.points())}"' if canvas.marks else ""
    head = f'<svg viewBox="{box.group(1) if box else ""}" role="img" aria-label="{escape(alt)}"'
    head += f"{points}>"
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

    Linear in t where the states are spread evenly enough to be distinguished, else one place each.
    """

    def __init__(self, times: ArrayLike) -> None:
        """Find the grid of all times."""
        self.grid = np.unique(np.asarray(times, dtype=float))[::-1]
        gaps = -np.diff(self.grid)
        self.is_linear = bool(len(gaps) == 0 or gaps.min() >= 0.2 * gaps.mean())

    def place(self, t: ArrayLike) -> NDArray[np.float64]:
        """Return where states stand, in axis units that grow to the right."""
        places = -self.grid if self.is_linear else np.arange(len(self.grid))
        return np.asarray(np.interp(-np.asarray(t, dtype=float), -self.grid, places))

    @classmethod
    def of(cls, profiles: Sequence[Profile]) -> TimeAxis:
        """The axis of all states of all models."""
        return cls(np.concatenate([column(p, "t") for p in profiles]))

    @property
    def ends(self) -> tuple[float, float]:
        """The places of the first and the last state."""
        first, last = self.place(self.grid[[0, -1]])
        return float(first), float(last)

    def apply(self, axes: Axes, is_narrow: bool) -> None:
        """Set limits, ticks and the caption of the axis."""
        low, high = self.ends
        margin = 0.02 * (high - low) or 1.0
        axes.set_xlim(low - margin, high + margin)
        if self.is_linear:
            places = MaxNLocator(5 if is_narrow else 6, integer=True, steps=[1, 2, 5, 10])
            axes.xaxis.set_major_locator(places)
            axes.xaxis.set_major_formatter(lambda x, _: f"{-x + 0.0:g}")
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


def linear_scale(
    axis: XAxis | YAxis, values: ArrayLike, title: str, exponent: int | None = None
) -> None:
    """Give a linear axis ticks, and its panel a title with the power of ten of its numbers."""
    if exponent is None:
        exponent = shared_exponent(np.ravel(values))
        exponent = 0 if -2 <= exponent <= 3 else exponent
    axis.axes.set_title(f"{title}  ({unit(exponent)})" if exponent else title)
    axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    axis.set_major_formatter(lambda y, _: _plain(y / 10.0**exponent))


def log_scale(axis: XAxis | YAxis, threshold: float = 0.0, subs: Sequence[float] = (1.0,)) -> None:
    """Make an axis logarithmic, linear below the threshold, with ticks at multiples of decades."""
    set_scale = getattr(axis.axes, f"set_{axis.axis_name}scale")
    if threshold:
        set_scale("symlog", linthresh=threshold, linscale=0.7)
    else:
        set_scale("log")
        axis.set_major_locator(LogLocator(subs=subs, numticks=8))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(lambda y, _: tick_text(y))


def factor_scale(axis: XAxis | YAxis, values: ArrayLike) -> None:
    """Give an axis of factors: linear up to 4, beyond that logarithmic above one."""
    top, low = float(np.nanmax(values, initial=1.0)), float(np.nanmin(values, initial=0.0))
    if top <= 4:
        linear_scale(axis, [1.0], axis.axes.get_title("left"))
        axis.axes.set_ylim(low, max(1.25, 1.12 * top))
    else:
        log_scale(axis, threshold=1.0)
        axis.axes.set_ylim(low, 1.3 * top)


def tick_text(value: float) -> str:
    """A number for a tick, with a power of ten where it is very small or very large.

    >>> tick_text(0.0005), tick_text(-20.0), tick_text(1e5), tick_text(0.0)
    ('5×10⁻⁴', '−20', '10⁵', '0')
    """
    exponent = shared_exponent([value])
    if -2 <= exponent <= 3:
        return _plain(value)
    return re.sub(r"\b1×", "", f"{_plain(value / 10.0**exponent)}×{power_of_ten(exponent)}")


def _plain(value: float) -> str:
    return f"{round(value, 6) + 0.0:g}".replace("-", "−")


def column(profile: Profile, key: str) -> NDArray[np.float64]:
    """One number of every state along the chain, NaN where a state has no such number."""
    return np.array([number(state, key) for state in states(profile)], dtype=float)


def describe(name: str, profile: Profile, key: str) -> str:
    """Return one number along the chain as a sentence: the alternative text of its line."""
    values, times = column(profile, key), column(profile, "t")
    known = np.isfinite(values)
    if not known.any():
        return f"{name}: no values."
    ends = [(v, t) for v, t in zip(values[known], times[known], strict=True)]
    exponent = shared_exponent([v for v, _ in (ends[0], ends[-1])])
    texts = [
        f"{scaled(v, exponent)} times {10.0**exponent:g} at t = {t:g}"
        for v, t in (ends[0], ends[-1])
    ]
    return f"{name}: from {texts[0]} to {texts[1]}."
