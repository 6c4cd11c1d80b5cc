"""Other samplers over a network: the same forward process, or a refusal; options as they are."""

import logging
from types import SimpleNamespace

import diffusers
import pytest
import torch

from undrift import InvalidInput, measure
from undrift.diffusion.pipelines import as_sampler, sampler_by_name

MEAN, SPREAD = 0.3, 0.25


def noise_source(seed=0):
    return torch.Generator().manual_seed(seed)


def moments(alpha, sigma, x):
    """The posterior mean of N(0.3, 0.25²) given x = alpha x_0 + sigma epsilon."""
    return MEAN + alpha * SPREAD**2 / (alpha**2 * SPREAD**2 + sigma**2) * (x - alpha * MEAN)


class Exact(torch.nn.Module):
    """The exact network of a table of noise levels, at any of its timesteps."""

    def __init__(self, scheduler):
        super().__init__()
        table = scheduler.alphas_cumprod.double()
        self.levels = (1 / table - 1).sqrt().clamp(max=1e6).log()
        self.kind = scheduler.config.prediction_type

    def forward(self, x, timestep):
        t = timestep.double().reshape(-1)
        low = t.long().clamp(0, len(self.levels) - 2)
        level = torch.lerp(self.levels[low], self.levels[low + 1], t - low).exp()
        level = level.view(-1, *[1] * (x.ndim - 1))
        alpha, state = 1 / (1 + level**2).sqrt(), x.double()
        sigma = alpha * level
        x_0 = moments(alpha, sigma, state)
        if self.kind == "epsilon":
            return ((state - alpha * x_0) / sigma).to(x)
        return ((alpha * state - x_0) / sigma).to(x)


class ExactFlow(torch.nn.Module):
    """The exact velocity on x_t = (1 - sigma) x_0 + sigma epsilon at timestep 1000 sigma."""

    def forward(self, x, timestep):
        sigma = (timestep.double() / 1000).view(-1, *[1] * (x.ndim - 1))
        x_0 = moments(1 - sigma, sigma, x.double())
        return ((x.double() - x_0) / sigma).to(x)


class ExactEDM(torch.nn.Module):
    """EDM's F at timestep log(sigma)/4, of which its preconditioning makes the exact D."""

    def forward(self, x, timestep, data=0.5):
        sigma = (4 * timestep.double()).exp().view(-1, *[1] * (x.ndim - 1))
        norm = (sigma**2 + data**2).sqrt()
        state = x.double() * norm
        x_0 = moments(1, sigma, state)
        return ((x_0 - (data / norm) ** 2 * state) * norm / (sigma * data)).to(x)


def exact(scheduler, network=None):
    return SimpleNamespace(unet=network or Exact(scheduler), scheduler=scheduler)


def final_of(sampler):
    data = MEAN + SPREAD * torch.randn(4000, 1, 1, 2, generator=noise_source(9))
    profile = measure(sampler, data, num_samples=500, states=2, budget=False, progress=False)
    return profile.final


def has_no_error(sampler):
    """No more than four standard errors and what 100 steps of first order leave."""
    final = final_of(sampler)
    return abs(final.mmd_sq) < 4 * final.mmd_sq_se + 2e-4


# betas at the defaults of DDPMScheduler, which the other classes have others of
MODELS = (
    {},
    {"prediction_type": "v_prediction", "beta_end": 0.01},
    {"beta_schedule": "scaled_linear", "beta_start": 1e-3, "num_train_timesteps": 500},
)
SAMPLERS = (
    "ancestral",
    "ddim",
    "dpm-solver++",
    "heun",
    "unipc",
    "DDPMScheduler",
    "DEISMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "EulerAncestralDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "LMSDiscreteScheduler",
    "SASolverScheduler",
)


@pytest.mark.parametrize("name", SAMPLERS)
def test_an_exact_network_has_no_error_under_another_sampler(name):
    pipe = exact(diffusers.DDPMScheduler(clip_sample=False))
    assert has_no_error(sampler_by_name(pipe, name, 100))


