r"""Plots of what happens along the chain: cumulative error, budget, amplification, exposure.

All share one horizontal axis, from noise on the left to data on the right, and one color a model.
Bands and whiskers are normal 95 % intervals. A value that is undefined is a gap, never a zero.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from undrift.reporting import evidence
from undrift.reporting.canvas import (
    GRID,
    INK,
    MUTED,
    PANEL,
    Plot,
    Surface,
    TimeAxis,
    color,
    describe,
    draw,
    known,
    scale_factor,
    scale_linear,
    scale_symlog,
    series,
    thin_ticks,
)
from undrift.reporting.content import Profile, State, label, labels, number, states
from undrift.reporting.numbers import Z_95, interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_NAN = math.nan
LOGARITHMIC_FROM = 30.0
"""Ratio of the largest error to the noise from which a second, logarithmic panel is worth it."""


def has(profiles: Sequence[Profile], *keys: str) -> bool:
    """Return whether any state of any profile holds one of these numbers."""
    every = (state for profile in profiles for state in states(profile))
    return any(number(state, key) is not None for state in every for key in keys)


def _describe_all(profiles: Sequence[Profile], key: str) -> str:
    named = zip(profiles, labels(profiles), strict=True)
    return " ".join(describe(name, series(p, key)) for p, name in named)


def _line(
    axes: Axes,
    axis: TimeAxis,
    pairs: Sequence[tuple[float, float | None]],
    i: int,
    shift: float = 0.0,
) -> None:
    """Draw one model's values with a mark at every state and gaps where there is none."""
    x = [axis.place(t) + shift for t, _ in pairs]
    y = [_NAN if v is None else v for _, v in pairs]
    axes.plot(
        x,
        y,
        color=color(i),
        marker="o" if len(pairs) <= 60 else None,
        markeredgecolor=PANEL,
        markeredgewidth=1.0,
        zorder=3 + 0.01 * i,
    )


# ------------------------------------------------------------------ cumulative error


def cumulative_plot(profiles: Sequence[Profile]) -> Plot:
    """Return the cumulative error against t, with bands, and the null's spread behind it."""
    axis = TimeAxis.of(profiles)
    bands = [_band(profile) for profile in profiles]
    ends = [v for band in bands for _, low, mid, high in band for v in (low, mid, high)]
    ends = [v for v in ends if not math.isnan(v)] or [0.0]
    noise = _noise(profiles)
    low, high = min(ends), max(ends)
    is_logarithmic = noise is not None and high > LOGARITHMIC_FROM * noise

    def paint(surface: Surface) -> None:
        panels = surface.panels(2 if is_logarithmic else 1)
        for axes in panels:
            _paint_null(axes, axis, profiles)
            axes.axhline(0, color=MUTED, linewidth=1.0, zorder=1)
            for i, (profile, band) in enumerate(zip(profiles, bands, strict=True)):
                x = [axis.place(t) for t, *_ in band]
                lows, highs = [b[1] for b in band], [b[3] for b in band]
                axes.fill_between(x, lows, highs, color=color(i), alpha=0.2, linewidth=0)
                _line(axes, axis, series(profile, "error.mmd_sq"), i)
            axis.apply(axes, surface.is_narrow)
        scale_linear(panels[0], ends, "D²ₜ, linear")
        if is_logarithmic and noise is not None:
            panels[1].set_title("D²ₜ, logarithmic above the noise")
            scale_symlog(panels[1], 10.0 ** round(math.log10(noise)), min(low, -noise), high)

    alt = "Cumulative error D squared against t. " + _describe_all(profiles, "error.mmd_sq")
    narrow = (340, 500) if is_logarithmic else (340, 270)
    return draw("cumulative", alt, paint, (984, 350), narrow)


def plot_on(profile: Profile, ax: Axes | None = None) -> Axes:
    """Draw the cumulative error along the chain, with its band, on axes of the user's."""
    if ax is None:
        from matplotlib import pyplot

        ax = pyplot.subplots()[1]
    times, lows, values, highs = zip(*_band(profile), strict=True)
    (line,) = ax.plot(times, values, marker="o", label=label(profile))
    ax.fill_between(times, lows, highs, color=line.get_color(), alpha=0.2, linewidth=0)
    ax.set(xlabel="t, from noise to data", ylabel="$D_t^2$")
    ax.xaxis.set_inverted(True)
    return ax


