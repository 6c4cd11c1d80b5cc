"""What is measured against: data of all kinds, their range against the model's, and the cost."""

import logging
import re

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from affine import AffineSampler, gaussian_chain, gaussian_data
from undrift import (
    AncestralSampler,
    CosineSchedule,
    DDIMSampler,
    Denoiser,
    ImageData,
    InvalidInput,
    LinearSchedule,
    load_data,
    measure,
)
from undrift.measurement import cost
from undrift.measurement.cost import seconds_per_call
from undrift.mmd.kernels import RBFMixture

SCHEDULE = CosineSchedule(10)
FEW = {"num_samples": 60, "states": 2, "budget": False, "progress": False}
IMAGES = torch.rand(64, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1


def mean_of(data):
    """The best noise estimate of a network that knows the mean and the variance of each pixel."""

    def network(x_t, timestep):
        t = int(timestep[0]) + 1
        alpha, sigma = SCHEDULE.alpha(t), SCHEDULE.sigma(t)
        variance = alpha**2 * data.var(0) + sigma**2
        return sigma * (x_t - alpha * data.mean(0)) / variance

    return network


def sampler_of(data, **options):
    return AncestralSampler(Denoiser(mean_of(data), SCHEDULE), **options)


# -- what is taken as a model and as data ------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        DataLoader(IMAGES, batch_size=10),
        list(IMAGES),
        IMAGES.numpy(),
        [(image, 0) for image in IMAGES],
        ImageData(IMAGES, "made up"),
    ],
    ids=["loader", "list", "array", "pairs", "ImageData"],
)
def test_all_data_give_the_profile_of_the_tensor(data):
    sampler = sampler_of(IMAGES)
    expected, found = (measure(sampler, x, **FEW) for x in (IMAGES, data))
    assert found.states == expected.states
    assert found.how["data"]["fingerprint"] == expected.how["data"]["fingerprint"]


def test_data_are_had_by_their_name():
    digits = load_data("digits")
    found = measure(sampler_of(digits.images), "digits", **FEW)
    assert found.how["data"]["fingerprint"] == digits.fingerprint


def test_read_data_get_the_size_and_the_channels_of_the_model():
    from diffusers import UNet2DModel

    network = UNet2DModel(
        16, 3, 3, block_out_channels=(8, 8), norm_num_groups=4,
        down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2,
    )  # fmt: skip
    profile = measure(network, "digits", schedule=SCHEDULE, num_inference_steps=2, **FEW)
    assert profile.how["data"]["image_shape"] == [3, 16, 16]


def test_a_network_with_its_schedule_and_a_number_of_steps():
    network = mean_of(IMAGES)
    whole = measure(network, IMAGES, schedule=SCHEDULE, **FEW)
    assert whole.states == measure(sampler_of(IMAGES), IMAGES, **FEW).states
    profile = measure(Denoiser(network, SCHEDULE), IMAGES, num_inference_steps=5, **FEW)
    assert profile.how["sampler"]["num_inference_steps"] == 5


@pytest.mark.parametrize(
    ("model", "data", "words"),
    [
        (None, IMAGES, "cannot sample from a NoneType"),
        (nn.Linear(2, 2), IMAGES, "cannot sample from a Linear"),
        ("no/such/model", IMAGES, "no such folder: no/such/model"),
        (sampler_of(IMAGES), {"text": ["a"]}, "the data have text, but no images"),
        (sampler_of(IMAGES), 7, "cannot use a int as data"),
        (sampler_of(IMAGES), "nothing", "unknown data 'nothing'"),
    ],
)
def test_anything_else_is_refused_in_one_line(model, data, words):
    with pytest.raises(InvalidInput, match=words) as caught:
        measure(model, data, **FEW)
    assert "\n" not in str(caught.value)


# -- ranges ------------------------------------------------------------------------------------


def test_equal_data_are_refused_before_the_work_unless_the_bandwidth_is_known():
    never = AncestralSampler(Denoiser(lambda x, t: 1 / 0, SCHEDULE), clip=None)
    equal = torch.full((64, 3), 0.3)
    with pytest.raises(InvalidInput, match="all data are equal: give a kernel with a number"):
        measure(never, equal, **FEW)
    sampler = AncestralSampler(Denoiser(lambda x, t: x, SCHEDULE), clip=None)
    final = measure(sampler, equal, kernel=RBFMixture(1.0), **FEW).final
    assert 0 < final.mmd_sq <= 2


@pytest.mark.parametrize("sampler", [AncestralSampler, DDIMSampler])
def test_a_chain_of_one_step_is_measured(sampler):
    """One step from noise to E[x_0], or to the data's own mean: the error of N(0, 1) against it."""
    schedule = CosineSchedule(1)
    data = torch.randn(4000, 1, generator=torch.Generator().manual_seed(1))

    def ideal(x_t, timestep):  # of data N(0, 1)
        return schedule.sigma(1) * x_t

    chain = sampler(Denoiser(ideal, schedule), clip=None)
    profile = measure(
        chain, data, num_samples=2000, kernel=RBFMixture(4.0, (1.0,)), budget=False, progress=False
    )
    assert [state.t for state in profile.states] == [1, 0]
    spread = schedule.alpha(1) ** 2  # of the estimate alpha x_1, whose x_1 is N(0, 1)
    exact = (1 / (1 + spread)) ** 0.5 + (1 / 2) ** 0.5 - 2 * (1 / (1 + (1 + spread) / 2)) ** 0.5
    final = profile.final
    assert abs(final.mmd_sq - exact) < 4 * final.mmd_sq_se


