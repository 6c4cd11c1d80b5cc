"""measure, sample, evaluate, report: what they write, and one line where they cannot."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from commands import FEW, complaint, network, result, write_run
from error_state import state
from undrift import ErrorProfile, cli
from undrift.api import files, inputs
from undrift.api.report import without_parts
from undrift.data.grids import image_grid, picture
from undrift.data.load import load_data
from undrift.diffusion.pipelines import ddpm_scheduler, load_pipeline, save_pipeline
from undrift.diffusion.schedule import CosineSchedule
from undrift.measurement.state import with_ratios
from undrift.reporting.evaluation import interval_texts, quality_rows
from undrift.reporting.numbers import scientific

# -- measure -----------------------------------------------------------------------------------


def test_measure_prints_a_profile_and_keeps_it(place, capsys):
    printed = result(capsys, "measure", "run", *FEW)
    path = place / "run" / "profiles" / "run-0-1.json"
    assert printed["saved"] == str(path.relative_to(place))
    profile = ErrorProfile.load(path)
    assert ErrorProfile.from_dict(printed) == profile
    assert printed["schema_version"] == 3 and printed["config"]["num_samples"] == 24
    last = printed["states"][-1]
    assert len(printed["states"]) == 3 and {"t", "downstream_gain"} <= last.keys()
    assert {"mmd_sq", "mmd_sq_se", "p_value"} <= last["error"].keys()
    assert {"fresh", "inherited", "amplification"} <= last["budget"].keys()
    assert profile.label == "run" and profile.how["model"] == "run"
    assert profile.how["command"].startswith("undrift measure run --num-samples 24")
    assert profile.how["data"]["name"] == "digits" and profile.num_forward == 96
    assert profile.final.downstream_gain == 1.0 and profile.created


def test_other_features_are_measured_beside_pixels(place, capsys):
    printed = result(capsys, "measure", "run", *FEW, "--no-budget", "--features", "network,pyramid")
    states = printed["states"]
    assert all([*state["features"]] == ["network", "pyramid"] for state in states)
    assert all(state["features"]["network"]["mmd_sq_se"] > 0 for state in states)
    plain = result(capsys, "measure", "run", *FEW, "--no-budget")["states"]
    assert [s["error"] for s in plain] == [s["error"] for s in states]  # the same states


def test_a_second_measurement_never_overwrites_a_first(place, capsys):
    for k in (1, 2):
        assert cli.main(["measure", "run", *FEW, "--label", "λ / 3", "--no-budget"]) == 0
        out, _ = capsys.readouterr()
        assert f"profile  run/profiles/λ-3-0-{k}.json" in out
        assert "Final error" in out and "λ / 3" in out
    found = ErrorProfile.load(place / "run" / "profiles" / "λ-3-0-2.json")
    assert found.final.fresh is None and found.label == "λ / 3"


def test_options_reach_the_measurement(place, capsys):
    printed = result(
        capsys, "measure", "run", "--data", "digits", "--num-samples", 20, "--num-forward", 30,
        "--states", "4,2", "--reference", "empirical", "--sampler", "ddim", "--eta", "0.5",
        "--num-inference-steps", 5, "--batch-size", 7, "--seed", 3, "--output", "out/p.json",
        "--quiet",
    )  # fmt: skip
    assert [state["t"] for state in printed["states"]] == [5, 4, 2, 0]
    how = printed["how"]
    assert how["sampler"]["sampler"] == "DDIMSampler" and how["sampler"]["eta"] == 0.5
    assert (how["reference"], how["batch_size"], how["seed"]) == ("empirical", 7, 3)
    assert printed["num_forward"] == 30 and (place / "out" / "p.json").is_file()
    printed = result(capsys, "measure", "run", *FEW[:2], "--states", "all", "--quiet")
    assert [state["t"] for state in printed["states"]] == [5, 4, 3, 2, 1, 0]


def test_more_samples_later(place, capsys):
    """The same states with the next seed, merged; or profiles of several processes, alone."""
    first = result(capsys, "measure", "run", *FEW)["saved"]
    merged = result(capsys, "measure", "run", *FEW[:2], "--merge", first, "--quiet")
    assert merged["how"]["seed"] == [0, 1] and merged["num_samples"] == 48
    a, b = ErrorProfile.load(first).states, ErrorProfile.from_dict(merged).states
    assert [s.t for s in a] == [s.t for s in b]
    assert b[-1].mmd_sq_se < a[-1].mmd_sq_se
    other = result(capsys, "measure", "run", *FEW[:2], "--states", "5,3,0", "--seed", 7, "--quiet")
    times = ",".join(str(s.t) for s in a)
    third = result(capsys, "measure", "run", *FEW[:2], "--states", times, "--seed", 8, "--quiet")
    alone = result(capsys, "measure", "--merge", f"{merged['saved']},{third['saved']}")
    assert alone["how"]["seed"] == [0, 1, 8] and alone["num_samples"] == 72
    assert alone["saved"] == "run/profiles/run-0+1+8-1.json"
    assert len(alone["how"]["merged"]) == 3 and other["saved"] != third["saved"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--seed", "0"], "seed 0 is in the profiles"),
        (["--sampler", "ddim"], "different samplers"),
        (["--reference", "empirical"], "different references"),
        (["--data", "some.pt"], "different data"),
    ],
)
def test_what_will_not_merge_is_refused_before_it_is_measured(
    options, words, place, capfd, monkeypatch
):
    first = result(capfd, "measure", "run", *FEW)["saved"]
    torch.save(load_data("digits", limit=30).images, place / "some.pt")
    monkeypatch.setattr("undrift.measurement.measure.measure", None)
    assert words in complaint(capfd, place, "measure", "run", "--merge", first, *options)


def test_a_bare_pipeline_folder_is_a_model_too(place, capsys):
    printed = result(capsys, "measure", "run/pipeline", *FEW, "--data", "digits")
    assert printed["saved"] == "run/pipeline/profiles/run-0-1.json" and printed["label"] == "run"


def test_data_are_brought_to_the_size_that_the_model_makes(place, capsys):
    write_run(place / "big", network(3, 16))
    assert cli.main(["measure", "big", *FEW[:4], "--no-budget", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["how"]["data"]["image_shape"] == [3, 16, 16]
    assert "the data are resized to what the model makes: shorter side 8 to 16" in err


# -- sample ------------------------------------------------------------------------------------


def test_samples_are_those_that_are_measured(place, capsys):
    """The same seed gives the same images, as pictures and as numbers."""
    made = result(capsys, "sample", "run", "--num-images", 5, "--save", "npz", "--batch-size", 2)
    again = result(capsys, "sample", "run", "--num-images", 5, "--save", "png", "--batch-size", 2)
    assert (made["images"], again["images"]) == ("run/images/own-0-1", "run/images/own-0-2")
    with np.load(place / made["images"] / "images.npz") as file:
        pixels = file["images"]
    assert pixels.shape == (5, 8, 8, 1) and pixels.dtype == np.uint8
    from PIL import Image

    for i in range(5):
        with Image.open(place / again["images"] / f"{i}.png") as image:
            assert np.array_equal(np.asarray(image), pixels[i, ..., 0])
    assert sorted(again["files"]) == sorted(["grid.png", *(f"{i}.png" for i in range(5))])
    record = json.loads((place / made["images"] / "samples.json").read_text())
    assert record["sampler"]["sampler"] == "AncestralSampler" and record["seed"] == 0
    other = result(capsys, "sample", "run", "--num-images", 5, "--seed", 1, "--output", "mine")
    assert other["files"] == ["grid.png"] and (place / "mine" / "grid.png").is_file()


# -- evaluate ----------------------------------------------------------------------------------


def test_evaluate_scores_the_samples(place, capsys):
    argv = ["evaluate", "run", "--num-samples", 60, "--num-resamples", 5, "--quiet"]
    pixels = result(capsys, *argv, "--features", "pixels")
    assert pixels["networks"]["pixels"]["score_name"] == "Fréchet distance (pixels)"
    classified = result(capsys, *argv)
    [how] = classified["networks"].values()
    assert how["score_name"] == "Fréchet distance (digits classifier)"
    assert how["features"]["accuracy"] > 0.9
    for record in (pixels, classified):
        assert record["mmd_sq_se"] > 0 and record["empirical_mmd_sq_se"] > 0
        [found] = record["quality"].values()
        for part in ("frechet", "frechet_ratio", "kernel_distance", "sliced"):
            assert found[f"{part}_se"] > 0
        assert 0 <= found["precision"] <= 1 and 0 <= found["recall"] <= 1
    both = result(capsys, *argv, "--features", "classifier,pixels")
    assert both["quality"] == classified["quality"] | pixels["quality"]
    names, texts = [row[1] for row in quality_rows(both)], interval_texts(both)
    shown = dict(zip(names, texts, strict=True))
    kernel = both["quality"]["pixels"]
    ends = [kernel["kernel_distance"] + z * kernel["kernel_distance_se"] for z in (-1.96, 1.96)]
    assert shown["Kernel distance (pixels)"] == " to ".join(scientific(end, 3) for end in ends)
    assert shown["D₀²"] == " to ".join(scientific(end, 3) for end in both["interval"])
    assert shown["Fréchet distance (pixels)"] == "–"  # 60 samples are too few for it
    ratios = [found["frechet_ratio"] for found in both["quality"].values()]
    assert both["frechet_ratio"] == pytest.approx(sum(ratios) / 2)
    assert pixels["mmd_sq"] == classified["mmd_sq"] == both["mmd_sq"]
    # the final error is that of the same samples in a profile, and so are its test and interval
    measured = result(
        capsys, "measure", "run", "--num-samples", 60, "--no-budget", "--states", 2, "--quiet"
    )
    final = measured["states"][-1]["error"]
    for name in ("mmd_sq", "mmd_sq_se", "p_value", "interval"):
        assert final[name] == pytest.approx(pixels[name], rel=1e-6)
    assert (place / "run" / "evaluations" / "run-0-2.json").is_file()


def test_evaluate_says_what_few_samples_cannot_give_before_it_draws(place, capsys, monkeypatch):
    def stopped(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("undrift.quality.scorer.Scorer.draw", stopped)
    cli.main(["evaluate", "run", "--num-samples", "60", "--features", "pixels"])
    assert "60 samples are too few for 64 features" in capsys.readouterr().err


# -- report ------------------------------------------------------------------------------------


def test_a_report_collects_the_records_of_a_run(place, capsys):
    first = result(capsys, "measure", "run", *FEW)["saved"]
    result(capsys, "measure", "run", *FEW[:2], "--merge", first, "--quiet")
    result(capsys, "evaluate", "run", *FEW[:2], "--num-resamples", 3, "--features", "pixels")
    made = result(capsys, "report", "run", first, "--output", "out/page.html", "--title", "A < B")
    assert made["profiles"] == [
        "run",
        "run",
    ]  # the merged one stands for its parts; the file itself
    page = (place / "out" / "page.html").read_text("utf-8")
    assert "A &lt; B" in page and "samples after 9 steps" in page
    assert "training images" in page
    assert "Fréchet distance (pixels)" in page and "undrift report run" in page
    # made anew in its place, and nothing else is replaced
    assert cli.main(["report", first, "--output", "out/page.html"]) == 0
    assert "report  out/page.html" in capsys.readouterr()[0]


def test_a_report_of_a_run_imports_neither_torch_nor_scikit_learn(place, capsys):
    """And takes less than 3 s of processor time, the start of Python included."""
    import os
    import subprocess
    import sys

    result(capsys, "measure", "run", *FEW)
    code = (
        "import sys, undrift.cli as c; c.main(['report', 'run'])\n"
        "found = {'torch', 'sklearn', 'pandas', 'scipy', 'diffusers'} & set(sys.modules)\n"
        "sys.exit(', '.join(found) or 0)"
    )
    before = os.times()
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    after = os.times()
    assert run.returncode == 0, run.stderr
    used = after.children_user - before.children_user
    assert used + after.children_system - before.children_system < 3


def test_parts_of_a_merged_profile_are_left_out():
    states = with_ratios([state()])
    one, two, three = (
        ErrorProfile(states, 10, 10, {"seed": seed, "n": [1, 2]}, created=str(seed))
        for seed in range(3)
    )
    merged = replace(one.merge(two), created="9")
    assert without_parts([merged, three, two, one]) == [three, merged]
    assert without_parts([two, one]) == [one, two]


# -- what cannot be used -----------------------------------------------------------------------


def spoil_weights(place):
    net = load_pipeline(place / "run" / "pipeline").unet
    net.mid_block.resnets[0].conv1.bias.data[2] = float("nan")
    write_run(place / "nan", net)


def any_size(place):
    scheduler = ddpm_scheduler(CosineSchedule(5), "sample", "fixed_small", 1.0)
    save_pipeline(network(1, None), scheduler, place / "any")


def spoil_data(place):
    images = load_data("digits", limit=20).images.clone()
    images[7, 0, 1, 1] = float("nan")
    torch.save(images, place / "nan.pt")


def odd_data(place):
    images = load_data("digits", limit=20).images
    torch.save(images * 1000, place / "range.pt")
    torch.save(images.repeat(1, 2, 1, 1), place / "two.pt")
    torch.save(images[:1], place / "one.pt")
    torch.save({"losses": [1.0]}, place / "dict.pt")
    (place / "text.npz").write_text("no array")
    (place / "some.xyz").write_text("")
    (place / "empty").mkdir()
    (place / "broken").mkdir()
    (place / "broken" / "a.png").write_text("no image")


def incomplete(place):
    (place / "half").mkdir()
    (place / "half" / "config.yaml").write_text("data: digits\n")


def unfit(place):
    config = place / "run" / "pipeline" / "unet" / "config.json"
    config.write_text(config.read_text().replace("8,\n    8", "8,\n    16"))


def profile_file(place, **changes):
    data = ErrorProfile(with_ratios([state(0.0, 1.0, 1.0)]), 9, 9).to_dict()
    (place / "p.json").write_text(json.dumps(data | changes))


def nothing(place):
    pass


CASES = [
    (nothing, "measure nowhere", "no such folder: nowhere"),
    (nothing, "measure owner/name --data digits", "no folder owner/name, and the Hugging Face hub"),
    (nothing, "measure run --streaming 5", "only Hugging Face datasets are streamed"),
    (nothing, "measure run/samples", "no model folder"),
    (nothing, "measure", "RUN is missing"),
    (incomplete, "measure half", "not complete"),
    (unfit, "measure run", "does not load as a pipeline"),
    (nothing, "measure run --num-samples 1", "--num-samples is 1"),
    (nothing, "measure run --num-forward 3", "--num-forward is 3"),
    (nothing, "measure run --num-samples many", "expected an integer"),
    (nothing, "measure run --states 9,2", "state t=9 is not on the sampler's grid of 6 times"),
    (nothing, "measure run --states 1", "at least 2"),
    (nothing, "measure run --features netwrk", "did you mean network? choose network, eff"),
    (nothing, "measure run --features network,network", "has a space twice"),
    (nothing, "measure run --num-inference-steps 6", "choose 1 to 5"),
    (nothing, "measure run --sampler nonsense", "unknown sampler"),
    (nothing, "measure run --eta 0.5", "eta belongs to the sampler ddim"),
    (nothing, "measure run --batch-size 0", "--batch-size is 0"),
    (nothing, "measure run --device abacus", "no device 'abacus'"),
    (nothing, "measure run --data digit", "did you mean 'digits'"),
    (nothing, "measure run --data no/such/folder", "no such file or folder"),
    (nothing, "measure run --split test", "has no split 'test'"),
    (nothing, "measure run --image-size 16", "--image-size is 16, but the model"),
    (any_size, "measure any --data digits --image-size 7", "images of shape (1, 7, 7)"),
    (any_size, "tune any --data digits --image-size 7 --remedy restart", "shape (1, 7, 7)"),
    (nothing, "measure run --channels 3", "--channels is 3, but the model"),
    (nothing, "measure run/pipeline", "which data?"),
    (nothing, "measure run --output run", "run is a folder: give a file in it"),
    (nothing, "measure run --output run/config.yaml", "is there already"),
    (nothing, "measure run --output run/config.yaml/p.json", "cannot write"),
    (nothing, "measure run --merge p.json", "no such file"),
    (profile_file, "measure --merge p.json", "two profiles or more"),
    (profile_file, "measure run --merge p.json", "the states of p.json are not those"),
    (profile_file, "measure --merge p.json,p.json", "hold the same samples"),
    (profile_file, "measure run --merge run/config.yaml", "no error profile"),
    (spoil_weights, "measure nan", "NaN or infinity in mid_block.resnets.0.conv1.bias"),
    (spoil_weights, "sample nan", "NaN or infinity in mid_block"),
    (spoil_weights, "evaluate nan", "NaN or infinity in mid_block"),
    (spoil_data, "measure run --data nan.pt", "image 7 of 20"),
    (odd_data, "measure run --data range.pt", "range"),
    (odd_data, "evaluate run --data range.pt", "range"),
    (odd_data, "measure run --data two.pt", "with 1 or 3 channels"),
    (odd_data, "measure run --data one.pt", "number of data is 1"),
    (odd_data, "measure run --data dict.pt", "name the array 'images'"),
    (odd_data, "measure run --data text.npz", "cannot read text.npz"),
    (odd_data, "measure run --data some.xyz", "cannot use the file some.xyz as data"),
    (odd_data, "measure run --data empty", "folder empty has no images"),
    (odd_data, "measure run --data broken", "cannot read image a.png"),
    (odd_data, "evaluate run --data broken", "cannot read image a.png"),
    (odd_data, "tune run --remedy snr_t --data broken", "cannot read image a.png"),
    (nothing, "sample nowhere", "no such folder"),
    (nothing, "sample run --num-images 0", "--num-images is 0"),
    (nothing, "sample run --output run", "run is there already"),
    (nothing, "evaluate run --num-samples 1", "--num-samples is 1"),
    (nothing, "evaluate run --num-resamples 1", "--num-resamples is 1"),
    (nothing, "evaluate run --features no.pt", "no TorchScript file"),
    (nothing, "evaluate run --output run", "run is a folder: give a file in it"),
    (nothing, "tune run --remedy snr_t --output x.png", "choose a .json file"),
    (nothing, "report", "nothing to report on"),
    (nothing, "report run", "run undrift measure run first"),
    (nothing, "report nowhere", "no such file"),
    (nothing, "report run/log.jsonl", "no error profile"),
    (nothing, "report run/config.yaml", "no error profile"),
    (profile_file, "report p.json --output run/config.yaml", "is no report"),
    (
        lambda place: profile_file(place, schema_version=4),
        "report p.json",
        "schema version 4, this undrift reads 3",
    ),
    (lambda place: profile_file(place, states=[]), "report p.json", "damaged"),
]


@pytest.mark.parametrize(("prepare", "command", "words"), CASES, ids=[case[1] for case in CASES])
def test_bad_input_is_refused_in_one_line_and_writes_nothing(prepare, command, words, place, capfd):
    prepare(place)
    err = complaint(capfd, place, *command.split())
    assert words in err


def test_data_without_labels_have_no_classifier(place, capfd):
    torch.save(load_data("digits", limit=30).images, place / "bare.pt")
    err = complaint(
        capfd, place, "evaluate", "run", "--data", "bare.pt", "--features", "classifier"
    )
    assert "choose the features efficientnet-lite0, pixels" in err


def test_a_damaged_run_is_named(place, capfd):
    (place / "run" / "config.yaml").write_text("{")
    assert "config.yaml is damaged" in complaint(capfd, place, "measure", "run")
    profile_file(place)
    (place / "run" / "profile.json").write_text((place / "p.json").read_text())
    (place / "run" / "log.jsonl").write_text("{\n")
    assert "log.jsonl is damaged" in complaint(capfd, place, "report", "run")
    (place / "run" / "log.jsonl").unlink()
    (place / "run" / "evaluations").mkdir()
    (place / "run" / "evaluations" / "e.json").write_text("{}")
    assert "e.json is no evaluation" in complaint(capfd, place, "report", "run")


def test_pictures_have_one_or_three_channels():
    from undrift import InvalidInput

    assert picture(torch.zeros(3, 4, 5)).size == (5, 4)
    assert picture(torch.zeros(1, 4, 5)).mode == "L"
    for wrong in (torch.zeros(2, 4, 4), torch.zeros(4, 4)):
        with pytest.raises(InvalidInput, match="1 or 3 channels"):
            picture(wrong)
    with pytest.raises(InvalidInput, match="no grid"):
        image_grid(torch.zeros(0, 1, 4, 4))
    grid = np.asarray(image_grid(torch.full((3, 1, 2, 2), -1.0), columns=2))
    assert grid.shape == (7, 7) and (grid == 0).sum() == 3 * 4


def test_no_command_imports_torch_to_show_its_help(capsys):
    import subprocess
    import sys

    code = (
        "import sys, undrift.cli as c\n"
        "for name in ('measure', 'sample', 'evaluate', 'report'): c.main([name, '--help'])\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_names_of_models():
    assert inputs.name_of("a/b/pipeline") == "b" and inputs.name_of("a/b/") == "b"
    assert files.slug("a b/ü.1") == "a-b-ü.1"
