"""One self-contained HTML page: nothing is fetched, everything is inside.

The page carries its style, its plots (SVG), its images (data URIs) and all numbers as JSON, so it
can be mailed, archived and analyzed again. A content security policy forbids any request.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from undrift.reporting import chain_figures, training_figures
from undrift.reporting.canvas import column
from undrift.reporting.chain_figures import has
from undrift.reporting.content import ReportInput, by_topic, labels, states
from undrift.reporting.findings import findings
from undrift.reporting.images import inline_images
from undrift.reporting.nats import is_memorizing
from undrift.reporting.numbers import MISSING, power_of_ten
from undrift.reporting.page import (
    MARK,
    embedded,
    inline,
    script_and_style,
    template,
    tied,
    write_page,
)
from undrift.reporting.tables import (
    flatten,
    headline_table,
    quality_table,
    settings_table,
    state_table,
)

PLOTS = {
    "cumulative": chain_figures.cumulative_plot,
    "budget": chain_figures.budget_plot,
    "amplification": chain_figures.amplification_plot,
    "modular": chain_figures.modular_plot,
    "bracket": chain_figures.bracket_plot,
    "exposure": chain_figures.exposure_plot,
}
"""Plots along the chain; each is None where its numbers were not measured."""
MOST_LOG_ROWS = 2000
"""Rows of one training log that the page carries as data; longer logs are thinned."""


def write_report(report: ReportInput, path: str | os.PathLike[str]) -> Path:
    """Write a report as one HTML file, whole or not at all.

    Arguments:
        report: What to show.
        path: The file to write; an existing folder gets a ``report.html``.

    Returns:
        The path of the file.

    Raises:
        InvalidInput: If an image cannot be read.
    """
    target = Path(path)
    if target.is_dir():
        target = target / "report.html"
    return write_page(target, render_html(report))


def render_html(report: ReportInput) -> str:
    """Return a report as the text of one self-contained HTML page."""
    return template("report.html.j2", tied=tied).render(
        report=report,
        missing=MISSING,
        data=embedded_json(report),
        **script_and_style(),
        subtitle=_subtitle(report),
        **_numbers(report),
        **_plots(report),
    )


def _subtitle(report: ReportInput) -> str:
    """Return in one line what was measured, and when."""
    parts = []
    if count := len(report.profiles):
        parts.append(f"{count} model{'s' if count > 1 else ''} measured")
        first = report.profiles[0]
        if first.get("num_samples"):
            parts.append(f"{first['num_samples']:,} samples each")
        if first.get("num_forward"):
            parts.append(f"{first['num_forward']:,} true images")
        if created := first.get("created") or (first.get("how") or {}).get("created"):
            parts.append(str(created)[:16].replace("T", " "))
    return " · ".join(parts)


def _numbers(report: ReportInput) -> dict[str, Any]:
    """Return everything on the page that is text and tables."""
    profiles = report.profiles
    names = labels(profiles)
    table = headline_table(profiles) if profiles else None
    settings = settings_table(profiles)
    return {
        "names": names,
        "topics": by_topic(findings(profiles)),
        "table": table,
        "unit": power_of_ten(table.exponent) if table and table.exponent else "",
        "quality": quality_table(report.quality) if report.quality else None,
        "state_tables": [(n, *state_table(p)) for n, p in zip(names, profiles, strict=True)],
        "commands": [(t, re.findall(r"\S+|\s+", command)) for t, command in _commands(report)],
        "settings": settings,
        "settings_differ": any(len(values) > 1 for _, values in settings),
        "config": flatten(report.config),
        "versions": flatten(report.versions),
        "images": inline_images(report.sample_grids),
    }


def _commands(report: ReportInput) -> list[tuple[str, str]]:
    """Return the commands that make the report and its measurements again."""
    commands = [("This report", report.command)] if report.command else []
    for profile, name in zip(report.profiles, labels(report.profiles), strict=True):
        command = (profile.get("how") or {}).get("command")
        if command and command not in [c for _, c in commands]:
            commands.append((f"The measurement of “{name}”", str(command)))
    return commands


def _plots(report: ReportInput) -> dict[str, Any]:
    """Return the plots that there are data for, and None for the others."""
    profiles = report.profiles
    names = labels(profiles)
    colors = {name: i for i, name in enumerate(names)}
    for name, _ in report.training_logs:
        colors.setdefault(name, len(colors))
    is_chain = any(len(p["states"]) > 1 for p in profiles)
    logs = report.training_logs
    plots = {name: inline(make(profiles)) if is_chain else None for name, make in PLOTS.items()}
    return plots | {
        "colors": colors,
        "memorizes": any(is_memorizing(state) for p in profiles for state in states(p)),
        "no_nats": [
            (name, reason)
            for name, p in zip(names, profiles, strict=True)
            if (reason := ((p.get("how") or {}).get("modular") or {}).get("reason"))
        ],
        "kernel_moves": any(
            np.unique(width[np.isfinite(width)]).size > 1
            for width in (column(p, "error.bandwidth") for p in profiles)
        ),
        "has_delta": has(profiles, "exposure.delta"),
        "has_eps_gap": has(profiles, "exposure.eps_norm_gap"),
        "training": inline(training_figures.training_plot(logs, colors)),
        "training_names": [name for name, _ in logs],
        "training_summary": [
            text for name, rows in logs if (text := training_figures.summary(name, rows))
        ],
    }


def embedded_json(report: ReportInput) -> Markup:
    r"""Return the report's data as JSON that cannot end the ``<script>`` it sits in.

    ``<``, ``>`` and ``&`` are escaped; NaN and infinities become null.

    >>> "\\u003cb\\u003e" in embedded_json(ReportInput("<b>", quality=[("a", "FD", 1.0, None)]))
    True
    """
    data = {
        "kind": MARK,
        "schema_version": 1,
        "title": report.title,
        "profiles": report.profiles,
        "training_logs": [
            {"label": name, "every": (k := _stride(rows)), "rows": list(rows[::k])}
            for name, rows in report.training_logs
        ],
        "quality": [
            {"label": name, "metric": metric, "value": value, "se": se}
            for name, metric, value, se in report.quality
        ],
        "command": report.command,
        "config": report.config,
        "versions": report.versions,
        "notes": report.notes,
    }
    return embedded(data)


def _stride(rows: Sequence[Any]) -> int:
    return max(1, -(-len(rows) // MOST_LOG_ROWS))