@pytest.mark.parametrize("clip", [1.0, None])
@pytest.mark.parametrize(
    ("scaled", "formula"),
    [
        (lambda x: (x + 1) / 2, r"2 \* x - 1"),
        (lambda x: (x + 1) * 127.5, "x / 127.5 - 1"),
        (lambda x: ((x + 1) * 127.5).byte(), "x / 127.5 - 1"),
    ],
    ids=["0..1", "0..255", "bytes"],
)
def test_pixels_that_are_not_scaled_are_refused_with_what_to_do(clip, scaled, formula):
    images = load_data("digits", limit=400).images
    sampler = sampler_of(images, clip=clip)
    with pytest.raises(InvalidInput, match=formula) as caught:
        measure(sampler, scaled(images), **FEW)
    assert "\n" not in str(caught.value)
    wrong = measure(sampler, scaled(images), check_range=False, **FEW).final.error
    right = measure(sampler, images, **FEW).final.error
    assert wrong.mmd_sq > 5 * right.mmd_sq  # what would have been read in silence


def test_bright_data_and_a_model_that_makes_bright_samples_pass():
    bright = IMAGES / 2 + 0.5
    assert measure(sampler_of(bright), bright, **FEW).how["data"]["shape"] == [64, 1, 8, 8]


def test_positive_data_that_are_no_pixels_pass():
    rates = torch.rand(200, 3, generator=torch.Generator().manual_seed(0)) * 5 + 1
    assert measure(sampler_of(rates, clip=None), rates, **FEW).num_samples == 60


def test_clipping_that_cuts_the_data_is_refused_whoever_clips():
    from diffusers import DDIMScheduler, DDPMScheduler

    latents = 3 * torch.randn(100, 4, generator=torch.Generator().manual_seed(0))
    clipped = [
        lambda **options: measure(sampler_of(latents), latents, **FEW, **options),
        lambda **options: measure(
            mean_of(latents), latents, schedule=DDPMScheduler(10), **FEW, **options
        ),
        lambda **options: measure(
            mean_of(latents), latents, schedule=DDIMScheduler(10, set_alpha_to_one=False),
            **FEW, **options,
        ),
    ]  # fmt: skip
    for call in clipped:
        with pytest.raises(InvalidInput, match="clips to ±1, which cuts the data .*clip=None"):
            call()
        assert call(check_range=False).num_samples == 60
    plain = DDIMScheduler(10, set_alpha_to_one=False, clip_sample=False)
    assert measure(mean_of(latents), latents, schedule=plain, **FEW).num_samples == 60


def test_images_that_overshoot_the_bound_a_little_pass():
    edges = torch.where(IMAGES > 0.99, 1.02, IMAGES)
    assert measure(sampler_of(edges), edges, **FEW).num_samples == 60


def test_the_clip_is_the_whole_error_of_an_ideal_model_without_bound():
    """Data N(0, 9): with the default bound D² is 0.18, without it 0."""
    schedule = LinearSchedule(100)
    data = 3 * torch.randn(600, 4, generator=torch.Generator().manual_seed(0))

    def ideal(x_t, timestep):
        a = schedule.alpha_bar(int(timestep[0]) + 1)
        return x_t * (1 - a) ** 0.5 / (9 * a + 1 - a)

    options = FEW | {"num_samples": 400}
    sampler = AncestralSampler(Denoiser(ideal, schedule), clip=None)
    final = measure(sampler, data, **options).final.error
    assert abs(final.mmd_sq) < 4 * final.mmd_sq_se
    sampler = AncestralSampler(Denoiser(ideal, schedule))
    assert measure(sampler, data, check_range=False, **options).final.error.mmd_sq > 0.1


# -- cost --------------------------------------------------------------------------------------


@pytest.fixture
def slow(monkeypatch):
    """A step of one chain takes a fiftieth of a second."""
    monkeypatch.setattr(cost, "seconds_per_call", lambda *arguments: 0.02)
    return AffineSampler(gaussian_chain(10))


def told(sampler, capsys, **options):
    measure(sampler, gaussian_data(100), **(FEW | {"exposure": False, "states": [0]} | options))
    return capsys.readouterr().err


def test_the_cost_of_long_work_is_told_before_it(slow, capsys, caplog):
    words = r"measuring: 60 chains x 10 steps, 1,200 network calls in all, about (\d+) s"
    found = re.fullmatch(f"{words}\n", told(slow, capsys, budget=True, progress=True))
    assert found and int(found[1]) >= 20  # a busy machine takes longer
    caplog.set_level(logging.INFO, "undrift")
    told(slow, capsys, budget=True, progress=True)
    [message] = caplog.messages
    assert re.fullmatch(words, message)


def test_short_work_and_quiet_work_begin_without_a_word(slow, capsys, monkeypatch):
    assert told(slow, capsys) == ""
    assert told(slow, capsys, progress=True, num_samples=40) == ""
    monkeypatch.undo()
    assert told(slow, capsys, progress=True) == ""


def test_the_cost_is_that_of_the_network(monkeypatch):
    clock = iter(np.arange(1000) / 8)
    monkeypatch.setattr(cost.time, "perf_counter", lambda: float(next(clock)))
    sampler = AffineSampler(gaussian_chain(10))
    assert seconds_per_call(sampler, gaussian_data(10), 5) == pytest.approx(1 / 8 / 5)
