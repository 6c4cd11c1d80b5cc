"""The error in the base's own features, and which error predicts quality in other networks."""

from dataclasses import replace

import pytest
import torch
from scipy import stats

from commands import network
from undrift.data.load import load_data
from undrift.diffusion.pipelines import as_sampler, ddpm_scheduler, load_pipeline, save_pipeline
from undrift.diffusion.schedule import CosineSchedule
from undrift.study.own_features import OwnFeatures
from undrift.study.record import Judgment, StudyRow
from undrift.study.statistics import predictions


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A chain over an untrained network."""
    folder = tmp_path_factory.mktemp("pipeline")
    scheduler = ddpm_scheduler(CosineSchedule(5), "sample", "fixed_small", 1.0)
    save_pipeline(network(), scheduler, folder)
    return as_sampler(load_pipeline(folder))


@pytest.fixture(scope="module")
def halves():
    images = load_data("digits", limit=400).images
    return images[::2], images[1::2]


def test_equal_distributions_have_no_error_and_noise_has(base, halves):
    one, other = halves
    features = OwnFeatures(base, other)
    noise = torch.randn(one.shape, generator=torch.Generator().manual_seed(0))
    null, far = features.error(one), features.error(noise)
    assert abs(null.mmd_sq) < 4 * null.standard_error
    assert far.mmd_sq > 20 * null.standard_error


def test_it_depends_neither_on_batches_nor_on_the_scale_of_a_stage(base, halves, monkeypatch):
    one, other = halves
    found = OwnFeatures(base, other).error(0.8 * one).mmd_sq
    monkeypatch.setattr("undrift.study.own_features._BATCH_SIZE", 37)
    again = OwnFeatures(base, other)
    space = again.space
    again.space = lambda x, t: [block * 10**k for k, block in enumerate(space(x, t))]
    assert again.error(0.8 * one).mmd_sq == pytest.approx(found, rel=1e-3)


def points(count=12):
    """The error in pixels ranks as the quality in one does."""
    noise = torch.rand(3, count, generator=torch.Generator().manual_seed(0)).tolist()
    for k in range(count):
        at = ("branched", "x", k % 2, "steps", 10, 1.0, f"run-{k}", "ddim", 5, 5)
        one = Judgment(frechet=k + 1.0, kernel_distance=-float(k), feature_mmd_sq=noise[0][k])
        two = Judgment(frechet=noise[1][k], feature_mmd_sq=noise[2][k])
        yield StudyRow(*at, mmd_sq=k / 10, quality={"one": one, "two": two})


def test_each_error_is_held_against_the_other_networks_only():
    rows = list(points())
    found = {(each.space, each.network, each.metric): each for each in predictions(rows)}
    assert found.keys() == {
        ("pixels", "one", "frechet"),
        ("pixels", "one", "kernel_distance"),
        ("pixels", "two", "frechet"),
        ("one", "two", "frechet"),
        ("two", "one", "frechet"),
        ("two", "one", "kernel_distance"),
    }
    assert found["pixels", "one", "frechet"].overall.rho == pytest.approx(1)
    assert found["pixels", "one", "kernel_distance"].overall.rho == pytest.approx(-1)
    x, y = ([getattr(row.quality[name], key) for row in rows]
            for name, key in (("one", "feature_mmd_sq"), ("two", "frechet")))  # fmt: skip
    expected = stats.spearmanr(x, y).statistic
    assert found["one", "two", "frechet"].overall.rho == pytest.approx(expected)
    assert found["pixels", "one", "frechet"].within_seed is None  # six of each seed
    assert found["pixels", "one", "frechet"].within_chain.num_points == 12
    assert predictions(rows[:7]) == []
    own = [replace(row, own_mmd_sq=row.mmd_sq) for row in rows]
    assert ("own", "one") in {(each.space, each.network) for each in predictions(own)}
