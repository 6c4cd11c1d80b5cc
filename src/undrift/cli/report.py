"""``undrift report``: profiles, logs, samples and evaluations as one HTML page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from undrift.api import inputs
from undrift.cli import files
from undrift.cli.command import session
from undrift.exceptions import InvalidInput

if TYPE_CHECKING:
    from undrift.measurement.profile import ErrorProfile

MARK = "undrift.report"
STUDY = "study.json"
MARKDOWN = ".md"
DATA_IMAGES = 64


@dataclass
class Config:
    """Write one self-contained HTML page about one or several models; the first is the baseline.

    A study can also become Markdown, by an output that ends in .md; its pictures go beside it.

    Arguments:
        sources: Profiles (JSON files of undrift measure), and runs: a run gives its profiles,
            its training log, its last sample grid and its evaluations; or one study (a study.json
            of undrift compare), which has a page of its own.
        output: File to write; an older report in its place is replaced, nothing else is.
        title: Heading of the page.
    """

    sources: list[str] = field(default_factory=list)
    output: str = "report.html"
    title: str = "How the error gathers along the chain"


POSITIONALS = ("sources",)


@dataclass
class Material:
    """What the sources hold."""

    profiles: list[ErrorProfile] = field(default_factory=list)
    logs: list[tuple[str, list[dict[str, Any]]]] = field(default_factory=list)
    grids: list[tuple[str, Any, str]] = field(default_factory=list)
    quality: list[tuple[str, str, float | None, float | None]] = field(default_factory=list)


def run(config: Config) -> dict[str, Any]:
    """Gather the records and write the page."""
    if not config.sources:
        raise InvalidInput("nothing to report on: give profiles or runs")
    output = Path(config.output)
    _check_output(output)
    studies = [file for source in config.sources if (file := _study_file(Path(source)))]
    if studies:
        return _study(config, studies[0], output)
    if output.suffix == MARKDOWN:
        raise InvalidInput(f"{output} would be Markdown, as a study can have: choose a .html file")
    found = Material()
    for source in config.sources:
        if Path(source).is_dir():
            add_run(Path(source), found)
        else:
            from undrift.measurement.profile import ErrorProfile

            found.profiles.append(ErrorProfile.load(source))
    from undrift.reporting.console import console_table
    from undrift.reporting.content import ReportInput
    from undrift.reporting.html import write_report

    profiles = [profile.to_dict() for profile in found.profiles]
    report = ReportInput(
        title=config.title,
        profiles=profiles,
        sample_grids=found.grids,
        training_logs=found.logs,
        quality=found.quality,
        command=session().command,
    )
    path = write_report(report, output)
    if not session().json:
        from rich.console import Console

        Console().print(console_table(profiles))
    print(f"report  {path}")
    return {"report": str(path), "profiles": [profile["label"] for profile in profiles]}


def _study_file(source: Path) -> Path | None:
    """The record of a study, where the source is one or its folder."""
    if source.is_dir():
        return source / STUDY if (source / STUDY).is_file() else None
    return source if source.name == STUDY else None


def _study(config: Config, file: Path, output: Path) -> dict[str, Any]:
    """Render the page of a study again, from its record and the grids beside it, or its tables."""
    from undrift.reporting.study import write_study_report
    from undrift.reporting.study_markdown import write_study_markdown
    from undrift.study.record import StudyRecord

    if len(config.sources) > 1:
        raise InvalidInput("a study has a page of its own: give its study.json alone")
    study = StudyRecord.load(file).to_dict()
    if output.suffix == MARKDOWN:
        path = write_study_markdown(study, file.parent, output)
    else:
        page = output / "report.html" if output.is_dir() else output
        path = write_study_report(study, file.parent, page)
    print(f"report  {path}")
    return {"report": str(path), "rows": len(study["rows"])}


def add_run(folder: Path, found: Material) -> None:
    """Add what a run holds.

    Raises:
        InvalidInput: If it holds no profile, or one that cannot be read.
    """
    from undrift.measurement.profile import ErrorProfile

    files = [
        *sorted((folder / "profiles").glob("*.json")),
        *(path for path in [folder / "profile.json"] if path.is_file()),
    ]
    if not files:
        raise InvalidInput(f"{folder} holds no profile yet: run undrift measure {folder} first")
    found.profiles += without_parts([ErrorProfile.load(file) for file in files])
    name = inputs.name_of(folder)
    _add_log(folder, name, found)
    _add_grids(folder, name, found)
    for file in sorted((folder / "evaluations").glob("*.json")):
        found.quality += _quality(file)


def without_parts(profiles: Sequence[ErrorProfile]) -> list[ErrorProfile]:
    """Profiles, oldest first, without those that another of them was merged from."""
    parts = [part for profile in profiles for part in profile.how.get("merged") or []]
    kept = [profile for profile in profiles if dict(profile.how) not in parts]
    return sorted(kept, key=lambda profile: profile.created)


def _add_log(folder: Path, name: str, found: Material) -> None:
    file = folder / "log.jsonl"
    if not file.is_file():
        return
    try:
        rows = [json.loads(line) for line in file.read_text("utf-8").splitlines() if line]
    except ValueError:
        raise InvalidInput(f"{file} is damaged: a line is no JSON") from None
    if rows:
        found.logs.append((name, rows))


def _add_grids(folder: Path, name: str, found: Material) -> None:
    """The last sample grid of a run; before the first of all, the data, where they are at hand."""
    if not found.grids and (grid := _data_grid(folder)) is not None:
        found.grids.append(grid)
    grids = sorted((folder / "samples").glob("*.png"))
    if grids:
        steps = grids[-1].stem.removeprefix("step-").lstrip("0")
        found.grids.append((name, grids[-1].read_bytes(), f"samples after {steps} steps"))


def _data_grid(folder: Path) -> tuple[str, Any, str] | None:
    from undrift.data.grids import image_grid
    from undrift.data.load import load_data

    try:
        data = inputs.trained_on(folder)
        if data is None:
            return None
        images = load_data(
            data.data,
            split=data.split,
            image_size=data.image_size,
            channels=data.channels,
            skip_bad_images=data.skip_bad_images,
            limit=DATA_IMAGES,
        ).images
        return "data", image_grid(images), f"{data.data}, {data.split}"
    except (InvalidInput, OSError):  # moved or gone since: the report goes without
        return None


def _quality(file: Path) -> list[tuple[str, str, float | None, float | None]]:
    from undrift.cli.evaluate import KIND, SCHEMA_VERSION, quality_rows

    try:
        record = json.loads(file.read_text("utf-8"))
        if record["kind"] != KIND or record["schema_version"] > SCHEMA_VERSION:
            raise ValueError
        return quality_rows(record)
    except (ValueError, KeyError, TypeError):
        raise InvalidInput(f"{file} is no evaluation that this undrift reads") from None


def _check_output(path: Path) -> None:
    """Stop before anything but an older report would be replaced."""
    if path.is_dir():
        path = path / "report.html"
    if not path.exists():
        files.check_free(path)
        return
    if not path.is_file() or MARK not in path.read_text("utf-8", errors="replace"):
        raise InvalidInput(f"{path} is there already and is no report: choose another --output")
