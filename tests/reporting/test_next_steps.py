"""The first screen: at most three sentences, what to do next, and no contradiction on a page."""

from __future__ import annotations

import math
import re
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from undrift.reporting import evidence
from undrift.reporting.band_figures import band_map
from undrift.reporting.bands import Band, bands, clearest, energy_error
from undrift.reporting.commands import CHAIN_OPTIONS, DATA_OPTIONS, SWITCHES
from undrift.reporting.evidence import Estimate
from undrift.reporting.findings import verdict
from undrift.reporting.next_steps import is_off, next_steps
from undrift.reporting.overview_figure import factors_of, overview_plot
from undrift.reporting.power import samples_needed
from undrift.reporting.summary import summary

TIMES = (50, 40, 30, 20, 10, 5, 2, 0)
BANDS = [("energy 0", 0.0, 1.0), ("energy 1-2", 1.0, 2.0), ("energy from 2", 2.0, None)]


def profile(squares: list[float], se: float = 1e-5, **more: Any) -> dict[str, Any]:
    """A profile with these cumulative errors."""
    states = [
        {
            "t": t,
            "error": {
                "mmd_sq": value,
                "mmd_sq_se": se,
                "null_sd": 0.8 * se,
                "mmd_sq_data_se": 0.0,
                "p_value": 1 - NormalDist().cdf(value / (0.8 * se)),
            },
        }
        for t, value in zip(TIMES, squares, strict=True)
    ]
    how = {
        "model": "runs/my run",
        "command": "undrift measure 'runs/my run' --sampler=unipc --num-samples 2000 --data digits",
        "data": {"name": "digits"},
        "sampler": {"num_inference_steps": 50, "num_steps": 50},
    }
    found = {"label": "m", "states": states, "num_samples": 2000, "num_forward": 2000}
    return found | {"how": how} | more


def with_bands(
    errors: list[list[float]], se: float = 0.01, factors: dict[tuple[int, int], float] | None = None
) -> dict[str, Any]:
    """A profile without an MMD beyond its noise, with these errors of bands (state × band)."""
    found = profile([0.0] * len(TIMES))
    found["statistics"] = [
        {"name": n, "kind": "energy", "basis": "frequency", "low": a, "high": b, "channel": None}
        for n, a, b in BANDS
    ]
    for i, (state, row) in enumerate(zip(found["states"], errors, strict=True)):
        state["scalars"] = [
            {
                "error": e,
                "error_se": se,
                "fresh": e / 2 if i else None,
                "fresh_se": se,
                "amplification": (f := (factors or {}).get((i, b))),
                "amplification_interval": f and (f - 0.1, f + 0.1),
            }
            for b, e in enumerate(row)
        ]
    return found


GROWING = [0.0, 0.0, 1e-6, 1e-5, 8e-5, 4e-4, 9e-4, 1e-3]
LATE = [0.0, 0.0, 0.0, 0.0, 0.0, 1e-5, 1e-4, 2e-3]
EARLY = [0.0, 2e-4, 1e-3, 2e-3, 2e-3, 2e-3, 2e-3, 2e-3]


# ------------------------------------------------------------------ how many samples


def test_so_many_samples_show_the_error_as_often_as_said():
    """Against simulated measurements with the stated variances, of which 80 % are significant."""
    found = profile([0.0] * 7 + [1.2e-5])
    needed = samples_needed(found)
    assert needed is not None and 2000 < needed < 100_000
    null = 0.8e-5 * (1 / needed + 1 / 2000) / (2 / 2000)
    linear = (1e-5**2 - 0.8e-5**2) * 2000 / needed
    draws = 1.2e-5 + math.sqrt(null**2 + linear) * np.random.default_rng(0).normal(size=100_000)
    share = (draws > NormalDist().inv_cdf(0.95) * null).mean()
    assert share == pytest.approx(0.80, abs=0.01)


