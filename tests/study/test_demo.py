"""The whole path, at a size that tests can pay."""

import json

from undrift.cli import main
from undrift.measurement.profile import ErrorProfile

SMALL = ["--base-steps", "6", "--steps", "4", "--num-samples", "24", "--num-steps", "8"]


def test_the_demo_trains_measures_and_reports(tmp_path, capsys):
    folder = tmp_path / "demo"
    assert main(["demo", "--output", str(folder), *SMALL, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["report"] == str(folder / "report.html")
    page = (folder / "report.html").read_text()
    for label, profile in zip(("plain", "regularized"), result["profiles"], strict=True):
        saved = ErrorProfile.load(folder / label / "profile.json")
        assert saved.final.mmd_sq == profile["states"][-1]["mmd_sq"]
        assert profile["states"][-1]["t"] == 0
        assert profile["label"] == label
        assert label in page
    times = [[state["t"] for state in profile["states"]] for profile in result["profiles"]]
    assert times[0] == times[1]
    # the same data and noise: the first losses differ by the regularizer's first steps alone
    assert result["training"]["regularized"]["lambda"] > 0
    assert result["training"]["plain"]["lambda"] is None


def test_a_second_demo_does_not_overwrite_a_first(tmp_path, capsys):
    (tmp_path / "kept.txt").write_text("mine")
    assert main(["demo", "--output", str(tmp_path), *SMALL]) == 2
    assert "is there already" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["kept.txt"]


def test_a_demo_that_is_too_small_is_one_line(tmp_path, capsys):
    for flag in ("--base-steps", "--steps", "--num-samples", "--num-steps"):
        assert main(["demo", "--output", str(tmp_path / "demo"), flag, "0"]) == 2
        assert flag in capsys.readouterr().err
    assert not (tmp_path / "demo").exists()
