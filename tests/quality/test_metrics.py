"""Metrics of torchmetrics: the functions' values, in any batches and over any processes."""

from __future__ import annotations

from dataclasses import asdict

import pytest
import torch
from torch import nn

import undrift
from tiny import noise_source
from undrift.quality.metrics import (
    CumulativeError,
    FrechetDistance,
    KernelDistance,
    PrecisionRecall,
)

FAKE = 1.2 * torch.randn(90, 1, 2, 3, generator=noise_source(0))
REAL = torch.randn(110, 1, 2, 3, generator=noise_source(1))


def kernel_distance(x, y):
    found = undrift.kernel_distance(x, y)
    return {"kernel_distance": found.mmd_sq, "kernel_distance_se": found.standard_error}


def cumulative_error(x, y):
    found = undrift.mmd_estimate(x, y, num_permutations=0)
    return {"mmd_sq": found.mmd_sq, "mmd_sq_se": found.standard_error}


CASES = {
    FrechetDistance: lambda x, y: {"frechet": undrift.frechet_distance(x, y)},
    KernelDistance: kernel_distance,
    PrecisionRecall: lambda x, y: asdict(undrift.precision_recall(x, y)),
    CumulativeError: cumulative_error,
}
every_metric = pytest.mark.parametrize("kind", CASES, ids=lambda kind: kind.__name__)


def expected(kind, fake=FAKE, real=REAL):
    return {
        k: pytest.approx(v, rel=1e-5)
        for k, v in CASES[kind](fake.flatten(1), real.flatten(1)).items()
    }


def numbers(metric):
    return {name: float(value) for name, value in metric.compute().items()}


def filled(metric, fake, real, sizes=(7, 50)):
    """The metric after batches of these sizes, samples and data in turns, last rows first."""
    for batch in reversed(real.split(sizes[0])):
        metric.update(batch, real=True)
    for batch in reversed(fake.split(sizes[1])):
        metric.update(batch, real=False)
    return metric


@every_metric
@pytest.mark.parametrize("sizes", [(7, 50), (200, 1)])
def test_values_are_those_of_the_functions_in_any_batches(kind, sizes):
    assert numbers(filled(kind(), FAKE, REAL, sizes)) == expected(kind)


@every_metric
def test_two_processes_find_what_one_does(kind):
    """The gathering of torchmetrics, with the other process's states instead of a network."""
    other = filled(kind(), FAKE[40:], REAL[25:])
    states = iter([torch.cat(other.fake), torch.cat(other.real), other.fake_low, other.real_low])
    own = kind(
        dist_sync_fn=lambda state, group=None: [state, next(states)],
        distributed_available_fn=lambda: True,
    )
    filled(own, FAKE[:40], REAL[:25])
    assert numbers(own) == expected(kind)
    assert len(torch.cat(own.fake)) == 40  # as before: only the value is joined
    merged = filled(kind(), FAKE[:40], REAL[:25])
    merged.merge_state(other)
    assert numbers(merged) == expected(kind)


@every_metric
@pytest.mark.parametrize("kept", [True, False])
def test_after_a_reset_only_new_samples_count(kind, kept):
    metric = filled(kind(reset_real_features=not kept), FAKE + 1, REAL)
    assert numbers(metric) != expected(kind)
    metric.reset()
    for batch, real in [(FAKE, False), (REAL, True)][: 1 if kept else 2]:
        metric.update(batch, real)
    assert numbers(metric) == expected(kind)


class Projection(nn.Module):
    """Features by a fixed matrix; torchmetrics asks for their number."""

    num_features = 4

    def __init__(self):
        super().__init__()
        self.matrix = nn.Parameter(torch.randn(6, 4, generator=noise_source(2)))

    def forward(self, x):
        return x.flatten(1) @ self.matrix


def test_torchmetrics_finds_the_same_on_the_same_features():
    from torchmetrics.image.fid import FrechetInceptionDistance
    from torchmetrics.image.kid import KernelInceptionDistance

    network = Projection()
    fid = FrechetInceptionDistance(network, input_img_size=(1, 2, 3))
    kid = KernelInceptionDistance(network, subsets=1, subset_size=90)
    fake, real = FAKE.tanh(), REAL[:90].tanh()
    for metric in (fid, kid):
        filled(metric, fake, real)
    own = filled(FrechetDistance(network), fake, real)
    assert float(own.compute()["frechet"]) == pytest.approx(float(fid.compute()), rel=1e-4)
    own = filled(KernelDistance(network), fake, real)
    value = float(own.compute()["kernel_distance"])
    assert value == pytest.approx(float(kid.compute()[0]), rel=1e-3)


def test_a_metric_without_samples_or_data_says_what_is_missing():
    metric = FrechetDistance()
    metric.update(REAL, real=True)
    with pytest.raises(undrift.InvalidInput, match="real=False"):
        metric.compute()
    with pytest.raises(undrift.InvalidInput, match="row 2"):
        metric.update(torch.tensor([[0.0], [1.0], [torch.inf]]), real=False)


def test_images_of_another_range_are_refused_before_they_count():
    """Integers, and floats of 0..255 for a feature map; rounding, latents and rows are taken."""
    stored = (127.5 * (REAL.tanh() + 1)).round()
    stored[0, 0, 0, :2] = torch.tensor([0.0, 255.0])
    mapped = FrechetDistance(Projection())
    mapped.update(1.004 * REAL.sign(), real=True)
    for metric in (mapped, FrechetDistance()):
        with pytest.raises(undrift.InvalidInput, match=r"uint8: give floats in \[-1, 1\]"):
            metric.update(stored.byte(), real=False)
    with pytest.raises(undrift.InvalidInput, match=r"from 0 to 255: scale them to \[-1, 1\]"):
        mapped.update(stored, real=False)
    assert len(mapped.real) == 1 and not mapped.fake
    FrechetDistance().update(stored, real=True)


@pytest.mark.parametrize("kept", [True, False])
def test_images_in_0_to_1_against_others_are_pointed_out(kept, caplog):
    """One side of either kind is; both of one kind are not, nor are data that were forgotten."""
    signed, unit = REAL.tanh(), (REAL.tanh() + 1) / 2
    for fake, real, said in [(unit, signed, "samples"), (signed, unit, "data"), (unit, unit, "")]:
        caplog.clear()
        filled(FrechetDistance(), fake, real).compute()
        assert [f"the {said} have no" in line for line in caplog.messages] == [True] * bool(said)
    metric = filled(FrechetDistance(reset_real_features=not kept), unit, unit)
    metric.reset()
    for batch, real in [(signed, False)] if kept else [(signed, False), (signed, True)]:
        metric.update(batch, real)
    metric.compute()
    assert len(caplog.messages) == kept
