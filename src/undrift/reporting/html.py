"""One self-contained HTML page: nothing is fetched, everything is inside.

The page carries its style, its plots (SVG), its images (data URIs) and all numbers as JSON, so it
can be mailed, archived and analyzed again. A content security policy forbids any request.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from undrift.reporting import chain_figures, nats_figures, page, tables, training_figures
from undrift.reporting.band_figures import band_map
from undrift.reporting.canvas import NUM_COLORS, column
from undrift.reporting.chain_figures import has
from undrift.reporting.content import ReportInput, Step, by_topic, labels, states
from undrift.reporting.features import feature_names, feature_table
from undrift.reporting.findings import findings, unit_of
from undrift.reporting.nats import is_memorizing
from undrift.reporting.next_steps import next_steps
from undrift.reporting.overview_figure import factors_of, overview_plot
from undrift.reporting.summary import summary

PLOTS = {
    "cumulative": chain_figures.cumulative_plot,
    "amplification": chain_figures.amplification_plot,
    "modular": nats_figures.modular_plot,
    "bracket": nats_figures.bracket_plot,
    "features": chain_figures.features_plot,
    "exposure": chain_figures.exposure_plot,
    "time": chain_figures.effective_time_plot,
    "growth": chain_figures.growth_plot,
}
"""Plots along the chain; each is None where its numbers were not measured."""
MAPPED = 4
"""Most models whose bands are drawn; all of them are in the tables."""
MOST_LOG_ROWS = 2000
"""Rows of one training log that the page carries as data; longer logs are thinned."""


def write_report(report: ReportInput, path: str | os.PathLike[str]) -> Path:
    """Write a report as one HTML file.

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
    return page.write_page(target, render_html(report))


def render_html(report: ReportInput) -> str:
    """Return a report as the text of one self-contained HTML page."""
    return page.template("report.html.j2").render(
        report=report,
        data=embedded_json(report),
        subtitle=_subtitle(report),
        **page.script_and_style(),
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
    profiles, names = report.profiles, labels(report.profiles)
    hows = [tables.measured_how(profile) for profile in profiles]
    more = (("Configuration", report.config), ("Versions", report.versions))
    return {
        "names": names,
        "sentences": summary(profiles),
        "steps": _steps(report),
        "verdict": by_topic(findings(profiles)),
        "final": tables.headline_table(profiles) if profiles else None,
        "feature_tables": [feature_table(profiles, name) for name in feature_names(profiles)],
        "quality": tables.quality_table(report.quality) if report.quality else None,
        "state_tables": [
            tables.state_table(p, name) for p, name in zip(profiles, names, strict=True)
        ],
        "commands": _commands(report),
        "settings": tables.settings_table("How it was measured", names, hows) if profiles else None,
        "more_settings": [tables.settings_table(title, (), [tree]) for title, tree in more if tree],
        "images": page.inline_images(report.sample_grids),
    }


def _steps(report: ReportInput) -> list[tuple[str, Step]]:
    """Return what to do next: the name of the model where there are several, reason, command.

    The first step of each model comes before the second one of any.
    """
    profiles, names = report.profiles, labels(report.profiles)
    found = [
        (rank, i, step)
        for i, profile in enumerate(profiles)
        for rank, step in enumerate(next_steps(profile))
    ]
    ordered = sorted(found, key=lambda triple: triple[:2])
    return [(names[i] if len(names) > 1 else "", step) for _, i, step in ordered]


def _commands(report: ReportInput) -> list[tuple[str, str]]:
    """Return the commands that make the report and its measurements again."""
    commands = [("This report", report.command)] if report.command else []
    for profile, name in zip(report.profiles, labels(report.profiles), strict=True):
        command = (profile.get("how") or {}).get("command")
        if command and command not in [c for _, c in commands]:
            commands.append((f"The measurement of “{name}”", str(command)))
    return commands


def _plots(report: ReportInput) -> dict[str, Any]:
    """Return the plots that there are data for, None for the others, and what their texts need."""
    profiles, logs, names = report.profiles, report.training_logs, labels(report.profiles)
    colors = {name: i for i, name in enumerate(dict.fromkeys([*names, *dict(logs)]))}
    kinds = {name: f"c{i % NUM_COLORS}" for name, i in colors.items()}
    is_chain = any(len(p["states"]) > 1 for p in profiles)
    plots: dict[str, Any] = {
        name: page.inline(make(profiles)) if is_chain else None for name, make in PLOTS.items()
    }
    unit = unit_of(profiles) if is_chain else 0
    plots["overview"] = page.inline(overview_plot(profiles, unit)) if is_chain else None
    plots["budget"] = page.inline(chain_figures.budget_plot(profiles, unit)) if is_chain else None
    maps = [
        (name, band_map(p, f"bands-{k}"))
        for k, (p, name) in enumerate(zip(profiles, names, strict=True))
    ]
    plots["maps"] = [(name, page.inline(drawn)) for name, drawn in maps[:MAPPED] if drawn]
    reasons = [((p.get("how") or {}).get("modular") or {}).get("reason") for p in profiles]
    widths = [column(profile, "error.bandwidth") for profile in profiles]
    return plots | {
        "kinds": kinds,
        "has_factors": is_chain and any(factors_of(p).is_defined for p in profiles),
        "kinds_of_models": {name: kinds[name] for name in names},
        "kinds_of_logs": {name: kinds[name] for name, _ in logs},
        "memorizes": any(is_memorizing(state) for p in profiles for state in states(p)),
        "no_nats": [pair for pair in zip(names, reasons, strict=True) if pair[1]],
        "kernel_moves": any(np.unique(w[np.isfinite(w)]).size > 1 for w in widths),
        "has_delta": has(profiles, "exposure.delta"),
        "has_eps_gap": has(profiles, "exposure.eps_norm_gap"),
        "training": page.inline(training_figures.training_plot(logs, colors)),
        "training_summary": list(filter(None, (training_figures.summary(*log) for log in logs))),
    }


def embedded_json(report: ReportInput) -> Markup:
    r"""Return the report's data as JSON that cannot end the ``<script>`` it sits in.

    ``<``, ``>`` and ``&`` are escaped; NaN and infinities become null.

    >>> "\\u003cb\\u003e" in embedded_json(ReportInput("<b>", quality=[("a", "FD", 1.0, None)]))
    True
    """
    data = {
        "kind": page.MARK,
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
    return page.embedded(data)


def _stride(rows: Sequence[Any]) -> int:
    return max(1, -(-len(rows) // MOST_LOG_ROWS))
