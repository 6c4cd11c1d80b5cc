"""Remedies at sampling time: nothing at their neutral strength, what they promise elsewhere."""

import math
from itertools import pairwise

import diffusers
import pytest
import torch
from torch import nn

from oracle import affine_sampler
from undrift.diffusion.denoiser import Denoiser
from undrift.diffusion.gaussian import AncestralSampler, DDIMSampler
from undrift.diffusion.pipelines import weights_digest
from undrift.diffusion.schedule import CosineSchedule, LinearSchedule, Schedule
from undrift.diffusion.scheduler import DiffusersSampler
from undrift.exceptions import InvalidInput
from undrift.measurement.measure import measure
from undrift.remedies.analytic_variance import AnalyticVariance
from undrift.remedies.epsilon_scaling import EpsilonScaling
from undrift.remedies.haar import low_band
from undrift.remedies.registry import REMEDIES, apply_remedy, parse
from undrift.remedies.sampler import RemediedSampler
from undrift.remedies.snr_correction import SNRCorrection
from undrift.remedies.time_shift import TimeShift
from undrift.theory.gaussian_chain import GaussianChain

SHAPE = (3, 2, 4, 4)
SPREAD = 0.6  # variance of Gaussian data
BETAS = {"beta_schedule": "scaled_linear", "beta_start": 1e-3, "beta_end": 0.02}
SCHEDULERS = {
    "DDPM": ("DDPMScheduler", {"clip_sample": False}),
    "DDIM": ("DDIMScheduler", {"clip_sample": False}),
    "Euler": ("EulerDiscreteScheduler", {}),
    "Heun": ("HeunDiscreteScheduler", {}),
    "DPM++": ("DPMSolverMultistepScheduler", {}),
    "UniPC": ("UniPCMultistepScheduler", {}),
    "PNDM": ("PNDMScheduler", {"skip_prk_steps": True, "set_alpha_to_one": True}),
}


def noise_source(seed=0):
    return torch.Generator().manual_seed(seed)


def odd_network(x_t, timestep):
    """Neither linear nor the same at two timesteps."""
    t = timestep.to(x_t).view(-1, *[1] * (x_t.ndim - 1))
    return torch.tanh(0.8 * x_t + 0.001 * t).roll(1, 1)


def scheduled(name, net=odd_network, steps=6, **options):
    kind, own = SCHEDULERS[name]
    return DiffusersSampler(net, getattr(diffusers, kind)(**BETAS, **own, **options), steps)


def ours(kind="ancestral", net=odd_network, steps=6, prediction="epsilon", clip=None, **options):
    denoiser = Denoiser(net, LinearSchedule(50), prediction)
    kinds = {"ancestral": AncestralSampler, "ddim": DDIMSampler}
    return kinds[kind](denoiser, steps, clip=clip, **options)


def every_chain():
    yield from ((name, lambda name=name: scheduled(name)) for name in SCHEDULERS)
    yield "ancestral", ours
    yield "ddim", lambda: ours("ddim", eta=0.5)


CHAINS = dict(every_chain())


def gaussian_network(table, kind, wrong=lambda index: 1.0):
    r"""The ideal denoiser of N(0, SPREAD), its noise estimate off by a factor."""

    def network(x, timestep):
        abar = table[timestep.long()].to(x)[0]
        alpha, sigma = abar.sqrt(), (1 - abar).sqrt()
        epsilon = wrong(timestep) * sigma / (abar * SPREAD + 1 - abar) * x
        x0_hat = (x - sigma * epsilon) / alpha
        return {
            "epsilon": epsilon,
            "sample": x0_hat,
            "v_prediction": alpha * epsilon - sigma * x0_hat,
        }[kind]

    return network


# --- nothing at the neutral strength ------------------------------------------------------------


@pytest.mark.parametrize("remedy", [r for r, k in REMEDIES.items() if k().neutral is not None])
@pytest.mark.parametrize("chain", CHAINS)
def test_a_neutral_remedy_is_no_remedy_to_the_last_bit(chain, remedy):
    base = CHAINS[chain]()
    data = torch.randn(20, *SHAPE[1:], generator=noise_source(1))
    kind = REMEDIES[remedy]
    try:
        remedied = apply_remedy(base, kind(kind().neutral), data, num_data=20)
    except InvalidInput:
        assert remedy == "tail_correction" and chain in ("DDPM", "ancestral", "ddim")
        return
    assert torch.equal(
        remedied.sample(SHAPE, generator=noise_source()),
        base.sample(SHAPE, generator=noise_source()),
    )


