"""Every kind of model that diffusers builds: all commands run, exact denoisers have no error."""

import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace

import diffusers
import pytest
import torch
from torch import nn

from undrift import measure
from undrift.diffusion.condition import Conditions
from undrift.diffusion.pipelines import as_sampler
from undrift.mmd.two_sample import mmd_estimate

ROOT = Path(__file__).parents[1]
MEANS, SPREAD = torch.tensor([-0.5, 0.1, 0.7]), 0.25


def study():
    """The command that writes the table."""
    spec = importlib.util.spec_from_file_location("kinds_study", ROOT / "studies" / "kinds.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


KINDS = study().kinds()
REFUSED = {
    ("zero terminal SNR, v-prediction", "tune"): "the schedule ends without signal",
    ("SD3-like (latent, prompts, flow)", "tune"): "prediction type is flow_prediction",
    ("flow matching", "tune"): "prediction type is flow_prediction",
    ("Euler, continuous times", "tune"): "needs a schedule of betas",
    ("consistency model", "tune"): "prediction type is unknown",
    ("consistency model", "fine-tune"): "was distilled",
    ("LCM", "fine-tune"): "was distilled",
}


@pytest.mark.parametrize("kind", KINDS)
def test_all_commands_run_on_a_kind_or_say_why_not(kind, tmp_path):
    found = study().cells(KINDS[kind], tmp_path)
    for command, cell in found.items():
        reason = REFUSED.get((kind, command))
        if reason is None and (kind, "fine-tune") in REFUSED and command == "out again":
            assert cell == "–"
        else:
            assert (cell == "yes") if reason is None else reason in cell, (command, cell)
            assert "\n" not in cell


def test_the_table_in_the_docs_is_that_of_the_command():
    text = (ROOT / "docs" / "data" / "kinds.md").read_text()
    assert [line.split(" | ")[0][2:] for line in text.splitlines()[2 : 2 + len(KINDS)]] == list(
        KINDS
    )


# --- exact denoisers ---


def noise_source(seed=0):
    return torch.Generator().manual_seed(seed)


def rows(values, like):
    return values.view(-1, *[1] * (like.ndim - 1))


class Exact(nn.Module):
    """What a network of a kind returns for data N(m_c, 0.25²), c the condition if it has one."""

    def __init__(self, scheduler, *, config=None, distilled=False):
        super().__init__()
        self.scheduler, self.config, self.distilled = scheduler, config, distilled

    def forward(self, x, timestep, class_labels=None, encoder_hidden_states=None, **more):
        if encoder_hidden_states is not None:
            class_labels = encoder_hidden_states[:, 0, 0].long()
        if class_labels is None:
            class_labels = torch.ones(len(x), dtype=torch.int64)
        return self.answer(x.double(), timestep.double(), rows(MEANS[class_labels].double(), x)).to(
            x
        )

    def level(self, timestep):
        if hasattr(self.scheduler, "precondition_outputs"):
            return (4 * timestep).exp()
        if self.scheduler.config.get("timestep_type") == "continuous":
            return (4 * timestep).exp()
        if isinstance(self.scheduler, diffusers.CMStochasticIterativeScheduler):
            return (4 * timestep / 1000).exp()
        if "FlowMatch" in type(self.scheduler).__name__:
            return timestep / (1000 - timestep).clamp(min=1e-6)
        table = self.scheduler.alphas_cumprod.double()
        low = timestep.floor().long().clamp(max=len(table) - 2)
        logs = (1 / table - 1).clamp(max=1e12).log() / 2
        return torch.lerp(logs[low], logs[low + 1], timestep - low).exp()

    def answer(self, x, timestep, mean):
        level = rows(self.level(timestep), x)
        alpha = 1 / (1 + level**2).sqrt()
        sigma = alpha * level
        if "FlowMatch" in type(self.scheduler).__name__:
            state = x * (alpha + sigma)
            x_0 = self.estimate(state, alpha, sigma, mean)
            return (state - alpha * x_0) / sigma - x_0
        if (
            hasattr(self.scheduler, "sigma_data")
            or hasattr(self.scheduler, "precondition_outputs")
            or isinstance(self.scheduler, diffusers.CMStochasticIterativeScheduler)
        ):
            return self.preconditioned(x, level, mean)
        x_0 = self.estimate(x, alpha, sigma, mean)
        epsilon = (x - alpha * x_0) / sigma
        kind = self.scheduler.config.get("prediction_type")
        out = alpha * epsilon - sigma * x_0 if kind == "v_prediction" else epsilon
        if str(self.scheduler.config.get("variance_type")).startswith("learned"):
            return torch.cat([out, self.variance(x, timestep)], 1)
        return out

    def estimate(self, state, alpha, sigma, mean):
        """The posterior mean, or the end of the probability flow for a distilled network."""
        total = alpha**2 * SPREAD**2 + sigma**2
        if self.distilled:
            return mean + SPREAD / total.sqrt() * (state - alpha * mean)
        return mean + alpha * SPREAD**2 / total * (state - alpha * mean)

    def preconditioned(self, x, level, mean, data=0.5):
        norm, lowest = (level**2 + data**2).sqrt(), 0.0
        state = x * norm
        if self.distilled:  # boundary conditions at the smallest level
            lowest = float(self.scheduler.config.sigma_min)
            skip = data**2 / ((level - lowest) ** 2 + data**2)
            scale = (level - lowest) * data / norm
            spread = ((SPREAD**2 + lowest**2) / (SPREAD**2 + level**2)).sqrt()
            return (mean + spread * (state - mean) - skip * state) / scale.clamp(min=1e-9)
        x_0 = self.estimate(state, torch.ones_like(level), level, mean)
        return (x_0 - (data / norm) ** 2 * state) * norm / (level * data)

    def variance(self, x, timestep):
        """The share of log-variance at which the step has the exact reverse variance."""
        t, table = int(timestep[0]), self.scheduler.alphas_cumprod.double()
        abar_t = table[t]
        abar_s = table[t - 1] if t else torch.ones((), dtype=torch.float64)
        large = 1 - abar_t / abar_s
        small = (1 - abar_s) / (1 - abar_t) * large
        on_x_0 = abar_s.sqrt() * large / (1 - abar_t)
        posterior = SPREAD**2 * (1 - abar_t) / (abar_t * SPREAD**2 + 1 - abar_t)
        wanted = small + on_x_0**2 * posterior
        small = small.clamp(min=1e-20)
        share = (wanted / small).log() / (large / small).log()
        return torch.full_like(x, 2 * float(share) - 1)


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
