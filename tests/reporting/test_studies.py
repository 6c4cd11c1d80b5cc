"""Several studies on one page: the values of the picture and of the table are those of the rows."""

from copy import deepcopy
from pathlib import Path
from statistics import fmean
from xml.etree import ElementTree

import pytest

from undrift.api.report import report
from undrift.exceptions import InvalidInput
from undrift.reporting.studies import panel, quality_figure, write_studies
from undrift.study.record import StudyRecord

DATA = Path(__file__).parents[2] / "docs" / "data"
FILE = DATA / "few-steps-digits-study.json"


@pytest.fixture(scope="module")
def found():
    return StudyRecord.load(FILE).to_dict()


def renamed(study, name):
    other = deepcopy(study)
    other["data"]["name"] = name
    return other


def test_a_curve_has_the_best_sampler_of_each_seed_at_equal_compute(found):
    one = panel(found)
    for curve in one.curves["kernel_distance"]:
        for calls, values in curve.values.items():
            expected = [
                row["quality"][one.network]["kernel_distance"]
                for row in found["rows"]
                if (row["method"], row["budget"]) == (curve.method, "compute")
                and row["network_calls"] == calls
                and row["quality"][one.network]["is_best_sampler"]
            ]
            assert sorted(values) == sorted(expected)
            assert len(values) == len(found["config"]["seeds"])


def test_each_study_has_a_panel_and_its_rows(found, tmp_path):
    page = write_studies([found, renamed(found, "photographs")], tmp_path / "few.md")
    table = [line for line in page.read_text().splitlines() if line.startswith("| ")]
    assert len(table) == 1 + 2 * 2 * 3  # studies, methods, numbers of calls
    assert sum("photographs" in line for line in table) == 6
    plain = panel(found).curves["frechet"][0].values[10]
    assert f"{fmean(plain):.3g} ±" in next(r for r in table if "| plain | 10 |" in r)
    ElementTree.parse(tmp_path / "few_files" / "quality.svg")
    wide = quality_figure([panel(found)] * 3).wide
    assert all(f'id="studies-frechet-wide-axes_{k}"' in wide for k in (1, 2, 3))


def test_what_has_no_curve_is_refused(found, tmp_path):
    with pytest.raises(InvalidInput, match="several numbers of network calls"):
        panel(StudyRecord.load(DATA / "digits-study.json").to_dict())
    with pytest.raises(InvalidInput, match=r"give a \.md file"):
        report([FILE, FILE], tmp_path / "few.html")
    with pytest.raises(InvalidInput, match="without profiles or runs"):
        report([FILE, "profile.json"], tmp_path / "few.md")
    assert list(tmp_path.iterdir()) == []