@pytest.mark.parametrize("name", SAMPLERS)
def test_another_sampler_keeps_betas_and_prediction(name):
    """Given or left at the default of their own class, which is another in other classes."""
    for options in MODELS:
        made = diffusers.DDPMScheduler(**options)
        sampler = sampler_by_name(exact(made), name, 5)
        torch.testing.assert_close(sampler.alphas_cumprod, made.alphas_cumprod.double())
        assert sampler.prediction_type == made.config.prediction_type


def test_the_error_of_euler_falls_with_the_number_of_its_steps():
    """Of first order in the noise level: what it has is its own."""
    pipe = exact(diffusers.DDPMScheduler(clip_sample=False))
    few, many = (final_of(sampler_by_name(pipe, "euler", n)) for n in (20, 500))
    assert few.mmd_sq > 3 * few.mmd_sq_se and abs(many.mmd_sq) < 4 * many.mmd_sq_se


@pytest.mark.parametrize(
    ("scheduler", "network", "name"),
    [
        (diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0), ExactFlow(), None),
        (
            diffusers.FlowMatchEulerDiscreteScheduler(),
            ExactFlow(),
            "FlowMatchHeunDiscreteScheduler",
        ),
        (diffusers.EDMEulerScheduler(), ExactEDM(), "EDMDPMSolverMultistepScheduler"),
        (diffusers.EDMDPMSolverMultistepScheduler(), ExactEDM(), "EDMEulerScheduler"),
    ],
)
def test_a_scheduler_of_the_same_family_serves(scheduler, network, name):
    assert has_no_error(sampler_by_name(exact(scheduler, network), name, 200))


@pytest.mark.parametrize(
    "name",
    [
        *("FlowMapEulerDiscrete", "CMStochasticIterative", "LCM", "TCD", "FlowMatchLCM"),
        *("CogVideoXDDIM", "VQDiffusion", "Amused", "UnCLIP", "RFD4Proteina", "KarrasVe"),
    ],
)
@pytest.mark.parametrize("steps", [1, 20])
def test_another_forward_process_is_refused_in_one_line(name, steps):
    words = "does not serve this model.*choose the model's own DDPMScheduler .*, ancestral, ddim"
    words += "|KarrasVeScheduler has no forward process"  # what diffusers 0.42.0 has of it
    pipe = exact(diffusers.DDPMScheduler(), lambda x, timestep: x)
    with pytest.raises(InvalidInput, match=words) as refused:
        sampler_by_name(pipe, f"{name}Scheduler", steps)
    assert "\n" not in str(refused.value)


# --- the options of the pipeline ---


def far(x, timestep):
    """A network whose estimates of the data lie beyond every bound."""
    return -2 * x


OPTIONS = (
    {"clip_sample": False},
    {"clip_sample_range": 3.0},
    {"thresholding": True, "sample_max_value": 4.0},
    {"clip_sample": False, "timestep_spacing": "trailing"},
    {"clip_sample": False, "timestep_spacing": "linspace"},
    {"steps_offset": 1},
)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("own", ["DDPM", "DDIM"])
@pytest.mark.parametrize(("name", "kind"), [("ancestral", "DDPM"), ("ddim", "DDIM")])
def test_a_sampler_of_ours_by_name_has_the_clipping_and_spacing_of_the_pipeline(
    name, kind, own, options
):
    """The same chain as the loop of diffusers over its class with the same options."""
    made, theirs = (getattr(diffusers, f"{k}Scheduler")(100, **options) for k in (own, kind))
    sampler = sampler_by_name(exact(made, far), name, 10)
    theirs.set_timesteps(10)
    assert [t + 1 for t in theirs.timesteps.tolist()] == list(sampler.grid[:-1])
    if (kind, options.get("timestep_spacing")) == ("DDIM", "linspace"):
        return  # diffusers' DDIM steps to times off this grid
    x = y = torch.randn(3, 1, 4, 4, generator=noise_source(1))
    ours, generator = sampler.trajectory(x, generator=noise_source(2)), noise_source(2)
    next(ours)
    for t, (_, x) in zip(theirs.timesteps, ours, strict=True):
        y = theirs.step(far(y, t), t, y, generator=generator).prev_sample
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["ancestral", "ddim"])
def test_a_scheduler_that_cannot_clip_does_not(name):
    """Data far outside of [-1, 1] are met."""
    scheduler = diffusers.EulerDiscreteScheduler()
    sampler = sampler_by_name(exact(scheduler), name, 50)
    assert (sampler.clip, sampler.spacing) == (None, scheduler.config.timestep_spacing)


