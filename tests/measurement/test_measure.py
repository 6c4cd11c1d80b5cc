"""Measurement against closed forms, its error bars, its nulls, its random streams."""

import math
import statistics
from dataclasses import replace

import diffusers
import pytest
import torch
from torch import nn

from affine import AffineSampler, gaussian_chain, gaussian_data
from undrift import AncestralSampler, CosineSchedule, DDIMSampler, Denoiser, InvalidInput, measure
from undrift.diffusion.sampler import Sampler
from undrift.diffusion.scheduler import DiffusersSampler
from undrift.measurement.budget import segment_budget
from undrift.measurement.chain import ChainMeasurement
from undrift.measurement.exposure import variance_error
from undrift.measurement.forward_draws import ForwardDraws
from undrift.measurement.parallel_chains import ParallelChains
from undrift.measurement.placement import candidates, place_states
from undrift.mmd.kernels import RBFMixture
from undrift.seeds import chain_seed
from undrift.theory.gaussian_chain import GaussianChain
from undrift.theory.mmd_budget import mmd_budget

DATA = gaussian_data()
TIMES = (20, 13, 8, 4, 2, 1, 0)


def exactly(chain, times=TIMES):
    """Squares of D, F and I in closed form, by time."""
    rising = sorted(map(int, times))
    budget = mmd_budget(chain, rising)
    found = {t: {"mmd_sq": float(d) ** 2} for t, d in zip(rising, budget.discrepancy, strict=True)}
    for t, f, i in zip(rising, budget.fresh, budget.inherited, strict=False):
        found[t] |= {"fresh_sq": float(f) ** 2, "inherited_sq": float(i) ** 2}
    return found


def measured(chain, *, num_samples=1200, states=TIMES, **options):
    options = {"progress": False, "exposure": False} | options
    options.setdefault("num_forward", num_samples)
    return measure(AffineSampler(chain), DATA, num_samples=num_samples, states=states, **options)


def numbers(state):
    """What is known of a state: its cumulative error and its budget."""
    return vars(state.error) | (vars(state.budget) if state.budget else {})


# -- against the closed form -------------------------------------------------------------------


@pytest.mark.parametrize("variance", ["small", "large", "optimal", "exact"])
def test_the_ideal_denoiser_has_no_error_beyond_its_discretization(variance):
    """Within 3 standard errors of 0 wherever the closed form is below them."""
    chain, times = gaussian_chain(100, variance=variance), (100, 80, 60, 40, 20, 10, 0)
    truth, checked = exactly(chain, times), 0
    for state in measured(chain, num_samples=1000, states=times, budget=False).states:
        if truth[state.t]["mmd_sq"] < state.mmd_sq_se:
            assert abs(state.mmd_sq) < 3 * state.mmd_sq_se
            checked += 1
    assert checked >= 5


class GaussianFlow(Sampler):
    """Probability flow of the ideal denoiser of N(0, I) on a grid of noise levels, as EDM's."""

    def scale(self, t):
        return 1.0, t

    def prior(self, shape, **options):
        return math.sqrt(1 + self.grid[0] ** 2) * super().prior(shape, **options)

    def epsilon(self, x_t, t):
        return x_t * t / (1 + t**2)

    def step(self, x_t, t, s, *, generator=None):
        return x_t * math.sqrt((1 + s**2) / (1 + t**2))

    def describe(self):
        return {"sampler": type(self).__name__}


class EulerFlow(GaussianFlow):
    """The same with steps of Euler."""

    def step(self, x_t, t, s, *, generator=None):
        return x_t + (s - t) * self.epsilon(x_t, t)


def standard_normal_data():
    return torch.randn(2000, 2, generator=torch.Generator().manual_seed(0))


def test_an_exact_sampler_on_noise_levels_has_no_error_at_any_state():
    """Cumulative, fresh and inherited errors are 0 in law; cut to integers, the times give 0.03."""
    sampler = GaussianFlow((80, 10, 2, 0.7, 0.2, 0))
    profile = measure(
        sampler, standard_normal_data(), num_samples=1000, states="all", progress=False
    )
    assert [state.t for state in profile.states] == list(sampler.grid)
    for state in profile.states:
        assert abs(state.mmd_sq) < 3 * state.mmd_sq_se < 0.005
        assert (state.alpha, state.sigma) == (1, state.t)
    for state in profile.states[1:]:
        assert abs(state.budget.fresh_sq) < 3 * state.budget.fresh_sq_se + 1e-6
        assert abs(state.budget.inherited_sq) < 3 * state.budget.inherited_sq_se