def test_the_number_of_samples_holds_for_the_mmd_itself():
    """Two Gaussians, the error known; the null's spread from relabeled samples."""
    import torch

    from undrift.mmd.kernels import RBFMixture
    from undrift.mmd.two_sample import mmd_estimate

    generator, shift = torch.Generator().manual_seed(0), 0.35
    kernel = RBFMixture(bandwidth=2.0)

    def pair(n: int) -> Any:
        x = torch.randn(n, 2, generator=generator)
        x[:, 0] += shift
        y = torch.randn(400, 2, generator=generator)
        return mmd_estimate(x, y, kernel=kernel, num_permutations=0)

    pilots = [pair(40) for _ in range(200)]
    truth, null = (float(np.mean([getattr(p, k) for p in pilots])) for k in ("mmd_sq", "null_sd"))
    spread = float(np.std([p.mmd_sq for p in pilots]))
    found = profile([0.0] * 7 + [truth], num_samples=40, num_forward=400)
    found["states"][-1]["error"] |= {"mmd_sq_se": spread, "null_sd": null}
    needed = samples_needed(found)
    assert needed is not None and 40 < needed < 400
    seen = [(p := pair(needed)).mmd_sq > NormalDist().inv_cdf(0.95) * p.null_sd for _ in range(200)]
    assert np.mean(seen) == pytest.approx(0.8, abs=0.12)


def test_no_number_of_samples_where_none_would_do():
    assert samples_needed(profile([0.0] * 7 + [-1e-6])) is None
    few_data = profile([0.0] * 7 + [1e-5], num_forward=100)
    few_data["states"][-1]["error"]["mmd_sq_data_se"] = 1e-5
    assert samples_needed(few_data) is None


# ------------------------------------------------------------------ what to do next


def commands(found: dict[str, Any]) -> list[str]:
    return [step.command for step in next_steps(found)]


def test_nothing_distinguishable_asks_for_samples():
    (step,) = next_steps(found := profile([0.0] * 7 + [1e-5]))
    needed = samples_needed(found)
    assert f"about {needed:,} samples" in step.reason and "2,000 are too few" in step.reason
    start = "undrift measure 'runs/my run' --sampler unipc --data digits"
    assert step.command == f"{start} --num-samples {needed}"
    assert commands(profile([0.0] * 7 + [-1e-5])) == []


def test_what_is_proposed_is_for_the_chain_and_the_data_that_were_measured():
    """A remedy to tune takes the place of the one that was measured with."""
    chain = "--labels 1,2 --guidance 3.5 --null-label 9 --prompts p.txt --precision float16"
    data = "--streaming 500 --no-skip-bad-images --split test"
    found = profile([0.0] * 7 + [1e-5])
    found["how"]["command"] = (
        f"undrift measure m {chain} --allow-pickle --remedy snr_t:0.1 --seed 4 {data}"
    )
    (measure,) = commands(found)
    assert f" {chain} --allow-pickle --remedy snr_t:0.1 {data} --num-samples" in measure
    rising = with_bands([[0.0, 0.0, -0.02 * i] for i in range(len(TIMES))])
    rising["how"]["command"] = found["how"]["command"]
    assert commands(rising)[0] == (
        f"undrift tune 'runs/my run' {chain} --allow-pickle {data} --remedy band_energy"
    )


def test_every_option_that_chooses_a_chain_or_data_is_known():
    from undrift.api.inputs import ChainChoice, DataChoice
    from undrift.api.options import options

    flags = {kind: {each.flag for each in options(kind)} for kind in (ChainChoice, DataChoice)}
    assert flags[ChainChoice] == {*CHAIN_OPTIONS, "--run", "--batch-size", "--device"}
    assert flags[DataChoice] == {*DATA_OPTIONS}
    switches = {each.flag for kind in flags for each in options(kind) if each.is_switch}
    assert switches == {*SWITCHES}


def test_an_error_of_the_last_steps_asks_for_a_time_grid_or_the_regularizer_there():
    (step,) = next_steps(profile(LATE))
    assert "made after t = 2" in step.reason
    start = "undrift train --data digits --start-from 'runs/my run' --method regularized"
    assert step.command == f"{start} --regularizer.window 0.04"
    coarse = profile(LATE)
    coarse["how"]["sampler"] = {"num_inference_steps": 10, "num_steps": 50}
    assert commands(coarse) == [
        "undrift advise 'runs/my run' --data digits --num-inference-steps 10"
    ]


def test_an_error_gathered_early_asks_for_training_from_there_on():
    (step,) = next_steps(profile(EARLY))
    assert "there at t = 20 already" in step.reason
    assert step.command.endswith("--method regularized --regularizer.window 0.4")


def test_an_error_that_is_not_resolved_asks_for_four_times_the_samples():
    noisy = profile([value + 1e-4 for value in GROWING], se=1.5e-4)
    assert commands(noisy)[0].endswith("--num-samples 8000")


