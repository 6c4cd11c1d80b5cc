"""Modular errors between states: against closed forms, covered, merged, or refused."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch

from affine import gaussian_chain, gaussian_data
from commands import FEW, write_run
from oracle import affine_sampler
from undrift import DDIMSampler, ErrorProfile, InvalidInput, cli, measure
from undrift.diffusion.mixture import ForwardProcess, GaussianMixture
from undrift.diffusion.schedule import CosineSchedule, LinearSchedule
from undrift.diffusion.scheduler import DiffusersSampler
from undrift.measurement.modular import Estimate
from undrift.measurement.modular_segments import data_process, prior_terms, segment_errors
from undrift.mmd.kernels import EnergyKernel, RBFMixture
from undrift.mmd.kl_bounds import LEVEL, NULL_QUANTILE, kl_upper_limit, mmd_sq_lower_limit
from undrift.theory.gaussian_chain import GaussianChain

SCHEDULE = CosineSchedule(12)
MEAN, COV = torch.tensor([0.5, -0.3]), torch.diag(torch.tensor([0.4, 0.05]))
TIMES = (12, 9, 4, 1, 0)
FLAWS = {"variance": "large", "slope_error": -0.2, "offset_error": 0.1}


def chain_and_process(schedule=SCHEDULE, **errors):
    chain = GaussianChain.from_schedule(MEAN, COV, schedule, **(FLAWS | errors))
    process = ForwardProcess(GaussianMixture(MEAN[None], COV[None]), schedule)
    return chain, affine_sampler(chain, schedule), process


def few(sampler, **options):
    """A small measurement with modular errors, on data of the Gaussian chain."""
    options = {"num_samples": 60, "num_modular": 40, "states": 4, "modular": True} | options
    return measure(sampler, gaussian_data(200), progress=False, **options)


# -- values ------------------------------------------------------------------------------------


def test_segments_add_up_to_the_closed_form_and_bound_the_cumulative_error() -> None:
    """Sums of E_mod and the path divergence within 4 standard errors; upper limits hold."""
    chain, sampler, process = chain_and_process()
    found = segment_errors(sampler, process, TIMES, (8000, 2), seed=1)
    e_mod, prior = chain.modular_error, chain.budget().e_prior
    for before, s in zip(TIMES, TIMES[1:-1], strict=False):
        record, exact = found.modular[s], float(e_mod[s:before].sum())
        limits = found.limits[s]
        assert abs(record.error - exact) < 4 * record.error_se
        path = prior + float(e_mod[s:].sum())
        assert abs(limits.path - path) < 4 * limits.path_se
        assert float(chain.kl[s]) <= limits.upper
        normal_limit = kl_upper_limit(limits.path, limits.path_se)
        assert 0 <= limits.upper - normal_limit < 0.05 * limits.path_se
        assert record.steps == before - s
        assert record.mean + record.variance + record.shape == pytest.approx(record.error)
        assert record.error_per_dimension == record.error / 2
        assert record.exposure_bias == pytest.approx(record.error - record.error_forward)
    # The data have a density here, but the last step adds no noise: a point mass has none.
    assert 0 not in found.modular and 0 not in found.limits and found.how["down_to"] == 1


def test_intervals_of_segments_and_paths_cover_the_truth() -> None:
    """800 runs of 200 chains: 95 % intervals of sums over correlated steps cover in 93 to 97 %.

    The upper limit holds in 97.5 %; of 800 runs, 1.1 % (two standard errors) may be missing.
    """
    chain, sampler, process = chain_and_process(CosineSchedule(6))
    e_mod, prior = chain.modular_error, chain.budget().e_prior
    inside, above, runs = torch.zeros(2), 0, 800
    for seed in range(runs):
        found = segment_errors(sampler, process, (6, 1, 0), (200, 2), seed=seed)
        segment, limits, exact = found.modular[1], found.limits[1], float(e_mod[1:].sum())
        inside[0] += abs(segment.error - exact) <= 1.959964 * segment.error_se
        inside[1] += abs(limits.path - prior - exact) <= 1.959964 * limits.path_se
        above += prior + exact <= limits.upper
    assert ((inside / runs > 0.93) & (inside / runs < 0.97)).all(), inside / runs
    assert LEVEL - 0.011 < above / runs < 0.99


def test_the_error_of_the_prior_is_that_of_the_closed_form() -> None:
    """A short linear schedule leaves signal at T: KL(N(0, I) ‖ q_T) within 4 standard errors."""
    schedule = LinearSchedule(1000)
    short = GaussianChain.from_schedule(MEAN, COV, schedule, grid=(300, 200, 100, 0))
    process = ForwardProcess(GaussianMixture(MEAN[None], COV[None]), schedule)
    terms = prior_terms(process, 300, 20_000, torch.Generator().manual_seed(0))
    found = Estimate.of(terms)
    assert short.budget().e_prior > 0.05
    assert abs(found.value - short.budget().e_prior) < 4 * found.standard_error


# -- in a profile ------------------------------------------------------------------------------


def test_a_profile_brackets_the_exact_cumulative_error() -> None:
    """Against n = 4,000 data near a Gaussian: both limits hold its KL, and MMD sees part of it."""
    schedule = CosineSchedule(20)
    chain = gaussian_chain(variance="large", slope_error=-0.3)
    sampler, data = affine_sampler(chain, schedule), gaussian_data(4000)
    profile = measure(
        sampler, data, num_samples=800, num_modular=300, states=[20, 10, 3, 0],
        modular=True, budget=False, exposure=False, progress=False,
    )  # fmt: skip
    assert [state.t for state in profile.states] == [20, 10, 3, 1, 0]
    for state in profile.states[:-1]:
        assert 0 <= state.kl.lower <= float(chain.kl[int(state.t)]) <= state.kl.upper
    assert profile.states[-2].kl.lower > 0.01
    assert profile.final.modular is None and profile.final.kl.lower is None
    how = profile.how["modular"]
    assert how["reference"] == "empirical" and how["num_data"] == 4000 and how["down_to"] == 1
    assert how["num_chains"] == 300 and "t = 0 a data set has no density" in how["note"]


def test_a_plain_measurement_is_the_same_and_certifies_from_below() -> None:
    """Modular errors draw from streams of their own: all other numbers stay to the last digit."""
    sampler = affine_sampler(gaussian_chain(slope_error=-0.5), CosineSchedule(20))
    with_nats = few(sampler, states=[20, 5, 1, 0])
    plain = few(sampler, states=[20, 5, 1, 0], modular=False)
    assert "modular" not in plain.how
    for a, b in zip(with_nats.states, plain.states, strict=True):
        assert (a.error, a.budget, a.exposure) == (b.error, b.budget, b.exposure)
        assert b.modular is None and b.kl.upper is None and b.kl.empirical_mmd_sq is None
    assert 0 < plain.final.kl.lower < plain.final.error.interval[0] * 1.01


@pytest.mark.parametrize("kernel", [EnergyKernel(), RBFMixture(reduction="sum")])
def test_a_kernel_above_one_certifies_nothing(kernel) -> None:
    sampler = affine_sampler(gaussian_chain(slope_error=-0.5), CosineSchedule(20))
    profile = few(sampler, kernel=kernel, modular=False, budget=False)
    assert all(state.kl is None for state in profile.states)


def test_a_data_set_that_is_memorized_is_warned_of() -> None:
    """Five far data in two dimensions: near t = 0 the nearest has all the weight."""
    sampler = affine_sampler(gaussian_chain(), CosineSchedule(20))
    found = segment_errors(
        sampler, data_process(sampler, 3 * gaussian_data(5)), (20, 10, 1, 0), (50, 2)
    )
    start = found.how["memorizing_from"]
    assert 1 < start < 20 and found.how["warning"].startswith(f"From t = {start} down")
    assert found.modular[1].nearest_weight > 0.9 > found.modular[10].nearest_weight


def test_chains_without_density_say_why() -> None:
    """DDIM without noise and a scheduler of diffusers: null everywhere, and one line why."""
    from diffusers import DDPMScheduler

    sampler = affine_sampler(gaussian_chain(), CosineSchedule(20))
    scheduler = DDPMScheduler(20, prediction_type="sample", clip_sample=False)
    cases = {
        "eta > 0": DDIMSampler(sampler.denoiser, clip=None),
        "DiffusersSampler has no Gaussian denoising steps": DiffusersSampler(
            lambda x, t: 0.5 * x, scheduler, 5
        ),
    }
    for words, chain in cases.items():
        profile = few(chain, budget=False, exposure=False)
        assert words in profile.how["modular"]["reason"]
        assert "\n" not in profile.how["modular"]["reason"]
        assert all(s.modular is None and s.kl.upper is None for s in profile.states)
        assert profile.states[0].kl.lower is not None


def test_a_step_without_noise_inside_of_the_chain_ends_the_bracket() -> None:
    """Nothing is summed over it: its segment has no number, and no later state an upper limit."""

    class Halting(type(affine_sampler(gaussian_chain(), CosineSchedule(20)))):
        def kernel(self, x_t, t, s):
            found = super().kernel(x_t, t, s)
            return replace(found, variance=0.0) if t == 4 else found

    chain, sampler, process = chain_and_process()
    halting = Halting(sampler.denoiser, clip=None, variance_type="fixed_large")
    found = segment_errors(halting, process, (12, 6, 2, 1, 0), (40, 2))
    assert found.limits.keys() == {12, 6} and found.modular.keys() == {6, 1}
    assert found.modular[1].steps == 1


def test_a_diverged_chain_is_refused() -> None:
    _, sampler, process = chain_and_process()
    wild = sampler.with_network(lambda x, t: x * torch.nan)
    with pytest.raises(InvalidInput, match="modular errors at t=12 are not finite"):
        segment_errors(wild, process, TIMES, (10, 2))
    with pytest.raises(InvalidInput, match="num_modular is 3"):
        few(sampler, num_modular=3)


# -- merged ------------------------------------------------------------------------------------


def test_merged_profiles_carry_merged_modular_errors() -> None:
    """Means, errors that fall with √2, limits taken anew; the file holds all of it."""
    sampler = affine_sampler(gaussian_chain(slope_error=-0.5), CosineSchedule(20))
    one, two = (few(sampler, states=[20, 5, 1, 0], seed=seed) for seed in (0, 1))
    merged = one.merge(two)
    for a, b, c in zip(one.states, two.states, merged.states, strict=True):
        for part, name in (
            ("modular", "error"),
            ("modular", "mean"),
            ("modular", "exposure_bias"),
            ("kl", "path"),
        ):
            x, y, z = (getattr(state, part) and vars(getattr(state, part)) for state in (a, b, c))
            if x is None or x[name] is None:
                assert z is None or z[name] is None
                continue
            assert z[name] == pytest.approx((x[name] + y[name]) / 2)
            spread = math.hypot(x[f"{name}_se"], y[f"{name}_se"])
            assert z[f"{name}_se"] == pytest.approx(spread / 2)
        if c.kl.upper is not None:
            above = [s.kl.upper - kl_upper_limit(s.kl.path, s.kl.path_se) for s in (a, b, c)]
            assert above[2] == pytest.approx((above[0] + above[1]) / 4, abs=1e-12)
            limit = mmd_sq_lower_limit(c.kl.empirical_mmd_sq, c.kl.empirical_mmd_sq_se)
            assert c.kl.lower == limit
    assert merged.how["modular"]["num_chains"] == 80 and merged.states[1].modular.steps == 15
    assert ErrorProfile.from_dict(json.loads(json.dumps(merged.to_dict()))) == merged
    assert merged.states[1].kl.upper < max(one.states[1].kl.upper, two.states[1].kl.upper)


def test_merging_with_a_plain_profile_drops_modular_errors_and_says_so() -> None:
    sampler = affine_sampler(gaussian_chain(slope_error=-0.5), CosineSchedule(20))
    one = few(sampler, states=[20, 5, 1, 0])
    merged = one.merge(few(sampler, states=[20, 5, 1, 0], seed=1, modular=False))
    assert all(s.modular is None and s.kl.upper is None for s in merged.states)
    assert "dropped" in merged.how["modular"]["reason"]
    assert merged.states[1].kl.lower == mmd_sq_lower_limit(
        merged.states[1].mmd_sq, merged.states[1].mmd_sq_se
    )


@pytest.mark.parametrize("count", [1, 2, 5, 200])
def test_no_distribution_of_the_null_reaches_beyond_the_limit_without_permutations(count) -> None:
    """Standardized sums of k equal χ²: at most 2.5 % above 2.845, exactly so for one."""
    from scipy.stats import chi2

    beyond = float(chi2.sf(count + NULL_QUANTILE * math.sqrt(2 * count), count))
    assert beyond == pytest.approx(0.025, rel=1e-3) if count == 1 else beyond < 0.025


# -- the command -------------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UNDRIFT_CACHE", str(tmp_path / "cache"))
    write_run(tmp_path / "run")
    return tmp_path


def test_the_command_prints_and_saves_modular_errors(place, capsys) -> None:
    arguments = ["measure", "run", *FEW, "--modular", "--num-modular", "20"]
    assert cli.main([*arguments, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    rows = printed["states"]
    assert [row["t"] for row in rows][-2:] == [1, 0]
    middle, kl = rows[-2]["modular"], rows[-2]["kl"]
    for name in ("error", "error_forward", "mean", "shape"):
        assert middle[name] is not None and middle[f"{name}_se"] > 0
    assert 0 <= kl["lower"] <= kl["upper"]
    assert rows[-1]["modular"] is None and rows[-1]["kl"]["upper"] is None
    assert printed["how"]["modular"]["num_data"] == 1797
    assert cli.main([*arguments[:-2], "--num-modular", "20", "--no-budget"]) == 0
    text = capsys.readouterr().out
    assert "E_mod of each segment" in text and "of the modular error is in the mean" in text
    assert cli.main([*arguments, "--sampler", "ddim"]) == 0
    assert (
        "no modular errors: no denoising step of this chain has a density"
        in capsys.readouterr().out
    )


def test_modular_errors_want_the_state_before_the_last(place, capsys) -> None:
    assert cli.main(["measure", "run", *FEW[:2], "--states", "5,0", "--quiet", "--json"]) == 0
    saved = json.loads(capsys.readouterr().out)["saved"]
    assert cli.main(["measure", "run", *FEW, "--merge", saved, "--modular"]) == 2
    assert "--modular measures the state t=1 too" in capsys.readouterr().err