@pytest.mark.parametrize("text", ["epsilon_scaling:1.05", "time_shift:400", "snr_t:0.05,high=0.1"])
@pytest.mark.parametrize("chain", CHAINS)
def test_a_remedy_changes_every_chain_and_leaves_its_base_alone(chain, text):
    base = CHAINS[chain]()
    before = base.sample(SHAPE, generator=noise_source())
    remedied = apply_remedy(base, parse(text)).sample(SHAPE, generator=noise_source())
    assert not torch.allclose(remedied, before, atol=1e-4)
    assert torch.equal(base.sample(SHAPE, generator=noise_source()), before)


def test_no_remedy_is_the_sampler_itself():
    base = ours()
    assert apply_remedy(base, parse("none")) is base


# --- epsilon scaling ----------------------------------------------------------------------------


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("chain", ["ancestral", "ddim", "DDPM", "DDIM", "DPM++", "UniPC"])
def test_scaling_by_what_the_noise_is_off_restores_the_exact_chain(chain, prediction):
    def make(wrong):
        if chain in SCHEDULERS:
            table = scheduled(chain).scheduler.alphas_cumprod.double()
            net = gaussian_network(table, prediction, wrong)
            return scheduled(chain, net, prediction_type=prediction)
        net = gaussian_network(LinearSchedule(50).alphas_cumprod[1:], prediction, wrong)
        return ours(chain, net, prediction=prediction)

    x_T = torch.randn(SHAPE, generator=noise_source(1), dtype=torch.float64)
    exact, wrong = make(lambda timestep: 1.0), make(lambda timestep: 0.93)
    paths = [
        torch.stack([x for _, x in sampler.trajectory(x_T, generator=noise_source())])
        for sampler in (exact, apply_remedy(wrong, EpsilonScaling(0.93)), wrong)
    ]
    torch.testing.assert_close(paths[1], paths[0], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(paths[2], paths[0], rtol=1e-2, atol=1e-2)


def test_the_scale_is_a_line_over_the_steps_counted_from_the_data():
    table = LinearSchedule(50).alphas_cumprod[1:]
    grid = ours().grid
    index = {t - 1: i for i, t in enumerate(reversed(grid[:-1]))}

    def line(timestep):
        return 0.9 + 0.02 * index[int(timestep[0])]

    wrong = ours(net=gaussian_network(table, "epsilon", line))
    exact, x_t = ours(net=gaussian_network(table, "epsilon")), torch.randn(SHAPE)
    for t, s in pairwise(grid):
        remedied = apply_remedy(wrong, EpsilonScaling(0.9, 0.02)).kernel(x_t, t, s)
        truth = exact.kernel(x_t, t, s)
        torch.testing.assert_close(remedied.mean, truth.mean)
        assert remedied.variance == truth.variance


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_scaling_reaches_through_the_preconditioning_of_edm(kind):
    scheduler = diffusers.EDMEulerScheduler(prediction_type=kind)
    base = DiffusersSampler(odd_network, scheduler, 5)
    scaled = apply_remedy(base, EpsilonScaling(1.25))
    noise = torch.randn(SHAPE, generator=noise_source(), dtype=torch.float64)
    for t in base.grid[:-1]:
        x_t = base.scale(t)[1] * noise
        torch.testing.assert_close(
            scaled.epsilon(x_t, t), base.epsilon(x_t, t) / 1.25, rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("name", ["Euler", "Heun"])
@pytest.mark.parametrize("kind", ["epsilon", "sample", "v_prediction"])
def test_scaling_divides_the_noise_of_exploding_states(name, kind):
    base = scheduled(name, prediction_type=kind)
    x_t = base.prior(SHAPE, generator=noise_source())
    for t in base.grid[:-1]:
        scaled = apply_remedy(base, EpsilonScaling(0.8)).epsilon(x_t, t)
        torch.testing.assert_close(scaled, base.epsilon(x_t, t) / 0.8, rtol=1e-3, atol=1e-4)


def test_a_learned_variance_is_not_scaled():
    def two_headed(x_t, timestep):
        return torch.cat([odd_network(x_t, timestep), torch.sin(5 * x_t)], 1)

    base = ours(net=two_headed, variance_type="learned_range")
    scaled, x_t = apply_remedy(base, EpsilonScaling(1.1)), torch.randn(SHAPE)
    t, s = base.grid[1:3]
    assert torch.equal(scaled.kernel(x_t, t, s).variance, base.kernel(x_t, t, s).variance)
    torch.testing.assert_close(scaled.epsilon(x_t, t), base.epsilon(x_t, t) / 1.1)


# --- time shift ---------------------------------------------------------------------------------


class Told(nn.Module):
    """Keeps the timesteps that it is told, one list a call."""

    def __init__(self):
        super().__init__()
        self.timesteps = []

    def forward(self, x_t, timestep):
        self.timesteps.append(timestep.tolist())
        return torch.zeros_like(x_t)


def with_variance(*variances):
    """Images with exactly these pixel variances."""
    x = torch.randn(len(variances), 2, 4, 4, generator=noise_source(), dtype=torch.float64)
    wanted = torch.tensor(variances, dtype=torch.float64).view(-1, 1, 1, 1)
    return (x / x.flatten(1).var(1).view(-1, 1, 1, 1).sqrt()) * wanted.sqrt()


def test_the_network_is_told_the_nearest_time_of_the_window_for_each_image():
    schedule, told = CosineSchedule(100), Told()
    base = AncestralSampler(Denoiser(told, schedule, "sample"))
    wanted = torch.rand(16, generator=noise_source()).tolist()
    apply_remedy(base, TimeShift(21, cutoff=10)).step(with_variance(*wanted), 60, 59)
    window = range(50, 71)
    noise = {t: 1 - schedule.alpha_bar(t) for t in window}
    best = [min(window, key=lambda t, v=v: abs(noise[t] - v)) for v in wanted]
    assert told.timesteps == [[t - 1 for t in best]]
    assert len(set(best)) > 3


def test_a_state_on_schedule_keeps_its_time():
    schedule, told = CosineSchedule(100), Told()
    base = AncestralSampler(Denoiser(told, schedule, "sample"))
    for t in (95, 60, 31):
        apply_remedy(base, TimeShift(20)).step(with_variance(1 - schedule.alpha_bar(t)), t, t - 1)
    assert told.timesteps == [[94], [59], [30]]


def test_nothing_is_shifted_at_the_cutoff_and_below():
    told = Told()
    base = AncestralSampler(Denoiser(told, CosineSchedule(100), "sample"))
    shifted = apply_remedy(base, TimeShift(20, cutoff=40))
    for t in (41, 40, 5):
        shifted.step(with_variance(1.0), t, t - 1)
    assert told.timesteps == [[50], [39], [4]]
    assert apply_remedy(base, TimeShift(20)).describe()["remedies"][0]["cutoff"] == 30


def test_the_variance_of_noisy_data_can_be_what_a_time_stands_for():
    schedule, told = CosineSchedule(100), Told()
    base = AncestralSampler(Denoiser(told, schedule, "sample"))
    data = with_variance(*[0.25] * 50)
    remedied = apply_remedy(base, parse("time_shift:20,variance=data"), data, check_range=False)
    noisy = 1 - 0.75 * schedule.alpha_bar(60)
    remedied.step(with_variance(noisy), 60, 59)
    apply_remedy(base, TimeShift(20)).step(with_variance(noisy), 60, 59)
    assert told.timesteps[0] == [59]
    assert told.timesteps[1][0] > 60


def test_schedulers_with_exploding_states_are_shifted_by_what_the_network_sees():
    told = Told()
    base = scheduled("Euler", told, 4)
    timesteps = torch.tensor(base.timesteps)
    t, s = base.grid[1:3]
    alpha, sigma = base.scale(t)
    table = 1 - base.scheduler.alphas_cumprod.double()
    on_schedule = sigma**2 / (1 + sigma**2)
    apply_remedy(base, TimeShift(40)).step(with_variance(sigma**2), t, s)
    apply_remedy(base, TimeShift(40)).step(with_variance(0.97 * sigma**2), t, s)
    first = float(timesteps[1])
    assert told.timesteps[0] == [pytest.approx(first)]
    window = [first + k for k in range(-20, 21)]
    nearest = min(window, key=lambda at: abs(float(table[round(at)]) - 0.97 * on_schedule))
    assert told.timesteps[1] == [pytest.approx(nearest, abs=1)]
    assert nearest < first


# --- analytic variance --------------------------------------------------------------------------

MEAN = torch.tensor([0.1, -0.2, 0.3])
COV = torch.diag(torch.tensor([0.5, 0.1, 0.02]))


def fitted(chain, schedule, **options):
    draws = torch.randn(6000, 3, generator=noise_source(2)) @ COV.sqrt() + MEAN
    remedy = AnalyticVariance(tolerance=0, **options)
    return apply_remedy(affine_sampler(chain, schedule), remedy, draws, seed=3, num_data=6000)


def variance(sampler, t, s):
    return sampler.kernel(torch.zeros(1, 3), t, s).variance


@pytest.mark.parametrize("estimator", ["score", "error"])
def test_the_analytic_variance_is_the_mean_of_the_true_ones(estimator):
    schedule = CosineSchedule(20)
    chain = GaussianChain.from_schedule(MEAN, COV, schedule)
    sampler = fitted(chain, schedule, estimator=estimator)
    exact = chain.reverse_variance("exact").diagonal(dim1=-2, dim2=-1).mean(1)
    last = 20 if estimator == "error" else 19  # the score of almost pure noise is too noisy
    found = [variance(sampler, t, t - 1) for t in range(2, last + 1)]
    torch.testing.assert_close(
        torch.tensor(found, dtype=torch.float64), exact[1:last], rtol=0.05, atol=0
    )
    assert variance(sampler, 1, 0) == 0


@pytest.mark.parametrize("estimator", ["score", "error"])
def test_a_schedule_that_ends_without_signal_has_its_analytic_variance(estimator):
    cosine = CosineSchedule(20)
    table = cosine.alphas_cumprod.clone()
    table[-1] = 0.0
    schedule = Schedule(table)
    draws = 0.7 * torch.randn(4000, 3, generator=noise_source(2))

    def ideal(x_t, timestep):  # of data N(0, 0.49), as v
        alpha, sigma = schedule.alpha_sigma(timestep + 1, x_t)
        x0_hat = 0.49 * alpha / (0.49 * alpha**2 + sigma**2) * x_t
        return (alpha * x_t - x0_hat) / sigma

    base = AncestralSampler(Denoiser(ideal, schedule, "v_prediction"), clip=None)
    remedy = AnalyticVariance(tolerance=0, estimator=estimator)
    sampler = apply_remedy(base, remedy, draws, seed=3, num_data=4000)
    assert sampler.estimate.spread[20] == pytest.approx(
        0.49, rel=0.05
    )  # nothing is known of the data
    assert all(math.isfinite(variance(sampler, t, t - 1)) for t in range(1, 21))


@pytest.mark.parametrize("below", ["none", "epsilon_scaling:1.05", "time_shift:4"])
def test_an_estimate_is_that_of_the_network_without_dropout(below):
    network = Dropping()
    data = torch.randn(40, *SHAPE[1:], generator=noise_source(1))
    remedy = parse("analytic_variance")
    found = []
    for mode in (True, False):
        network.train(mode)
        base = apply_remedy(ours(net=network), parse(below))
        sampler = apply_remedy(base, remedy, data, num_data=40)
        found.append(sampler.estimate.spread)
        assert network.training is mode
    assert found[0] == found[1] and any(spread > 0 for spread in found[0].values())


def test_the_analytic_variance_lowers_the_modular_error_of_equal_dimensions():
    schedule, cov = CosineSchedule(20), 0.3 * torch.eye(3)
    truth = GaussianChain.from_schedule(MEAN, cov, schedule)
    draws = torch.randn(6000, 3, generator=noise_source(2)) * 0.3**0.5 + MEAN
    base = affine_sampler(truth, schedule)
    remedy = AnalyticVariance(tolerance=0, estimator="error")
    sampler = apply_remedy(base, remedy, draws, seed=3, num_data=6000)
    errors = {}
    for name, variances in {
        "analytic": torch.tensor([variance(sampler, t, t - 1) for t in range(1, 21)]),
        "small": truth.reverse_variance("small")[:, 0, 0],
        "large": truth.reverse_variance("large")[:, 0, 0],
    }.items():
        chain = GaussianChain(MEAN, cov, truth.betas, truth.slope, truth.offset, variances)
        errors[name] = float(chain.modular_error[1:].sum())
    assert errors["analytic"] < 0.02 * min(errors["small"], errors["large"])


def test_the_modular_error_is_least_at_the_harmonic_mean_not_at_the_analytic_one():
    schedule = CosineSchedule(20)
    truth = GaussianChain.from_schedule(MEAN, COV, schedule)
    exact = truth.reverse_variance("exact").diagonal(dim1=-2, dim2=-1)
    arithmetic, harmonic = exact.mean(1), 1 / (1 / exact).mean(1)
    errors = [
        GaussianChain(MEAN, COV, truth.betas, truth.slope, truth.offset, variance).modular_error[1:]
        for variance in (arithmetic, harmonic)
    ]
    assert bool((errors[1] < errors[0]).all())


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0, None])
def test_the_analytic_variance_keeps_the_variance_of_the_forward_process(eta):
    # with the ideal denoiser of N(0, v) the mean of a step has variance gain² V_t: v* adds the rest
    table = LinearSchedule(50).alphas_cumprod[1:]
    net = gaussian_network(table, "epsilon")
    base = ours(net=net) if eta is None else ours("ddim", net, eta=eta)
    data = torch.randn(4000, 16, generator=noise_source(), dtype=torch.float64) * SPREAD**0.5
    remedy = AnalyticVariance(tolerance=0, estimator="error")
    sampler = apply_remedy(base, remedy, data, seed=1, num_data=4000)
    for t, s in pairwise(base.grid[:-1]):
        gain = float(sampler.kernel(torch.ones(1, 1, dtype=torch.float64), t, s).mean)
        (alpha_t, sigma_t), (alpha_s, sigma_s) = base.scale(t), base.scale(s)
        moved = gain**2 * (alpha_t**2 * SPREAD + sigma_t**2)
        total = moved + variance(sampler, t, s)
        assert total == pytest.approx(alpha_s**2 * SPREAD + sigma_s**2, rel=0.015)