def test_fine_euler_steps_on_noise_levels_end_in_the_data():
    """60 steps, whose discretization leaves a standard deviation of 0.97."""
    levels = torch.logspace(1, -2, 60, dtype=torch.float64).tolist()
    options = {"num_samples": 1000, "states": 4, "budget": False, "progress": False}
    final = measure(EulerFlow((*levels, 0)), standard_normal_data(), **options).final
    assert abs(final.mmd_sq) < 3 * final.mmd_sq_se < 0.005
    assert final.p_value > 0.01


@pytest.mark.parametrize(
    "errors",
    [{"slope_error": -0.2}, {"slope_error": -0.2, "variance": "large"}, {"offset_error": 0.3}],
)
def test_a_wrong_denoiser_has_the_errors_of_the_closed_form(errors):
    """A denoiser shrunk by a fifth, or off: cumulative, fresh, inherited, λ, G, the inequality."""
    chain = gaussian_chain(**errors)
    truth, profile = exactly(chain), measured(chain, seed=2)
    gain = 1.0
    for before, state in reversed([*zip(profile.states, profile.states[1:], strict=False)]):
        for name, value in truth[state.t].items():
            if numbers(state).get(name) is not None:
                error = numbers(state)[f"{name}_se"]
                assert abs(numbers(state)[name] - value) < 3 * error, (state.t, name)
        assert state.downstream_gain == (None if gain is None else pytest.approx(gain))
        gain = gain * state.amplification if gain and state.amplification is not None else None
        if before.error.is_detected:
            assert state.amplification == pytest.approx(state.inherited / before.mmd_sq**0.5)
            exact = math.sqrt(truth[state.t]["inherited_sq"] / truth[before.t]["mmd_sq"])
            relative = state.budget.inherited_sq_se / truth[state.t]["inherited_sq"]
            assert state.amplification == pytest.approx(exact, rel=3 * relative + 0.1)
        else:
            assert state.amplification is None
        if state.mmd_sq > 0 and state.fresh:
            slack = sum(
                numbers(state)[f"{name}_se"] / max(2 * root, numbers(state)[f"{name}_se"] ** 0.5)
                for name, root in (
                    ("mmd_sq", state.mmd_sq**0.5),
                    ("fresh_sq", state.fresh),
                    ("inherited_sq", state.inherited),
                )
            )
            assert state.mmd_sq**0.5 <= state.fresh + state.inherited + 3 * slack
    assert profile.final.amplification and profile.final.error.is_detected


def test_the_samplers_of_the_library_measure_the_same():
    """The ancestral sampler over a Denoiser is the closed form without noise in the last step."""
    schedule = CosineSchedule(20)
    chain = gaussian_chain(variance="large", slope_error=-0.2)
    noise = chain.noise.clone()
    noise[0] = 0
    chain = GaussianChain(chain.mean, chain.cov, chain.betas, chain.slope, chain.offset, noise)

    def network(x_t, timestep):
        t = int(timestep[0])
        return (x_t.double() @ chain.slope[t].T + chain.offset[t]).to(x_t)

    sampler = AncestralSampler(
        Denoiser(network, schedule, "sample"), variance_type="fixed_large", clip=None
    )
    profile = measure(sampler, DATA, num_samples=1000, states=TIMES, budget=False, progress=False)
    truth = exactly(chain)
    for state in profile.states:
        assert abs(state.mmd_sq - truth[state.t]["mmd_sq"]) < 3 * state.mmd_sq_se
        if state.t > 0:  # the ideal noise estimate is too small on average: its norm says so
            found = state.exposure
            gap = abs(found.eps_norm_forward - found.eps_norm_sampled)
            assert gap == pytest.approx(abs(found.eps_norm_gap))
    assert profile.final.mmd_sq > 10 * profile.final.mmd_sq_se


# -- error bars --------------------------------------------------------------------------------


