"""Effective time, growth of perturbations and bands of two models: what is said and when."""

from __future__ import annotations

import copy
import math
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest

from undrift.reporting.band_changes import band_changes, band_sentence
from undrift.reporting.band_figures import band_map
from undrift.reporting.content import ReportInput
from undrift.reporting.effective_time import shifted, time_finding
from undrift.reporting.findings import verdict
from undrift.reporting.html import render_html
from undrift.reporting.perturbations import growth_finding
from undrift.reporting.summary import summary

TIMES = (40, 20, 10, 0)
BANDS = (("energy 0", 0.0, 1.0), ("energy 1-2", 1.0, 2.0), ("energy from 2", 2.0, None))


def profile(label: str = "m", **parts: list[Any]) -> dict[str, Any]:
    """A profile whose states have these parts, one for each time."""
    found: list[dict[str, Any]] = []
    for i, t in enumerate(TIMES):
        error = {"mmd_sq": 1e-4 * i, "mmd_sq_se": 1e-5, "null_sd": 1e-5, "p_value": 0.005}
        found.append({"t": t, "error": error} | {name: one[i] for name, one in parts.items()})
    return {"label": label, "states": found, "num_samples": 500, "num_forward": 500}


def times(*shifts: float | None, se: float = 0.5) -> list[dict[str, float] | None]:
    pairs = zip(TIMES, shifts, strict=True)
    return [None if s is None else {"time": t + s, "time_se": se} for t, s in pairs]


def banded(errors: list[float], se: float, data_se: float, label: str = "m") -> dict[str, Any]:
    """A profile with these errors of bands at the end."""
    zeros = [{"error": 0.0, "error_se": se, "error_data_se": data_se} for _ in errors]
    last = [one | {"error": e} for one, e in zip(zeros, errors, strict=True)]
    found = profile(label, scalars=[zeros] * 3 + [last])
    found["statistics"] = [
        {"name": n, "kind": "energy", "basis": "frequency", "low": a, "high": b, "channel": None}
        for n, a, b in BANDS[: len(errors)]
    ]
    return found | {"how": {"data": {"fingerprint": "a"}}}


# ------------------------------------------------------------------ effective time


def test_states_that_look_like_another_time_are_named_with_the_interval_of_all_states():
    found = profile(effective_time=times(1.0, 3.0, -2.0, None))
    z = NormalDist().inv_cdf(1 - 0.025 / 3)
    text = time_finding(found, "m")
    assert text is not None
    ends = f"{23 - 0.5 * z:.1f} to {23 + 0.5 * z:.1f}"
    assert text.headline == f"“m”: the states at t = 20 look like t = 23.0 ({ends})."
    assert "1 state has more noise than the network is told." in text.detail
    assert "1 state has less noise than the network is told." in text.detail
    assert [state["t"] for state, _ in shifted(found)] == [20, 10]
    assert any(one.startswith(text.headline) for one in verdict([found]))


def test_chains_without_a_shift_are_given_one_in_at_most_one_of_twenty():
    rng, count = np.random.default_rng(0), 2000
    given = 0
    for shifts in rng.normal(size=(count, len(TIMES))):
        given += time_finding(profile(effective_time=times(*(0.5 * shifts))), "m") is not None
    assert given / count == pytest.approx(0.05, abs=0.015)


def test_the_panel_of_effective_time_is_left_out_where_it_says_nothing():
    clear, none = (profile(effective_time=times(0.0, s, 0.0, None)) for s in (3.0, 0.4))
    assert 'id="time"' in render_html(ReportInput("t", [clear]))
    assert 'id="time"' not in render_html(ReportInput("t", [none]))


def test_the_map_of_bands_has_effective_times_where_one_is_clear():
    found = banded([0.2], 0.05, 0.0)
    assert "effective time" not in str(band_map(found))
    one = copy.deepcopy(found["states"][1]["scalars"][0])
    found["states"][1]["scalars"] = [one | {"effective_time": 24.0, "effective_time_se": 1.0}]
    plot = band_map(found)
    assert plot is not None and "0 half waves, t = 20: looks like t = 24.0 (22.0 to 26.0)" in (
        plot.wide.replace("&amp;", "&")
    )


# ------------------------------------------------------------------ growth


@pytest.mark.parametrize(
    ("mean", "most", "headline"),
    [
        (0.5, 0.9, "no segment enlarges small perturbations."),
        (0.5, 1.2, "one segment enlarges small perturbations in some direction."),
        (1.2, 1.5, "one segment enlarges small perturbations on average."),
        (1.01, 1.01, "no segment enlarges small perturbations."),
    ],
)
def test_growth_is_compared_with_one_beyond_its_error_bar(mean, most, headline):
    small = {"mean": 0.4, "mean_se": 0.01, "max": 0.8, "max_se": 0.01}
    large = {"mean": mean, "mean_se": 0.01, "max": most, "max_se": 0.01}
    found = profile(growth=[None, small, large, small])
    text = growth_finding(found, "m")
    assert text is not None and text.headline == f"“m”: {headline}"
    low, high = most - 0.0196, most + 0.0196
    assert f"largest growth is {most:.3f} ({low:.3f} to {high:.3f}), from t = 20 to 10" in (
        text.detail
    )
    assert 'id="growth"' in render_html(ReportInput("t", [found]))


