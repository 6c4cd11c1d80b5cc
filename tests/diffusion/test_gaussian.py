"""Ancestral and DDIM steps: parity with diffusers, exact laws, convergence, gradients."""

from itertools import pairwise, product

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMPipeline, DDPMScheduler, UNet2DModel

from undrift.diffusion.denoiser import Denoiser
from undrift.diffusion.gaussian import AncestralSampler, DDIMSampler
from undrift.diffusion.schedule import CosineSchedule, LinearSchedule, Schedule
from undrift.exceptions import InvalidInput
from undrift.theory.gaussian_chain import GaussianChain

PREDICTION_TYPES = ["epsilon", "sample", "v_prediction"]
VARIANCE_TYPES = ["fixed_small", "fixed_small_log", "fixed_large", "learned", "learned_range"]
SHAPE = (2, 3, 4, 4)


def noise_source(seed):
    return torch.Generator().manual_seed(seed)


def draw(shape=SHAPE, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=noise_source(seed), dtype=dtype)


class Output:
    """A network that says what it was told to."""

    def __call__(self, x_t, timestep):
        return self.output


def outputs(t, dtype, learns_variance):
    """States and outputs of the size that networks have; a learned variance is positive."""
    output = draw(seed=3 * t + 1, dtype=dtype)
    if learns_variance:
        output = torch.cat([output, draw(seed=3 * t + 2, dtype=dtype).sigmoid()], 1)
    return 2 * draw(seed=3 * t, dtype=dtype), output


def in_float64(scheduler):
    """The scheduler with tables in float64: its formulas without its rounding."""
    scheduler.betas = scheduler.betas.double()
    scheduler.alphas = 1 - scheduler.betas
    scheduler.alphas_cumprod = scheduler.alphas.cumprod(0)
    scheduler.one = torch.ones((), dtype=torch.float64)
    scheduler.final_alpha_cumprod = scheduler.one
    return scheduler


def assert_steps_equal(network, sampler, scheduler, dtype, **options):
    """Every step of a sampler against the scheduler's step, with the same noise.

    Float32: the two round the same coefficients, so what remains is a few roundings of the largest
    element. Float64: the formulas themselves agree, whatever the scheduler rounds in float32.
    """
    assert [int(t) + 1 for t in scheduler.timesteps] == list(sampler.grid[:-1])
    learns_variance = str(scheduler.config.get("variance_type", "")).startswith("learned")
    for t, s in pairwise(sampler.grid):
        x_t, network.output = outputs(t, dtype, learns_variance)
        x_s = sampler.step(x_t, t, s, generator=noise_source(t))
        step = scheduler.step(network.output, t - 1, x_t, generator=noise_source(t), **options)
        largest = max(1, float(x_s.abs().max()))
        if dtype == torch.float32:
            tolerance = {"rtol": 1e-6, "atol": 1e-6 * largest}
        else:
            # where no noise is left, theirs draws 1e-10 of it to have a logarithm of the variance
            tolerance = {"rtol": 0, "atol": (1e-9 if s == 0 else 1e-11) * largest}
        torch.testing.assert_close(
            x_s, step.prev_sample, **tolerance, msg=lambda m, t=t: f"step from t={t}: {m}"
        )


