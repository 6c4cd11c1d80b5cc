"""Run directories, from Python and from the command line: whole, never overwritten, resumable."""

import json
import os
import shlex
import signal
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from tiny import noise_source
from undrift.cli import main
from undrift.data.grids import as_bytes
from undrift.data.images import ImageData
from undrift.diffusion.pipelines import load_pipeline
from undrift.exceptions import InvalidInput
from undrift.regularizer.options import RegularizerConfig
from undrift.storage.lock import locked
from undrift.training.checkpoint import STATE_FILE, last_checkpoint
from undrift.training.config import (
    ChainConfig,
    ModelConfig,
    OptimizerConfig,
    TrainConfig,
)
from undrift.training.records import read_log
from undrift.training.run_folder import new_folder
from undrift.training.runs import train
from undrift.training.trainer import Trainer

IMAGES = ImageData(torch.rand(20, 1, 8, 8, generator=noise_source()) * 2 - 1, "noise")
RESULT_KEYS = {
    "run",
    "steps",
    "loss",
    "regularizer",
    "regularizer_null",
    "lambda",
    "grad_norm_main",
    "grad_norm_regularizer",
    "train_cpu_s",
    "parameters",
    "pipeline",
}
FLAGS = ["--steps=4", "--batch-size=8", "--chain.num-steps=10", "--model.norm-num-groups=4"]
FLAGS += ["--model.block-out-channels=8,8", "--regularizer.num-cohorts=2", "--quiet"]


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def config(method="plain", **options):
    known = {
        "steps": 8,
        "batch_size": 8,
        "checkpoint_every": 2,
        "sample_every": 4,
        "log_every": 2,
        "model": ModelConfig(block_out_channels=[8, 8], norm_num_groups=4),
        "chain": ChainConfig(num_steps=10),
        "optimizer": OptimizerConfig(warmup_steps=2),
        "method": method,
        "regularizer": RegularizerConfig(num_cohorts=3, num_forward=16, every=1),
    }
    return TrainConfig(**(known | options))


def files(folder):
    return {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}


def weights(folder):
    return load_file(folder / "pipeline" / "unet" / "diffusion_pytorch_model.safetensors")


def assert_same_weights(first, second):
    ours, theirs = weights(first), weights(second)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], rtol=0, atol=0)


def test_a_run_leaves_all_that_it_promises(tmp_path):
    from PIL import Image

    folder = tmp_path / "run"
    result = train(config("persistent", output=str(folder)), IMAGES, progress=False)
    assert result.keys() == RESULT_KEYS
    assert result == json.loads((folder / "result.json").read_text())
    assert result["steps"] == 8 and result["train_cpu_s"] > 0 and result["lambda"] > 0
    assert result["parameters"] == sum(value.numel() for value in weights(folder).values())
    rows = read_log(folder)
    assert [row["step"] for row in rows] == [1, 2, 4, 6, 8]
    assert rows[-1]["loss"] == result["loss"]
    assert {"regularizer", "regularizer_null", "grad_norm_main", "lambda"} <= rows[0].keys()
    assert [path.name for path in sorted(folder.glob("checkpoints/*"))] == [
        "step-00000006",
        "step-00000008",
    ]
    with Image.open(folder / "samples" / "step-00000004.png") as grid:
        assert grid.size == (8 * 9 + 1, 8 * 9 + 1) and len(grid.getcolors(10_000)) > 10
    assert len([*folder.glob("samples/*")]) == 2
    with Image.open(folder / "data.png") as grid:
        assert np.asarray(grid)[1:9, 1:9].tolist() == as_bytes(IMAGES.images[0, 0]).tolist()
    told = json.loads((folder / "versions.json").read_text())
    assert torch.__version__.startswith(told["versions"]["torch"].split("+")[0])
    assert told["data"]["fingerprint"] == IMAGES.fingerprint
    assert told["chain"]["num_steps"] == 10
    asked = config("persistent", output=str(folder))
    assert yaml.safe_load((folder / "config.yaml").read_text()) == asdict(asked)
    assert told["regularizer"] == asdict(asked.chosen(asked.batch_size))
    assert asked.regularizer.window is None and told["regularizer"]["window"] == 0.15
    assert not [name for name in files(folder) if ".part" in name or ".before" in name]