def test_the_noise_of_the_last_steps_is_bounded_and_the_spread_by_the_clip():
    base = ours(net=lambda x, t: torch.zeros_like(x), clip=1.0, steps=10)
    data = torch.randn(50, 4, generator=noise_source())
    sampler = apply_remedy(
        base, AnalyticVariance(tolerance=2), data, num_data=50, check_range=False
    )
    assert (
        sampler.estimate.spread[base.grid[0]] == 1
    )  # a score of 0 would mean a spread beyond the data
    s = base.grid[-2]
    last = variance(sampler, base.grid[-3], s)
    assert math.sqrt(last) * math.sqrt(2 / math.pi) == pytest.approx(2 * 2 / 255)
    free = apply_remedy(base, AnalyticVariance(tolerance=0), data, num_data=50, check_range=False)
    assert variance(free, base.grid[-3], s) > last
    assert variance(free, *base.grid[2:4]) == variance(sampler, *base.grid[2:4])


# --- SNR-t correction ---------------------------------------------------------------------------


def haar():
    """One level of orthonormal Haar wavelets on one block of 2x2 pixels: low, three high."""
    signs = torch.tensor([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]])
    return signs.double() / 2


def blocks(x):
    n, c, h, w = x.shape
    return x.view(n, c, h // 2, 2, w // 2, 2).transpose(3, 4).reshape(n, c, h // 2, w // 2, 4)


def test_the_bands_are_those_of_haar_wavelets():
    x = torch.randn(2, 3, 6, 4, generator=noise_source(), dtype=torch.float64)
    low = low_band(x)
    coefficients, of_low = blocks(x) @ haar().T, blocks(low) @ haar().T
    torch.testing.assert_close(of_low[..., 0], coefficients[..., 0])
    assert float(of_low[..., 1:].abs().max()) < 1e-12
    torch.testing.assert_close(low_band(low), low)
    assert abs(float((low * (x - low)).sum())) < 1e-12


@pytest.mark.parametrize("weighting", ["dynamic", "constant"])
def test_each_band_moves_away_from_the_estimate_of_the_data(weighting):
    base = ours("ddim", clip=0.5)
    sampler = apply_remedy(base, SNRCorrection(0.2, -0.1, weighting=weighting))
    x_t = torch.randn(SHAPE, generator=noise_source(), dtype=torch.float64)
    t, s = base.grid[2:4]
    x_s, x0_hat = base.step(x_t, t, s), base.denoiser(x_t, t).clamp(-0.5, 0.5)
    share = base.scale(t)[1] / base.scale(base.grid[0])[1]
    low, high = (0.2 * share, -0.1 * (1 - share)) if weighting == "dynamic" else (0.2, -0.1)
    wanted, noise = blocks(x_s) @ haar().T, blocks(x_s - x0_hat) @ haar().T
    wanted = wanted + torch.tensor([low, high, high, high]) * noise
    found = blocks(sampler.step(x_t, t, s)) @ haar().T
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(sampler.kernel(x_t, t, s).mean, sampler.step(x_t, t, s))


def test_a_step_has_a_density_where_its_noise_is_the_same_in_both_bands():
    base, x_t = ours(), torch.randn(SHAPE, generator=noise_source())
    t, s = base.grid[2:4]
    both = apply_remedy(base, SNRCorrection(0.2, 0.2, weighting="constant"))
    drawn = both.step(x_t, t, s, generator=noise_source(1))
    torch.testing.assert_close(both.kernel(x_t, t, s).sample(noise_source(1)), drawn)
    assert apply_remedy(base, SNRCorrection(0.2, 0.1)).kernel(x_t, t, s) is None


@pytest.mark.parametrize("name", ["DDIM", "Euler", "DPM++", "UniPC"])
def test_a_scheduler_goes_on_from_corrected_states_with_its_history(name):
    base = scheduled(name)
    x = base.prior(SHAPE, generator=noise_source())
    sampler = apply_remedy(base, SNRCorrection(0.3, 0.3, weighting="constant"))
    states = [state for _, state in sampler.trajectory(x)]
    scheduler = base._scheduler_at(0)
    steps = zip(base.scheduler.timesteps, pairwise(base.grid), states[1:], strict=True)
    for timestep, (t, s), wanted in steps:
        estimate = base.predict(x, t).x0_hat
        output = odd_network(base._evaluate(scheduler, x, timestep)[0], timestep.expand(3))
        x_s = scheduler.step(output, timestep, x).prev_sample
        x = x_s + 0.3 * (x_s - estimate)
        if name == "UniPC" and s > 0:  # its corrector starts from the state before
            scheduler.last_sample = scheduler.last_sample + (x - x_s) * (
                base.scale(t)[1] / base.scale(s)[1]
            )
        torch.testing.assert_close(x, wanted, rtol=1e-3, atol=1e-4)


def test_the_schedulers_chain_and_ours_are_corrected_alike():
    schedule = {"beta_schedule": "linear", "beta_start": 1e-4 * 20, "beta_end": 0.4}
    theirs = DiffusersSampler(
        odd_network,
        diffusers.DDIMScheduler(50, **schedule, timestep_spacing="trailing", clip_sample=False),
        10,
    )
    samplers = [
        apply_remedy(base, SNRCorrection(0.1, 0.05)) for base in (theirs, ours("ddim", steps=10))
    ]
    a, b = (sampler.sample(SHAPE, generator=noise_source()) for sampler in samplers)
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("chain", ["ancestral", "DPM++", "Heun"])
def test_the_correction_calls_the_network_no_more_often(chain):
    calls = []

    def counting(x_t, timestep):
        calls.append(1)
        return odd_network(x_t, timestep)

    base = scheduled(chain, counting) if chain in SCHEDULERS else ours(chain, counting)
    base.sample(SHAPE, generator=noise_source())
    without = len(calls)
    apply_remedy(base, SNRCorrection(0.1)).sample(SHAPE, generator=noise_source())
    assert len(calls) == 2 * without


def test_what_was_computed_without_a_graph_is_not_handed_out_with_one():
    network = Small()
    sampler = apply_remedy(ours(net=network), SNRCorrection(0.1))
    x_t = torch.randn(SHAPE, generator=noise_source())
    t, s = (int(t) for t in sampler.grid[:2])
    step = lambda: sampler.step(x_t, t, s, generator=noise_source(1))  # noqa: E731
    with torch.no_grad():
        without = step()
    x_s = step()
    assert not without.requires_grad and torch.equal(x_s, without)
    (gradient,) = torch.autograd.grad(x_s.sum(), network.weight)
    h = 1e-2
    ends = []
    for shift in (h, -2 * h):
        network.weight.data += shift
        ends.append(float(step().detach().double().sum()))
    assert float(gradient) == pytest.approx((ends[0] - ends[1]) / (2 * h), rel=1e-2)


# --- as samplers --------------------------------------------------------------------------------


class Dropping(nn.Module):
    """Says half of the noise that there is, or all or nothing of that in training."""

    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout(0.5)

    def forward(self, x_t, timestep):
        return 0.5 * self.drop(x_t)


APPLIED = {
    "epsilon_scaling": lambda base: apply_remedy(base, EpsilonScaling(1.05, 0.01)),
    "time_shift": lambda base: apply_remedy(base, TimeShift(10)),
    "snr_t": lambda base: apply_remedy(base, SNRCorrection(0.2, -0.1)),
    "two": lambda base: apply_remedy(apply_remedy(base, EpsilonScaling(1.05)), SNRCorrection(0.1)),
}


@pytest.mark.parametrize("remedy", APPLIED)
@pytest.mark.parametrize("chain", CHAINS)
def test_another_network_or_grid_is_that_of_the_base(chain, remedy):
    """The remedy of the other chain, to the last bit, and not the chain that it was."""
    around, base = APPLIED[remedy], CHAINS[chain]()
    remedied, net = around(base), lambda x, timestep: 0.5 * torch.cos(x)
    changes = (lambda s: s.with_network(net), lambda s: s.with_steps(4))
    before = remedied.sample(SHAPE, generator=noise_source())
    for change in changes:
        ours, theirs = change(remedied), around(change(base))
        assert ours.grid == theirs.grid and ours.network is theirs.network
        found, wanted = (s.sample(SHAPE, generator=noise_source()) for s in (ours, theirs))
        assert torch.equal(found, wanted) and not torch.equal(found, before)
    assert torch.equal(remedied.sample(SHAPE, generator=noise_source()), before)


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.7))

    def forward(self, x_t, timestep):
        return self.weight * x_t


