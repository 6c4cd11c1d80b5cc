"""The public functions do what the commands of their names do, and print nothing."""

import json
from pathlib import Path

import pytest
import torch
import yaml

import undrift
from commands import FEW, result, write_run
from undrift import DDIMSampler, Denoiser, ErrorProfile, InvalidInput
from undrift.data.load import load_data
from undrift.diffusion.pipelines import as_sampler, load_pipeline
from undrift.training.config import RegularizerConfig

SMALL = {
    "steps": 3,
    "batch_size": 8,
    "progress": False,
    "model": {"block_out_channels": [8, 8], "norm_num_groups": 4},
    "chain": {"num_steps": 5},
}


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "run")
    return "run"


def test_sample_gives_the_images_of_the_command(run, capsys):
    images = undrift.sample(run, 6, seed=3, progress=False)
    assert capsys.readouterr().out == ""
    found = result(capsys, "sample", run, "--num-images", "6", "--seed", "3", "--save", "npz")
    import numpy as np

    from undrift.data.grids import as_bytes

    stored = np.load(f"{found['images']}/images.npz")["images"]
    assert (as_bytes(images).permute(0, 2, 3, 1).numpy() == stored).all()


def test_every_form_of_a_model_gives_the_same_images(run):
    pipeline = load_pipeline("run/pipeline")
    forms = [run, "run/pipeline", pipeline, as_sampler(pipeline)]
    first, *others = [undrift.sample(form, 3, seed=1, progress=False) for form in forms]
    assert all(torch.equal(first, other) for other in others)


def test_options_choose_the_sampler(run):
    own = as_sampler(load_pipeline("run/pipeline"))
    assert isinstance(own.denoiser, Denoiser)
    explicit = undrift.sample(DDIMSampler(own.denoiser, 3, clip=1.0), 4, progress=False)
    by_name = undrift.sample(run, 4, sampler="ddim", num_inference_steps=3, progress=False)
    assert torch.equal(explicit, by_name)
    with pytest.raises(InvalidInput, match="has 5 steps, not 3"):
        undrift.sample(own, 4, num_inference_steps=3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stpes": 3}, "undrift.train: unknown option stpes; did you mean steps?"),
        ({"regularizer": {"evry": 3}}, "unknown option regularizer.evry; did you mean"),
        ({"steps": "many"}, "steps: expected an integer, got 'many'"),
        ({"method": "magic"}, "method: expected plain, regularized"),
        ({"regularizer": 3}, "regularizer is a section of options, not 3"),
    ],
)
def test_options_of_train_are_checked_by_name_and_type(options, message, run, tmp_path):
    before = sorted(tmp_path.iterdir())
    with pytest.raises(InvalidInput) as error:
        undrift.train("digits", **options)
    assert message in str(error.value)
    assert sorted(tmp_path.iterdir()) == before


def test_train_takes_images_in_memory_and_trains_the_same(run, capsys):
    named = undrift.train("digits", output="a", **SMALL)
    given = undrift.train(load_data("digits"), output="b", **SMALL)
    assert capsys.readouterr().out == ""
    assert (named["run"], given["run"]) == ("a", "b")
    assert named["loss"] == given["loss"]
    first, second = (undrift.sample(name, 4, progress=False) for name in "ab")
    assert torch.equal(first, second)
    assert undrift.cli.main(["measure", "b", *FEW]) == 2, "nobody can load what was in memory"
    assert "which data?" in capsys.readouterr().err


def test_a_section_may_be_a_mapping_or_its_dataclass(run):
    options = {"method": "truncated", "dry_run": True, **SMALL}
    every = [
        undrift.train("digits", regularizer=regularizer, **options)["memory"]["regularizer"]
        for regularizer in ({"num_forward": 64}, RegularizerConfig(num_forward=64), {})
    ]
    assert every[0] == every[1] != every[2]


