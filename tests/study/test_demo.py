"""The demo from training to report, at a small size."""

import json
import os
import re

from undrift.cli import main
from undrift.measurement.profile import ErrorProfile
from undrift.training.records import read_log

SMALL = ["--base-steps", "6", "--steps", "4", "--num-samples", "24", "--num-steps", "8"]


def test_the_demo_trains_measures_and_reports(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 1)  # in this process
    folder = tmp_path / "demo"
    assert main(["demo", "--output", str(folder), *SMALL, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["report"] == str(folder / "report.html")
    page = (folder / "report.html").read_text()
    for label, profile in zip(("plain", "regularized"), result["profiles"], strict=True):
        saved = ErrorProfile.load(folder / "seed-0" / f"{label}-4" / "profile.json")
        assert saved.final.mmd_sq == profile["states"][-1]["error"]["mmd_sq"]
        assert profile["states"][-1]["t"] == 0
        assert profile["label"] == label
        assert label in page
    times = [[state["t"] for state in profile["states"]] for profile in result["profiles"]]
    assert times[0] == times[1]
    for row, profile in zip(result["study"]["rows"], result["profiles"], strict=True):
        assert row["method"] == profile["label"] and row["steps"] == 4
        assert f"{row['quality']['classifier']['frechet']:.3g}"[:3] in page
    assert len(re.findall(r"<img ", page)) == 3  # the data, and samples of each model
    assert "Both models took the same number of steps" in page and 'id="training"' in page
    plain, regularized = (read_log(folder / row["run"])[-1] for row in result["study"]["rows"])
    assert regularized["lambda"] > 0 and not plain.get("lambda")


def test_a_second_demo_does_not_overwrite_a_first(tmp_path, capsys):
    (tmp_path / "kept.txt").write_text("mine")
    assert main(["demo", "--output", str(tmp_path), *SMALL]) == 2
    assert "is there already" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["kept.txt"]


def test_a_demo_that_is_too_small_is_refused_in_one_line(tmp_path, capsys):
    for flag in ("--base-steps", "--steps", "--num-samples", "--num-steps"):
        assert main(["demo", "--output", str(tmp_path / "demo"), flag, "0"]) == 2
        assert flag in capsys.readouterr().err
    assert not (tmp_path / "demo").exists()
