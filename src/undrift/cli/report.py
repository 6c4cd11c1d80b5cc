"""``undrift report``: profiles, logs, samples and evaluations as one HTML page."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from undrift.cli.command import session
from undrift.cli.console import say, show
from undrift.reporting.content import TITLE


@dataclass
class Config:
    """Write one self-contained HTML page about one or several models; the first is the baseline.

    A study can also become Markdown, by an output that ends in .md, with its pictures next to it.

    Arguments:
        sources: Profiles (JSON files of undrift measure), and runs: a run gives its profiles,
            its training log, its last sample grid and its evaluations; or a study (a study.json
            of undrift compare), which has a separate page; several studies become one Markdown
            page with their quality against network calls.
        output: File to write; an older report in its place is replaced, nothing else is.
        title: Heading of the page.
    """

    sources: list[str] = field(default_factory=list)
    output: str = "report.html"
    title: str = TITLE


POSITIONALS = ("sources",)


def run(config: Config) -> dict[str, Any]:
    """Collect the records and write the page."""
    from undrift.api.report import check_output, collect, write
    from undrift.reporting.tables import console_table
    from undrift.study.record import StudyRecord

    output = Path(config.output)
    check_output(output)
    found = collect(config.sources)
    path = write(found, output, config.title, session().command)
    if isinstance(found, list):
        say(f"report  {path}")
        rows = sum(len(StudyRecord.load(file).rows) for file in found)
        return {"report": str(path), "rows": rows}
    show(console_table(found["profiles"]))
    say(f"report  {path}")
    return {"report": str(path), "profiles": [profile.label for profile in found["profiles"]]}