def test_report_takes_profiles_files_and_runs(run, capsys):
    result(capsys, "measure", run, *FEW)
    (file,) = Path("run/profiles").glob("*.json")
    profile = ErrorProfile.load(file)
    pages = [
        undrift.report(profile, "a.html").read_text(),
        undrift.report([str(file)], "b.html").read_text(),
    ]
    assert capsys.readouterr().out == ""
    assert pages[0] == pages[1]
    assert profile.label in pages[0]
    assert "samples after 9 steps" in undrift.report(run, "c.html").read_text()
    undrift.report(profile, "a.html")  # an older report may be replaced
    with pytest.raises(InvalidInput, match="is no report"):
        undrift.report(profile, "run/config.yaml")
    with pytest.raises(InvalidInput, match="nothing to report on"):
        undrift.report([], "d.html")


def test_compare_takes_a_mapping_and_keeps_what_the_command_keeps(run, tmp_path, capsys):
    base = {key: SMALL[key] for key in ("batch_size", "model", "chain")}
    plan = {
        "base": {**base, "steps": 2},
        "methods": {"plain": {"method": "plain"}, "short": {"method": "truncated"}},
        "reference": "short",
        "steps": 2,
        "num_samples": 8,
        "features": "pixels",
    }
    record = undrift.compare(plan, "ours", seeds=[4], progress=False)
    assert capsys.readouterr().out == ""
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan))
    found = result(capsys, "compare", "plan.yaml", "--seeds", "4", "--quiet")
    scores = ("method", "seed", "mmd_sq", "mmd_sq_se", "quality")
    ours = [[row[key] for key in scores] for row in record.to_dict()["rows"]]
    assert ours == [[row[key] for key in scores] for row in found["rows"]]
    assert {row[0] for row in ours} == {"plain", "short"}
    assert (tmp_path / "ours" / "report.html").is_file()
    assert (tmp_path / "runs" / "plan" / "report.html").is_file()
    with pytest.raises(InvalidInput, match="give output"):
        undrift.compare(plan)
    with pytest.raises(InvalidInput, match="the study: unknown option stesp; did you mean steps"):
        undrift.compare({"stesp": 3}, "theirs")


def test_evaluate_gives_the_record_of_the_command(run, capsys):
    options = {"num_samples": 40, "features": "pixels", "num_resamples": 3, "seed": 2}
    found = undrift.evaluate(run, progress=False, remedy="snr_t:0.1", **options)
    assert capsys.readouterr().out == ""
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    printed = result(capsys, "evaluate", run, *flags, "--remedy", "snr_t:0.1", "--quiet")
    kept = json.loads(Path(printed["saved"]).read_text())
    assert kept["how"].pop("command").startswith("undrift evaluate run")
    assert kept == json.loads(json.dumps(found))
    own = as_sampler(load_pipeline("run/pipeline"))
    plain = [undrift.evaluate(model, data, progress=False, **options) for model, data in (
        (run, None), (own, load_data("digits")))]  # fmt: skip
    assert plain[0]["mmd_sq"] == plain[1]["mmd_sq"] != found["mmd_sq"]
    assert plain[1]["label"] == "model" and found["label"] == "run, snr_t:0.1"
    with pytest.raises(InvalidInput, match="^num_samples is 3: choose at least 4"):
        undrift.evaluate(run, num_samples=3)


def test_tune_finds_what_the_command_finds(run, capsys):
    options = {"values": [0.99, 1.01], "refine": 0, "num_samples": 40, "features": "pixels"}
    found = undrift.tune(run, "epsilon_scaling", progress=False, **options)
    assert capsys.readouterr().out == ""
    flags = ["--values", "0.99,1.01", "--refine", "0", "--num-samples", "40"]
    command = ["tune", run, "--remedy", "epsilon_scaling", *flags, "--features", "pixels"]
    printed = result(capsys, *command, "--quiet")
    assert printed["curve"] == json.loads(json.dumps(found.to_dict()["curve"]))
    with pytest.raises(InvalidInput, match="exclude each other"):
        undrift.tune(run, "epsilon_scaling", values=[1.0], range=[0.9, 1.1])
