"""The regularizer of a chain that is sampled on a coarser grid than it is trained on."""

import io
import math

import pytest
import torch

from tiny import TinyNetwork, life_of_a_cohort, noise_source
from undrift.diffusion.denoiser import Denoiser
from undrift.diffusion.gaussian import AncestralSampler, DDIMSampler
from undrift.diffusion.schedule import CosineSchedule, LinearSchedule
from undrift.exceptions import InvalidInput
from undrift.measurement.measure import measure
from undrift.regularizer.bootstrap import rollout_streams
from undrift.regularizer.cohorts import PersistentCohorts
from undrift.regularizer.cumulative import CumulativeErrorRegularizer
from undrift.regularizer.options import RegularizerConfig
from undrift.training.building import build_regularizer, build_sampler, build_scheduler
from undrift.training.config import ChainConfig, MethodConfig

VARIANTS = ("full", "truncated", "persistent")
DATA = torch.randn(40, 3, generator=noise_source(100))
OPTIONS = {"strength": 2.0, "num_states": 6, "num_forward": 12, "every": 1, "window": 0.6}


def fine_sampler(network, spacing="trailing"):
    denoiser = Denoiser(network, CosineSchedule(200), "sample")
    return AncestralSampler(denoiser, spacing=spacing)


def run(regularizer, network, calls=12):
    """Gradients of all calls in one."""
    network.zero_grad()
    for _ in range(calls):
        regularizer(network, DATA).backward()
    return torch.cat([p.grad.flatten() for p in network.parameters()])


def gaussian_sampler(schedule, modules=None):
    """The ideal denoiser of standard normal data, and a reverse variance that is too small."""

    def posterior_mean(x, timestep):
        return schedule.alpha(int(timestep[0]) + 1) * x

    return AncestralSampler(Denoiser(posterior_mean, schedule, "sample"), modules, clip=None)


