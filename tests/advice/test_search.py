"""The search and its judgment where everything is known: exact Gaussian models."""

import math

import pytest
import torch
from diffusers import DDPMScheduler

from tiny import exact_sampler
from undrift.advice.allocation import contributions, equal_contributions
from undrift.advice.candidates import Candidate, Candidates
from undrift.advice.judgment import Judgment
from undrift.advice.run import Plan
from undrift.advice.search import successive_halving
from undrift.advice.trials import Trials
from undrift.data.images import ImageData
from undrift.diffusion.scheduler import DiffusersSampler
from undrift.exceptions import InvalidInput
from undrift.measurement.measure import measure

REPEATS = 100
TABLE = DDPMScheduler(1000).alphas_cumprod.double()


def exact(steps):
    """A chain of so many steps whose samples are standard normal, as its data are."""
    return Candidate(f"exact {steps}", "own", exact_sampler(steps), None, steps, steps)


def judged(seed):
    """The best of three exact chains on the search half, against a fourth on the held-out half."""
    noise = torch.Generator().manual_seed(seed)
    data = ImageData(torch.randn(120, 1, 1, 2, generator=noise).clamp(-1, 1), "normal")
    plan = Plan(data, None, "frechet", 60, 60, seed)
    search = plan.searching(Trials(None, {}))
    best = min((exact(steps) for steps in (1, 2, 3)), key=lambda each: search.value(each, 0))
    judgment = Judgment(plan.scorer, "frechet", seed)
    return judgment.finalists(exact(4), [best], lambda each: True)[0].against_present


def test_the_best_of_equal_candidates_is_not_called_better():
    """The interval covers 0 at its rate, although the best was selected."""
    found = [judged(seed) for seed in range(REPEATS)]
    for metric in ("mmd_sq", "frechet"):
        changes = [each[metric] for each in found]
        covered = sum(not change.is_distinguishable for change in changes)
        assert covered >= 0.88 * REPEATS, metric
        assert sum(change.is_better for change in changes) <= 0.08 * REPEATS, metric
        mean = sum(change.difference for change in changes) / REPEATS
        spread = sum(change.standard_error**2 for change in changes) ** 0.5 / REPEATS
        assert abs(mean) < 4 * spread, metric


def test_the_present_sampler_under_another_name_is_never_better():
    """The same chain with the same noise: the change is 0, and so is its error."""
    data = ImageData(torch.zeros(80, 1, 1, 2).uniform_(-1, 1), "uniform")
    judgment = Judgment(Plan(data, None, "mmd_sq", 40, 40, 0).scorer, "mmd_sq", 0)
    change = judgment.finalists(exact(3), [exact(3)], lambda each: True)[0].against_present
    assert change["mmd_sq"].difference == 0 and not change["mmd_sq"].is_better


def test_what_is_compared_in_features_is_what_they_see():
    """One chain is right in the first pixel, which the features see, the other in the second."""
    noise = torch.Generator().manual_seed(0)
    data = ImageData(torch.randn(800, 1, 1, 2, generator=noise).clamp(-1, 1), "normal")

    def scaled(name, *factors):
        sampler = exact_sampler(2)
        step, last = sampler.step, torch.tensor(factors)
        sampler.step = lambda x, t, s, **o: step(x, t, s, **o) * (1 if s else last)
        return Candidate(name, "own", sampler, None, 2, 2)

    def change(features):
        plan = Plan(data, features, "feature_mmd_sq", 200, 200, 0)
        values = [plan.searching(Trials(None, {})).value(each, 2) for each in (first, second)]
        judgment = Judgment(plan.scorer, "feature_mmd_sq", 0)
        (found,) = judgment.finalists(second, [first], lambda each: True)
        return values, found.against_present

    first, second = scaled("first", 1.0, 0.2), scaled("second", 0.5, 1.0)
    values, found = change(lambda x: x[..., 0])
    assert values[0] < values[1] and found["feature_mmd_sq"].is_better
    assert found["mmd_sq"].difference > 0
    values, found = change(lambda x: 1.0 * x)
    assert values[0] > values[1]
    for name in ("value", "difference", "standard_error"):
        of_features, of_pixels = (getattr(found[m], name) for m in ("feature_mmd_sq", "mmd_sq"))
        assert of_features == pytest.approx(of_pixels, rel=1e-4), name


