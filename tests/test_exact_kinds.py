"""An exact denoiser of each kind of model has no error in any state, nor have images of latents."""

from types import SimpleNamespace

import diffusers
import pytest
import torch
from torch import nn

from exact import MEANS, SPREAD, Exact, rows
from undrift import measure
from undrift.diffusion.condition import Conditions
from undrift.diffusion.pipelines import as_sampler
from undrift.mmd.two_sample import mmd_estimate


def noise_source(seed=0):
    return torch.Generator().manual_seed(seed)


def config(**options):
    return diffusers.configuration_utils.FrozenDict(options)


CLASSES = config(num_class_embeds=3, in_channels=1, sample_size=None)
PROMPTS = config(cross_attention_dim=2, in_channels=1, sample_size=None)
EXACT = {
    "learned variance": (
        diffusers.DDPMScheduler(60, beta_end=0.2, variance_type="learned_range", clip_sample=False),
        None, {},
    ),
    "class-conditional": (diffusers.DDPMScheduler(clip_sample=False), 200, {"config": CLASSES}),
    "class-conditional, DPM++": (
        diffusers.DPMSolverMultistepScheduler(), 40, {"config": CLASSES}
    ),
    "prompts, flow": (
        diffusers.FlowMatchEulerDiscreteScheduler(shift=2.0), 200, {"config": PROMPTS}
    ),
    "prompts, PNDM": (
        diffusers.PNDMScheduler(set_alpha_to_one=True), 50, {"config": PROMPTS}
    ),
    "EDM": (diffusers.EDMEulerScheduler(), 200, {}),
    "continuous times": (
        diffusers.EulerDiscreteScheduler(
            timestep_type="continuous", prediction_type="v_prediction", timestep_spacing="trailing",
            use_karras_sigmas=True, sigma_min=0.002, sigma_max=80.0,
        ),
        200, {},
    ),
    "consistency": (diffusers.CMStochasticIterativeScheduler(), 5, {"distilled": True}),
    "LCM, classes": (
        diffusers.LCMScheduler(), 4, {"distilled": True, "config": CLASSES}
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", EXACT)
def test_the_exact_denoiser_of_a_kind_has_no_error_in_any_state(kind):
    scheduler, steps, options = EXACT[kind]
    network = Exact(scheduler, **options)
    table = torch.arange(3.0).view(3, 1, 1).expand(3, 1, 2)
    chosen = Conditions(prompts={"prompt_embeds": table} if "prompts" in kind else None)
    sampler = as_sampler(SimpleNamespace(unet=network, scheduler=scheduler), steps, None, chosen)
    labels = torch.randint(3, (3000,), generator=noise_source(4))
    labels = labels if sampler.is_conditional else torch.ones(3000, dtype=torch.int64)
    x_0 = rows(MEANS[labels], torch.empty(1, 1, 1, 2))
    x_0 = x_0 + SPREAD * torch.randn(3000, 1, 1, 2, generator=noise_source(5))
    known = labels if sampler.is_conditional else None
    profile = measure(
        sampler, x_0, labels=known, num_samples=400, states=4, exposure=False, progress=False
    )
    for state in profile.states:
        assert abs(state.mmd_sq) < 4 * state.mmd_sq_se + 1e-3, state.t
        if state.budget:
            assert abs(state.budget.fresh_sq) < 4 * state.budget.fresh_sq_se + 1e-3, state.t


def test_latents_of_a_linear_autoencoder_are_measured_as_their_images_are():
    """Codes c (y - b) of images y: the chain of the codes' model has no error, nor its images."""

    class Linear(nn.Module):
        def __init__(self):
            super().__init__()
            self.anchor = nn.Parameter(torch.zeros(()))
            self.config = config(
                scaling_factor=0.5, shift_factor=0.2, in_channels=1, block_out_channels=(1,)
            )

        def encode(self, images):
            return SimpleNamespace(latents=images * 2 + 0.4)

        def decode(self, codes):
            return SimpleNamespace(sample=(codes - 0.4) / 2)

    scheduler = diffusers.DDPMScheduler(clip_sample=False)
    pipe = SimpleNamespace(unet=Exact(scheduler), scheduler=scheduler, vqvae=Linear())
    pipe.unet.config = config(in_channels=1, sample_size=2)
    sampler = as_sampler(pipe, 200)
    # codes N(0.1, 0.25²): images with mean (0.1 / 0.5 + 0.2 - 0.4) / 2 and spread 0.25
    images = 0.25 * torch.randn(3000, 1, 2, 2, generator=noise_source(2))
    codes = sampler.space.encode(images)
    torch.testing.assert_close(codes, 0.5 * (2 * images + 0.4 - 0.2))
    torch.testing.assert_close(sampler.space.decode(codes), images)
    profile = measure(sampler, images, num_samples=400, states=3, progress=False)
    assert profile.how["data"]["encoded"]["scaling_factor"] == 0.5
    for state in profile.states:
        assert abs(state.mmd_sq) < 4 * state.mmd_sq_se + 1e-3
    from undrift.measurement.parallel_chains import draw_images

    made = draw_images(sampler, 400, (1, 2, 2), seed=1)
    assert mmd_estimate(made, images, generator=noise_source()).p_value > 0.01