def test_the_log_holds_means_of_all_steps():
    rows = []
    trainer = Trainer(config(), IMAGES)
    trainer.run(rows.append)
    result = train(config(output="run", log_every=3), IMAGES, progress=False)
    logged = read_log(Path(result["run"]))
    assert [row["step"] for row in logged] == [1, 3, 6, 8]
    for row, part in zip(logged, (rows[:1], rows[1:3], rows[3:6], rows[6:]), strict=True):
        for key in ("loss", "grad_norm"):
            assert row[key] == pytest.approx(sum(r[key] for r in part) / len(part))
        assert row["lr"] == part[-1]["lr"]


def test_a_run_never_overwrites_another(tmp_path):
    first = train(config(output="run"), IMAGES, progress=False)
    before = {name: path.read_bytes() for name, path in files(tmp_path).items()}
    with pytest.raises(
        InvalidInput, match="run is there already: choose another --output, or resume"
    ):
        train(config(output="run"), IMAGES, progress=False)
    (tmp_path / "a file").write_text("mine")
    with pytest.raises(InvalidInput, match="a file is there already"):
        train(config(output="a file"), IMAGES, progress=False)
    (tmp_path / "a file").unlink()
    assert {name: path.read_bytes() for name, path in files(tmp_path).items()} == before
    assert first["run"] == "run"
    (tmp_path / "empty").mkdir()
    train(config(output="empty", steps=1), IMAGES, progress=False)


def test_runs_without_a_name_are_numbered(tmp_path):
    found = [
        train(config(method, steps=1, data="some/noise.npy"), IMAGES, progress=False)["run"]
        for method in ("plain", "plain", "truncated")
    ]
    assert found == [
        "runs/noise-npy-plain-1",
        "runs/noise-npy-plain-2",
        "runs/noise-npy-truncated-1",
    ]
    assert new_folder(tmp_path / "runs", "noise-npy-plain").name == "noise-npy-plain-3"


@pytest.mark.parametrize("method", ["plain", "persistent"])
def test_a_run_that_was_stopped_goes_on_exactly(method, tmp_path, monkeypatch):
    train(config(method, output="whole"), IMAGES, progress=False)
    save = Trainer.save_checkpoint

    def stopped(self, folder):
        if self.step == 6:
            raise KeyboardInterrupt
        return save(self, folder)

    monkeypatch.setattr(Trainer, "save_checkpoint", stopped)
    with pytest.raises(KeyboardInterrupt):
        train(config(method, output="part"), IMAGES, progress=False)
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert [row["step"] for row in read_log(tmp_path / "part")] == [1, 2, 4, 6]
    with pytest.raises(
        InvalidInput, match="is not complete: continue it with undrift train --config"
    ):
        load_pipeline("part")
    result = train(config(method, output="part", resume=True), IMAGES, progress=False)
    assert_same_weights(tmp_path / "whole", tmp_path / "part")
    whole, part = read_log(tmp_path / "whole"), read_log(tmp_path / "part")
    assert whole == part
    assert result["steps"] == 8 and result["loss"] == whole[-1]["loss"]


