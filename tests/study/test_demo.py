"""The demo from training to report, at a small size."""

import json
import os
import re

import yaml

from undrift.cli import demo, main
from undrift.measurement.profile import ErrorProfile
from undrift.reporting.bands import bands
from undrift.training.records import read_log

SMALL = ["--base-steps", "6", "--steps", "4", "--num-samples", "24", "--num-steps", "8"]
SMALL += ["--num-inference-steps", "4"]


def test_the_demo_trains_measures_and_reports(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 1)  # in this process
    monkeypatch.setattr(demo, "QUICK", {"base_steps": 6, "steps": 4, "num_samples": 24})
    folder = tmp_path / "demo"
    assert main(["demo", "--output", str(folder), "--quick", *SMALL[-4:], "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["report"] == str(folder / "report.html")
    page = (folder / "report.html").read_text()
    for label, profile in zip(("plain", "regularized"), result["profiles"], strict=True):
        run = folder / "seed-0" / f"{label}-4"
        saved = ErrorProfile.load(next(run.glob("profiles/*.json")))
        assert saved.final.mmd_sq == profile["states"][-1]["error"]["mmd_sq"]
        assert profile["states"][-1]["t"] == 0
        assert profile["label"] == label
        assert label in page
        again = saved.how["command"].split()  # measures the same chain, for what the page suggests
        assert again[:3] == ["undrift", "measure", saved.how["model"]]
        assert "--sampler unipc --num-inference-steps 4" in saved.how["command"]
        assert saved.how["sampler"]["sampler"] == "UniPCMultistepScheduler"
    times = [[state["t"] for state in profile["states"]] for profile in result["profiles"]]
    assert times[0] == times[1]
    for row, profile in zip(result["study"]["rows"], result["profiles"], strict=True):
        assert row["method"] == profile["label"] and row["steps"] == 4
        assert row["network_calls"] == 4
        assert row["mmd_sq"] == profile["states"][-1]["error"]["mmd_sq"]
        assert f"{row['quality']['classifier']['frechet']:.3g}"[:3] in page
    assert len(re.findall(r"<img ", page)) == 3  # the data, and samples of each model
    assert result["next"].startswith("undrift advise ") and "plain-4" in result["next"]
    config = yaml.safe_load((folder / "seed-0" / "regularized-4" / "config.yaml").read_text())
    assert config["chain"]["sampler"] == "unipc"  # the chain that is sampled is regularized
    assert config["regularizer"]["num_inference_steps"] == 4
    assert config["regularizer"]["features"] == "network+pixels"
    assert "Both models took the same number of steps" in page and 'id="training"' in page
    plain, regularized = (read_log(folder / row["run"])[-1] for row in result["study"]["rows"])
    assert regularized["lambda"] > 0 and not plain.get("lambda")


def test_a_second_demo_does_not_overwrite_a_first(tmp_path, capsys):
    (tmp_path / "kept.txt").write_text("mine")
    assert main(["demo", "--output", str(tmp_path), *SMALL]) == 2
    assert "is there already" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["kept.txt"]


def test_a_demo_that_is_too_small_is_refused_in_one_line(tmp_path, capsys):
    for flag in (*SMALL[::2],):
        assert main(["demo", "--output", str(tmp_path / "demo"), flag, "0"]) == 2
        assert flag in capsys.readouterr().err
    assert not (tmp_path / "demo").exists()


def profile_of(label, energies, factors):
    """The record of a chain of two segments with the error of one band at its end."""
    ends = [None if f is None else [f - 0.1, f + 0.1] for f in factors]
    error = {"mmd_sq": 2e-3, "mmd_sq_se": 1e-4, "p_value": 0.005}
    scalars = [
        {"error": e, "error_se": 0.01, "amplification": f, "amplification_interval": i}
        for e, f, i in zip(energies, factors, ends, strict=True)
    ]
    states = [{"t": 2 - k, "error": error, "scalars": [scalar]} for k, scalar in enumerate(scalars)]
    band = {"name": "energy from 4", "kind": "energy", "basis": "frequency", "low": 4.0}
    return {"label": label, "states": states, "statistics": [band | {"high": None, "size": 49}]}


def test_the_table_tells_how_far_each_band_has_drifted_and_where_amplification_is_known():
    (band,) = bands(profile_of("plain", [0.0, 0.1, -0.2231], [None, None, 1.5]))
    assert demo._drift(band) == ["20 % too weak (18 to 22 %)", "1 of 2"]
    (band,) = bands(profile_of("plain", [0.0, 0.1, 0.4055], [None, 1.2, 1.5]))
    assert demo._drift(band) == ["50 % too strong (47 to 53 %)", "2 of 2"]
