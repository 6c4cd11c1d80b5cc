"""A dry run: what it counts, that a small step tells the memory of a large one, what it leaves."""

import json
from dataclasses import replace

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from tiny import TinyNetwork, noise_source, tiny_sampler
from undrift import cli
from undrift.exceptions import InvalidInput
from undrift.regularizer.cumulative import CumulativeErrorRegularizer
from undrift.regularizer.options import RegularizerConfig
from undrift.training import runs
from undrift.training.config import ModelConfig, TrainConfig
from undrift.training.dry_run import KeptBytes, _synthetic, dry_run
from undrift.training.trainer import Trainer

SMALL = TrainConfig(
    data="patches",
    image_size=16,
    batch_size=32,
    model=ModelConfig(block_out_channels=[16, 32], attention=True),
)
METHODS = ("plain", "persistent", "truncated", "full", "official", "consistent", "dream")


def regularized(method, **options):
    return replace(SMALL, method=method, regularizer=RegularizerConfig(**options))


@pytest.mark.parametrize("method", METHODS)
def test_a_small_step_tells_the_memory_of_a_large_one(method):
    config = regularized(method, num_inference_steps=20)
    small, large = dry_run(config, 8)["memory"], dry_run(config, 32)["memory"]
    measured = large.pop("activations")
    assert measured > 2e6
    assert small.pop("activations") == pytest.approx(measured, rel=0.03)
    assert small.pop("total") == pytest.approx(large.pop("total"), rel=0.03)
    assert small == large


def test_the_parts_are_those_of_the_network_and_the_optimizer():
    found = dry_run(regularized("persistent", num_cohorts=3, num_inference_steps=50), 8)
    memory, weights = found["memory"], 4 * found["parameters"]
    parts = {"weights": weights, "gradients": 2 * weights, "moments": 2 * weights}
    parts |= {"average": weights, "regularizer": 4 * 3 * 16 * 16 * (16 + 1024 + 3 * 16)}
    assert {name: memory[name] for name in parts} == parts
    assert memory["total"] == sum(size for name, size in memory.items() if name != "total")
    assert dry_run(SMALL, 8)["memory"]["gradients"] == weights
    assert found["starting_passes"] == 3 * 14 + 2 + 5 and found["states"] == 16


def test_frozen_copies_and_populations_are_counted(tmp_path):
    start = dry_run(regularized("persistent", num_inference_steps=20, strength=1.0), 8)["memory"]
    weights = start["weights"]
    assert start["copies"] == dry_run(SMALL, 8)["memory"]["copies"] == 0
    balanced = dry_run(regularized("persistent", num_inference_steps=20), 8)["memory"]
    assert balanced["copies"] == weights  # that of the limit on the main loss

    dry = Trainer(SMALL, _synthetic(SMALL))
    dry.save_pipeline(tmp_path / "model")
    options = {"num_inference_steps": 10, "features": "encoder+pixels", "population": 64}
    config = replace(
        regularized("persistent", **options), start_from=f"{tmp_path}/model", model=ModelConfig()
    )
    found = dry_run(config, 8)["memory"]
    assert found["copies"] == 2 * weights  # and that of the features
    trainer = Trainer(config, _synthetic(config))
    blocks = trainer.regularizer.comparison.space(torch.zeros(2, 3, 16, 16), 5)
    wide = sum(block[0].numel() for block in blocks)
    chains = 4 * 3 * 16 * 16 * trainer.regularizer.held(32)
    rows = 2 * (64 + 1024)  # two times, each with its population and forward draws
    assert 0 <= found["regularizer"] - chains - 2 * wide * rows < 4 * 2 * 2 * wide  # and units


def test_graphs_that_live_one_after_the_other_do_not_add_up():
    plain, persistent, full = (
        dry_run(regularized(m, num_forward=16), 32)["memory"]["activations"]
        for m in ("plain", "persistent", "full")
    )
    assert persistent == pytest.approx(plain, rel=0.02)  # half a batch, before the main term
    assert full == pytest.approx(5 * 8 / 32 * plain, rel=0.05)  # five modules of a quarter


