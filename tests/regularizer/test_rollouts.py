"""Rollouts: what they start from, how far their graph goes, and the law of what lives on."""

import io
import math
from collections import Counter, deque
from itertools import pairwise

import pytest
import torch
from diffusers import (
    DEISMultistepScheduler,
    DPMSolverMultistepScheduler,
    UniPCMultistepScheduler,
)

from tiny import (
    TinyNetwork,
    exact_sampler,
    life_of_a_cohort,
    noise_source,
    shrinking_sampler,
    tiny_sampler,
)
from undrift.diffusion.sampler import Sampler
from undrift.diffusion.schedule import LinearSchedule
from undrift.diffusion.scheduler import DiffusersSampler
from undrift.exceptions import InvalidInput
from undrift.regularizer.bootstrap import (
    BootstrapRollout,
    chain_noise,
    integer,
    rollout_streams,
)
from undrift.regularizer.cohorts import PersistentCohorts
from undrift.regularizer.cumulative import CumulativeErrorRegularizer
from undrift.regularizer.pool import ForwardPool
from undrift.regularizer.weighting import window_start


def through_a_file(state):
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def test_choices_are_uniform_on_both_ends():
    streams = rollout_streams(0)
    counts = Counter(integer(2, 5, streams["choice"]) for _ in range(4000))
    assert set(counts) == {2, 3, 4, 5}
    assert sum((n - 1000) ** 2 / 1000 for n in counts.values()) < 16.3  # chi², 3 df, p = 0.001


@pytest.mark.parametrize("seed", range(5))
def test_the_pool_holds_the_last_data_whatever_the_batches(seed):
    generator = noise_source(seed)
    pool, expected, start = ForwardPool(), deque(maxlen=20), 0
    for step in range(40):
        if step == 25:
            expected = deque(expected, maxlen=33)
        pool.capacity = expected.maxlen
        size = int(torch.randint(1, 50 if step % 10 == 0 else 8, (), generator=generator))
        batch = torch.arange(start, start + size, dtype=torch.float32)[:, None]
        start += size
        pool.add(batch)
        expected.extend(batch.flatten().tolist())
        assert pool.data.flatten().tolist() == list(expected)
        assert len(pool) == len(expected)


def test_the_pool_keeps_its_own_copy():
    pool, batch = ForwardPool(8), torch.zeros(4, 2, requires_grad=True)
    pool.add(batch)
    with torch.no_grad():
        batch += 1
    assert not pool.data.any() and not pool.data.requires_grad


@pytest.mark.parametrize("size", [4, 5, 7, 63, 64, 1000, 1087, 1088])
def test_draws_are_disjoint_and_as_large_as_the_data_allow(size):
    pool = ForwardPool(1088)
    pool.add(torch.arange(size)[:, None].float())
    own, others, _ = pool.draw(64, 1024, noise_source())
    first, second = (part.flatten().tolist() for part in (own, pool.at(others)))
    assert not set(first) & set(second)
    assert len(set(first)) == len(first) and len(set(second)) == len(second)
    assert min(len(first), len(second)) >= 2
    assert len(first) + len(second) == size
    if size == 1088:
        assert (len(first), len(second)) == (64, 1024)


def test_every_datum_is_drawn_as_often():
    pool, generator = ForwardPool(20), noise_source()
    pool.add(torch.arange(20)[:, None].float())
    counts = Counter(int(i) for _ in range(2000) for i in pool.draw(4, 8, generator)[0])
    assert all(abs(n - 400) < 4 * math.sqrt(2000 * 0.2 * 0.8) for n in counts.values())
    assert len(counts) == 20


