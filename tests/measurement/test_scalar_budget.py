"""The scalar error budget against its closed form, its error bars, and its statistics."""

import math
from dataclasses import fields

import pytest
import torch

from affine import AffineSampler, gaussian_chain, gaussian_data
from error_state import state
from undrift import InvalidInput, measure
from undrift.measurement.forward_draws import ForwardDraws
from undrift.measurement.parallel_chains import ParallelChains
from undrift.measurement.profile import ErrorProfile
from undrift.measurement.scalar_budget import ScalarBudget
from undrift.measurement.scalar_state import ScalarError, with_amplifications
from undrift.measurement.statistics import Statistics, cosine_basis
from undrift.theory.scalar_budget import energy_budget, mean_budget

TIMES = (20, 6, 2, 0)
CHAIN = gaussian_chain(variance="large", slope_error=-0.1, offset_error=0.05)
PARTS = ("error", "inherited", "fresh")


def exactly(data, chain=CHAIN, times=TIMES):
    """Error, inherited, fresh and amplification along the components of these data, by time."""
    rising, vectors = times[::-1], Statistics.of(data).bases[0].double()
    energies = energy_budget(chain, rising, [vectors[:1], vectors[1:]])
    means = mean_budget(chain, rising, list(vectors))
    found = {}
    for name in (*PARTS, "amplification"):
        table = torch.cat([getattr(energies, name), getattr(means, name)], 1)
        found[name] = dict(zip(rising, table.tolist(), strict=False))
    return found


def budget_of(data, count, seed, *, chain=CHAIN, times=TIMES, shift=0, reference="population"):
    """The scalar errors of each state, with the chains' partners moved by ``shift`` rows."""
    sampler = AffineSampler(chain)
    generator = torch.Generator().manual_seed(10**6 + seed)
    draws = ForwardDraws(data, sampler, count, reference, generator).paired(count)
    budget, states = ScalarBudget(draws, sampler), []
    chains = ParallelChains.from_prior(sampler, (count, *data.shape[1:]), count, seed)
    for t in times:
        if t == times[0]:
            x, rolled = chains.advance(t), None
        else:
            x, rolled = chains.advance_beside(t, draws.at(chains.t))
            rolled = rolled.roll(shift, 0)
        states.append(budget.at(t, x, rolled))
    return with_amplifications(states)


def merged(runs, count):
    """Several runs as one, through the merge of profiles."""
    listed = Statistics.of(gaussian_data(50)).listed
    profiles = [
        ErrorProfile(
            tuple(state(t, scalars=found) for t, found in zip(TIMES, run, strict=True)),
            count, count, {"seed": seed}, statistics=listed,
        )
        for seed, run in enumerate(runs)
    ]  # fmt: skip
    return [one.scalars for one in profiles[0].merge(*profiles[1:]).states]


# -- against the closed form, and its error bars -----------------------------------------------


@pytest.mark.parametrize(
    ("num_data", "count", "seeds"), [(600, 400, 1), (300, 700, 1), (400, 300, 3)]
)
def test_intervals_cover_the_closed_form(num_data, count, seeds):
    """Fewer chains than data, data used several times, and merged seeds that share their data.

    An amplification is covered where Fieller's set holds it, which is unbounded where the error
    before is not detected.
    """
    runs = 120 if seeds > 1 else 200
    squares = {name: [] for name in (*PARTS, "amplification")}
    for run in range(runs):
        data = gaussian_data(num_data, seed=run)
        truth = exactly(data)
        found = [budget_of(data, count, 1000 * run + seed) for seed in range(seeds)]
        states = merged(found, count) if seeds > 1 else found[0]
        for i, (t, errors) in enumerate(zip(TIMES, states, strict=True)):
            for k, own in enumerate(errors):
                for name in PARTS if i else ("error",):
                    deviation = getattr(own, name) - truth[name][t][k]
                    squares[name].append((deviation / getattr(own, f"{name}_se")) ** 2)
                if i:
                    assert own.inherited + own.fresh == pytest.approx(own.error, abs=1e-12)
                    before, ratio = states[i - 1][k], truth["amplification"][t][k]
                    variance = own.inherited_se**2 + (ratio * before.error_se) ** 2
                    variance -= 2 * ratio * own.covariance
                    squares["amplification"].append(
                        (own.inherited - ratio * before.error) ** 2 / variance
                    )
    for name, values in squares.items():
        covered = sum(value < 1.96**2 for value in values) / len(values)
        assert 0.93 < covered < 0.97, (name, covered)


