"""The chain: densities of steps, draws of the forward process, trajectories in parts."""

import math
from itertools import pairwise

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler
from torch.distributions import Normal

from undrift.diffusion.denoiser import Denoiser
from undrift.diffusion.gaussian import AncestralSampler, DDIMSampler
from undrift.diffusion.sampler import GaussianKernel, Sampler, draw_noise
from undrift.diffusion.schedule import CosineSchedule
from undrift.diffusion.scheduler import DiffusersSampler
from undrift.exceptions import InvalidInput


def noise_source(seed=0):
    return torch.Generator().manual_seed(seed)


def ancestral(num_steps=40, n=8, **options):
    denoiser = Denoiser(lambda x, timestep: torch.tanh(x), CosineSchedule(num_steps), "sample")
    return AncestralSampler(denoiser, n, **options)


@pytest.mark.parametrize(
    "variance", [0.3, torch.tensor([[0.1, 0.5, 2.0]]).double()], ids=["1", "d"]
)
def test_log_density_is_that_of_torch_distributions(variance):
    mean = torch.randn(5, 3, generator=noise_source()).double()
    x_s = torch.randn(5, 3, generator=noise_source(1)).double()
    scale = torch.as_tensor(variance, dtype=torch.float64).sqrt()
    expected = Normal(mean, scale).log_prob(x_s).sum(1)
    torch.testing.assert_close(GaussianKernel(mean, variance).log_prob(x_s), expected)


def test_density_of_a_step_integrates_to_one_and_has_its_moments():
    sampler = ancestral()
    x_s = torch.linspace(-8, 8, 4001, dtype=torch.float64)[:, None]
    for t, s in pairwise(sampler.grid[:-1]):
        kernel = sampler.kernel(torch.full_like(x_s, 0.7), t, s)
        density = kernel.log_prob(x_s).exp()
        mass = torch.trapezoid(density, x_s[:, 0])
        mean = torch.trapezoid(density * x_s[:, 0], x_s[:, 0])
        assert float(mass) == pytest.approx(1, abs=1e-6)
        assert float(mean) == pytest.approx(float(kernel.mean[0]), abs=1e-6)


def test_draws_have_the_density_of_their_step():
    """Mean of the log-density under its own draws: minus the entropy."""
    sampler, n = ancestral(), 40_000
    x_t = torch.full((n, 1), 0.7, dtype=torch.float64)
    x_s = sampler.step(x_t, 25, 20, generator=noise_source(2))
    kernel = sampler.kernel(x_t, 25, 20)
    entropy = 0.5 * math.log(2 * math.pi * math.e * float(kernel.variance))
    # the log-density of a Gaussian draw has variance 1/2
    assert float(kernel.log_prob(x_s).mean()) == pytest.approx(-entropy, abs=4 * (0.5 / n) ** 0.5)


@pytest.mark.parametrize("variance", [0.0, torch.tensor([[1.0, 0.0]])], ids=["number", "tensor"])
def test_a_point_mass_has_no_density(variance):
    with pytest.raises(InvalidInput, match="has no density"):
        GaussianKernel(torch.zeros(3, 2), variance).log_prob(torch.zeros(3, 2))


@pytest.mark.parametrize("t", [0, 1, 20, 40])
def test_forward_draws_have_the_marginals_of_the_schedule(t):
    sampler, n = ancestral(), 20_000
    x_0 = torch.randn(n, 1, generator=noise_source(3)).double() * 0.4 + 0.9
    x_t = sampler.forward(x_0, t, generator=noise_source(4))
    alpha, sigma = sampler.scale(t)
    mean, variance = 0.9 * alpha, 0.16 * alpha**2 + sigma**2
    assert float(x_t.mean()) == pytest.approx(mean, abs=4 * (variance / n) ** 0.5)
    assert float(x_t.var()) == pytest.approx(variance, rel=4 * (2 / n) ** 0.5)
    noise = x_t - alpha * x_0
    assert abs(float((noise * x_0).mean() - noise.mean() * x_0.mean())) < 4 * 0.4 / n**0.5


def test_the_prior_is_standard_noise():
    x_T = ancestral().prior((30_000, 1), generator=noise_source(5), dtype=torch.float64)
    assert x_T.dtype == torch.float64
    assert abs(float(x_T.mean())) < 4 / 30_000**0.5
    assert float(x_T.var()) == pytest.approx(1, rel=4 * (2 / 30_000) ** 0.5)


def test_noise_takes_shape_and_precision_of_what_it_is_for():
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        noise = draw_noise(torch.empty(3, 2, dtype=dtype), noise_source(6))
        assert noise.dtype == dtype
        assert noise.shape == (3, 2)
        assert torch.equal(noise, draw_noise(noise, noise_source(6)))