def test_a_pool_goes_on_exactly():
    pool = ForwardPool(10)
    pool.add(torch.randn(7, 2, generator=noise_source()))
    pool.add(torch.randn(6, 2, generator=noise_source(1)))
    copy = ForwardPool()
    copy.load_state_dict(through_a_file(pool.state_dict()))
    for other in (pool, copy):
        other.add(torch.randn(2, 2, generator=noise_source(2)))
    torch.testing.assert_close(copy.data, pool.data, rtol=0, atol=0)
    for ours, theirs in zip(
        copy.draw(3, 4, noise_source()), pool.draw(3, 4, noise_source()), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_an_empty_pool_goes_on():
    pool = ForwardPool()
    pool.load_state_dict(through_a_file(ForwardPool(5).state_dict()))
    pool.add(torch.ones(3, 1))
    assert len(pool) == 3


def roll(rollout, sampler, streams, calls=1, size=6):
    for _ in range(calls):
        result = rollout(sampler, torch.randn(size, 3, generator=noise_source(9)), size, streams)
    return result


@pytest.mark.parametrize(("gradient", "with_graph"), [("all", 4), ("last", 1)])
def test_the_graph_goes_through_all_modules_or_the_last(gradient, with_graph):
    network = TinyNetwork()
    streams = rollout_streams(0)
    while True:  # a rollout that is not cut where the grid begins
        network.timesteps, network.with_graph = [], 0
        states, _ = roll(BootstrapRollout(4, gradient), tiny_sampler(network), streams)
        if len(network.timesteps) == 4:
            break
    assert network.with_graph == with_graph
    assert states.requires_grad


def test_a_rollout_is_the_samplers_trajectory_from_a_forward_draw():
    sampler, starts = exact_sampler(), torch.randn(5, 3, generator=noise_source(9))
    rollout, streams, copy = BootstrapRollout(3), rollout_streams(1), rollout_streams(1)
    for _ in range(20):
        states, end = rollout(sampler, starts, 5, streams)
        integer(1, 10, copy["choice"])
        begin = sampler.grid[max(0, end - 3)]
        noise = chain_noise(copy, 5)
        x = sampler.forward(starts, begin, generator=noise)
        path = sampler.trajectory(x, start=begin, stop=sampler.grid[end], generator=noise)
        *_, (t, expected) = path
        assert t == sampler.grid[end]
        torch.testing.assert_close(states, expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("last_step", "window", "ends"),
    [
        (True, 1.0, range(1, 11)),
        (False, 1.0, range(1, 10)),
        (True, 0.4, range(7, 11)),
        (False, 0.4, range(7, 10)),
        (True, 0.01, [10]),
        (False, 0.01, [10]),  # a window that holds nothing else
    ],
)
def test_every_module_is_the_last_as_often(last_step, window, ends):
    rollout = BootstrapRollout(1, "last", last_step=last_step, window=window)
    sampler, streams = exact_sampler(), rollout_streams(3)
    counts = Counter(roll(rollout, sampler, streams, size=2)[1] for _ in range(2000))
    assert set(counts) == set(ends)
    expected = 2000 / len(ends)
    chi_sq = sum((n - expected) ** 2 / expected for n in counts.values())
    assert chi_sq < 27.9  # 9 degrees of freedom, p = 0.001


def test_released_lengths_are_uniform():
    network = TinyNetwork()
    sampler, streams, counts = tiny_sampler(network), rollout_streams(4), Counter()
    rollout = BootstrapRollout(5, "all", random_length=True, last_step=False)
    for _ in range(3000):
        network.timesteps = []
        _, end = roll(rollout, sampler, streams, size=2)
        if end >= 5:  # not cut
            counts[len(network.timesteps)] += 1
    assert set(counts) == {1, 2, 3, 4, 5}
    expected = sum(counts.values()) / 5
    assert sum((n - expected) ** 2 / expected for n in counts.values()) < 18.5  # 4 df, p = 0.001


@pytest.mark.parametrize(("window", "first"), [(1.0, 0), (0.3, 7)])
def test_one_cohort_is_the_samplers_trajectory_again_and_again(window, first):
    sampler = exact_sampler()
    cohorts, streams = PersistentCohorts(1, window), rollout_streams(2)
    copy = rollout_streams(2)
    for _ in range(3):
        for position, expected in life_of_a_cohort(sampler, copy, first, (6, 3)):
            found, at = roll(cohorts, sampler, streams)
            assert at == position
            torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_cohorts_are_spread_over_the_grid_and_take_turns():
    cohorts, sampler, streams = PersistentCohorts(4), exact_sampler(20), rollout_streams(0)
    ends = [roll(cohorts, sampler, streams)[1] for _ in range(8)]
    assert ends == [1, 6, 11, 16, 2, 7, 12, 17]
    lap = [roll(cohorts, sampler, streams)[1] for _ in range(80)]
    assert Counter(lap) == {position: 4 for position in range(1, 21)}
    assert all((b - a) % 20 for a, b in pairwise(lap))


def test_a_window_gets_all_the_gradients():
    network = TinyNetwork()
    cohorts, streams = PersistentCohorts(3, window=0.25), rollout_streams(0)
    sampler = tiny_sampler(network, 20)
    ends = Counter(roll(cohorts, sampler, streams)[1] for _ in range(60))
    assert ends == {position: 12 for position in range(16, 21)}
    assert network.with_graph == 60


def test_a_cohort_is_whole_from_the_start_and_holds_no_graph():
    network = TinyNetwork()
    cohorts, sampler, streams = PersistentCohorts(3), tiny_sampler(network), rollout_streams(0)
    starts = torch.randn(2, 3, generator=noise_source())
    for _ in range(40):
        states, _ = cohorts(sampler, starts, 7, streams)
        assert states.shape == (7, 3) and states.requires_grad
        assert not any(state.x.requires_grad for state in cohorts.states)
    assert network.with_graph == 40


@pytest.mark.parametrize(("window", "stride"), [(1.0, 1), (0.4, 1), (0.4, 2), (0.4, 9), (1.0, 9)])
def test_cohorts_follow_the_law_of_the_walk(window, stride):
    """A frozen affine chain: the variance at each position is known by recursion."""
    schedule, modules, count = LinearSchedule(1000), 8, 4000
    sampler = shrinking_sampler(0.8, schedule, modules)
    first, variance = window_start(sampler.grid, window), 1.0
    positions = [*range(0, first, stride), *range(first, modules + 1)]
    variances = {0: variance}
    for a, b in pairwise(positions):
        one = torch.ones(1, 1, dtype=torch.float64)
        kernel = sampler.kernel(one, sampler.grid[a], sampler.grid[b])
        variance = float(kernel.mean) ** 2 * variance + float(kernel.variance)
        variances[b] = variance
    assert min(variances.values()) < 0.9
    cohorts, streams = PersistentCohorts(3, window, stride), rollout_streams(1)
    like = torch.zeros(2, 1)
    for _ in range(3 * modules * 2):
        states, position = cohorts(sampler, like, count, streams)
        expected = variances[position]
        assert abs(float(states.var()) - expected) < 4 * expected * math.sqrt(2 / count)
        assert abs(float(states.mean())) < 4 * math.sqrt(expected / count)


@pytest.mark.parametrize("calls", [0, 1, 13])
def test_cohorts_go_on_exactly(calls):
    sampler, streams = exact_sampler(), rollout_streams(0)
    cohorts = PersistentCohorts(3)
    if calls:
        roll(cohorts, sampler, streams, calls)
    saved = through_a_file({"cohorts": cohorts.state_dict(), "streams": streams.state_dict()})
    copy, again = PersistentCohorts(3), rollout_streams(77)
    copy.load_state_dict(saved["cohorts"])
    again.load_state_dict(saved["streams"])
    assert copy.num_cohorts == 3
    for _ in range(25):
        (ours, here), (theirs, there) = (
            roll(copy, sampler, again),
            roll(cohorts, sampler, streams),
        )
        assert here == there
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_a_saved_state_does_not_move_on():
    sampler, streams = exact_sampler(), rollout_streams(0)
    cohorts = PersistentCohorts(2)
    roll(cohorts, sampler, streams)
    saved = cohorts.state_dict()
    before = [state["x"].clone() for (state,) in saved["paths"]]
    roll(cohorts, sampler, streams, calls=5)
    assert [sampler.grid.index(state["t"]) for (state,) in saved["paths"]] == [1, 5]
    for (state,), x in zip(saved["paths"], before, strict=True):
        torch.testing.assert_close(state["x"], x, rtol=0, atol=0)


@pytest.mark.parametrize("kind", [UniPCMultistepScheduler, DPMSolverMultistepScheduler])
def test_a_cohort_of_a_multistep_solver_is_its_trajectory_with_its_history(kind):
    """On its way to the window, in it, and from a file in the middle of it."""
    sampler = DiffusersSampler(lambda x, timestep: torch.tanh(x), kind(), 8)
    cohorts, streams = PersistentCohorts(1, window=0.5, stride=2), rollout_streams(2)
    copy = rollout_streams(2)
    for lap in range(2):
        made = {}
        for position, expected in life_of_a_cohort(sampler, copy, 4, (6, 3)):
            found, at = roll(cohorts, sampler, streams)
            assert at == position
            made[position] = found
            torch.testing.assert_close(found, expected, rtol=0, atol=0)
            if position == 6 and lap:
                saved = through_a_file(cohorts.state_dict())
                cohorts = PersistentCohorts(1, window=0.5, stride=2)
                cohorts.load_state_dict(saved)
    alone = sampler.step(made[6], *sampler.grid[6:8])  # without history
    assert not torch.allclose(alone, made[7], rtol=1e-3)


def test_a_short_rollout_of_a_multistep_solver_keeps_its_history():
    sampler = DiffusersSampler(lambda x, timestep: torch.tanh(x), UniPCMultistepScheduler(), 8)
    starts, streams = torch.randn(5, 3, generator=noise_source(9)), rollout_streams(1)
    copy = rollout_streams(1)
    for _ in range(10):
        states, end = BootstrapRollout(3)(sampler, starts, 5, streams)
        integer(1, 8, copy["choice"])
        begin = sampler.grid[max(0, end - 3)]
        x = sampler.forward(starts, begin, generator=chain_noise(copy, 5))
        *_, (_, expected) = sampler.trajectory(x, start=begin, stop=sampler.grid[end])
        torch.testing.assert_close(states, expected, rtol=0, atol=0)


@pytest.mark.parametrize("kind", [UniPCMultistepScheduler, DEISMultistepScheduler])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_term_of_a_multistep_chain_has_the_gradient_of_finite_differences(kind, seed):
    """Through three steps with their history, in a random direction of each weight."""
    network = TinyNetwork().double()
    data = torch.randn(12, 3, generator=noise_source(100)).double()

    def term():
        scheduler = kind(num_train_timesteps=100, prediction_type="sample")
        sampler = DiffusersSampler(network, scheduler, 6)
        options = {"variant": "full", "length": 3, "every": 1, "window": 0.5, "seed": seed}
        sizes = {"num_states": 4, "num_forward": 8}
        regularizer = CumulativeErrorRegularizer(sampler, strength=1.0, **options, **sizes)
        return regularizer(network, data)

    term().backward()
    for i, weight in enumerate(network.parameters()):
        direction = 1e-5 * torch.randn(weight.shape, generator=noise_source(i)).double()
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                weight += sign * direction
            values.append(float(term().detach()))
            with torch.no_grad():
                weight -= sign * direction
        expected = (values[0] - values[1]) / 2
        assert abs(expected) > 1e-9
        assert float((weight.grad * direction).sum()) == pytest.approx(expected, rel=1e-4)


def test_a_chain_without_a_network_cannot_be_regularized():
    class Noise(Sampler):
        def step(self, x_t, t, s, *, generator=None):
            return x_t

        def scale(self, t):
            return 1.0, t

        def describe(self):
            return {}

    with pytest.raises(InvalidInput, match="Noise shows no network that could be trained"):
        CumulativeErrorRegularizer(Noise((1, 0)))