def test_an_amplification_is_given_where_its_denominator_is_detected():
    data = gaussian_data(3000)
    truth, states = exactly(data), budget_of(data, 3000, 1)
    given = 0
    for t, before, errors in zip(TIMES[1:], states, states[1:], strict=False):
        for k, (old, own) in enumerate(zip(before, errors, strict=True)):
            assert (own.amplification is None) == (abs(old.error) < 1.9599 * old.error_se)
            if own.amplification is not None:
                assert own.amplification == pytest.approx(own.inherited / old.error)
                low, high = own.amplification_interval
                middle, half = (low + high) / 2, (high - low) / 2
                assert abs(truth["amplification"][t][k] - middle) < 3 / 1.96 * half
                given += 1
    assert given >= 4


@pytest.mark.parametrize("ratio", [0.8, 1.5])
def test_coverage_of_the_amplifications_that_are_given(ratio):
    """Normal estimates with unit error bars, of an error of 1, 2, 3 and 6 of them."""
    draws = torch.Generator().manual_seed(0)
    found = {}
    for size in (1.0, 2.0, 3.0, 6.0):
        noise = torch.randn(4000, 2, generator=draws, dtype=torch.float64)
        errors = size + noise[:, 0]
        inherited = ratio * size + 0.42 * noise[:, 0] + 0.56 * noise[:, 1]
        pairs = [
            ScalarError(i, 1, 0, inherited=i, inherited_se=0.7, covariance=0.42).after(
                ScalarError(e, 1, 0)
            )
            for e, i in zip(errors.tolist(), inherited.tolist(), strict=True)
        ]
        ends = [p.amplification_interval for p in pairs if p.amplification_interval]
        covered = [low <= ratio <= high for low, high in ends]
        found[size] = len(ends) / 4000, sum(covered) / len(covered)
    given, covered = zip(*found.values(), strict=True)
    assert given[0] == pytest.approx(0.17, abs=0.02) and given[3] > 0.999
    assert 0.80 < covered[0] < 0.92
    assert all(0.94 < share < 0.98 for share in covered[1:])


def test_the_ideal_chain_has_errors_at_the_level_of_the_interval():
    """With the exact reverse covariance only the prior is wrong; 5 % of the cells are detected."""
    chain, detected = gaussian_chain(variance="exact"), []
    for run in range(60):
        states = budget_of(gaussian_data(300, seed=run), 300, run, chain=chain)
        detected += [own.is_detected for errors in states for own in errors]
    assert 0.02 < sum(detected) / len(detected) < 0.09


def test_common_noise_makes_error_bars_small_and_they_follow():
    """Against partners of other chains: the inherited error over one step."""
    chain, times = gaussian_chain(slope_error=-0.1), (20, 3, 2, 0)
    data = gaussian_data(1000)
    own, other = (
        budget_of(data, 1000, 3, chain=chain, times=times, shift=shift)[2] for shift in (0, 1)
    )
    for k in range(len(own)):
        assert own[k].fresh_se < 0.4 * own[k].error_se
        assert own[k].fresh_se < 0.4 * other[k].fresh_se


def test_the_data_set_itself_as_target_has_no_error_of_the_data():
    """Against the very rows: the standard error is smaller, and a population's is the whole."""
    data = gaussian_data(150)
    one = budget_of(data, 2000, 0)[-1]
    other = budget_of(data, 2000, 0, reference="empirical")[-1]
    for a, b in zip(one, other, strict=True):
        assert b.error_data_se == 0 < a.error_data_se
        expected = math.sqrt(a.error_se**2 - a.error_data_se**2)
        assert b.error_se == pytest.approx(expected, rel=0.3)


def test_merging_equal_runs_without_shared_data_divides_the_variance():
    run = budget_of(gaussian_data(300), 300, 0, reference="empirical")
    both = merged([run, run], 300)
    for one, two in zip(run[-1], both[-1], strict=True):
        for name in PARTS:
            assert getattr(two, name) == pytest.approx(getattr(one, name))
            assert getattr(two, f"{name}_se") == pytest.approx(
                getattr(one, f"{name}_se") / math.sqrt(2)
            )
        assert two.covariance == pytest.approx(one.covariance / 2)