def test_eta_reaches_a_ddim_of_diffusers_too():
    pipe = exact(diffusers.DDIMScheduler(thresholding=True), far)
    sampler = sampler_by_name(pipe, "ddim", 5, eta=0.5)
    assert sampler.step_options == {"eta": 0.5}


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("name", ["dpm-solver++", "DPMSolverSinglestepScheduler", "heun", "ddim"])
def test_a_learned_variance_is_left_out_whatever_the_number_of_channels(name, channels):
    def one(x, timestep):
        return torch.tanh(x).roll(1, 1)

    def two(x, timestep):
        return torch.cat([one(x, timestep), torch.sin(5 * x)], 1)

    chains = [
        sampler_by_name(exact(diffusers.DDPMScheduler(variance_type=kind), network), name, 5)
        for kind, network in (("fixed_small", one), ("learned_range", two))
    ]
    plain, learned = (c.sample((2, channels, 4, 4), generator=noise_source(1)) for c in chains)
    assert torch.equal(plain, learned)


# --- states without signal ---


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("kind", ["DDIM", "DDPM", "EulerDiscrete", "DPMSolverMultistep", "UniPC"])
def test_noise_is_not_predicted_from_states_without_signal(kind, clip):
    kind = f"{kind}Multistep" if kind == "UniPC" else kind
    options = {"clip_sample": clip} if kind.startswith("DD") else {}
    scheduler_class = getattr(diffusers, f"{kind}Scheduler")
    options |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    pipe = exact(scheduler_class(**options), far)
    with pytest.raises(InvalidInput, match="ends without signal, where the noise does not"):
        as_sampler(pipe, 20)
    velocity = scheduler_class(**(options | {"prediction_type": "v_prediction"}))
    assert has_no_error(as_sampler(exact(velocity), 200))


def test_a_chain_that_starts_before_them_may():
    scheduler = diffusers.DDIMScheduler(rescale_betas_zero_snr=True, clip_sample=False)
    assert has_no_error(as_sampler(exact(scheduler), 100))


# --- defaults that run ---


@pytest.mark.parametrize(
    ("kind", "options", "steps"),
    [
        ("DPMSolverMultistep", {}, 50),
        ("DEISMultistep", {}, 50),
        ("UniPCMultistep", {}, 50),
        ("SASolver", {}, 50),
        ("DDIM", {"steps_offset": 1, "clip_sample": False}, 50),
        ("LCM", {}, 4),
        ("TCD", {}, 4),
    ],
)
def test_a_scheduler_without_all_training_steps_takes_fewer_and_says_so(
    kind, options, steps, caplog
):
    pipe = exact(getattr(diffusers, f"{kind}Scheduler")(**options))
    with caplog.at_level(logging.INFO, logger="undrift"):
        sampler = as_sampler(pipe)
    assert len(sampler.grid) - 1 == steps
    said = [message for message in caplog.messages if "by default" in message]
    assert len(said) == 1 and said[0].startswith(f"{steps} denoising steps by default: ")
    if steps == 50:
        assert has_no_error(sampler)


def test_steps_that_repeat_a_time_are_refused_before_any_work():
    with pytest.raises(InvalidInput, match="repeats a time in 1000 steps: choose fewer"):
        as_sampler(exact(diffusers.UniPCMultistepScheduler()), 1000)


@pytest.mark.parametrize("name", [None, "ddim", "dpm-solver++"])
def test_a_chain_that_starts_in_the_middle_is_named(name, caplog):
    with caplog.at_level(logging.INFO, logger="undrift"):
        for spacing in ("leading", "trailing"):
            scheduler = diffusers.DDPMScheduler(timestep_spacing=spacing)
            sampler_by_name(exact(scheduler), name, 4)
            expected = sum("1 of 1000, where" in message for message in caplog.messages)
            assert expected == 1 == len(caplog.messages)