def test_a_numbered_run_resumes_by_its_own_configuration(tmp_path, capsys):
    data = tmp_path / "images.pt"
    torch.save(IMAGES.images, data)
    assert main(["train", f"--data={data}", *FLAGS, "--json"]) == 0
    run = json.loads(capsys.readouterr().out)["run"]
    before = weights(tmp_path / run)
    assert main(["train", "--config", f"{run}/config.yaml", "--resume", "--quiet", "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["run"] == run and again["steps"] == 4
    torch.testing.assert_close(weights(tmp_path / run), before, rtol=0, atol=0)


def test_a_log_that_was_cut_in_a_line_is_read(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"step": 2, "loss": 1.0}\n{"step": 4, "lo')
    assert read_log(tmp_path) == [{"step": 2, "loss": 1.0}]
    assert read_log(tmp_path / "nowhere") == []


def test_resume_refuses_what_is_not_the_same_run(tmp_path):
    train(config(output="run"), IMAGES, progress=False)
    before = {name: path.read_bytes() for name, path in files(tmp_path).items()}
    again = config(output="run", resume=True)
    for options, message in (
        ({"steps": 9}, r"steps: 8 there, 9 now\): resume with --config run/config.yaml"),
        (
            {"optimizer": OptimizerConfig(learning_rate=0.5)},
            r"optimizer\.learning_rate: 0\.001 ",
        ),
        ({"method": "full"}, "method: plain there"),
        ({"output": "elsewhere"}, "no such run: elsewhere: leave --resume out to start it"),
        ({"output": None}, "--resume needs the folder of the run: give --output"),
    ):
        with pytest.raises(InvalidInput, match=message):
            train(replace(again, **options), IMAGES, progress=False)
    other = ImageData(IMAGES.images[:10], "noise")
    with pytest.raises(InvalidInput, match="has changed since the run was saved"):
        train(again, other, progress=False)
    after = {name: path.read_bytes() for name, path in files(tmp_path).items()}
    assert after == before


def test_a_run_that_is_complete_may_be_resumed(tmp_path):
    result = train(config(output="run"), IMAGES, progress=False)
    before = weights(tmp_path / "run")
    assert train(config(output="run", resume=True), IMAGES, progress=False) == result
    torch.testing.assert_close(weights(tmp_path / "run"), before, rtol=0, atol=0)


@pytest.mark.parametrize(
    "options",
    [
        {"steps": 0},
        {"mixed_precision": "fp16"},
        {"start_from": "nowhere"},
        {"model": ModelConfig(norm_num_groups=3)},
        {"chain": ChainConfig(num_steps=-1)},
        {"method": "full", "regularizer": RegularizerConfig(num_states=1)},
        {"method": "full", "regularizer": RegularizerConfig(every=0)},
        {
            "method": "full",
            "regularizer": RegularizerConfig(weighting="measured", profile="nowhere.json"),
        },
    ],
)
@pytest.mark.parametrize("output", [None, "run"])
def test_bad_input_leaves_nothing_behind(options, output, tmp_path):
    with pytest.raises((InvalidInput, FileNotFoundError)):
        train(config(output=output, **options), IMAGES, progress=False)
    assert not [*tmp_path.iterdir()]


def test_tensorboard_is_optional(tmp_path, monkeypatch):
    from undrift.training import check as checking

    with monkeypatch.context() as patched:
        patched.setattr(checking, "find_spec", lambda name: None)
        with pytest.raises(InvalidInput, match="--tensorboard needs the package: pip install"):
            train(config(output="run", tensorboard=True), IMAGES, progress=False)
    assert not [*tmp_path.iterdir()]
    pytest.importorskip("tensorboard")
    train(config(output="run", tensorboard=True, steps=2), IMAGES, progress=False)
    assert [*(tmp_path / "run" / "tensorboard").glob("events.*")]


def test_grids_and_checkpoints_are_made_by_default_and_on_demand(tmp_path):
    options = config(output="plain", steps=12, checkpoint_every=None, sample_every=None)
    train(options, IMAGES, progress=False)
    names = sorted(path.name for path in tmp_path.glob("plain/samples/*"))
    assert names == [f"step-{step:08d}.png" for step in (3, 6, 9, 12)]
    train(config(output="none", sample_every=0), IMAGES, progress=False)
    assert not (tmp_path / "none" / "samples").exists()


def test_models_are_found_in_runs_and_folders(tmp_path):
    train(config(output="run", steps=2), IMAGES, progress=False)
    for path in ("run", "run/pipeline"):
        network = load_pipeline(path).unet.state_dict()
        torch.testing.assert_close(network, weights(tmp_path / "run"), rtol=0, atol=0)


def test_the_command_prints_one_object_and_its_configuration_is_the_run(tmp_path, capsys):
    argv = ["train", "--data", "digits", *FLAGS, "--method", "persistent", "--json"]
    assert main([*argv, "--output", "first"]) == 0
    out, err = capsys.readouterr()
    result = json.loads(out)
    assert result.keys() == RESULT_KEYS | {"config"}
    assert result["run"] == "first" and result["steps"] == 4 and result["loss"] > 0
    assert "λ = " in err and "of the main term's" in err
    assert main(["train", "--config", "first/config.yaml", "--output", "second", "--quiet"]) == 0
    out, _ = capsys.readouterr()
    assert out.endswith("undrift measure second\n")
    assert_same_weights(tmp_path / "first", tmp_path / "second")


def test_one_process_of_several_speaks(capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert main(["train", "--data", "digits", *FLAGS, "--steps=1", "--json"]) == 0
    assert not capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--steps=0"], "--steps is 0: choose at least 1"),
        (["--start-from=nowhere"], "no such folder: nowhere"),
        (["--resume"], "--resume needs the folder of the run"),
        (["--data=nothing"], "unknown data 'nothing'"),
        (["--model.norm-num-groups=7"], "8 channels do not split into 7 groups"),
        (
            ["--method=full", "--regularizer.window=2"],
            "--regularizer.window is 2",
        ),
    ],
)
def test_bad_input_is_one_line_and_code_two(flags, message, tmp_path, capsys):
    assert main(["train", *FLAGS, *flags]) == 2
    out, err = capsys.readouterr()
    assert message in err and err.count("\n") == 1 and not out
    assert not [*tmp_path.iterdir()]


def stop_at(step, monkeypatch):
    """Let a run end before the checkpoint of a step."""
    save = Trainer.save_checkpoint

    def stopped(self, folder):
        if self.step == step:
            raise KeyboardInterrupt
        return save(self, folder)

    monkeypatch.setattr(Trainer, "save_checkpoint", stopped)
    with pytest.raises(KeyboardInterrupt):
        train(config(output="run", log_every=3), IMAGES, progress=False)
    monkeypatch.undo()


@pytest.mark.parametrize("step", [2, 4, 6, 8])
def test_the_log_of_a_resumed_run_is_that_of_one_that_was_not_stopped(
    step, tmp_path, monkeypatch, caplog
):
    train(config(output=str(tmp_path / "whole"), log_every=3), IMAGES, progress=False)
    stop_at(step, monkeypatch)
    monkeypatch.chdir(tmp_path)
    train(config(output="run", log_every=3, resume=True), IMAGES, progress=False)
    assert (tmp_path / "run" / "log.jsonl").read_bytes() == (
        tmp_path / "whole" / "log.jsonl"
    ).read_bytes()
    assert_same_weights(tmp_path / "whole", tmp_path / "run")
    assert ("before its first checkpoint: starting it anew" in caplog.text) == (step == 2)


def test_only_a_run_without_a_checkpoint_is_started_anew(tmp_path, monkeypatch):
    again = config(output="run", resume=True)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "holidays.jpg").write_text("mine")
    with pytest.raises(InvalidInput, match="holds holidays.jpg and no checkpoint"):
        train(again, IMAGES, progress=False)
    (tmp_path / "run" / "holidays.jpg").unlink()
    stop_at(2, monkeypatch)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidInput, match="steps: 8 there, 9 now"):
        train(replace(again, steps=9), IMAGES, progress=False)
    (tmp_path / "run" / "config.yaml").write_text("- torn")
    with pytest.raises(InvalidInput, match="config.yaml holds no options"):
        train(again, IMAGES, progress=False)