def test_growth_that_was_not_measured_is_not_mentioned():
    assert growth_finding(profile(), "m") is None
    assert 'id="growth"' not in render_html(ReportInput("t", [profile()]))


# ------------------------------------------------------------------ bands of two models


def test_models_with_equal_errors_differ_in_a_band_in_at_most_one_of_twenty_pairs():
    """Errors that share the data; without that correlation hardly any pair would differ."""
    rng, own, data, count = np.random.default_rng(1), 0.01, 0.03, 2000
    se, truth, differing = math.hypot(own, data), np.array([0.3, -0.3, 0.2]), 0
    for _ in range(count):
        shared = data * rng.normal(size=3)
        pair = [banded(list(truth + shared + own * rng.normal(size=3)), se, data) for _ in range(2)]
        differing += any(one.side for one in band_changes(*pair))
    assert differing / count == pytest.approx(0.05, abs=0.015)


def test_a_change_counts_by_its_distance_from_zero_and_data_are_shared_only_if_they_are_the_same():
    first, other = (banded(e, 0.02, 0.015, n) for e, n in (([-0.3, 0.1], "a"), ([0.1, 0.12], "b")))
    one, two = band_changes(first, other)
    z = NormalDist().inv_cdf(1 - 0.025 / 2)
    assert one.change.value == pytest.approx(-0.2)
    assert one.change.high - one.change.value == pytest.approx(
        z * math.sqrt(2 * 0.02**2 + 2 * 0.015**2)  # opposite signs: the shared part adds up
    )
    assert two.change.high - two.change.value == pytest.approx(
        z * math.sqrt(2 * 0.02**2 - 2 * 0.015**2)
    )
    assert [one.side, two.side] == [-1, 0]
    other["how"]["data"]["fingerprint"] = "b"
    two = band_changes(first, other)[1]
    assert two.change.high - two.change.value == pytest.approx(z * math.sqrt(2 * 0.02**2))


def test_the_comparison_of_two_profiles_has_their_bands():
    pair = [banded([-0.3, 0.1], 0.01, 0.0, "a"), banded([-0.1, 0.1], 0.01, 0.0, "b")]
    text = next(one for one in verdict(pair) if "“b” is not distinguishable" in one)
    assert (
        "Energies: 1 of 2 frequency bands is nearer to the data, none farther; most clearly 0"
        in text
    )
    assert "9.5 % too weak (" in text and "against 26 % too weak (" in text
    assert "1 of 2 frequency bands is nearer to the data, none farther." in " ".join(summary(pair))
    same = [banded([-0.3], 0.01, 0.0, name) for name in "ab"]
    assert "In none of 1 frequency bands does the energy differ" in band_sentence(*same)
    assert "frequency band" not in summary(same)[1]
    assert band_sentence(profile(), profile()) == ""


# ------------------------------------------------------------------ other features


def featured(label: str, weights: str, **errors: float) -> dict[str, Any]:
    """A profile with these final errors in other features, each ± 0.01."""
    rows = [
        {n: {"mmd_sq": v * i / 3, "mmd_sq_se": 0.01, "p_value": 0.005} for n, v in errors.items()}
        for i in range(len(TIMES))
    ]
    return profile(label, features=rows) | {"how": {"weights": weights}}


def test_errors_in_other_features_are_said_with_their_intervals():
    found = featured("m", "w", network=0.2, pyramid=0.01)
    text = next(one for one in verdict([found]) if "in the features" in one)
    assert text.startswith("“m”: the samples differ from the data in the features network.")
    assert "network: D₀² = 0.200 (95 % interval 0.180 to 0.220)" in text
    assert "It grows along the chain in network." in text
    page = render_html(ReportInput("t", [found]))
    assert (
        page.count('aria-label="Final error D₀² in the features') == 2 and 'id="features"' in page
    )
    assert 'id="features"' not in render_html(ReportInput("t", [profile()]))


def test_activations_of_two_models_are_no_common_space():
    names = {"network": 0.2, "efficientnet-lite0": 0.2}
    first = featured("a", "w", **names)
    other = featured("b", "v", **(names | {"efficientnet-lite0": 0.1}))
    text = next(one for one in verdict([first, other]) if "D₀² is" in one)
    assert "In the features efficientnet-lite0 lower, −0.100 (−0.128 to −0.072)." in text
    same = featured("b", "w", **(names | {"efficientnet-lite0": 0.1}))
    text = next(one for one in verdict([first, same]) if "D₀² is" in one)
    assert "In the features network not distinguishable, 0.0" in text
