"""Measuring during training: it changes nothing, and finds what measure() finds."""

from __future__ import annotations

import copy
from contextlib import nullcontext

import pytest
import torch
from diffusers import DDPMScheduler
from diffusers.training_utils import EMAModel
from torch import nn

import undrift
from tiny import noise_source

DATA = torch.randn(120, 3, generator=noise_source(5))
SMALL = {"num_samples": 40, "states": 2, "num_permutations": 0, "batch_size": 16}


class Dropping(nn.Module):
    """A network with all that training mode changes: dropout and running averages."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(4, 16), nn.BatchNorm1d(16), nn.Dropout(0.3), nn.SiLU(), nn.Linear(16, 3)
        )

    def forward(self, x, timestep):
        t = timestep.expand(len(x)).to(x)[:, None] / 50
        return self.layers(torch.cat([x, t], 1))


def train(steps=7, measured=True, autocast=False, averaged=False, loader=False, **options):
    """A bare loop on the global random stream; the network and its callback."""
    torch.manual_seed(0)
    network = Dropping()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    ema = EMAModel(network.parameters(), decay=0.5)
    sampler = undrift.DiffusersSampler(network, DDPMScheduler(50, clip_sample=False), 5)
    data = torch.utils.data.DataLoader(DATA, batch_size=30, shuffle=True) if loader else DATA
    own = {"ema": ema if averaged else None, "every": 3, "check_range": False} | SMALL | options
    callback = undrift.MeasurementCallback(sampler, data, **own) if measured else None
    for step in range(steps):
        x_0, t = DATA[torch.randint(len(DATA), (16,))], torch.randint(50, (16,))
        noise = torch.randn_like(x_0)
        x_t = sampler.scheduler.add_noise(x_0, noise, t)
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16) if autocast else nullcontext():
            if callback:
                callback(step)
            loss = (network(x_t, t).float() - noise).square().mean()
        loss.backward()
        optimizer.step()
        ema.step(network.parameters())
    if callback:
        callback(steps)
    return network, callback, ema


@pytest.mark.parametrize("way", ["autocast", "averaged", "loader", None])
def test_measuring_does_not_change_the_training(way):
    options = {way: True} if way else {}
    plain, *_ = train(measured=False, **options)
    network, callback, _ = train(**options)
    assert [*callback.profiles] == [0, 3, 6]
    assert network.training and network.layers[2].training
    states = plain.state_dict(), network.state_dict()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.parametrize("averaged", [False, True])
def test_the_curve_is_what_measure_finds_with_the_same_weights_and_seed(averaged):
    _, callback, _ = train(steps=7, averaged=averaged, seed=3)
    for step in (3, 6):
        network, _, ema = train(steps=step, measured=False)
        if averaged:
            ema.copy_to(network.parameters())
        chain = undrift.DiffusersSampler(network, DDPMScheduler(50, clip_sample=False), 5)
        few = {"budget": False, "exposure": False, "seed": 3, "check_range": False} | SMALL
        profile = undrift.measure(chain, DATA, progress=False, **few)
        assert callback.profiles[step].states == profile.states
        assert callback.profiles[step].label == f"step {step}"
    assert len({row["mmd_sq"] for row in callback.curve}) == 3


def test_labels_of_images_and_their_fingerprint_are_kept():
    digits = undrift.load_data("digits")
    scheduler = DDPMScheduler(50)
    chain = undrift.DiffusersSampler(lambda x, timestep: 0 * x, scheduler, 3)
    callback = undrift.MeasurementCallback(chain, digits, **SMALL)
    direct = undrift.measure(chain, digits, budget=False, exposure=False, progress=False, **SMALL)
    found = callback(0)
    assert found.states == direct.states
    assert found.how["data"] == direct.how["data"]
    assert torch.equal(callback.options["labels"], digits.labels)


def test_what_is_logged_is_the_curve():
    rows = []
    _, callback, _ = train(
        log=lambda values, step: rows.append((step, values)), num_permutations=39
    )
    assert [step for step, _ in rows] == [row["step"] for row in callback.curve] == [0, 3, 6]
    for (_, values), row in zip(rows, callback.curve, strict=True):
        assert values == {f"undrift/{k}": row[k] for k in ("mmd_sq", "mmd_sq_se", "p_value")}
        assert row["low"] <= max(row["mmd_sq"], 0.0) < row["high"]


def test_a_resumed_run_continues_the_curve(tmp_path):
    _, callback, _ = train()
    torch.save(callback.state_dict(), tmp_path / "state.pt")
    resumed = copy.copy(callback)
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert resumed.profiles == callback.profiles
    assert resumed.profiles is not callback.profiles
    resumed.measure(7)
    assert [row["step"] for row in resumed.curve] == [0, 3, 6, 7]


def test_weights_come_back_when_a_measurement_fails():
    network, callback, ema = train(averaged=True)
    before = copy.deepcopy(network.state_dict())
    ema.shadow_params[0][0] = torch.nan
    with pytest.raises(undrift.InvalidInput, match="NaN|finite"):
        callback.measure(8)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"every": 0}, undrift.InvalidInput, "every"),
        ({"num_chains": 10}, TypeError, "num_chains"),
        ({"model": "folder"}, undrift.InvalidInput, "network that is trained"),
        ({"ema": object()}, undrift.InvalidInput, "Module"),
    ],
)
def test_what_cannot_be_used_is_refused_before_training(options, error, message):
    chain = undrift.DiffusersSampler(lambda x, timestep: 0 * x, DDPMScheduler(50), 3)
    arguments = {"model": chain, "data": DATA} | options
    with pytest.raises(error, match=message):
        undrift.MeasurementCallback(**arguments)
