"""The tables of a study as Markdown, for a README, a paper's appendix or a results page."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from undrift.report.findings import Finding
from undrift.report.page import write_page
from undrift.report.study_content import (
    Section,
    Study,
    cost_table,
    groups,
    remedy_table,
    results_table,
    verdicts,
)

MARK = "<!-- undrift.report -->"
"""The first line, by which an older file may be replaced."""


def write_study_markdown(study: Study, path: Path) -> Path:
    """Write the tables of a study, whole or not at all.

    Arguments:
        study: What ``study.json`` holds.
        path: The file to write.

    Returns:
        The path of the file.
    """
    return write_page(path, study_markdown(study))


def study_markdown(study: Study) -> str:
    """What a study found and its tables, with what it takes to make them again.

    Arguments:
        study: What ``study.json`` holds.
    """
    return "\n\n".join([MARK, *_parts(study)]) + "\n"


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


def _parts(study: Study) -> Iterator[str]:
    for finding in verdicts(study):
        yield _bullet(finding)
    sections = [results_table(study, *group) for group in groups(study)]
    for section in [*sections, remedy_table(study), cost_table(study)]:
        if section is not None:
            yield f"**{section.title[:1].upper()}{section.title[1:]}**"
            yield markdown_table(section)
    yield "Mean ± standard deviation over seeds; changes of the same seed, with 95 % intervals."
    yield _origin(study)


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