def test_a_study_that_judged_a_run_before_its_first_checkpoint_starts_it_anew(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "judged-step-00000001-0123abcd.json").write_text("{}")
    (run / ".lock").touch()
    train(config(output=str(run), resume=True), IMAGES, progress=False)
    assert (run / "result.json").is_file() and not list(run.glob("judged-*"))


def flip_a_bit(path, place):
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("place", [0.0, 0.3, 0.6, 0.99])
def test_one_flipped_bit_in_a_checkpoint_is_found_and_the_one_before_it_used(
    place, tmp_path, monkeypatch, caplog
):
    train(config("persistent", output="run"), IMAGES, progress=False)
    before, log = weights(tmp_path / "run"), (tmp_path / "run" / "log.jsonl").read_bytes()
    again = config("persistent", output="run", resume=True)
    newest = last_checkpoint(tmp_path / "run" / "checkpoints")
    for file in sorted(newest.iterdir()):
        whole = file.read_bytes()
        flip_a_bit(file, place)
        caplog.clear()
        train(again, IMAGES, progress=False)
        assert "the checkpoint before it" in caplog.text
        # the bit of a name in the manifest makes the file of that name a missing one
        assert "damaged" in caplog.text or "is missing" in caplog.text
        torch.testing.assert_close(weights(tmp_path / "run"), before, rtol=0, atol=0)
        assert (tmp_path / "run" / "log.jsonl").read_bytes() == log
        if (newest / STATE_FILE).name == file.name:
            assert len(file.read_bytes()) == len(whole)  # the run wrote it again
    for path in (tmp_path / "run" / "checkpoints").iterdir():
        flip_a_bit(path / STATE_FILE, place)
    with pytest.raises(InvalidInput, match="no other checkpoint can be read: start the run again"):
        train(again, IMAGES, progress=False)
    with pytest.raises(InvalidInput, match="is damaged"):
        train(config(output="other", start_from="run"), IMAGES, progress=False)