def test_a_remedied_chain_is_measured_as_any_other_and_says_what_was_done():
    net = Small()
    base = ours(net=net, steps=8)
    data = 0.5 * torch.randn(60, 1, 4, 4, generator=noise_source())
    remedied = apply_remedy(base, parse("epsilon_scaling:0.9,slope=0.01"))
    remedied = apply_remedy(remedied, parse("time_shift:6,cutoff=10"))
    remedied = apply_remedy(remedied, AnalyticVariance(), data)
    remedied = apply_remedy(remedied, parse("snr_t:0.02"))
    assert remedied.network is net and remedied.schedule is base.schedule
    profile = measure(remedied, data, num_samples=60, states=3, progress=False)
    how = profile.how["sampler"]
    assert how["sampler"] == "AncestralSampler"
    assert [remedy["remedy"] for remedy in how["remedies"]] == [
        "epsilon_scaling", "time_shift", "analytic_variance", "snr_t",
    ]  # fmt: skip
    assert how["remedies"][0] == {"remedy": "epsilon_scaling", "strength": 0.9, "slope": 0.01}
    assert profile.how["weights"] == weights_digest(net)
    plain = measure(base, data, num_samples=60, states=3, progress=False)
    assert profile.final.mmd_sq != plain.final.mmd_sq