# -- statistics --------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 6, 10), (2, 12), (5,), (7, 4, 4)])
def test_bands_share_out_the_whole_energy(shape):
    """Parseval: sizes times energies add up to the squared norm; white noise has energy 1."""
    x = torch.randn(4000, *shape, generator=torch.Generator().manual_seed(0))
    statistics = Statistics.of(x)
    sizes = torch.tensor([s.size for s in statistics.listed]) * statistics.is_energy
    values = statistics.values(x)
    assert torch.allclose(values @ sizes.double(), x.double().flatten(1).square().sum(1), rtol=1e-4)
    of_noise = values.mean(0)[statistics.is_energy]
    assert torch.allclose(of_noise, torch.ones_like(of_noise), atol=0.12)
    assert len({s.name for s in statistics.listed}) == len(statistics.listed)


def test_a_wave_lies_in_its_band_and_a_constant_in_the_mean():
    waves = torch.einsum("k,ui,vj->uvij", torch.ones(1), cosine_basis(8), cosine_basis(8))
    statistics = Statistics.of(waves.reshape(64, 1, 8, 8))
    values = statistics.values(waves.reshape(64, 1, 8, 8).float())
    names = [s.name for s in statistics.listed if s.kind == "energy"]
    for u, v, name in ((0, 0, "0"), (0, 1, "1-2"), (1, 1, "1-2"), (3, 2, "2-4"), (7, 7, "from 4")):
        assert names[int(values[8 * u + v, :-1].argmax())] == f"energy {name}"
    assert float(values[0, -1]) == pytest.approx(1 / 8)  # the mean of the constant of norm 1
    assert float(values[1:, -1].abs().max()) < 1e-6


def test_expectations_given_the_data_are_those_of_forward_draws():
    """Means over many draws of noise, within their errors, at two times."""
    sampler, data = AffineSampler(CHAIN), gaussian_data(5)
    draws = ForwardDraws(data, sampler, 5, "empirical", torch.Generator().manual_seed(0))
    pairs = draws.paired(100_000)
    budget = ScalarBudget(pairs, sampler)
    for t in (20, 3):
        values = budget._about_others(pairs.at(t), t)
        error = (values.mean(0) - budget._expected(t).mean(0)) / (values.std(0) / 100_000**0.5)
        assert error.abs().max() < 3.5


# -- in a profile ------------------------------------------------------------------------------


def test_every_profile_has_the_errors_and_keeps_them_in_its_file(tmp_path):
    data = gaussian_data(500)
    options = {"num_samples": 200, "states": list(TIMES), "exposure": False, "progress": False}
    profile = measure(AffineSampler(CHAIN), data, **options)
    assert [s.kind for s in profile.statistics] == ["energy", "energy", "mean", "mean"]
    truth = exactly(data)
    for one in profile.states:
        for k, own in enumerate(one.scalars):
            assert abs(own.error - truth["error"][one.t][k]) < 3.5 * own.error_se
    assert all(own.fresh is not None for own in profile.final.scalars)
    assert ErrorProfile.load(profile.save(tmp_path / "p.json")) == profile
    plain = measure(AffineSampler(CHAIN), data, budget=False, **options)
    for one, other in zip(plain.final.scalars, profile.final.scalars, strict=True):
        assert (one.error, one.error_se) == (other.error, other.error_se)
        assert one.inherited is one.fresh is one.amplification is None


def test_a_band_without_energy_has_no_error():
    data = torch.cat([gaussian_data(100)[:, :1], torch.zeros(100, 1)], 1)
    sampler = AffineSampler(CHAIN)
    draws = ForwardDraws(data, sampler, 50, "population", torch.Generator().manual_seed(0))
    budget = ScalarBudget(draws.paired(50), sampler)
    errors = budget.at(0, torch.zeros(50, 2))
    assert errors[1] == ScalarError(None, None, None)
    assert not errors[1].is_detected and errors[1].after(errors[0]).amplification is None


def test_damaged_scalars_and_other_statistics_are_refused():
    listed = Statistics.of(gaussian_data(50)).listed
    errors = tuple(ScalarError(0.0, 1.0, 0.0) for _ in listed)
    one = ErrorProfile((state(0, scalars=errors),), 9, 9, {"seed": 0}, statistics=listed)
    data = one.to_dict()
    data["states"][0]["scalars"] = data["states"][0]["scalars"][1:]
    with pytest.raises(InvalidInput, match="statistics do not match"):
        ErrorProfile.from_dict(data)
    other = ErrorProfile((state(0),), 9, 9, {"seed": 1})
    with pytest.raises(InvalidInput, match="different statistics"):
        one.merge(other)
    assert {f.name for f in fields(ScalarError)} >= set(PARTS)