@pytest.mark.parametrize(("error", "slope"), [(0.0, -1.0), (-0.5, -0.5)])
def test_standard_errors_fall_as_theory_says(error, slope):
    """With 1/√N away from the null, with 1/N at it."""
    chain = gaussian_chain(6, variance="exact", slope_error=error)
    sizes = [200, 400, 800, 1600] * 4
    errors = [
        measured(chain, num_samples=n, states=[0], budget=False, seed=seed).final.mmd_sq_se
        for seed, n in enumerate(sizes)
    ]
    fit = statistics.linear_regression(list(map(math.log, sizes)), list(map(math.log, errors)))
    assert fit.slope == pytest.approx(slope, abs=0.07)


@pytest.mark.parametrize("error", [0.0, -0.3])
def test_two_seeds_agree_within_their_error_bars(error):
    chain = gaussian_chain(8, variance="exact", slope_error=error)
    seeds = [
        measured(chain, num_samples=400, states=[8, 3, 0], seed=seed).states for seed in range(12)
    ]
    squares = []
    for one, other in zip(seeds[::2], seeds[1::2], strict=True):
        for a, b in zip(one, other, strict=True):
            for name in ("mmd_sq", "fresh_sq", "inherited_sq"):
                if name in (x := numbers(a)):
                    y = numbers(b)
                    error = math.hypot(x[f"{name}_se"], y[f"{name}_se"])
                    squares.append(((x[name] - y[name]) / error) ** 2)
    assert max(squares) < 3.5**2
    assert 0.3 < statistics.fmean(squares) < 1.6


def test_p_values_of_an_exact_model_are_uniform():
    chain = gaussian_chain(3, variance="exact")
    states = [
        measured(chain, num_samples=60, states=[3, 1, 0], budget=False, seed=seed).states
        for seed in range(60)
    ]
    for records in zip(*states, strict=True):
        p = torch.tensor([record.p_value for record in records]).sort().values
        ranks = torch.arange(len(p) + 1) / len(p)
        distance = torch.maximum(ranks[1:] - p, p - ranks[:-1]).max()
        assert float(distance) * math.sqrt(len(p)) < 1.63  # the 99 % quantile


def test_pairs_with_common_noise_are_unbiased_and_less_noisy():
    chain = gaussian_chain(10, slope_error=-0.3)
    sampler, truth = AffineSampler(chain), exactly(chain, (10, 3, 2, 0))[2]
    fresh, inherited, ratios = [], [], []
    for seed in range(25):
        draws = ForwardDraws(
            DATA, sampler, 500, "population", torch.Generator().manual_seed(1000 + seed)
        )
        chains = ParallelChains.from_prior(sampler, (500, 2), 200, seed)
        chains.advance(3)
        kernel = RBFMixture().fit(draws.draw(draws.select(4000), 2))
        pairs = draws.paired(500)
        starts, forward = pairs.at(3), pairs.at(2)
        x, rolled = chains.advance_beside(2, starts)
        terms = segment_budget(x, rolled, forward, kernel)
        shuffled = segment_budget(x, rolled.roll(1, 0), forward, kernel)
        fresh.append(terms.fresh_sq)
        inherited.append(terms.inherited_sq)
        ratios.append(terms.fresh_sq_se / shuffled.fresh_sq_se)
    for values, name in ((fresh, "fresh_sq"), (inherited, "inherited_sq")):
        error = statistics.stdev(values) / math.sqrt(len(values))
        assert abs(statistics.fmean(values) - truth[name]) < 3 * error, name
    assert statistics.fmean(ratios) < 0.7