def test_a_gap_of_the_noise_norm_asks_to_test_the_measured_strength():
    found = profile(GROWING)
    for state in found["states"][:-1]:
        norms = {"sampled": 8.08, "forward": 8.0, "gap": 0.08, "gap_se": 0.02}
        state["exposure"] = {f"eps_norm_{key}": value for key, value in norms.items()}
    step = next_steps(found)[0]
    assert step.command.endswith("--remedy epsilon_scaling --values 1.01,1")
    assert step.command.startswith("undrift tune ") and "1.0 % longer" in step.reason
    for state in found["states"][:-1]:
        state["exposure"]["eps_norm_gap_se"] = 0.05
    assert not any("epsilon_scaling" in command for command in commands(found))


def test_a_variance_that_is_wrong_asks_for_another_one():
    found = profile(GROWING)
    parts = {"error": 0.62, "mean": 0.1, "variance": 0.5, "shape": 0.02}
    modular = {"steps": 2, "variance_factor": 1.25, "nearest_weight": 0.2}
    modular |= parts | {f"{key}_se": 0.01 for key in parts}
    found["states"][-2]["modular"] = modular
    step = next_steps(found)[0]
    assert "--remedy analytic_variance" in step.command and "best factor 1.25" in step.reason
    found["states"][-2]["modular"] = modular | {"mean": 0.5}
    assert not any("analytic" in command for command in commands(found))


def test_a_band_that_is_off_asks_for_the_remedy_of_bands():
    rising = [[0.0, 0.0, -0.02 * i] for i in range(len(TIMES))]
    assert "--remedy band_energy" in commands(with_bands(rising))[0]


def test_states_of_another_noise_level_ask_for_the_time_that_fits():
    found = profile(GROWING)
    for state in found["states"]:
        state["effective_time"] = {"time": state["t"] + 0.1, "time_se": 0.1}
    assert not any("time_shift" in command for command in commands(found))
    found["states"][2]["effective_time"] = {"time": found["states"][2]["t"] - 3, "time_se": 0.5}
    (command,) = [command for command in commands(found) if "time_shift" in command]
    assert command.startswith("undrift tune ") and command.endswith("time_shift,variance=data")


# ------------------------------------------------------------------ bands


def test_the_band_that_is_off_the_most_is_named_with_its_size():
    errors = [[0.0, -0.01 * i, -0.02 * i] for i in range(len(TIMES))]
    found = with_bands(errors, factors={(7, 2): 1.4, (6, 1): 0.5})
    (head, drift, spread) = summary([found])
    assert head.startswith("The MMD does not show an error") and head.endswith("bands do.")
    z = NormalDist().inv_cdf(1 - 0.025 / 3)
    low, high = (100 * (1 - math.exp(-0.14 + sign * z * 0.01)) for sign in (1, -1))
    assert "the highest frequencies (from 2 half waves)" in drift
    assert f"13 % too weak ({low:.0f} to {high:.0f} %)." in drift
    assert spread == "Segments amplify this error: μ = 1.40 (1.30 to 1.50) from t = 2 to 0."
    assert factors_of(found).of == "μ, from 2 half waves"
    assert np.nanmax(factors_of(found).found.values) == 1.4


def test_one_band_in_twenty_is_not_an_error():
    """All bands at their 95 % ends: none is off, all considered."""
    assert clearest(bands(with_bands([[0.0196] * 3] * len(TIMES)))) is None
    assert clearest(bands(with_bands([[0.03] * 3] * len(TIMES)))) is not None


def test_the_map_shows_every_band_at_every_state_and_hollow_cells_where_nothing_is_clear():
    errors = [[0.0, 0.0, -0.02 * i] for i in range(len(TIMES))]
    plot = band_map(with_bands(errors))
    assert plot is not None and "from 2 half waves −13 %" in plot.wide
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", plot.wide)
    assert [f"−{v}" for v in ("2.0", "3.9", "5.8", "7.7", "9.5", "11", "13")] == [
        text for text in texts if re.fullmatch(r"−\d+(\.\d)?", text)
    ][:7]
    assert "var(--model-0)" in plot.wide and "var(--model-1)" not in plot.wide
    assert band_map(profile(GROWING)) is None


