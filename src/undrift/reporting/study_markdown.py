"""A study as Markdown with its pictures, for a README, a paper's appendix or a results page."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from urllib.parse import quote

from undrift.exceptions import InvalidInput
from undrift.reporting.content import SampleGrid
from undrift.reporting.findings import Finding
from undrift.reporting.images import enlarged
from undrift.reporting.page import MARK, standalone, write_page
from undrift.reporting.study_content import (
    PROTOCOLS,
    Section,
    Study,
    check_results,
    cost_table,
    groups,
    remedy_table,
    results_table,
    sample_grids,
    verdicts,
)
from undrift.reporting.study_figures import change_plot, value_plot

Picture = Callable[[str, str, bytes], str]
"""Takes a picture by name, words and content, and gives the text that shows it."""
LEGEND = "Small dots: seeds; bars: means and intervals. Filled: equal steps; hollow: equal compute."
PICTURES = ("changes-", "values-", "samples-")
IN_A_ROW = 4
"""Sample grids side by side."""


def write_study_markdown(study: Study, folder: Path, path: Path) -> Path:
    """Write a study as Markdown, with its pictures in a folder beside it.

    The pictures of ``page.md`` are in ``page_files``; they are written before the page, whole or
    not at all each.

    Arguments:
        study: What ``study.json`` holds.
        folder: Folder of the study, where its sample grids are.
        path: The file to write.

    Returns:
        The path of the file.

    Raises:
        InvalidInput: If the study has no results yet, or a folder of that name is not a page's.
    """
    beside = path.with_name(f"{path.stem}_files")
    if beside.exists() and not path.exists() and not _is_ours(beside):
        raise InvalidInput(f"{beside} is there already: choose another --output")
    files, text = study_markdown(study, folder, beside.name)
    for name, content in files.items():
        write_page(beside / name, content)
    return write_page(path, text)


def _is_ours(folder: Path) -> bool:
    """Whether a folder holds nothing but pictures of a page, as a stop may leave it."""
    names = [file.name.lstrip(".") for file in folder.iterdir()] if folder.is_dir() else [""]
    return all(name.startswith(PICTURES) for name in names)


def study_markdown(study: Study, folder: Path, beside: str) -> tuple[dict[str, bytes], str]:
    """What a study found, its plots, tables and samples, and what it takes to make them again.

    Arguments:
        study: What ``study.json`` holds.
        folder: Folder of the study, where its sample grids are.
        beside: Folder of the pictures, as the text has it.

    Returns:
        The pictures by the names of their files, and the text.

    Raises:
        InvalidInput: If the study has no results yet.
    """
    check_results(study)
    files: dict[str, bytes] = {}

    def picture(name: str, alt: str, content: bytes) -> str:
        files[name] = content
        return f"![{alt}]({quote(beside)}/{name})"

    parts = [f"<!-- {MARK} -->", *_parts(study, folder, picture)]
    return files, "\n\n".join(parts) + "\n"


def markdown_table(section: Section, head: str = "method") -> str:
    r"""A section as a Markdown table.

    Arguments:
        section: Its title is left to the text around it.
        head: Heading of the first column.

    Example:
        >>> print(markdown_table(Section("costs", ["CPU ms"], [("plain", ["42.0"])])))
        | method | CPU ms |
        |---|---:|
        | plain | 42.0 |
    """
    lines = [[head, *section.columns], *([name, *cells] for name, cells in section.rows)]
    texts = ["| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines]
    rule = "|---" + "|---:" * len(section.columns) + "|"
    return "\n".join([texts[0], rule, *texts[1:]])


def _parts(study: Study, folder: Path, picture: Picture) -> Iterator[str]:
    for finding in verdicts(study):
        yield _bullet(finding)
    for protocol in dict.fromkeys(protocol for protocol, _ in groups(study)):
        where = PROTOCOLS.get(protocol, protocol)
        for name, words, plot in (
            ("changes", f"Changes against plain, {where}", change_plot(study, protocol)),
            ("values", f"Values of each seed, {where}", value_plot(study, protocol)),
        ):
            if plot is not None:
                yield picture(f"{name}-{protocol}.svg", words, standalone(plot).encode())
    yield LEGEND
    sections = [results_table(study, *group) for group in groups(study)]
    for section in [*sections, remedy_table(study), cost_table(study)]:
        if section is not None:
            yield f"**{section.title[:1].upper()}{section.title[1:]}**"
            yield markdown_table(section)
    yield "Mean ± standard deviation over seeds; changes of the same seed, with 95 % intervals."
    for protocol, grids in sample_grids(study, folder).items():
        yield f"**Samples, {PROTOCOLS.get(protocol, protocol)}**"
        for first in range(0, len(grids), IN_A_ROW):
            yield _gallery(protocol, grids[first : first + IN_A_ROW], picture)
    yield _origin(study)


def _gallery(protocol: str, grids: Sequence[SampleGrid], picture: Picture) -> str:
    """A row of sample grids, as a table."""
    names = [grid[0] for grid in grids]
    images = [
        picture(f"samples-{protocol}-{grid[0]}.png", f"samples of {grid[0]}", enlarged(grid))
        for grid in grids
    ]
    rows = [names, [":-:"] * len(names), images]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _bullet(finding: Finding) -> str:
    return f"- **{finding.headline}** {finding.detail}".rstrip()


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