def test_common_noise_makes_the_inherited_error_less_noisy_and_leaves_it_unbiased():
    """Over a long segment most of a state is the noise of its steps, which both chains share."""
    chain = gaussian_chain(10, slope_error=-0.3)
    sampler, truth = AffineSampler(chain), exactly(chain, (10, 2, 0))[2]
    found, ratios = [], []
    for seed in range(25):
        draws = ForwardDraws(DATA, sampler, 500, "population", torch.Generator().manual_seed(seed))
        chains = ParallelChains.from_prior(sampler, (500, 2), 200, seed)
        kernel = RBFMixture().fit(draws.draw(draws.select(4000), 2))
        pairs = draws.paired(500)
        starts, forward = pairs.at(10), pairs.at(2)
        x, rolled = chains.advance_beside(2, starts)
        terms = segment_budget(x, rolled, forward, kernel)
        apart = segment_budget(x.roll(1, 0), rolled, forward, kernel)
        found.append(terms.inherited_sq)
        ratios.append(terms.inherited_sq_se / apart.inherited_sq_se)
    error = statistics.stdev(found) / math.sqrt(len(found))
    assert abs(statistics.fmean(found) - truth["inherited_sq"]) < 3 * error
    assert statistics.fmean(ratios) < 0.01


# -- chains that run again ---------------------------------------------------------------------


def small_network(x_t, timestep):
    return torch.tanh(x_t.roll(1, -1)) + timestep.view(-1, *[1] * (x_t.ndim - 1)) / 100


def scheduler():
    from diffusers import DDPMScheduler

    return DDPMScheduler(12)


SAMPLERS = {
    "ancestral": lambda: AncestralSampler(Denoiser(small_network, CosineSchedule(12))),
    "ddim": lambda: DDIMSampler(Denoiser(small_network, CosineSchedule(12)), eta=0.5),
    "diffusers": lambda: DiffusersSampler(small_network, scheduler()),
}
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(
    not torch.cuda.is_available(), reason="no such device"
))]  # fmt: skip


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", SAMPLERS)
def test_the_same_starts_with_the_same_noise_end_the_same(name, device):
    """Bit by bit, in every batch, the short last one too; a shorter list of starts as well."""
    sampler = SAMPLERS[name]()
    whole, part, other = (
        ParallelChains.from_prior(sampler, (7, 1, 4, 4), 3, seed=5, device=device) for _ in range(3)
    )
    for t in (9, 4, 0):
        before = whole.states.clone()
        after, again = whole.advance_beside(t, before)
        assert torch.equal(again, after)
        assert torch.equal(part.advance_beside(t, before[:4])[1], after[:4])
        assert not torch.equal(other.advance_beside(t, before + 1)[1], after)


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_chain_depends_on_its_seed_and_number_alone(name):
    """Not on the number of chains, of batches, or of states where it stops on its way."""
    sampler, ticks = SAMPLERS[name](), []
    chains = ParallelChains.from_prior(sampler, (5, 1, 4, 4), 2, seed=0, tick=ticks.append)
    chains.advance(7)
    whole = chains.advance(0)
    assert sum(ticks) == 12 * 5
    for number in range(5):
        generator = torch.Generator().manual_seed(chain_seed(0, number))
        x = sampler.prior((1, 1, 4, 4), generator=generator)
        *_, (_, last) = sampler.trajectory(x, generator=generator)
        assert torch.equal(whole[number : number + 1], last)
    more = ParallelChains.from_prior(sampler, (41, 1, 4, 4), 16, seed=0).advance(0)
    assert torch.equal(more[:5], whole)
    assert not torch.equal(ParallelChains.from_prior(sampler, (5, 1, 4, 4), 5, 1).advance(0), whole)


def test_the_same_seed_gives_the_same_profile_and_another_another():
    chain = gaussian_chain(5, slope_error=-0.2)
    options = {"num_samples": 40, "states": [2], "exposure": True}
    one, same = measured(chain, **options), measured(chain, **options)
    assert one.states == same.states
    other = measured(chain, **options, seed=1)
    assert all(a.mmd_sq != b.mmd_sq for a, b in zip(one.states, other.states, strict=True))
    merged = one.merge(other)
    assert merged.final.mmd_sq_se < one.final.mmd_sq_se


# -- exposure ----------------------------------------------------------------------------------


def test_delta_of_forward_draws_is_its_noise_floor():
    r""":math:`\sigma^2 / 2n` from n elements, and no more."""
    generator = torch.Generator().manual_seed(0)
    x_0 = torch.rand(64, 50, generator=generator)
    alpha, sigma = 0.6, 0.8
    values = [
        variance_error(
            alpha * x_0 + sigma * torch.randn(x_0.shape, generator=generator), x_0, alpha, sigma
        )[0]
        for _ in range(200)
    ]
    assert statistics.fmean(values) == pytest.approx(sigma**2 / (2 * x_0.numel()), rel=0.3)


