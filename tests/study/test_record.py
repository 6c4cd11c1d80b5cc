"""``study.json``: what is written is read back, and what is no study is refused in one line."""

import math
import subprocess
import sys
from pathlib import Path

import pytest

from study_record import study
from undrift.cli import main
from undrift.exceptions import InvalidInput
from undrift.study.record import StudyRecord

DATA = Path(__file__).parents[2] / "docs" / "data"


def test_what_is_written_is_read_back(tmp_path):
    record = StudyRecord.from_dict(study())
    assert record.to_dict() == study()
    assert StudyRecord.load(record.save(tmp_path)) == record
    assert record.paired[0].interval == tuple(study()["paired"][0]["interval"])


@pytest.mark.parametrize("file", sorted(DATA.glob("*-study.json")), ids=lambda file: file.stem)
def test_the_studies_of_the_results_page_are_read_and_written_whole(file, tmp_path):
    record = StudyRecord.load(file)
    assert record.save(tmp_path).read_text() == file.read_text()
    for change in record.paired:  # a mean is that of its seeds
        assert change.mean == pytest.approx(math.fsum(change.changes) / change.num_seeds)


def test_a_study_is_read_without_torch():
    code = "import sys, undrift.study.record; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def damaged(**changes):
    found = study(full=False)
    row = {key: value for key, value in (found["rows"][0] | changes).items() if value != "gone"}
    return found | {"rows": [row]}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (damaged(mmd_sq="gone"), r"study.rows\[0\].mmd_sq is missing"),
        (damaged(mmd_sq="much"), r"study.rows\[0\].mmd_sq is 'much'"),
        (damaged(mmd_sq=True), r"study.rows\[0\].mmd_sq is True"),
        (damaged(mmd_sq=None), r"study.rows\[0\].mmd_sq is None"),
        (damaged(mmd=1.0), r"the name study.rows\[0\].mmd is unknown"),
        (study(full=False) | {"costs": [3]}, r"study.costs\[0\] is 3"),
        (study(full=False) | {"paired": {}}, "study.paired is {}"),
        (study(full=False) | {"correlations": [[]]}, r"study.correlations\[0\] is"),
    ],
)
def test_a_damaged_study_says_where(data, message):
    with pytest.raises(InvalidInput, match=f"x.json is a damaged study: {message}"):
        StudyRecord.from_dict(data, "x.json")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "no study: it is not JSON"),
        ("[]", "no study"),
        ('{"kind": "undrift.profile"}', "no study"),
        ('{"kind": "undrift.study", "schema_version": 5, "rows": [], "paired": []}', "update"),
    ],
)
def test_what_is_no_study_is_refused(text, message, tmp_path, capsys):
    file = tmp_path / "study.json"
    file.write_text(text)
    assert main(["report", str(file), "--output", str(tmp_path / "page.html")]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and message in lines[0]
    assert not (tmp_path / "page.html").exists()