def _band(profile: Profile) -> list[tuple[float, float, float, float]]:
    """Return (t, low, value, high) for every state; NaN where there is no error bar."""
    rows = []
    for state in states(profile):
        found = evidence.cumulative(state)
        value = number(state, "error.mmd_sq")
        middle = _NAN if value is None else value
        ends = (_NAN, _NAN) if found is None else (found.low, found.high)
        rows.append((float(state["t"]), ends[0], middle, ends[1]))
    return rows


def _noise(profiles: Sequence[Profile]) -> float | None:
    """Return the typical spread of an estimate whose truth is zero: 1.96 null deviations."""
    spreads = [v for p in profiles for v in known(series(p, "error.null_sd")) if v > 0]
    return Z_95 * sorted(spreads)[len(spreads) // 2] if spreads else None


def _paint_null(axes: Axes, axis: TimeAxis, profiles: Sequence[Profile]) -> None:
    """Draw where 95 % of the estimates would lie if the model made no error (the widest)."""
    widest: dict[float, float] = {}
    for profile in profiles:
        for t, spread in series(profile, "error.null_sd"):
            if spread is not None:
                widest[t] = max(widest.get(t, 0.0), Z_95 * spread)
    times = sorted(widest, reverse=True)
    x, y = [axis.place(t) for t in times], [widest[t] for t in times]
    axes.fill_between(x, [-v for v in y], y, color=MUTED, alpha=0.17, linewidth=0, zorder=0.5)


# ------------------------------------------------------------------ fresh and inherited


def budget_plot(profiles: Sequence[Profile]) -> Plot:
    """Return fresh and inherited error of every segment, stacked: the bound on D."""
    shown = [
        (i, p, name)
        for i, (p, name) in enumerate(zip(profiles, labels(profiles), strict=True))
        if has([p], "budget.fresh", "budget.inherited")
    ]
    values = [
        sum(number(s, key) or 0.0 for key in ("budget.fresh", "budget.inherited"))
        for _, p, _ in shown
        for s in states(p)
    ]

    def paint(surface: Surface) -> None:
        for axes, (i, profile, name) in zip(
            surface.panels(len(shown), sharey=True), shown, strict=True
        ):
            _paint_budget(axes, profile, i, surface.is_narrow)
            scale_linear(axes, values, name if len(name) <= 28 else name[:27] + "…")
            axes.set_title(axes.get_title("left"), color=color(i), fontweight="bold")
            axes.tick_params(labelleft=True)

    rows = -(-len(shown) // 2)
    alt = "Fresh and inherited error of every segment. Fresh: " + _describe_all(
        profiles, "budget.fresh"
    )
    alt += " Inherited: " + _describe_all(profiles, "budget.inherited")
    return draw("budget", alt, paint, (984, 330 * rows), (340, 270 * len(shown)))


def _paint_budget(axes: Axes, profile: Profile, i: int, is_narrow: bool) -> None:
    """Draw one model's segments as stacked bars, with the error really there as a tick."""
    arrivals = states(profile)[1:]
    places = list(range(len(arrivals)))
    fresh = [number(s, "budget.fresh") or 0.0 for s in arrivals]
    inherited = [number(s, "budget.inherited") or 0.0 for s in arrivals]
    width = 0.74
    edge: Any = {"edgecolor": PANEL, "linewidth": 1.0 if len(arrivals) <= 30 else 0.0}
    axes.bar(places, fresh, width, color=color(i), zorder=2, **edge)
    axes.bar(places, inherited, width, fresh, color=color(i), alpha=0.32, zorder=2, **edge)
    for place, state, f, g in zip(places, arrivals, fresh, inherited, strict=True):
        if (d := number(state, "error.mmd_sq")) is not None and f + g > 0:
            height = math.sqrt(max(d, 0.0))
            axes.plot([place - 0.42, place + 0.42], [height] * 2, color=INK, linewidth=1.8)
        if len(arrivals) <= (16 if is_narrow else 40) and (
            span := _root_interval(state, "budget.fresh")
        ):
            axes.plot([place] * 2, span, color=INK, linewidth=1.0, alpha=0.65, zorder=4)
    axes.axhline(0, color=MUTED, linewidth=1.0)
    axes.set_xlim(-0.7, len(arrivals) - 0.3)
    thin_ticks(axes, [f"{s['t']:g}" for s in arrivals], 6 if is_narrow else 10)
    axes.set_xlabel("segment that arrives at t")


def _root_interval(state: State, key: str) -> tuple[float, float] | None:
    """Return the 95 % interval of a root, from that of its square."""
    square, se = number(state, f"{key}_sq"), number(state, f"{key}_sq_se")
    if square is None or se is None:
        return None
    low, high = interval(square, se)
    return math.sqrt(max(low, 0.0)), math.sqrt(max(high, 0.0))


# ------------------------------------------------------------------ amplification


def amplification_plot(profiles: Sequence[Profile]) -> Plot:
    """Return the amplification of every segment and the gain of everything downstream."""
    axis = TimeAxis.of(profiles)
    keys = [k for k in ("budget.amplification", "downstream_gain") if has(profiles, k)]
    titles = {
        "budget.amplification": "λₜ, of one segment",
        "downstream_gain": "Gₜ, of all that follow",
    }

    def paint(surface: Surface) -> None:
        for axes, key in zip(surface.panels(len(keys)), keys, strict=True):
            axes.axhline(1, color=MUTED, linewidth=1.2, linestyle=(0, (4, 3)), zorder=1)
            for i, profile in enumerate(profiles):
                shift = (i - (len(profiles) - 1) / 2) * axis.nudge if key == keys[0] else 0.0
                if key == "budget.amplification":
                    _paint_factor_bars(axes, axis, profile, i, shift)
                _line(axes, axis, series(profile, key), i, shift)
            _paint_undefined(axes, axis, profiles, key)
            axes.set_title(titles[key])
            scale_factor(axes, [v for p in profiles for v in known(series(p, key))])
            axis.apply(axes, surface.is_narrow)

    alt = "Amplification of every segment. " + _describe_all(profiles, "budget.amplification")
    alt += " Downstream gain. " + _describe_all(profiles, "downstream_gain")
    return draw("amplification", alt, paint, (984, 330), (340, 250 * len(keys)))


def _paint_factor_bars(axes: Axes, axis: TimeAxis, profile: Profile, i: int, shift: float) -> None:
    """Draw the 95 % interval of every factor that has one."""
    chain = states(profile)
    for previous, state in zip(chain[:-1], chain[1:], strict=True):
        factor = evidence.amplification(previous, state)
        if factor is not None and math.isfinite(factor.se):
            x = axis.place(float(state["t"])) + shift
            ends = [max(factor.low, 0.0), factor.high]
            axes.plot([x, x], ends, color=color(i), linewidth=1.4, alpha=0.75)


def _paint_undefined(axes: Axes, axis: TimeAxis, profiles: Sequence[Profile], key: str) -> None:
    """Shade the leading part of the chain where no model has a defined factor."""
    defined = [t for p in profiles for t, v in series(p, key) if v is not None]
    if not defined:
        return
    first, last = axis.place(axis.grid[0]), axis.place(max(defined))
    if last <= first:
        return
    axes.axvspan(first, last, color=GRID, alpha=0.45, linewidth=0, zorder=0)
    if last - first > 0.2 * (axis.place(axis.grid[-1]) - first):
        axes.annotate(
            "undefined",
            ((first + last) / 2, 0.5),
            xycoords=("data", "axes fraction"),
            ha="center",
            va="center",
            color=MUTED,
            fontsize=11,
        )


# ------------------------------------------------------------------ exposure


def exposure_plot(profiles: Sequence[Profile]) -> Plot:
    """Return Ning et al.'s variance error and the gap of the predicted noise's norm."""
    axis = TimeAxis.of(profiles)
    keys = [k for k in ("exposure.delta", "exposure.eps_norm_gap") if has(profiles, k)]
    titles = {
        "exposure.delta": "δₜ, variance error",
        "exposure.eps_norm_gap": "ε-norm gap, sampled − forward",
    }

    def paint(surface: Surface) -> None:
        for axes, key in zip(surface.panels(len(keys)), keys, strict=True):
            axes.axhline(0, color=MUTED, linewidth=1.0, zorder=1)
            for i, profile in enumerate(profiles):
                _line(axes, axis, series(profile, key), i)
            scale_linear(
                axes, [v for p in profiles for v in known(series(p, key))] or [0.0], titles[key]
            )
            axis.apply(axes, surface.is_narrow)

    alt = "Variance error. " + _describe_all(profiles, "exposure.delta")
    alt += " Gap of the norm of the predicted noise. " + _describe_all(
        profiles, "exposure.eps_norm_gap"
    )
    return draw("exposure", alt, paint, (984, 310), (340, 245 * len(keys)))