def test_what_autograd_keeps_is_counted_once_and_without_the_weights():
    first, last = torch.nn.Linear(10, 20), torch.nn.Linear(20, 30)
    parameters = [*first.parameters(), *last.parameters()]
    kept, x = KeptBytes(parameters), torch.randn(7, 10)
    with saved_tensors_hooks(kept.pack, lambda held: held.tensor):
        for _ in range(3):  # each graph is gone before the next one is there
            hidden = torch.tanh(first(x))
            (last(hidden) ** 2).sum().backward()
    # x, the output of tanh (kept by tanh and by the layer after it) and that of the layer
    assert kept.most == {"scaled": 4 * 7 * (10 + 20 + 30)}
    with saved_tensors_hooks(kept.pack, lambda held: held.tensor), torch.autocast("cpu"):
        loss = last(torch.tanh(first(x))).sum()
    assert kept.most["fixed"] == 2 * 20 * 30  # a copy of a weight in half precision
    del loss
    assert not any(kept.now.values())


def test_half_precision_extrapolates_too():
    config = replace(SMALL, mixed_precision="bf16")
    small, large = (dry_run(config, b)["memory"]["activations"] for b in (8, 32))
    assert small == pytest.approx(large, rel=0.03)
    assert large < 0.8 * dry_run(SMALL, 32)["memory"]["activations"]


def test_it_touches_no_data_and_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runs, "load", None)
    state = torch.get_rng_state()
    flags = ["--method", "persistent", "--model.block-out-channels", "8,8", "--image-size", "8"]
    argv = ["train", "--data", "./nowhere", "--channels", "1", "--dry-run", *flags]
    assert cli.main([*argv, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["image_shape"] == [1, 8, 8] and found["step"]["batch_size"] == 4
    assert found["memory"]["total"] > found["memory"]["activations"] > 0
    assert cli.main([*argv, "--dry-run-batch-size", "64"]) == 0
    text = capsys.readouterr().out
    assert f"{found['parameters']:,} parameters, images 1x8x8, persistent" in text
    assert "with 64 of 64 images on cpu" in text
    assert not list(tmp_path.iterdir())
    assert torch.equal(state, torch.get_rng_state())


def test_a_run_does_not_know_of_dry_runs(tmp_path, capsys):
    flags = ["--model.block-out-channels", "8,8", "--sample-every", "0", "--steps", "1"]
    flags += ["--batch-size", "4", "--chain.num-steps", "10", "--quiet"]
    assert cli.main(["train", "--output", str(tmp_path / "run"), *flags]) == 0
    saved = (tmp_path / "run" / "config.yaml").read_text()
    assert "dry_run" not in saved and "steps: 1" in saved


@pytest.mark.parametrize(
    ("config", "batch_size", "message"),
    [
        (
            TrainConfig(data="./images"),
            None,
            "a dry run loads no data: .*--channels and --image-size",
        ),
        (SMALL, 33, "--dry-run-batch-size is 33: choose 1 to 32"),
        (SMALL, 0, "--dry-run-batch-size is 0"),
        (replace(SMALL, steps=0), None, "--steps is 0"),
        (replace(SMALL, image_size=15), None, "cannot be halved"),
    ],
)
def test_what_cannot_be_run_dry_is_one_line(config, batch_size, message):
    with pytest.raises(InvalidInput, match=message) as caught:
        dry_run(config, batch_size)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("stride", [1, 4, 100])
def test_the_passes_to_the_start_are_those_that_are_made(stride):
    network = TinyNetwork()
    regularizer = CumulativeErrorRegularizer(
        tiny_sampler(network, 30), strength=1.0, every=1, num_cohorts=3, stride=stride
    )
    regularizer(network, torch.randn(8, 3, generator=noise_source()))
    assert regularizer.starting_passes == len(network.timesteps) - 1