@pytest.mark.parametrize("kind", ["ancestral", "ddim"])
def test_a_chain_run_in_parts_is_the_chain(kind):
    """From any state of the grid to any other, with one stream of noise."""
    denoiser = Denoiser(lambda x, timestep: torch.tanh(x), CosineSchedule(40), "sample")
    sampler = (AncestralSampler if kind == "ancestral" else DDIMSampler)(denoiser, 8)
    x = sampler.prior((3, 2), generator=noise_source(7))
    whole = dict(sampler.trajectory(x, generator=noise_source(8)))
    assert list(whole) == list(sampler.grid)
    generator = noise_source(8)
    for start, stop in pairwise((40, 40, 25, 20, 0)):
        part = dict(sampler.trajectory(x, start=start, stop=stop, generator=generator))
        assert list(part) == [t for t in sampler.grid if stop <= t <= start]
        assert all(torch.equal(part[t], whole[t]) for t in part)
        x = part[stop]


def test_a_sample_is_the_end_of_a_trajectory_without_gradient():
    weight = torch.ones((), requires_grad=True)
    sampler = ancestral().with_network(lambda x, timestep: weight * torch.tanh(x))
    sample = sampler.sample((3, 2), generator=noise_source(9))
    generator = noise_source(9)
    *_, (t, end) = sampler.trajectory(
        sampler.prior((3, 2), generator=generator), generator=generator
    )
    assert t == 0
    assert torch.equal(sample, end)
    assert end.requires_grad
    assert not sample.requires_grad


def test_a_trajectory_is_made_as_it_is_asked_for():
    calls = []
    sampler = ancestral().with_network(lambda x, timestep: calls.append(timestep) or x)
    states = sampler.trajectory(sampler.prior((1, 2), generator=noise_source()))
    next(states)
    assert not calls
    next(states)
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start": 39}, "time 39 is not on the sampler's grid of 9 times from 40 to 0"),
        ({"stop": 0.5}, "time 0.5 is not on the sampler's grid"),
        ({"start": 20, "stop": 25}, "cannot run from time 20 up to 25"),
    ],
)
def test_times_off_the_grid_are_refused(options, message):
    with pytest.raises(InvalidInput, match=message):
        list(ancestral().trajectory(torch.zeros(1, 2), **options))


def test_only_gaussian_steps_have_a_density():
    sampler: Sampler = DiffusersSampler(torch.nn.Identity(), DPMSolverMultistepScheduler(), 4)
    assert sampler.kernel(torch.zeros(1, 2), 1000, 751) is None


class Minimal(Sampler):
    """What a sampler of one's own has to say, and no more."""

    def step(self, x_t, t, s, *, generator=None):
        return x_t * s / t

    def scale(self, t):
        return 1.0, t

    def describe(self):
        return {}


def test_a_sampler_of_ones_own_gets_its_times_as_they_are():
    """x_s = x_t s / t: every state is the first one in proportion to its time."""
    sampler, x = Minimal((80, 10, 2, 0.7, 0.2, 0)), torch.ones(1, 2, dtype=torch.float64)
    for t, x_t in sampler.trajectory(80 * x):
        torch.testing.assert_close(x_t, t * x)


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (
            lambda s: s.predict(torch.ones(1, 2), 2),
            "Minimal has no known prediction",
        ),
        (
            lambda s: s.epsilon(torch.ones(1, 2), 2),
            "Minimal has no known prediction",
        ),
        (lambda s: s.x0_hat(torch.ones(1, 2), 2), "Minimal has no known prediction"),
        (lambda s: s.with_network(torch.nn.Identity()), "Minimal has no network"),
        (lambda s: s.with_steps(3), "Minimal has one grid of times"),
    ],
)
def test_what_a_sampler_does_not_say_is_refused_in_one_line(ask, message):
    with pytest.raises(InvalidInput, match=message) as refusal:
        ask(Minimal((2, 1, 0)))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("clip", [None, 0.5])
def test_x0_hat_is_what_the_step_uses(clip):
    """The last step of the ancestral chain returns it."""
    sampler = ancestral(clip=clip)
    x_t = 3 * torch.randn(4, 2, generator=noise_source(1))
    t = sampler.grid[-2]
    prediction, x0_hat = sampler.predict(x_t, t), sampler.x0_hat(x_t, t)
    torch.testing.assert_close(x0_hat, sampler.kernel(x_t, t, 0).mean)
    assert (x0_hat.abs().max() > 0.9) == (clip is None)
    torch.testing.assert_close(prediction.epsilon_hat, sampler.epsilon(x_t, t))