def test_the_default_metric_is_one_that_the_samples_are_enough_for():
    """And only a Fréchet distance needs samples for each feature in every round."""
    data = ImageData(torch.rand(400, 1, 8, 8), "uniform")
    many, two = (lambda x: x.flatten(1)), (lambda x: x.flatten(1)[:, :2])
    sizes = {}
    for features, metric in ((None, "mmd_sq"), (many, "feature_mmd_sq"), (two, "frechet")):
        plan = Plan(data, features, None, 100, 100, 0)
        assert plan.metric == metric
        sizes[metric] = [each.num_samples for each in plan.searching(Trials(None, {})).scorers]
    assert sizes["mmd_sq"] == sizes["feature_mmd_sq"] == sizes["frechet"] == [12, 25, 50]
    plan = Plan(data, lambda x: x.flatten(1)[:, :20], "frechet", 100, 100, 0)
    assert [e.num_samples for e in plan.searching(Trials(None, {})).scorers] == [40, 40, 50]


def test_halving_spends_few_samples_on_most_and_keeps_the_best():
    calls = []

    def value(x, k):
        calls.append(k)
        return abs(x - 17) + (3 * (x % 2) if k == 0 else 0)  # the first round is noisy

    assert successive_halving(range(27), value, 3, 2) == [17, 16]
    assert [calls.count(k) for k in range(3)] == [27, 9, 3]


def test_a_grid_has_more_steps_where_they_contribute_more():
    """A density of the root of c: with c four times as large, steps of half the size."""
    grid = [100, *equal_contributions([100, 50, 0], [4.0, 1.0], 30)]
    widths = [before - after for before, after in zip(grid, grid[1:], strict=False)]
    assert sum(widths[1:15]) / 14 == pytest.approx(sum(widths[21:]) / 9 / 2, rel=0.1)
    parts = [3.0, 0.5, 1.0]
    found = equal_contributions([1000, 700, 300, 0], parts, 8)
    assert found[0] == 999 and len(set(found)) == 8 and found == sorted(found, reverse=True)
    every = equal_contributions([10, 5, 0], [1.0, 0.0], 10)
    assert every == list(range(9, -1, -1))


@pytest.mark.parametrize("spread", [0.1, 0.3])
def test_the_computed_grid_lowers_the_error_of_an_exact_model(spread):
    """The chain is linear, so the standard deviation of its samples is known exactly."""

    def network(x, timestep):
        abar = float(TABLE[int(timestep[0])])
        return math.sqrt(1 - abar) / (abar * spread**2 + 1 - abar) * x

    def error(sampler):
        (*_, last) = sampler.trajectory(torch.ones(1, 1, 1, 1))
        return abs(float(last.x) / spread - 1)

    candidates = Candidates(network, DDPMScheduler(1000), 6)
    trailing = next(e for e in candidates.solvers(["dpm-solver++"]) if e.grid == "trailing")
    even = candidates.first_order(trailing)
    noise = torch.Generator().manual_seed(0)
    data = spread * torch.randn(600, 1, 1, 4, generator=noise)
    options = {"num_samples": 600, "states": "all", "exposure": False, "progress": False}
    profile = measure(even, data, check_range=False, **options)
    times = [state.t for state in profile.states]
    timesteps = equal_contributions(times, contributions(profile.states), 6)
    computed = DiffusersSampler(network, even.scheduler, timestep_options={"timesteps": timesteps})
    assert error(computed) < 0.7 * error(even)


def test_trials_of_a_stopped_run_are_read_up_to_the_last_whole_line(tmp_path):
    trials = Trials(tmp_path, {"seed": 0})
    assert trials.result("a", lambda: 1) == 1 and trials.result("a", lambda: 2) == 1
    with trials.file.open("a") as file:
        file.write('{"name": "b", "resu')
    again = Trials(tmp_path, {"seed": 0})
    assert again.result("a", lambda: 3) == 1 and again.result("b", lambda: 4) == 4
    assert Trials(tmp_path, {"seed": 0}).known == {"a": 1, "b": 4}
    with pytest.raises(InvalidInput, match="other options"):
        Trials(tmp_path, {"seed": 1})
