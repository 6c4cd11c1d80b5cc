"""The cumulative error in other spaces: where it must be that of the states, and where it is 0."""

import math

import pytest
import torch

from error_state import state
from tiny import exact_sampler, shrinking_sampler
from undrift import InvalidInput, measure
from undrift.diffusion.schedule import LinearSchedule
from undrift.measurement.feature_error import feature_error
from undrift.measurement.merge import merge_profiles
from undrift.measurement.profile import ErrorProfile
from undrift.regularizer.spaces import PixelSpace

OPTIONS = {"states": 3, "num_samples": 400, "budget": False, "exposure": False, "progress": False}


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def first(x, t):
    return [x[:, :1, None]]


def second(x, t):
    return [x[:, 1:, None]]


@pytest.fixture(scope="module")
def profile():
    """A chain that shrinks its data, in pixels, in one number of a state, and in a scaled copy."""
    sampler = shrinking_sampler(0.8, LinearSchedule(50), 50)
    spaces = {"same": lambda x, t: [1e3 * x[:, None] + 7], "first": first}
    return measure(sampler, normal(500, 2), spaces=spaces, **OPTIONS)


def test_a_space_of_the_states_in_other_units_has_their_error(profile):
    for each in profile:
        error = each.features["same"]
        assert error.mmd_sq == pytest.approx(each.error.mmd_sq, abs=1e-6)
        assert error.mmd_sq_se == pytest.approx(each.error.mmd_sq_se, rel=1e-3)
        assert error.p_value == each.error.p_value
    assert profile.final.features["first"].is_detected


def test_equal_distributions_have_no_error_in_any_space():
    found = []
    for seed in range(40):
        x, y = normal(2, 60, 4, seed=seed)
        error = feature_error(lambda x, t: [x.tanh()[..., None], x[:, None] ** 3], x, y, 5,
                              batch_size=25, num_permutations=0)  # fmt: skip
        found.append(error.mmd_sq / error.null_sd)
    mean = torch.tensor(found).mean()
    assert abs(float(mean)) < 4 / math.sqrt(40) and max(found) < 6


def test_a_space_shows_the_errors_of_what_it_sees_and_no_others():
    x, y = normal(2, 500, 2)
    x[:, 1] *= 1.4
    errors = [feature_error(space, x, y, 0, batch_size=500) for space in (first, second)]
    assert [error.is_detected for error in errors] == [False, True]


def test_batches_and_the_scale_of_a_block_change_nothing():
    x, y = normal(2, 100, 3)
    one = feature_error(lambda x, t: [x[:, None], x.abs()[..., None]], 2 * x, y, 0, batch_size=100)
    two = feature_error(
        lambda x, t: [x[:, None], 1e4 * x.abs()[..., None]], 2 * x, y, 0, batch_size=7
    )
    assert one.mmd_sq == pytest.approx(two.mmd_sq, rel=1e-4)


def test_profiles_merge_and_keep_their_features_in_the_file(profile, tmp_path):
    again = ErrorProfile.load(profile.save(tmp_path / "p.json"))
    assert again == profile
    parts = []
    for seed, value in enumerate((0.02, 0.04)):
        error = state(mmd_sq=value, se=1e-3).error
        parts.append(ErrorProfile((state(features={"a": error}),), 100, 100, how={"seed": seed}))
    merged = merge_profiles(parts).final.features["a"]
    assert merged.mmd_sq == pytest.approx(0.03)
    assert merged.mmd_sq_se == pytest.approx(1e-3 / math.sqrt(2))
    alone = ErrorProfile((state(),), 100, 100, how={"seed": 2})
    assert merge_profiles([parts[0], alone]).final.features == {}


@pytest.mark.parametrize(
    ("spaces", "words"),
    [
        ({"a.b": PixelSpace()}, "without a point"),
        ({"a": lambda x, t: [x]}, "no blocks of shape"),
        ({"a": lambda x, t: []}, "no blocks of shape"),
    ],
)
def test_spaces_that_cannot_be_used_are_refused_before_any_chain_runs(spaces, words, monkeypatch):
    monkeypatch.setattr("undrift.measurement.chain.ChainMeasurement.run", None)
    with pytest.raises(InvalidInput, match=words):
        measure(exact_sampler(5), normal(100, 2), spaces=spaces, **OPTIONS)
