"""One page of a study, as HTML or Markdown, made from its ``study.json`` and its sample grids."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from undrift.exceptions import InvalidInput
from undrift.reporting import page
from undrift.reporting.canvas import NUM_COLORS
from undrift.reporting.content import SampleGrid, by_topic, number
from undrift.reporting.study_answers import answers
from undrift.reporting.study_chains import (
    best_samplers,
    chains,
    correlation_table,
    findings,
    networks,
    parts,
    prediction_table,
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
    sample_grids,
    where,
)
from undrift.reporting.study_figures import (
    change_plot,
    profile_plot,
    quality_plots,
    scatter_plot,
    slug,
    suffix,
    value_plot,
)
from undrift.reporting.tables import Table, settings_table
from undrift.storage.writing import PART

Picture = Callable[[str, str, bytes], str]
"""Takes a picture by name, words and content, and gives the text that shows it."""
LEGEND = "Small dots: seeds; bars: means and intervals. Filled: equal steps; hollow: equal compute."
HOW_BEST = (
    "The best sampler of a method at a number of network calls is, for each seed, the one with the "
    "lowest mean Fréchet distance over its other seeds, in the network that judges."
)
PICTURES = ("changes-", "values-", "samples-", "quality-")
IN_A_ROW = 4
"""Sample grids side by side."""


def write_study_report(study: Study, folder: Path, path: Path | None = None) -> Path:
    """Write the page of a study.

    Arguments:
        study: What ``study.json`` holds.
        folder: Folder of the study, where its sample grids are.
        path: The file to write; ``report.html`` in the folder of the study if None.

    Returns:
        The path of the file.
    """
    target = path or folder / "report.html"
    return page.write_page(target, render_study(study, folder))


def render_study(study: Study, folder: Path) -> str:
    """The page of a study as text.

    Raises:
        InvalidInput: If the study has no results yet.
    """
    check_results(study)
    return page.template("study.html.j2").render(
        title=f"Training methods side by side on {Path(str(study['data'].get('name'))).name}",
        subtitle=_subtitle(study),
        data=page.embedded(study),
        **page.script_and_style(),
        study=study,
        answers=answers(study),
        verdict=by_topic(findings(study)),
        **_html_parts(study, folder),
    )


def chip(index: int) -> str:
    """The classes of the mark that a method has in legends."""
    return f"c{index % NUM_COLORS}" + (" square" if index // NUM_COLORS % 2 else "")


def _html_parts(study: Study, folder: Path) -> dict[str, Any]:
    protocols = dict.fromkeys(protocol for protocol, _ in groups(study))
    views, on_chains = networks(study), chains(study)
    profiles = [p for p in study["profiles"] if p.get("states")]
    remedies = list(dict.fromkeys(p["remedy"] for p in profiles))
    names = [*methods(study), *_others(study)]
    settings = {"How it was evaluated": "judged_by", "The plan": "config", "The data": "data"}
    settings |= {"Versions": "versions"}
    return {
        "protocols": {p: PROTOCOLS[p] for p in protocols},
        "quality": {p: [plot for v in views for plot in _quality(v, p)] for p in protocols},
        "how_best": HOW_BEST,
        "parts": {
            p: [_html_part(part, p) for view in views for part in parts(view)] for p in protocols
        },
        "costs": cost_table(study),
        "remedy_kinds": {name: chip(k) for k, name in enumerate(remedies)},
        "profiles": page.inline(profile_plot(profiles, remedies)) if profiles else None,
        "profile_seed": profiles[0].get("seed") if profiles else None,
        "remedies": _remedies(views),
        "scatter": [drawn for view in views for drawn in _scatter(view, names)],
        "correlations": correlation_table(study),
        "predictions": prediction_table(study),
        "method_kinds": {name: chip(k) for k, name in enumerate(names)},
        "images": [
            (where(protocol, "", part), page.inline_images(grids))
            for part in on_chains
            for protocol, grids in sample_grids(part, folder).items()
        ],
        "settings": [
            settings_table(title, (), [study[key]]) for title, key in settings.items() if study[key]
        ],
    }


def _html_part(part: Study, protocol: str) -> dict[str, Any]:
    """Plots and tables of one protocol on one chain, or with the best samplers."""
    values = None if "is_one_of_many" in part else value_plot(part, protocol)
    return {
        "name": part.get("part"),
        "changes": page.inline(change_plot(part, protocol)),
        "values": page.inline(values),
        "results": [results_table(part, *group) for group in groups(part) if group[0] == protocol],
    }


def _quality(study: Study, protocol: str) -> list[tuple[str, Any]]:
    """Plots of quality against network calls, with titles."""
    return [
        (f"{where(*group, study)}, {name}", page.inline(plot))
        for group in groups(study)
        if group[0] == protocol
        for name, plot in quality_plots(study, *group).items()
    ]


def _scatter(view: Study, names: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """The plot of error against quality in a network, with its title."""
    points = _points(view)
    if len(points) > 2:
        yield view.get("part", ""), page.inline(scatter_plot(view, points, names))


def _remedies(views: Sequence[Study]) -> list[Table]:
    """Remedies on each chain, by network."""
    tables = (remedy_table(part) for view in views for part in chains(view))
    return [table for table in tables if table]


def _others(study: Study) -> list[str]:
    """What is evaluated besides the methods: the base that they continue."""
    return sorted({row["method"] for row in study["checkpoints"]} - set(methods(study)))


def _points(study: Study) -> list[Mapping[str, Any]]:
    """Evaluations with both numbers, a run of two budgets once."""
    every = [*study["checkpoints"], *study["rows"]]
    keys = ("run", "step", "sampler", "num_inference_steps")
    found = {tuple(row.get(key) for key in keys): row for row in every}
    return [
        row
        for row in found.values()
        if number(row, "mmd_sq") is not None and number(row, "frechet") is not None
    ]


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


# ------------------------------------------------------------------ Markdown


def write_study_markdown(study: Study, folder: Path, path: Path) -> Path:
    """Write a study as Markdown, with its pictures in a folder next to it.

    The pictures of ``page.md`` are in ``page_files``; they are written before the page.

    Arguments:
        study: What ``study.json`` holds.
        folder: Folder of the study, where its sample grids are.
        path: The file to write.

    Returns:
        The path of the file.

    Raises:
        InvalidInput: If the study has no results yet, or a folder of that name is not a page's.
    """
    pictures = path.with_name(f"{path.stem}_files")
    if pictures.exists() and not path.exists() and not _is_ours(pictures):
        raise InvalidInput(f"{pictures} is there already: choose another --output")
    files, text = study_markdown(study, folder, pictures.name)
    for name, content in files.items():
        page.write_page(pictures / name, content)
    return page.write_page(path, text)


def _is_ours(folder: Path) -> bool:
    """Whether a folder holds nothing but pictures of a page, as a stop may leave it."""
    names = [file.name for file in folder.iterdir()] if folder.is_dir() else [""]
    return all(name.startswith(PICTURES) or name.endswith(PART) for name in names)


def study_markdown(study: Study, folder: Path, pictures: str) -> tuple[dict[str, bytes], str]:
    """What a study found, its plots, tables and samples, and what it takes to make them again.

    Arguments:
        study: What ``study.json`` holds.
        folder: Folder of the study, where its sample grids are.
        pictures: Folder of the pictures, as the text has it.

    Returns:
        The pictures by the names of their files, and the text.

    Raises:
        InvalidInput: If the study has no results yet.
    """
    check_results(study)
    files: dict[str, bytes] = {}

    def picture(name: str, alt: str, content: bytes) -> str:
        files[name] = content
        return f"![{alt}]({quote(pictures)}/{name})"

    parts = [f"<!-- {page.MARK} -->", *_markdown_parts(study, folder, picture)]
    return files, "\n\n".join(parts) + "\n"


def markdown_table(table: Table) -> str:
    r"""A table as Markdown; its title is left to the text around it.

    Example:
        >>> print(markdown_table(Table("costs", ["method", "CPU ms"], [["plain", "42.0"]])))
        | method | CPU ms |
        |---|---:|
        | plain | 42.0 |
    """
    lines = [
        "| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |"
        for line in (table.columns, *table.rows)
    ]
    return "\n".join([lines[0], "|---" + "|---:" * (len(table.columns) - 1) + "|", *lines[1:]])


def _markdown_parts(study: Study, folder: Path, picture: Picture) -> Iterator[str]:
    for question, answer in answers(study):
        yield f"- *{question}* **{answer}**"
    yield "All findings:"
    for finding in findings(study):
        yield f"- **{finding.headline}** {finding.detail}".rstrip()
    views = networks(study)
    for view, group in [(v, group) for v in views for group in groups(v)]:
        for name, plot in quality_plots(view, *group).items():
            title = f"{where(*group, view)}, {name}"
            words = f"Quality against network calls, {title}"
            yield picture(f"quality-{slug(title)}.svg", words, page.standalone(plot).encode())
    every = [part for view in views for part in parts(view)]
    for part in every:
        yield from _plots(part, picture)
    yield f"{LEGEND} {HOW_BEST}" if best_samplers(views[0]) else LEGEND
    sections = [results_table(part, *group) for part in every for group in groups(part)]
    sections += _remedies(views)
    about_all = [correlation_table(study), prediction_table(study), cost_table(study)]
    for section in [*sections, *about_all]:
        if section is not None:
            yield f"**{section.title[:1].upper()}{section.title[1:]}**"
            yield markdown_table(section)
    yield "Mean ± standard deviation over seeds; changes of the same seed, with 95 % intervals."
    for part in chains(study):
        for protocol, grids in sample_grids(part, folder).items():
            yield f"**Samples, {where(protocol, '', part)}**"
            for first in range(0, len(grids), IN_A_ROW):
                yield _gallery(
                    f"{protocol}{suffix(part)}", grids[first : first + IN_A_ROW], picture
                )
    yield _origin(study)


def _plots(part: Study, picture: Picture) -> Iterator[str]:
    """Changes of each protocol, and values where the study has one chain."""
    for protocol in dict.fromkeys(protocol for protocol, _ in groups(part)):
        place = where(protocol, "", part)
        plots = {"changes": (f"Changes against plain, {place}", change_plot(part, protocol))}
        if "is_one_of_many" not in part:
            plots["values"] = (f"Values of each seed, {place}", value_plot(part, protocol))
        for name, (words, plot) in plots.items():
            if plot is not None:
                file = f"{name}-{protocol}{suffix(part)}.svg"
                yield picture(file, words, page.standalone(plot).encode())


def _gallery(protocol: str, grids: Sequence[SampleGrid], picture: Picture) -> str:
    """A row of sample grids, as a table."""
    names = [grid[0] for grid in grids]
    images = [
        picture(f"samples-{protocol}-{grid[0]}.png", f"samples of {grid[0]}", page.enlarged(grid))
        for grid in grids
    ]
    rows = [names, [":-:"] * len(names), images]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _origin(study: Study) -> str:
    """The command, versions and date."""
    versions = study.get("versions") or {}
    known = [f"{name} {versions[name]}" for name in ("undrift", "torch") if name in versions]
    if machine := versions.get("machine"):
        known.append(f"{machine}, {versions.get('threads', '?')} thread(s)")
    date = str(study.get("created") or "")[:10]
    return f"`{study.get('command') or 'undrift compare'}`: " + ", ".join(
        filter(None, [*known, date])
    )