@pytest.mark.parametrize("place", [0.0, 0.3, 0.6, 0.99])
def test_one_flipped_bit_in_a_pipeline_is_found_and_resume_writes_it_again(place, tmp_path):
    train(config(output="run", steps=2), IMAGES, progress=False)
    before = weights(tmp_path / "run")
    for file in sorted((tmp_path / "run" / "pipeline").rglob("*.*")):
        flip_a_bit(file, place)
        with pytest.raises(InvalidInput, match="damaged|missing"):
            load_pipeline("run")
        train(config(output="run", steps=2, resume=True), IMAGES, progress=False)
        torch.testing.assert_close(load_pipeline("run").unet.state_dict(), before, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        (r"training_state\.pt: ema\.shadow_params\[0\]", lambda t: t.ema.shadow_params[0]),
        (
            r"training_state\.pt: optimizer\.state\.0\.exp_avg",
            lambda t: t.optimizer.state[next(iter(t.bare_network.parameters()))]["exp_avg"],
        ),
        (
            r"training_state\.pt: network\.conv_in\.weight",
            lambda t: t.bare_network.conv_in.weight.data,
        ),
        (r"regularizer-0\.pt: ", lambda t: t.regularizer.rollout.states[0].x),
    ],
)
def test_a_state_that_is_not_finite_is_refused_by_name(name, spoil, tmp_path):
    trainer = Trainer(config("persistent"), IMAGES)
    trainer.run(until=2)
    spoil(trainer).view(-1)[0] = float("nan")
    path = trainer.save_checkpoint(tmp_path / "run" / "checkpoints")
    with pytest.raises(InvalidInput, match=f"{name}.* holds NaN or infinity"):
        Trainer(config("persistent"), IMAGES).load_checkpoint(path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_asked_to_stop_saves_its_step_and_says_how_it_goes_on(
    number, tmp_path, monkeypatch, capsys
):
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
    torch.save(IMAGES.images, tmp_path / "images.pt")
    flags = [*FLAGS, f"--data={tmp_path / 'images.pt'}", "--log-every=3", "--checkpoint-every=100"]
    assert main(["train", *flags, "--output", "whole"]) == 0
    step = Trainer._step

    def asked(self):
        if self.step == 1:
            os.kill(os.getpid(), number)
        return step(self)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "_step", asked)
        assert main(["train", *flags, "--output", "my run"]) == 128 + number
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    command = capsys.readouterr().err.rpartition("go on with: ")[2].strip()
    assert [path.name for path in (tmp_path / "my run" / "checkpoints").iterdir()] == [
        "step-00000002"
    ]
    assert main([*shlex.split(command)[1:], "--quiet"]) == 0
    assert_same_weights(tmp_path / "whole", tmp_path / "my run")
    assert read_log(tmp_path / "whole") == read_log(tmp_path / "my run")


def test_a_second_run_in_the_same_folder_is_refused(tmp_path):
    train(config(output="run"), IMAGES, progress=False)
    before = {name: path.read_bytes() for name, path in files(tmp_path).items()}
    with locked("run", inside=True):
        for resume in (True, False):
            with pytest.raises(InvalidInput, match="another process of undrift|is there already"):
                train(config(output="run", resume=resume), IMAGES, progress=False)
    assert {name: path.read_bytes() for name, path in files(tmp_path).items()} == before


@pytest.mark.parametrize(
    "line",
    ["[1]", '{"loss": 1}', '{"step": 1, "loss": "x"}', '{"step": 1e999}', "[" * 10**5, "\xff"],
)
def test_a_damaged_line_of_a_log_is_named(line, tmp_path):
    (tmp_path / "log.jsonl").write_text(f'{{"step": 1}}\n{line}\n{{"step": 2}}\n{{"st')
    with pytest.raises(InvalidInput, match="log.jsonl is damaged: line 2 is no row"):
        read_log(tmp_path)