def test_segments_run_again_as_they_ran():
    from undrift.measurement.parallel_chains import ParallelChains

    for sampler in (
        apply_remedy(scheduled("DDIM"), SNRCorrection(0.2)),
        apply_remedy(ours(), SNRCorrection(0.2)),
        apply_remedy(ours(), TimeShift(10, cutoff=0)),
    ):
        chains = ParallelChains.from_prior(sampler, SHAPE, 2, seed=0)
        middle, end = sampler.grid[2], sampler.grid[4]
        before = chains.advance(middle).clone()
        after, again = chains.advance_beside(end, before)
        assert torch.equal(again, after)


# --- text and refusals --------------------------------------------------------------------------

TEXTS = [
    "epsilon_scaling",
    "epsilon_scaling:1.005",
    "epsilon_scaling:0.99,slope=0.0001",
    "time_shift:12,cutoff=20.0,variance=data",
    "analytic_variance:0.9,tolerance=1.0,estimator=error",
    "snr_t:-0.01,high=0.02,weighting=constant",
]


@pytest.mark.parametrize("text", TEXTS)
def test_text_and_configuration_are_the_same(text):
    assert parse(text).text == text
    assert parse(parse(text).text) == parse(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("scaling:1", "unknown remedy 'scaling'"),
        ("epsilon_scaling:a", "strength of epsilon_scaling is 'a'"),
        ("epsilon_scaling:0", "strength of epsilon_scaling is 0"),
        ("epsilon_scaling:nan", "is nan: choose above 0"),
        ("epsilon_scaling:1,cutoff=3", "takes slope="),
        ("snr_t:inf", "is inf: choose a finite number"),
        ("time_shift:2.5", "whole number"),
        ("time_shift:-2", "whole number"),
        ("time_shift:2,variance=pixels", "schedule, data"),
        ("snr_t:1,high", "takes high="),
        ("none:1", "no strength"),
        ("snr_t,wieghting=constant", "did you mean weighting="),
        ("snr_t,high=1,high=2", "high of snr_t is given twice"),
        ("snr_t:0.1,strength=0.2", "strength of snr_t is given twice"),
        ("analytic_variance,tolerance=-1", "at least 0"),
    ],
)
def test_a_remedy_that_cannot_be_read_is_refused_in_one_line(text, words):
    with pytest.raises(InvalidInput, match=words) as caught:
        parse(text)
    assert "\n" not in str(caught.value)


