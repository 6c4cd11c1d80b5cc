"""One page of a study, made from its ``study.json`` alone and the sample grids beside it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from undrift.reporting.canvas import NUM_COLORS
from undrift.reporting.content import by_topic, number
from undrift.reporting.images import inline_images
from undrift.reporting.numbers import MISSING
from undrift.reporting.page import (
    MARK,
    embedded,
    inline,
    script_and_style,
    template,
    tied,
    write_page,
)
from undrift.reporting.study_content import (
    PROTOCOLS,
    Study,
    check_results,
    cost_table,
    groups,
    methods,
    remedy_table,
    results_table,
    rho_text,
    sample_grids,
    verdicts,
    where,
)
from undrift.reporting.study_figures import change_plot, profile_plot, scatter_plot, value_plot
from undrift.reporting.tables import flatten


def write_study_report(study: Study, folder: Path, path: Path | None = None) -> Path:
    """Write the page of a study, whole or not at all.

    Arguments:
        study: What ``study.json`` holds.
        folder: Folder of the study, where its sample grids are.
        path: The file to write; ``report.html`` in the folder of the study if None.

    Returns:
        The path of the file.
    """
    target = path or folder / "report.html"
    return write_page(target, render_study(study, folder))


def render_study(study: Study, folder: Path) -> str:
    """The page of a study as text.

    Raises:
        InvalidInput: If the study has no results yet.
    """
    check_results(study)
    page = template("study.html.j2", tied=tied, words=lambda text: re.findall(r"\S+|\s+", text))
    return page.render(
        title=_title(study),
        subtitle=_subtitle(study),
        data=embedded(study),
        **script_and_style(),
        study=study,
        topics=by_topic(verdicts(study)),
        chip=chip,
        where=where,
        missing=MISSING,
        mark=MARK,
        **_parts(study, folder),
    )


def chip(index: int) -> str:
    """The classes of the mark that a method has in legends."""
    return f"c{index % NUM_COLORS}" + (" square" if index // NUM_COLORS % 2 else "")


def _parts(study: Study, folder: Path) -> dict[str, Any]:
    protocols = list(dict.fromkeys(row["protocol"] for row in study["rows"]))
    profiles = [p for p in study["profiles"] if p.get("states")]
    remedies = list(dict.fromkeys(p["remedy"] for p in profiles))
    points = _points(study)
    names = list(dict.fromkeys(p["method"] for p in points))
    order = methods(study)
    names.sort(key=lambda name: order.index(name) if name in order else len(order))
    found = study["correlation"]
    return {
        "protocols": [(p, PROTOCOLS.get(p, p)) for p in protocols],
        "budgets": {
            protocol: [b for p, b in groups(study) if p == protocol] for protocol in protocols
        },
        "changes": {p: inline(change_plot(study, p)) for p in protocols},
        "values": {p: inline(value_plot(study, p)) for p in protocols},
        "results": {(p, b): results_table(study, p, b) for p, b in groups(study)},
        "costs": cost_table(study),
        "remedy_names": remedies,
        "profiles": inline(profile_plot(profiles, remedies)) if profiles else None,
        "profile_seed": profiles[0].get("seed") if profiles else None,
        "remedies": remedy_table(study),
        "scatter": inline(scatter_plot(study, points, names)) if len(points) > 2 else None,
        "scatter_names": names,
        "correlations": _correlation_rows(found.get("mmd_sq") or {}),
        "images": {p: inline_images(found) for p, found in sample_grids(study, folder).items()},
        "config": flatten(study["config"]),
        "judged": flatten(study["judged_by"]),
        "versions": flatten(study["versions"]),
        "about_data": flatten(study["data"]),
    }


def _points(study: Study) -> list[Mapping[str, Any]]:
    """Judgments with both numbers, a run that counts for two budgets once."""
    every = [*study["checkpoints"], *study["rows"]]
    found = {(r["run"], r.get("step")): r for r in every}
    return [
        row
        for row in found.values()
        if number(row, "mmd_sq") is not None and number(row, "frechet") is not None
    ]


def _correlation_rows(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    words = {
        "overall": "overall",
        "within_seed": "within seeds",
        "within_method": "within methods",
    }
    return [(text, rho_text(found[key])) for key, text in words.items() if found.get(key)]


def _title(study: Study) -> str:
    name = study["data"].get("name", "data")
    return f"Training methods side by side on {Path(str(name)).name}"


def _subtitle(study: Study) -> str:
    rows = study["rows"]
    seeds = sorted({row["seed"] for row in rows})
    parts = [
        f"{len(methods(study))} methods",
        f"{len(seeds)} seed{'s' if len(seeds) > 1 else ''}",
        f"{len({row['run'] for row in rows})} runs",
    ]
    if samples := study["config"].get("num_samples"):
        parts.append(f"{samples:,} samples each")
    if created := study.get("created"):
        parts.append(str(created)[:16].replace("T", " "))
    return " · ".join(parts)