def small_gaussian():
    """A chain of one dimension, of a model with a wrong slope."""
    one, schedule = torch.ones(1, dtype=torch.float64), CosineSchedule(30)
    return GaussianChain.from_schedule(
        0 * one, 0.3 * one[None], schedule, variance="large", slope_error=-0.1
    )


def exact_spreads(chain, start):
    """Times and standard deviations of x_t - alpha_t x_0 of chains from forward draws at start.

    x_t = a x_0 + noise of variance c, both by recursion.
    """
    sampler = AffineSampler(chain)
    keep, sigma = sampler.scale(start)
    spread = sigma**2
    for t in range(start, 0, -1):
        yield t, math.sqrt((keep - sampler.scale(t)[0]) ** 2 * 0.3 + spread)
        gain, noise = float(chain.gain[t - 1]), float(chain.noise[t - 1])
        keep, spread = gain * keep, gain**2 * spread + noise


def test_delta_of_a_gaussian_chain_is_its_closed_form():
    chain, start = small_gaussian(), 20
    sampler, x_0 = AffineSampler(chain), gaussian_data(40_000, chain)
    draws = ForwardDraws(x_0, sampler, 4, "population", torch.Generator().manual_seed(0))
    population = ParallelChains(sampler, draws.draw(x_0, start), 10_000, seed=0)
    # chains that begin in the middle, where the state still knows its data
    population.t, population.batches = start, [replace(b, t=start) for b in population.batches]
    for t, spread in exact_spreads(chain, start):
        x_t = population.advance(t)
        alpha, sigma = sampler.scale(t)
        error = spread / math.sqrt(2 * len(x_0))  # of a standard deviation
        root = math.sqrt(variance_error(x_t, x_0, alpha, sigma)[0])
        assert abs(root - abs(spread - sigma)) < 4 * error
    assert abs(spread - sigma) > 10 * error


def test_error_bars_of_delta_hold_its_closed_form():
    """Where the difference of spreads is resolved; on the noise floor they are wide enough."""
    chain, covered = small_gaussian(), {}
    sampler = AffineSampler(chain)
    exact = dict(exact_spreads(chain, 30)) | {30: sampler.scale(30)[1]}
    data = gaussian_data(4000, chain)
    for seed in range(250):
        draws = torch.Generator().manual_seed(seed)
        forward = ForwardDraws(data, sampler, 4, "population", draws)
        options = {"num_permutations": 0, "batch_size": 1000, "seed": seed}
        measurement = ChainMeasurement(sampler, forward, RBFMixture(), 6000, **options)
        assert measurement.num_known == 250
        found = measurement.pilot(compare=False, tick=lambda amount: None).deltas
        for t, spread in exact.items():
            sigma = sampler.scale(t)[1]
            floor = spread**2 / (2 * 250)  # the bias of a square
            value, error = found[t]
            inside = abs(value - (spread - sigma) ** 2 - floor) < 1.96 * error
            covered.setdefault(t, []).append(inside)
    coverage = {t: statistics.fmean(values) for t, values in covered.items()}
    errors = {t: spread / math.sqrt(2 * 250) for t, spread in exact.items()}
    gaps = {t: abs(spread - sampler.scale(t)[1]) / errors[t] for t, spread in exact.items()}
    resolved = [coverage[t] for t, gap in gaps.items() if gap > 4]
    assert len(resolved) > 10 and 0.93 < statistics.fmean(resolved) < 0.97
    assert min(resolved) > 0.9 and coverage[30] > 0.95 and gaps[30] == 0


class WidePrior(AffineSampler):
    """Starts from noise twice too wide."""

    def prior(self, shape, **options):
        return 2 * super().prior(shape, **options)


def test_the_norm_gap_is_that_of_the_closed_form():
    r"""At T the noise estimate is the state: its mean norm is :math:`\sqrt{\pi/2}` in the plane."""
    sampler = WidePrior(gaussian_chain(6))
    profile = measure(sampler, DATA, num_samples=1000, states=[6, 0], budget=False, progress=False)
    first, last = profile.states[0].exposure, profile.final.exposure
    norm = math.sqrt(math.pi / 2)
    assert abs(first.eps_norm_gap - norm) < 3 * first.eps_norm_gap_se < norm
    assert first.eps_norm_gap == first.eps_norm_sampled - first.eps_norm_forward
    assert last.eps_norm_gap is None and last.delta is not None