@pytest.mark.parametrize("spacing", ["trailing", "leading", "linspace"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_it_is_the_regularizer_of_the_coarse_chain(variant, spacing):
    network = TinyNetwork()
    fine = fine_sampler(network, spacing)
    coarse = AncestralSampler(fine.denoiser, 10, spacing=spacing)
    ours = CumulativeErrorRegularizer(fine, variant=variant, num_inference_steps=10, **OPTIONS)
    theirs = CumulativeErrorRegularizer(coarse, variant=variant, **OPTIONS)
    assert ours.sampler.grid == coarse.grid and ours.sampler.describe() == coarse.describe()
    assert ours.weights == theirs.weights and len(ours.weights) == 11
    assert torch.equal(run(ours, network), run(theirs, network))
    other = CumulativeErrorRegularizer(fine, variant=variant, **OPTIONS)
    assert not torch.allclose(run(other, network), run(theirs, network), rtol=0.01)
    assert len(fine.grid) == 201


def test_the_released_variant_walks_all_steps():
    network = TinyNetwork()
    fine = fine_sampler(network)
    regularizer = CumulativeErrorRegularizer(fine, variant="official", num_inference_steps=10)
    assert regularizer.sampler.grid == fine.grid


def test_a_configuration_gives_the_chain_that_build_sampler_makes():
    class Network(torch.nn.Identity):
        config = {"in_channels": 1, "sample_size": 8}

    scheduler = build_scheduler(ChainConfig(num_steps=1000))
    fine, coarse = (build_sampler(Network(), scheduler, n) for n in (None, 50))
    method = MethodConfig("persistent", RegularizerConfig(num_inference_steps=50))
    regularizer = build_regularizer(method, fine)
    assert regularizer.sampler.grid == coarse.grid
    assert regularizer.sampler.describe() == coarse.describe()


def test_a_cohort_is_the_trajectory_of_the_coarse_sampler():
    sampler = gaussian_sampler(LinearSchedule(1000))
    coarse = gaussian_sampler(LinearSchedule(1000), 20)
    cohort, streams = PersistentCohorts(1, window=0.3), rollout_streams(2)
    copy = rollout_streams(2)
    for _ in range(2):
        for position, expected in life_of_a_cohort(coarse, copy, 14, (5, 3)):
            found, at = cohort(sampler.with_steps(20), DATA, 5, streams)
            assert at == position
            torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_the_discrepancy_is_what_measure_finds_in_the_coarse_chain():
    """Long steps lose variance even over the ideal denoiser: the term sees as much as measure."""
    schedule, modules, count = LinearSchedule(1000), 8, 30
    sampler = gaussian_sampler(schedule)
    data = torch.randn(6000, 2, generator=noise_source(1))
    profile = measure(
        gaussian_sampler(schedule, modules),
        data,
        num_samples=6000,
        states="all",
        budget=False,
        exposure=False,
        num_permutations=0,
        progress=False,
    )
    regularizer = CumulativeErrorRegularizer(
        sampler, strength=1.0, num_inference_steps=modules, num_states=250, num_forward=500,
        num_cohorts=4, every=1, window=1.0, log_every=1,
    )  # fmt: skip
    values = {}
    with torch.no_grad():
        for batch in data.split(750):
            regularizer.pool.capacity = 6000
            regularizer.pool.add(batch)
        for _ in range(modules * count):
            regularizer(sampler.denoiser.network, data[:1])
            values.setdefault(regularizer.log["regularizer_t"], []).append(
                regularizer.log["regularizer"]
            )
    assert set(values) == set(sampler.schedule.time_grid(modules)[1:])
    for state in profile.states[1:]:
        found = torch.tensor(values[state.t])
        error = math.hypot(state.mmd_sq_se, float(found.std()) / math.sqrt(len(found)))
        assert abs(float(found.mean()) - state.mmd_sq) < 4 * error
    assert profile.final.mmd_sq > 10 * profile.final.mmd_sq_se


def test_the_start_of_a_coarse_chain_costs_little():
    costs = {}
    for modules in (None, 10):
        network = TinyNetwork()
        regularizer = CumulativeErrorRegularizer(
            fine_sampler(network), num_inference_steps=modules, num_cohorts=4,
            **(OPTIONS | {"window": 0.3}),
        )  # fmt: skip
        regularizer(network, DATA)
        costs[modules] = len(network.timesteps) - 1
        n = modules or 200
        way, inside = math.ceil(0.7 * n / 3), round(0.3 * n)
        assert costs[modules] == sum(way + inside * c // 4 for c in range(4))
        for _ in range(3):  # until each cohort has left where it was put
            regularizer(network, DATA)
        network.timesteps.clear()
        terms = 8 * inside  # each of the four cohorts twice through the window
        for _ in range(terms):
            regularizer(network, DATA)
        assert len(network.timesteps) / terms - 1 == pytest.approx(way / inside)
    assert costs[10] * 15 < costs[None]


def test_a_saved_coarse_regularizer_goes_on_bitwise_and_on_its_own_grid_only():
    network = TinyNetwork()

    def build(modules):
        options = OPTIONS | {"strength": None}
        return CumulativeErrorRegularizer(
            fine_sampler(network), num_inference_steps=modules, **options
        )

    first, second = build(10), build(10)
    for _ in range(7):
        first.backward(network, DATA, lambda: network(DATA, torch.ones(40)).square().mean())
    buffer = io.BytesIO()
    torch.save(first.state_dict(), buffer)
    buffer.seek(0)
    state = torch.load(buffer, weights_only=True)
    second.load_state_dict(state)
    for regularizer in (first, second):
        network.zero_grad()
        for _ in range(20):
            regularizer.backward(
                network, DATA, lambda: network(DATA, torch.ones(40)).square().mean()
            )
        regularizer.found = torch.cat([p.grad.flatten() for p in network.parameters()])
    assert torch.equal(first.found, second.found) and first.log == second.log
    with pytest.raises(InvalidInput, match="grid of 10 denoising .* t = 200, this one of 25"):
        build(25).load_state_dict(state)


def test_deterministic_chains_are_strided_too():
    network = TinyNetwork()
    fine = DDIMSampler(Denoiser(network, CosineSchedule(200), "sample"))
    regularizer = CumulativeErrorRegularizer(fine, num_inference_steps=10, **OPTIONS)
    x = torch.randn(4, 3, generator=noise_source(3))
    coarse = DDIMSampler(Denoiser(network, CosineSchedule(200), "sample"), 10)
    with torch.no_grad():
        ours, theirs = (list(s.trajectory(x))[-1].x for s in (regularizer.sampler, coarse))
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("modules", [0, 201])
def test_more_modules_than_steps_are_refused(modules):
    with pytest.raises(InvalidInput, match=f"{modules} inference steps asked for"):
        CumulativeErrorRegularizer(fine_sampler(TinyNetwork()), num_inference_steps=modules)
