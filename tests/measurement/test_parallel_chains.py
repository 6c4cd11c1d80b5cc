"""Chains draw their noise one by one: nothing else about a run changes them."""

import diffusers
import pytest
import torch

from affine import AffineSampler, gaussian_chain, gaussian_data
from undrift import AncestralSampler, CosineSchedule, Denoiser, measure, sample
from undrift.diffusion.sampler import chain_generators, draw_noise
from undrift.exceptions import InvalidInput
from undrift.measurement.parallel_chains import ParallelChains
from undrift.seeds import chain_seed


def tiny_network():
    torch.manual_seed(0)
    return diffusers.UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(8, 8),
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        norm_num_groups=2,
    ).eval()


@pytest.mark.parametrize("kind", ["DDPM", "DDIM"])
def test_pipelines_of_diffusers_make_the_same_images_from_the_same_generators(kind):
    scheduler = getattr(diffusers, f"{kind}Scheduler")(num_train_timesteps=20)
    pipeline = getattr(diffusers, f"{kind}Pipeline")(tiny_network(), scheduler)
    pipeline.set_progress_bar_config(disable=True)
    own = sample(pipeline, 5, num_inference_steps=6, batch_size=2, progress=False, seed=3)
    generators = chain_generators(3, slice(0, 5))
    theirs = pipeline(5, generator=generators, num_inference_steps=6, output_type="np").images
    expected = torch.from_numpy(theirs).permute(0, 3, 1, 2) * 2 - 1
    torch.testing.assert_close(own.clamp(-1, 1), expected, atol=1e-5, rtol=1e-5)


def test_more_images_leave_the_first_as_they_are():
    pipeline = diffusers.DDPMPipeline(tiny_network(), diffusers.DDPMScheduler(20))
    options = {"num_inference_steps": 5, "progress": False}
    few, more = (sample(pipeline, count, **options) for count in (40, 41))
    assert len(more) == 41
    torch.testing.assert_close(more[:40], few)


def numbers(value):
    """All numbers of a record, in order."""
    if isinstance(value, dict):
        return [x for key in sorted(value) for x in numbers(value[key])]
    if isinstance(value, (list, tuple)):
        return [x for each in value for x in numbers(each)]
    return [float(value)] if isinstance(value, (int, float)) else []


def test_the_batch_size_changes_a_profile_by_rounding_alone():
    """All parts of it: budget, exposure, modular errors, growth."""
    chain = gaussian_chain(20, slope_error=-0.2)
    denoiser = Denoiser(lambda x, t: 0.9 * x, CosineSchedule(20))
    data, found = gaussian_data(300), []
    options = {"num_samples": 120, "states": 4, "progress": False, "growth": True}
    for sampler in (AffineSampler(chain), AncestralSampler(denoiser, clip=None)):
        modular = isinstance(sampler, AncestralSampler)
        one, other = (
            measure(
                sampler, data, batch_size=size, modular=modular, num_modular=50,
                check_range=False, **options,
            ).to_dict()["states"]
            for size in (7, 250)
        )  # fmt: skip
        found.append(numbers(one))
        assert len(found[-1]) > 100
        torch.testing.assert_close(
            torch.tensor(found[-1]), torch.tensor(numbers(other)), rtol=2e-3, atol=1e-5
        )


def test_noise_of_many_chains_is_independent_standard_normal():
    """The first draws of 20,000 chains: moments over chains, and products with neighbors."""
    count, dim = 20_000, 16
    generators = [torch.Generator().manual_seed(chain_seed(5, chain)) for chain in range(count)]
    first = draw_noise(torch.empty(count, dim, dtype=torch.float64), generators)
    second = draw_noise(torch.empty(count, dim, dtype=torch.float64), generators)
    assert len({chain_seed(5, chain) for chain in range(50_000)}) == 50_000
    products = [first * first.roll(lag, 0) for lag in (1, 2, 3, 7)]
    products += [first * first.roll(1, 1), first * second]
    for values, mean, variance in (
        (first, 0.0, 1.0),
        (first.square(), 1.0, 2.0),
        (first**3, 0.0, 15.0),
        *((product, 0.0, 1.0) for product in products),
    ):
        z = (values.mean(0) - mean) / (variance / count) ** 0.5
        assert float(z.square().sum()) < 39.3  # the 99.9 % quantile with 16 degrees of freedom


def test_a_list_of_generators_needs_one_for_each_row():
    with pytest.raises(InvalidInput, match="2 generators for 3 rows: give as many"):
        draw_noise(torch.zeros(3, 2), [torch.Generator(), torch.Generator()])


def test_rows_of_half_precision_get_their_noise_too():
    sampler = AffineSampler(gaussian_chain(4))
    chains = ParallelChains.from_prior(sampler, (3, 2), 2, seed=0)
    rows = draw_noise(torch.empty(3, 2, dtype=torch.bfloat16), chain_generators(0, slice(0, 3)))
    torch.testing.assert_close(rows.float(), chains.states, rtol=1e-2, atol=1e-2)