@pytest.mark.parametrize("kind", ["UniPCMultistepScheduler", "SASolverScheduler"])
def test_a_population_keeps_the_history_of_a_multistep_solver(kind):
    """Advanced in parts it is the trajectory of each batch, with the noise of its chains."""
    sampler = DiffusersSampler(lambda x, timestep: torch.tanh(x), getattr(diffusers, kind)(), 6)
    chains = ParallelChains.from_prior(sampler, (5, 2), 3, seed=0)
    starts, noise = list(chains.batches), chains.generators
    copies = [
        [torch.Generator().set_state(generator.get_state()) for generator in batch]
        for batch in noise
    ]
    for position in (1, 4, 6):
        x = chains.advance(sampler.grid[position])
    ends = [
        list(sampler.trajectory(start.x, generator=generator))[-1].x
        for start, generator in zip(starts, copies, strict=True)
    ]
    assert torch.equal(x, torch.cat(ends))


# -- which states ------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 3, 7, 16, 50, 101])
def test_so_many_states_as_were_asked_for_with_both_ends(count):
    grid = tuple(range(100, -1, -1))
    scales = [(math.cos(t / 64), math.sin(t / 64)) for t in grid]
    errors = {t: (100 - t) ** 3 for t in candidates(grid)}
    for known in (None, errors, dict.fromkeys(errors, 0.0)):
        times = place_states(grid, scales, count, known)
        assert len(times) == len(set(times)) == count
        assert times[0] == 100 and times[-1] == 0
        assert list(times) == sorted(times, reverse=True)


def test_states_lie_where_the_error_grows():
    grid = tuple(range(100, -1, -1))
    scales = [(1 - t / 100, 1.0) for t in grid]
    plain = place_states(grid, scales, 16)
    early = place_states(grid, scales, 16, {t: float(t < 75) for t in candidates(grid)})
    assert sum(70 <= t <= 80 for t in early) >= sum(70 <= t <= 80 for t in plain) + 3


def test_models_without_resolved_error_are_measured_at_the_same_states():
    """And one that errs where it shows, at others."""
    exact, other = (
        [s.t for s in measured(chain, num_samples=200, states=6, budget=False, seed=seed).states]
        for chain, seed in (
            (gaussian_chain(40, variance="exact"), 0),
            (gaussian_chain(40, variance="exact", slope_error=0.01), 2),
        )
    )
    assert exact == other and len(exact) == 6
    wrong = gaussian_chain(40, variance="exact", offset_error=3.0)
    seen = [s.t for s in measured(wrong, num_samples=200, states=6, budget=False).states]
    assert seen != exact


def test_states_that_are_asked_for_are_measured_and_no_others():
    chain = gaussian_chain(6)
    options = {"num_samples": 8, "budget": False}
    times = [s.t for s in measured(chain, states=[2, 4], **options).states]
    assert times == [6, 4, 2, 0]
    assert len(measured(chain, states="all", **options).states) == 7
    assert len(measured(chain, states=500, **options).states) == 7
    for states, words in (
        ([7], "t=7 is not on"),
        ([-1], "t=-1 is not on"),
        (1, "at least 2"),
        ("some", "or all"),
        ([float("nan")], "t=nan is not on"),
    ):
        with pytest.raises(InvalidInput, match=words):
            measured(chain, states=states, **options)


# -- what the data share -----------------------------------------------------------------------


def test_the_part_of_the_error_that_is_the_data_s_own():
    chain = gaussian_chain(4, slope_error=-0.3)
    sampler = AffineSampler(chain)
    all_used = measure(sampler, DATA[:500], num_samples=500, states=[0], progress=False).final
    *_, few_used, same = measure(
        sampler, DATA, num_samples=500, num_forward=500, states=[1, 0], progress=False
    ).states
    empirical = measure(
        sampler, DATA[:500], num_samples=500, states=[0], reference="empirical", progress=False
    ).final
    assert 0.4 < all_used.error.mmd_sq_data_se / all_used.mmd_sq_se < 0.75
    assert few_used.error.mmd_sq_data_se < 0.1 * few_used.mmd_sq_se
    assert 0.4 < same.error.mmd_sq_data_se / same.mmd_sq_se < 0.75  # every seed has these at t = 0
    assert empirical.error.mmd_sq_data_se == empirical.budget.fresh_sq_data_se == 0