def flow():
    return DiffusersSampler(odd_network, diffusers.FlowMatchEulerDiscreteScheduler(), 4)


def edm():
    return DiffusersSampler(odd_network, diffusers.EDMEulerScheduler(), 4)


def silent():
    schedule = CosineSchedule(20)
    schedule.alphas_cumprod[-1] = 0
    return AncestralSampler(Denoiser(odd_network, schedule, "v_prediction"))


@pytest.mark.parametrize(
    ("make", "text", "words"),
    [
        (flow, "epsilon_scaling:1.1", "flow_prediction"),
        (flow, "time_shift:4", "schedule of betas"),
        (edm, "time_shift:4", "schedule of betas"),
        (edm, "analytic_variance", "EDMEulerScheduler has not"),
        (silent, "epsilon_scaling:1.1", "without signal"),
        (ours, "epsilon_scaling:1,slope=-1", "above 0"),
        (
            lambda: apply_remedy(ours(), SNRCorrection(0.1)),
            "analytic_variance",
            "to the sampler first",
        ),
    ],
)
def test_a_remedy_that_cannot_be_applied_is_refused_in_one_line(make, text, words):
    with pytest.raises(InvalidInput, match=words) as caught:
        apply_remedy(make(), parse(text), torch.zeros(4, 2, 4, 4))
    assert "\n" not in str(caught.value)


def test_an_estimate_needs_data_and_a_fit():
    with pytest.raises(InvalidInput, match="estimated from data"):
        apply_remedy(ours(), AnalyticVariance())
    with pytest.raises(InvalidInput, match="is not estimated"):
        RemediedSampler(ours(), AnalyticVariance()).kernel(torch.zeros(SHAPE), *ours().grid[:2])


def test_bands_need_even_sides_and_equal_strengths_do_not():
    x_t = torch.zeros(1, 1, 3, 3)
    t, s = ours().grid[:2]
    with pytest.raises(InvalidInput, match="even sides"):
        apply_remedy(ours(), SNRCorrection(0.1)).step(x_t, t, s)
    apply_remedy(ours(), SNRCorrection(0.1, 0.1, weighting="constant")).step(x_t, t, s)