DDPM_GRIDS = [
    (100, None, "leading"),
    (1000, 13, "leading"),
    (1000, 13, "trailing"),
    (1000, 12, "linspace"),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("variance_type", VARIANCE_TYPES)
@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_ancestral_steps_equal_ddpm_scheduler(prediction_type, variance_type, dtype):
    for (num_steps, n, spacing), clip in product(DDPM_GRIDS, (None, 0.7)):
        scheduler = DDPMScheduler(
            num_steps,
            beta_schedule="linear",
            prediction_type=prediction_type,
            variance_type=variance_type,
            clip_sample=clip is not None,
            clip_sample_range=clip or 1.0,
            timestep_spacing=spacing,
        )
        scheduler = in_float64(scheduler) if dtype == torch.float64 else scheduler
        scheduler.set_timesteps(n or num_steps)
        network = Output()
        sampler = AncestralSampler(
            Denoiser(network, Schedule.from_diffusers(scheduler), prediction_type),
            n,
            variance_type=variance_type,
            spacing=spacing,
            clip=clip,
        )
        assert_steps_equal(network, sampler, scheduler, dtype)


@pytest.mark.parametrize("beta_schedule", ["linear", "squaredcos_cap_v2", "sigmoid"])
def test_all_thousand_steps_equal_ddpm_scheduler(beta_schedule):
    scheduler = DDPMScheduler(beta_schedule=beta_schedule)
    scheduler.set_timesteps(1000)
    network = Output()
    sampler = AncestralSampler(Denoiser(network, Schedule.from_diffusers(scheduler)))
    assert_steps_equal(network, sampler, scheduler, torch.float32)


# DDIMScheduler steps back by T // n whatever its timesteps: only on these grids is that the next
DDIM_GRIDS = [
    (100, None, "leading"),
    (1000, 13, "leading"),
    (1000, 10, "trailing"),
    (50, None, "linspace"),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_ddim_steps_equal_ddim_scheduler(prediction_type, eta, dtype):
    settings = product(DDIM_GRIDS, ((None, False), (0.7, False), (0.7, True)))
    for (num_steps, n, spacing), (clip, clipped_epsilon) in settings:
        scheduler = DDIMScheduler(
            num_steps,
            beta_schedule="linear",
            prediction_type=prediction_type,
            clip_sample=clip is not None,
            clip_sample_range=clip or 1.0,
            timestep_spacing=spacing,
            set_alpha_to_one=True,
        )
        scheduler = in_float64(scheduler) if dtype == torch.float64 else scheduler
        scheduler.set_timesteps(n or num_steps)
        network = Output()
        sampler = DDIMSampler(
            Denoiser(network, Schedule.from_diffusers(scheduler), prediction_type),
            n,
            eta=eta,
            spacing=spacing,
            clip=clip,
            clipped_epsilon=clipped_epsilon,
        )
        options = {"eta": eta, "use_clipped_model_output": clipped_epsilon}
        assert_steps_equal(network, sampler, scheduler, dtype, **options)


def test_a_schedule_that_ends_without_signal_equals_ddpm_scheduler():
    scheduler = DDPMScheduler(
        100,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
    )
    scheduler.set_timesteps(20)
    network = Output()
    denoiser = Denoiser(network, Schedule.from_diffusers(scheduler), "v_prediction")
    assert_steps_equal(network, AncestralSampler(denoiser, 20), scheduler, torch.float32)


def tiny_unet():
    return UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(8, 8),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        add_attention=False,
        norm_num_groups=4,
    ).eval()


def test_a_seed_makes_the_images_of_the_pipeline():
    network, scheduler = tiny_unet(), DDPMScheduler(100, beta_schedule="squaredcos_cap_v2")
    pipeline = DDPMPipeline(network, scheduler)
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(3, noise_source(7), num_inference_steps=20, output_type="np").images
    denoiser = Denoiser(network, Schedule.from_diffusers(scheduler))
    sampler = AncestralSampler(denoiser, 20, spacing="leading")
    ours = sampler.sample((3, 1, 8, 8), generator=noise_source(7))
    ours = (ours / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(ours, theirs, atol=2e-5)
    assert theirs.std() > 0.1


# --- laws, on Gaussian data of standard deviation c, whose ideal denoiser is a factor ---


def ideal(schedule, c, prediction_type="epsilon"):
    """The ideal denoiser of N(0, c²)."""

    def network(x_t, timestep):
        t = int(timestep[0]) + 1
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        total = alpha**2 * c**2 + sigma**2
        factor = {
            "epsilon": sigma / total,
            "sample": alpha * c**2 / total,
            "v_prediction": alpha * sigma * (1 - c**2) / total,
        }
        return factor[prediction_type] * x_t

    return Denoiser(network, schedule, prediction_type)


def linear_steps(sampler):
    """Each step as (slope, variance), read off its density at 1."""
    one = torch.ones(1, 1, dtype=torch.float64)
    for t, s in pairwise(sampler.grid):
        kernel = sampler.kernel(one, t, s)
        yield s, float(kernel.mean), float(kernel.variance)


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
@pytest.mark.parametrize(
    ("name", "variance_type"), [("small", "fixed_small"), ("large", "fixed_large")]
)
def test_steps_are_those_of_the_gaussian_chain(name, variance_type, prediction_type):
    schedule = CosineSchedule(60)
    sampler = AncestralSampler(
        ideal(schedule, 0.6, prediction_type), 12, variance_type=variance_type, clip=None
    )
    chain = GaussianChain.from_schedule(
        torch.zeros(1), torch.eye(1) * 0.36, schedule, grid=sampler.grid, variance=name
    )
    found = list(linear_steps(sampler))[::-1]
    slopes, variances = chain.gain.flatten(), chain.noise.flatten()
    torch.testing.assert_close(torch.tensor([slope for _, slope, _ in found]).double(), slopes)
    torch.testing.assert_close(torch.tensor([v for *_, v in found]).double(), variances)


def test_ancestral_small_is_exact_for_a_point_and_large_for_unit_variance():
    schedule = CosineSchedule(50)
    for c, variance_type in ((0.0, "fixed_small"), (1.0, "fixed_large")):
        sampler = AncestralSampler(
            ideal(schedule, c, "sample"), 7, variance_type=variance_type, clip=None
        )
        alpha, sigma = sampler.scale(50)
        marginal = alpha**2 * c**2 + sigma**2
        for s, slope, variance in linear_steps(sampler):
            marginal = slope**2 * marginal + variance
            alpha, sigma = sampler.scale(s)
            assert marginal == pytest.approx(alpha**2 * c**2 + sigma**2, rel=1e-10, abs=1e-12)


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_ddim_with_full_noise_is_the_ancestral_sampler(prediction_type):
    denoiser = ideal(LinearSchedule(80), 0.5, prediction_type)
    ancestral = AncestralSampler(denoiser, 16, clip=None)
    ddim = DDIMSampler(denoiser, 16, eta=1.0, clip=None)
    for t, s in pairwise(ddim.grid):
        ours, theirs = ddim.kernel(draw(seed=t), t, s), ancestral.kernel(draw(seed=t), t, s)
        torch.testing.assert_close(ours.mean, theirs.mean, rtol=1e-10, atol=1e-10)
        assert ours.variance == pytest.approx(theirs.variance, abs=1e-15)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_discretization_error_falls_with_the_number_of_steps(eta):
    """The standard deviation of p_0 against c: first order in the number of steps."""
    schedule, c, errors = LinearSchedule(4096), 0.5, []
    counts = [128, 256, 512, 1024]
    for n in counts:
        sampler = DDIMSampler(ideal(schedule, c), n, eta=eta, clip=None)
        alpha, sigma = sampler.scale(4096)
        marginal = alpha**2 * c**2 + sigma**2
        for _, slope, variance in linear_steps(sampler):
            marginal = slope**2 * marginal + variance
        errors.append(abs(marginal**0.5 - c))
    order = -np.polyfit(np.log(counts), np.log(errors), 1)[0]
    assert order == pytest.approx(1, abs=0.12)
    assert errors[-1] < 0.01


def test_samples_of_the_ideal_denoiser_have_the_marginals_of_the_chain():
    schedule, n = CosineSchedule(100), 20_000
    sampler = AncestralSampler(ideal(schedule, 0.6), 10, clip=None)
    expected, x = {}, sampler.prior((n, 1), generator=noise_source(3), dtype=torch.float64)
    marginal = 1.0
    for s, slope, variance in linear_steps(sampler):
        marginal = slope**2 * marginal + variance
        expected[s] = marginal
    for t, x_t in sampler.trajectory(x, generator=noise_source(4)):
        want = expected.get(t, 1.0)
        assert abs(float(x_t.mean())) < 4 * (want / n) ** 0.5
        assert float(x_t.var()) == pytest.approx(want, rel=4 * (2 / n) ** 0.5)


# --- gradients, generators, refusals ---


@pytest.mark.parametrize("kind", ["ancestral", "learned", "ddim", "noisy ddim"])
def test_gradients_through_several_steps_equal_finite_differences(kind):
    schedule = CosineSchedule(20)
    weight = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    x_t = draw((2, 1, 2, 2)).requires_grad_()

    def chain(weight, x_t):
        def network(x, timestep):
            out = torch.tanh(weight * x + 0.05 * timestep[0])
            return torch.cat([out, weight * x], 1) if kind == "learned" else out

        denoiser = Denoiser(network, schedule, "v_prediction")
        if "ddim" in kind:
            sampler = DDIMSampler(denoiser, 10, eta=0.7 if kind == "noisy ddim" else 0.0)
        else:
            variance_type = "learned_range" if kind == "learned" else "fixed_small"
            sampler = AncestralSampler(denoiser, 10, variance_type=variance_type)
        states = sampler.trajectory(x_t, start=14, stop=6, generator=noise_source(5))
        return torch.stack([state for _, state in states][1:])

    assert torch.autograd.gradcheck(chain, (weight, x_t))


@pytest.mark.parametrize("eta", [None, 1.0])
def test_a_generator_decides_everything_and_the_global_one_nothing(eta):
    denoiser = ideal(CosineSchedule(30), 0.5)
    sampler = AncestralSampler(denoiser, 10) if eta is None else DDIMSampler(denoiser, 10, eta=eta)
    before = torch.get_rng_state()
    first, again, other = (
        sampler.sample(SHAPE, generator=noise_source(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert (first - other).abs().max() > 0.1
    assert torch.equal(before, torch.get_rng_state())


def test_deterministic_steps_draw_nothing():
    generator = noise_source(0)
    before = generator.get_state()
    sampler = DDIMSampler(ideal(CosineSchedule(30), 0.5), 10)
    for _ in sampler.trajectory(draw(), generator=generator):
        pass
    assert torch.equal(before, generator.get_state())


def test_clipping_bounds_the_last_state():
    sampler = AncestralSampler(Denoiser(lambda x, timestep: -9 * x, CosineSchedule(10)), clip=0.5)
    assert float(sampler.sample(SHAPE, generator=noise_source(0)).abs().max()) <= 0.5 + 1e-6


def test_another_network_leaves_the_first_chain_alone():
    sampler = AncestralSampler(Denoiser(lambda x, timestep: x, CosineSchedule(10), "sample"))
    other = sampler.with_network(lambda x, timestep: -x)
    x_t = draw().clamp(-1, 1)
    assert torch.equal(other.kernel(x_t, 1, 0).mean, -x_t)
    assert torch.equal(sampler.kernel(x_t, 1, 0).mean, x_t)
    assert other.describe() == sampler.describe()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda d: AncestralSampler(d, variance_type="small"), "unknown variance type 'small'"),
        (lambda d: AncestralSampler(d, 11), "choose 1 to 10"),
        (lambda d: AncestralSampler(d, clip=0.0), "positive number or None"),
        (lambda d: DDIMSampler(d, eta=1.5), "from 0 to 1"),
        (lambda d: DDIMSampler(d, spacing="even"), "unknown spacing 'even'"),
        (
            lambda d: AncestralSampler(d, variance_type="learned").sample(SHAPE),
            "needs a network with twice the channels",
        ),
    ],
)
def test_what_is_no_sampler_is_refused(wrong, message):
    denoiser = Denoiser(lambda x, timestep: x, CosineSchedule(10))
    with pytest.raises(InvalidInput, match=message):
        wrong(denoiser)