# -- what cannot be measured -------------------------------------------------------------------


class Dropping(nn.Module):
    """A network that would say something else in training."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2))
        self.dropout = nn.Dropout(0.5)

    def forward(self, x_t, timestep):
        return self.dropout(x_t * 0.5 + self.weight)


def test_networks_are_measured_in_evaluation_mode_and_left_as_they_were():
    network = Dropping()
    network.dropout.train()
    sampler = AncestralSampler(Denoiser(network, CosineSchedule(4), "sample"), clip=None)
    one = measure(sampler, DATA, num_samples=20, states=2, progress=False)
    network.eval()
    two = measure(sampler, DATA, num_samples=20, states=2, progress=False)
    assert one.states == two.states
    network.train()
    measure(sampler, DATA, num_samples=20, states=2, progress=False)
    assert network.training and network.dropout.training
    assert one.how["model"] == "Dropping" and one.how["weights"].startswith("sha256:")


def test_bad_input_is_refused_in_one_line():
    chain = gaussian_chain(4)
    network = Dropping()
    network.weight.data[1] = float("nan")
    broken = AncestralSampler(Denoiser(network, CosineSchedule(4), "sample"), clip=None)
    holed = DATA.clone()
    holed[17, 1] = float("inf")
    exploding = AncestralSampler(
        Denoiser(lambda x, t: x / (t.view(-1, 1) - 2), CosineSchedule(4), "sample"), clip=None
    )
    good = AffineSampler(chain)
    cases = [
        (broken, DATA, {}, "NaN or infinity in weight"),
        (good, holed, {}, "first: 17"),
        (good, DATA[:3], {}, "number of data is 3"),
        (good, DATA[:0], {}, "empty"),
        (good, DATA, {"num_samples": 1}, "num_samples is 1"),
        (good, DATA, {"num_forward": 2}, "num_forward is 2"),
        (good, DATA, {"batch_size": 0}, "batch_size is 0"),
        (good, DATA, {"num_permutations": 38}, "at least 39"),
        (good, DATA, {"num_permutations": 0}, "at least 39"),
        (exploding, DATA, {}, "at t=2 are not finite"),
        (object(), DATA, {}, "cannot sample from a"),
    ]
    for model, data, options, words in cases:
        with pytest.raises(InvalidInput, match=words) as caught:
            measure(model, data, **({"num_samples": 8, "progress": False} | options))
        assert "\n" not in str(caught.value)


def test_without_a_budget_the_test_may_be_left_out():
    final = measured(gaussian_chain(4), num_samples=50, budget=False, states=2, num_permutations=0)
    assert final.final.p_value is None and final.final.error.interval is not None
    assert final.final.fresh is None and final.final.downstream_gain is None


def test_pilot_chains_are_a_sixtieth_of_all_and_those_of_delta_one_in_24():
    for num_samples, pilots, known in (
        *((4, 16, 16), (1000, 16, 41), (2000, 33, 83)), (100_000, 64, 1000)
    ):  # fmt: skip
        draws = ForwardDraws(
            DATA, AffineSampler(gaussian_chain(2)), 4, "population", torch.Generator()
        )
        chain = ChainMeasurement(draws.sampler, draws, RBFMixture(), num_samples, 200, 250, 0)
        assert (chain.num_pilots, chain.num_known) == (pilots, known)
        assert replace(chain, exposure=False).num_known == pilots


def test_more_chains_for_delta_change_no_other_number():
    chain, options = gaussian_chain(20, slope_error=-0.1), {"num_samples": 1000, "states": 6}
    with_delta, without = (measured(chain, exposure=e, **options).states for e in (True, False))
    for one, other in zip(with_delta, without, strict=True):
        assert replace(one, exposure=other.exposure) == other and one.exposure.delta is not None
