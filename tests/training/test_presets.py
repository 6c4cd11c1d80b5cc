"""The presets of the paper's experiments: complete, and each makes a step."""

import json

import pytest
import yaml

from undrift import cli
from undrift.cli.parser import PRESETS

NAMES = ("celeba64", "cifar10", "imagenet32")
PARAMETERS = {"cifar10": 35_746_307, "imagenet32": 35_746_307, "celeba64": 78_700_803}
"""Those of the published networks (the mean of the noise alone, RGB)."""
BATCH = {"cifar10": 4, "imagenet32": 4, "celeba64": 2}


def called(capsys, *argv):
    code = cli.main(["train", *argv])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_the_presets_are_there_and_help_names_them(capsys):
    assert tuple(path.stem for path in sorted((PRESETS / "train").glob("*"))) == NAMES
    assert "a preset: celeba64, cifar10, imagenet32" in " ".join(
        called(capsys, "--help")[1].split()
    )


@pytest.mark.parametrize("name", NAMES)
def test_flags_override_a_preset_which_overrides_defaults(name, capsys):
    _, text, _ = called(capsys, "--config", name, "--batch-size", "7", "--print-config")
    found, preset = yaml.safe_load(text), yaml.safe_load((PRESETS / f"train/{name}.yaml").open())
    assert found["batch_size"] == 7 and preset["batch_size"] in (128, 256)
    assert found["chain"] == preset["chain"] and found["chain"]["num_steps"] == 1000
    assert found["regularizer"]["num_inference_steps"] == 50
    assert found["ema_decay"] == 0.9999 and found["optimizer"]["beta1"] == 0.9
    assert (found["image_size"], found["channels"]) == (64 if name == "celeba64" else 32, 3)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_preset_makes_a_step_of_a_few_images(name, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = ["--dry-run", "--dry-run-batch-size", str(BATCH[name]), "--json"]
    code, out, _ = called(capsys, "--config", name, *flags)
    found = json.loads(out)
    assert code == 0 and found["method"] == "regularized"
    assert found["parameters"] == PARAMETERS[name]
    assert found["memory"]["weights"] == 4 * PARAMETERS[name]
    assert found["starting_passes"] == 4 * 14 + 2 + 4 + 6
    assert 0.1 < found["step"]["loss"] < 3
    gibibytes = found["memory"]["total"] / 2**30
    assert 6 < gibibytes * 128 / found["batch_size"] < 26
    assert not list(tmp_path.iterdir())


def test_a_file_of_that_name_comes_first(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cifar10").write_text("steps: 3")
    assert yaml.safe_load(called(capsys, "--config", "cifar10", "--print-config")[1])["steps"] == 3


def test_an_unknown_preset_is_one_line(capsys):
    code, out, err = called(capsys, "--config", "cifar", "--dry-run")
    assert (code, out) == (2, "") and err.count("\n") == 1
    assert "--config cifar: no such file, and none of the presets celeba64, cifar10" in err


def test_presets_belong_to_their_command(capsys):
    assert cli.main(["measure", "--config", "cifar10"]) == 2
    assert "cifar10: No such file" in capsys.readouterr().err