def test_a_percentage_of_an_energy_stays_below_100():
    assert energy_error(Estimate(0.5, 0.01)).startswith("65 % too strong")
    assert "times too strong" in energy_error(Estimate(0.69, 0.01))


# ------------------------------------------------------------------ one criterion on a page


def amounts() -> st.SearchStrategy[float]:
    return st.floats(-3, 40).map(lambda x: x * 1e-5)


@st.composite
def random_profiles(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Profiles with any errors, budgets and bands."""
    found = []
    for _ in range(draw(st.integers(1, 3))):
        squares = draw(st.lists(amounts(), min_size=8, max_size=8))
        one = profile(squares, se=draw(st.sampled_from([1e-6, 1e-5, 1e-4])))
        if draw(st.booleans()):
            size = st.floats(-0.2, 0.2)
            rows = draw(st.lists(st.lists(size, min_size=3, max_size=3), min_size=8, max_size=8))
            key = st.tuples(st.integers(1, 7), st.integers(0, 2))
            factors = draw(st.dictionaries(key, st.floats(-2, 3), max_size=5))
            other = with_bands(rows, factors=factors)
            one["statistics"] = other["statistics"]
            for state, donor in zip(one["states"], other["states"], strict=True):
                state["scalars"] = donor["scalars"]
        for before, state in zip(one["states"][:-1], one["states"][1:], strict=True):
            root = math.sqrt(max(draw(amounts()), 0.0))
            estimate = evidence.cumulative(before)
            seen = estimate is not None and estimate.is_detected
            state["budget"] = {
                "fresh": root, "fresh_sq": root**2, "fresh_sq_se": 1e-5,
                "inherited": root, "inherited_sq": root**2, "inherited_sq_se": 1e-5,
                "amplification": root / math.sqrt(estimate.value) if seen else None,
            }  # fmt: skip
        found.append(one | {"label": f"m{len(found)}"})
    return found


@settings(max_examples=60, deadline=None)
@given(random_profiles())
def test_no_page_contradicts_itself(profiles: list[dict[str, Any]]):
    sentences, texts = summary(profiles), verdict(profiles)
    assert 1 <= len(sentences) <= 3
    every = " ".join([*sentences, *texts])
    assert "nan" not in every and "inf " not in every
    for one in profiles:
        end = evidence.cumulative(evidence.final_state(one))
        own = [text for text in texts if text.startswith(f"“{one['label']}”:")]
        says_error = [t for t in own if "grows along" in t or "there is an error" in t]
        says_none = [t for t in own if re.search(r"final (MMD|error) is not distingu", t)]
        assert end is not None
        assert bool(says_none) <= (not end.is_detected)
        assert bool(says_error) <= end.is_detected
        assert not (says_error and says_none)
        # samples are asked for only where nothing is seen
        asks = any("would be seen with" in step.reason for step in next_steps(one))
        assert asks <= (not is_off(one))
        # "no error" is never said where a band is off
        if "The final error is not distinguishable" in every and len(profiles) == 1:
            assert clearest(bands(one)) is None
    if len(profiles) == 1:
        more = "Segments amplify the MMD" in sentences[-1]
        assert not (more and "segments reduce the MMD" in every)
    # a percentage is within (−100, 100), with its interval
    for number in re.findall(r"(\d+(?:\.\d)?) %", every.replace("95 % interval", "")):
        assert float(number) <= 100


def test_the_band_that_is_named_is_the_one_that_is_surest():
    def band(name, error, se):
        return Band(name, name, ({"error": error, "error_se": se},), (0.0,), 2.5)

    surest, largest, absent = band("fine", -0.08, 0.01), band("mean", -0.17, 0.05), band("x", 1, 1)
    assert clearest([largest, surest, absent]) == surest
    assert clearest([largest, absent]) == largest and clearest([absent]) is None


def test_the_factors_of_several_models_are_of_one_band():
    quiet = [[0.0, 0.0, 0.0]] * 7
    first = with_bands([*quiet, [0.0, 0.0, -0.2]], factors={(7, 2): 1.4})
    other = with_bands([*quiet, [0.3, 0.0, -0.1]], factors={(7, 0): 0.5, (7, 2): 1.2})
    assert factors_of(other).of == "μ, 0 half waves"
    plot = overview_plot([first, other], 0)
    assert plot is not None and "amplification μ, from 2 half waves" in plot.wide
    assert "0 half waves)" not in plot.wide
