"""``undrift.report``: profiles, logs, samples and evaluations as one HTML page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from undrift.api.files import check_free, held
from undrift.api.inputs import name_of
from undrift.exceptions import InvalidInput, reason_of
from undrift.measurement.profile import ErrorProfile
from undrift.measurement.reading import load_json
from undrift.reporting.content import TITLE, QualityRow, ReportInput
from undrift.reporting.evaluation import quality_rows
from undrift.reporting.html import write_report
from undrift.reporting.page import is_page
from undrift.reporting.studies import write_studies
from undrift.reporting.study import write_study_markdown, write_study_report
from undrift.study.record import FILE as STUDY
from undrift.study.record import StudyRecord
from undrift.training.records import DATA_GRID, read_log

MARKDOWN = ".md"
PAGE = "report.html"

Source = ErrorProfile | str | Path
Records = dict[str, Any]
"""What the sources hold, by the names of the fields of a :class:`ReportInput`."""


def report(
    sources: Source | Iterable[Source],
    output: str | Path = "report.html",
    *,
    title: str = TITLE,
    command: str = "",
) -> Path:
    """Write one self-contained HTML page about one or several models; the first is the baseline.

    Arguments:
        sources: Profiles, as objects or files; folders of runs, which give their profiles, log,
            last sample grid and evaluations; or studies (files whose names end with
            ``study.json``), which have pages of their own: one study in full, several by their
            quality against network calls.
        output: The file to write; an older report in its place is replaced, nothing else is. A
            study becomes Markdown where this ends in ``.md``, and several studies only so.
        title: Heading of the page.
        command: The command line, for the page.

    Returns:
        The path of the file.

    Raises:
        InvalidInput: If a source cannot be read, or the output is there and no report.
    """
    check_output(Path(output))
    return write(collect(sources), Path(output), title, command)


def collect(sources: Source | Iterable[Source]) -> Records | list[Path]:
    """The records of profiles and runs; of studies, their files.

    Raises:
        InvalidInput: If there are none, or one cannot be read.
    """
    given = [sources] if isinstance(sources, Source) else list(sources)
    if not given:
        raise InvalidInput("nothing to report on: give profiles or runs")
    files = [None if isinstance(one, ErrorProfile) else _study_file(Path(one)) for one in given]
    if studies := [file for file in files if file]:
        if len(studies) < len(given):
            raise InvalidInput("a study has a separate page: give studies without profiles or runs")
        return studies
    found: Records = {"profiles": [], "training_logs": [], "sample_grids": [], "quality": []}
    for source in given:
        if isinstance(source, ErrorProfile):
            found["profiles"].append(source)
        elif Path(source).is_dir():
            _add_run(Path(source), found)
        else:
            found["profiles"].append(ErrorProfile.load(source))
    return found


def write(found: Records | list[Path], output: Path, title: str = TITLE, command: str = "") -> Path:
    """Write the page of the records, and return its path.

    Raises:
        InvalidInput: If only a study can be written that way, or something else is there.
    """
    with held(_page(output).absolute()):
        check_output(output)
        try:
            return _write(found, output, title, command)
        except InvalidInput:
            raise
        except (LookupError, TypeError, AttributeError, ArithmeticError, ValueError) as error:
            raise InvalidInput(
                f"no page can be made of these records ({type(error).__name__}: "
                f"{reason_of(error)}): is one of them damaged?"
            ) from error


def _write(found: Records | list[Path], output: Path, title: str, command: str) -> Path:
    is_markdown = output.suffix == MARKDOWN
    if isinstance(found, list):
        studies = [StudyRecord.load(file).to_dict() for file in found]
        if len(studies) == 1 and is_markdown:
            return write_study_markdown(studies[0], found[0].parent, output)
        if len(studies) == 1:
            return write_study_report(studies[0], found[0].parent, _page(output))
        if is_markdown:
            return write_studies(studies, output)
        raise InvalidInput(f"{output}: several studies become Markdown: give a .md file")
    if is_markdown:
        raise InvalidInput(f"{output}: Markdown is available for studies only: give a .html file")
    return write_report(ReportInput(title, command=command, **found), output)


def _page(output: Path) -> Path:
    return output / PAGE if output.is_dir() else output


def check_output(path: Path, name: str = PAGE) -> None:
    """Stop before anything but an older report would be replaced.

    Arguments:
        path: Where the page will be.
        name: Its name in a folder.

    Raises:
        InvalidInput: If so.
    """
    path = path / name if path.is_dir() else path
    if not path.exists():
        check_free(path)
    elif not is_page(path):
        raise InvalidInput(f"{path} is there already and is no report: choose another --output")


def _study_file(source: Path) -> Path | None:
    """The record of a study, where the source is one or its folder."""
    if source.is_dir():
        return source / STUDY if (source / STUDY).is_file() else None
    return source if source.name.endswith(STUDY) else None


def _add_run(folder: Path, found: Records) -> None:
    """Add the records of a run.

    Raises:
        InvalidInput: If it holds no profile, or one that cannot be read.
    """
    files = [*sorted((folder / "profiles").glob("*.json")), *folder.glob("profile.json")]
    if not files:
        raise InvalidInput(f"{folder} holds no profile yet: run undrift measure {folder} first")
    found["profiles"] += without_parts([ErrorProfile.load(file) for file in files])
    name = name_of(folder)
    if rows := read_log(folder):
        found["training_logs"].append((name, rows))
    _add_grids(folder, name, found)
    for file in sorted((folder / "evaluations").glob("*.json")):
        found["quality"] += _quality(file)


def without_parts(profiles: Sequence[ErrorProfile]) -> list[ErrorProfile]:
    """Profiles, oldest first, without those that another of them was merged from."""
    parts = [part for profile in profiles for part in profile.how.get("merged") or []]
    kept = [profile for profile in profiles if dict(profile.how) not in parts]
    return sorted(kept, key=lambda profile: profile.created)


def _add_grids(folder: Path, name: str, found: Records) -> None:
    """Add the last sample grid of a run; before the first one, its training images."""
    if not found["sample_grids"] and (data := folder / DATA_GRID).is_file():
        found["sample_grids"].append(("data", data.read_bytes(), "training images"))
    grids = sorted((folder / "samples").glob("*.png"))
    if grids:
        steps = grids[-1].stem.removeprefix("step-").lstrip("0")
        found["sample_grids"].append((name, grids[-1].read_bytes(), f"samples after {steps} steps"))


def _quality(file: Path) -> list[QualityRow]:
    try:
        return quality_rows(load_json(file, "evaluation"))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InvalidInput(f"{file} is no evaluation that this undrift reads") from None
