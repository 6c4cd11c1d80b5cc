"""The report: verdict rules, numbers, safety of the page, and the page in a real browser."""

from __future__ import annotations

import copy
import io
import json
import math
import random
import re
import shutil
import sys
from html.parser import HTMLParser
from typing import Any

import pytest
from PIL import Image
from rich.console import Console

from error_state import nested
from undrift.exceptions import InvalidInput
from undrift.reporting.content import ReportInput, labels
from undrift.reporting.evidence import Estimate, amplification, relative_change, segments
from undrift.reporting.findings import verdict
from undrift.reporting.html import render_html, write_report
from undrift.reporting.numbers import scientific
from undrift.reporting.tables import console_table, headline_table, state_table

TIMES = (100, 90, 80, 70, 60, 50, 40, 30, 22, 15, 10, 5, 2, 0)


def plausible_profile(label: str, scale: float = 1.0, seed: int = 0) -> dict[str, Any]:
    """Return a made-up profile that obeys the schema and looks like the digits prototype."""
    rng = random.Random(seed)
    null_sd = 2.0e-5
    truth = [1.15e-3 * scale * math.exp(-t / 17.0) for t in TIMES]
    states: list[dict[str, Any]] = []
    for i, (t, d) in enumerate(zip(TIMES, truth, strict=True)):
        se = math.hypot(null_sd, 0.045 * d)
        value = d + rng.gauss(0.0, 0.7) * se
        is_seen = value > 2 * null_sd
        state: dict[str, Any] = {
            "t": t,
            "alpha": math.cos(t / 100 * math.pi / 2),
            "sigma": math.sin(t / 100 * math.pi / 2),
            "mmd_sq": value,
            "mmd_sq_se": se,
            "p_value": 0.005 if is_seen else round(rng.uniform(0.08, 0.9), 3),
            "null_sd": null_sd,
            "fresh": None,
            "fresh_sq": None,
            "fresh_sq_se": None,
            "inherited": None,
            "inherited_sq": None,
            "inherited_sq_se": None,
            "amplification": None,
            "downstream_gain": None,
            "delta": 0.012 * scale * math.exp(-t / 25) * rng.uniform(0.85, 1.1),
            "eps_norm_sampled": 8.0,
            "eps_norm_forward": 7.9,
            "eps_norm_gap": -0.02 + 0.25 * scale * math.exp(-t / 30) + rng.gauss(0, 0.006),
            "bandwidth": 120.0 - t / 3,
        }
        if i:
            before = states[-1]
            factor = 0.72 + 0.42 * math.exp(-t / 14) + rng.gauss(0, 0.02)
            root_before = math.sqrt(max(before["mmd_sq"], 0.0))
            inherited = root_before * factor
            fresh = max(math.sqrt(max(value, 0.0)) - 0.8 * inherited, 0.0)
            state |= {
                "fresh": fresh,
                "fresh_sq": fresh**2 if fresh else -0.4e-5,
                "fresh_sq_se": math.hypot(null_sd, 0.06 * fresh**2),
                "inherited": inherited,
                "inherited_sq": inherited**2,
                "inherited_sq_se": math.hypot(0.3 * null_sd, 0.05 * inherited**2),
                "amplification": factor if before["p_value"] <= 0.05 else None,
            }
        states.append(state)
    gain: float | None = 1.0
    for state in reversed(states):
        state["downstream_gain"] = gain
        factor_or_none = state["amplification"]
        gain = None if gain is None or factor_or_none is None else gain * factor_or_none
    return {
        "schema_version": 3,
        "kind": "undrift.profile",
        "label": label,
        "states": [nested(state) for state in states],
        "num_samples": 2000,
        "num_forward": 1797,
        "created": "2026-11-22T21:52:12+00:00",
        "how": {
            "command": f"undrift measure runs/digits/{label} --data digits --num-samples 2000",
            "sampler": {"name": "ancestral", "num_inference_steps": 100, "clip": 1.0},
            "model": f"runs/digits/{label}",
            "data": {"name": "digits", "size": 8, "count": 1797, "fingerprint": "b9c4f5a07c1e"},
            "kernel": {"name": "rbf-mixture", "multipliers": [0.25, 0.5, 1, 2, 4]},
            "estimator": "u",
            "reference": "population",
            "seed": 0,
            "versions": {"undrift": "0.1.0", "torch": "2.13.0", "diffusers": "0.42.1"},
            "seconds": 12.3 if scale == 1.0 else 12.9,
            "device": "cpu",
        },
    }


def training_log(is_regularized: bool, seed: int = 0) -> list[dict[str, Any]]:
    """Return a made-up training log of 700 steps."""
    rng = random.Random(seed)
    rows = []
    for step in range(1500, 2200, 2):
        nll = 0.11 + 0.05 * math.exp(-(step - 1500) / 300) + rng.gauss(0, 0.012)
        row: dict[str, Any] = {"step": step, "nll": nll, "loss": nll, "lr": 1e-3}
        row["grad_norm_main"] = 0.3 * math.exp(rng.gauss(0, 0.25))
        if is_regularized:
            value = 3e-3 + 5e-3 * math.exp(-(step - 1500) / 150) + rng.gauss(0, 6e-4)
            row["regularizer"] = value
            row["regularizer_null"] = 1.6e-3
            row["grad_norm_regularizer"] = 0.3 * row["grad_norm_main"] * rng.uniform(0.8, 1.3)
            row["lambda"] = 40.0 + 50.0 * (1 - math.exp(-(step - 1500) / 120))
        rows.append(row)
    return rows


def digit_grid(seed: int) -> Image.Image:
    """Return a grid of 8 × 8 tiny blobs, 8 × 8 pixels each, as a stand-in for digits."""
    rng = random.Random(seed)
    image = Image.new("L", (8 * 9 + 1, 8 * 9 + 1), 40)
    for row in range(8):
        for column in range(8):
            x, y, radius = rng.uniform(2.5, 4.5), rng.uniform(2.5, 4.5), rng.uniform(1.5, 2.8)
            for i in range(8):
                for j in range(8):
                    ring = math.exp(-((math.hypot(i - x, j - y) - radius) ** 2))
                    image.putpixel((1 + 9 * column + i, 1 + 9 * row + j), int(255 * ring))
    return image


def full_report() -> ReportInput:
    """Return a report with every section."""
    return ReportInput(
        title="Errors along the chain: digits, plain and persistent",
        profiles=[
            plausible_profile("plain", 1.0, 1),
            plausible_profile("persistent", 0.62, 2),
        ],
        sample_grids=[
            ("data", digit_grid(1), "64 training images"),
            ("plain", digit_grid(2), "64 draws, same noise"),
            ("persistent", digit_grid(3), "64 draws, same noise"),
        ],
        training_logs=[("plain", training_log(False, 1)), ("persistent", training_log(True, 2))],
        quality=[
            ("plain", "Fréchet distance (classifier)", 1.49, 0.03),
            ("persistent", "Fréchet distance (classifier)", 1.43, 0.03),
            ("plain", "pixel variance, of the data's", 0.947, 0.004),
            ("persistent", "pixel variance, of the data's", 0.981, 0.004),
        ],
        command="undrift demo --out 'runs/my  demo' --seed 0",
        config={
            "data": {"name": "digits", "size": 8},
            "training": {"base_steps": 1500, "steps": 700, "batch_size": 128, "lr": 1e-3},
            "regularizer": {"variant": "persistent", "cohort": 128, "forward": 1024, "share": 0.3},
        },
        versions={"undrift": "0.1.0", "python": "3.11.2", "torch": "2.13.0+cpu"},
        notes=["Both models continue the same checkpoint for 700 steps on the same data stream."],
    )


@pytest.fixture(scope="module")
def report():
    return full_report()


@pytest.fixture(scope="module")
def page(report):
    return render_html(report)


def two_states(
    end: float, end_se: float, p_value: float | None = 0.001, start: float = 0.0, label: str = "m"
) -> dict[str, Any]:
    """Return the smallest profile that growth can be judged on."""
    first = {"t": 10, "mmd_sq": start, "mmd_sq_se": 1e-5, "p_value": 0.5, "null_sd": 1e-5}
    if start > 3e-5:
        first["p_value"] = 0.001
    last = {"t": 0, "mmd_sq": end, "mmd_sq_se": end_se, "p_value": p_value, "null_sd": 1e-5}
    return {
        "label": label,
        "states": [nested(first), nested(last)],
        "num_samples": 100,
        "num_forward": 200,
    }


def with_budget(
    fresh: list[float], factors: list[float | None], square_se: float = 1e-7
) -> dict[str, Any]:
    """Return a profile with the given fresh errors and amplifications, in the chain's order."""
    states: list[dict[str, Any]] = [
        {"t": len(fresh), "mmd_sq": 1e-4, "mmd_sq_se": 1e-6, "p_value": 0.001}
    ]
    for i, (f, factor) in enumerate(zip(fresh, factors, strict=True)):
        inherited = None if factor is None else factor * 1e-2
        states.append(
            {
                "t": len(fresh) - 1 - i,
                "mmd_sq": 1e-4,
                "mmd_sq_se": 1e-6,
                "p_value": 0.001,
                "fresh": f,
                "fresh_sq": f**2,
                "fresh_sq_se": square_se,
                "inherited": 0.0 if inherited is None else inherited,
                "inherited_sq": None if inherited is None else inherited**2,
                "inherited_sq_se": 1e-6,
                "amplification": factor,
            }
        )
    gain: float | None = 1.0
    for state in reversed(states):
        state["downstream_gain"] = gain
        factor = state.get("amplification")
        gain = None if gain is None or factor is None else gain * factor
    return {"label": "m", "states": [nested(state) for state in states]}


def finding(profiles: list[dict[str, Any]], start: str) -> str:
    """Return the one sentence of the verdict that begins like that."""
    (found,) = (text for text in verdict(profiles) if text.startswith(start))
    return found


# ------------------------------------------------------------------ verdict: growth


def test_growth_is_said_with_its_numbers():
    text = verdict([two_states(1.15e-3, 5e-5, 0.005)])[0]
    assert text.startswith("“m”: the cumulative error grows along the chain.")
    low, high = 1.15 - 1.96 * 0.05, 1.15 + 1.96 * 0.05
    assert f"1.15×10⁻³ (95 % interval {low:.2f} to {high:.2f}×10⁻³), p = 0.005" in text
    assert "at the start, t = 10" in text
    assert "not distinguishable from zero" in text
    assert "The growth is 1.15×10⁻³" in text


def test_a_p_value_at_the_end_of_the_permutations_is_a_bound():
    profile = two_states(1.15e-3, 5e-5, 1 / 201) | {"how": {"num_permutations": 200}}
    assert ", p ≤ 0.005, the least that 200 permutations can show;" in verdict([profile])[0]
    profile["states"][-1]["error"]["p_value"] = 2 / 201
    assert ", p = 0.01;" in verdict([profile])[0]


def test_an_error_within_its_noise_is_not_distinguishable_and_no_proof_of_a_small_one():
    text = verdict([two_states(2e-5, 2e-5, 0.2)])[0]
    assert "the final error is not distinguishable from zero" in text
    assert "This does not show that the error is small" in text
    assert "p = 0.20" in text


def test_a_small_p_value_alone_does_not_make_an_error():
    assert not Estimate(1e-5, 1e-5, 0.01).is_detected
    assert not Estimate(1e-3, 1e-5, 0.06).is_detected
    assert Estimate(1e-3, 1e-5, 0.05).is_detected


def test_the_interval_of_the_measurement_is_preferred_to_a_normal_one():
    profile = two_states(1.0e-4, 4e-5, 0.01)
    profile["states"][-1]["error"]["interval"] = (4.0e-5, 2.1e-4)
    assert "95 % interval 0.4 to 2.1×10⁻⁴" in verdict([profile])[0]
    (row,) = headline_table([profile]).rows
    assert row[2] == "0.4 to 2.1"


def test_an_error_that_was_there_from_the_start_is_no_growth():
    text = verdict([two_states(1.02e-3, 5e-5, 0.001, start=1.0e-3)])[0]
    assert "there is an error at the end, but growth is not established" in text
    text = verdict([two_states(3e-4, 2e-5, 0.001, start=1.0e-3)])[0]
    assert "the cumulative error shrinks along the chain" in text
    assert "−7.0×10⁻⁴" in text
    assert "It was higher on the way: (10.00 ± 0.10)×10⁻⁴ at t = 10." in text


def test_one_state_alone_gives_no_growth():
    profile = {"label": "m", "states": [{"t": 0, "error": {"mmd_sq": 1e-3, "mmd_sq_se": 1e-5}}]}
    assert "Growth is not evaluated" in verdict([profile])[0]


def test_a_missing_final_error_is_said_to_be_missing():
    profile = two_states(1e-3, 1e-5)
    profile["states"][-1]["error"]["mmd_sq"] = None
    assert "the final error was not measured" in verdict([profile])[0]


# ------------------------------------------------------------------ verdict: comparison


def test_relative_change_follows_the_delta_method():
    change = relative_change(Estimate(11.5, 0.5), Estimate(7.1, 0.4))
    assert change.value == pytest.approx(7.1 / 11.5 - 1)
    by_derivatives = math.hypot(0.4 / 11.5, 7.1 * 0.5 / 11.5**2)
    assert change.se == pytest.approx(by_derivatives)


def test_the_interval_of_the_relative_change_covers_as_it_says():
    rng = random.Random(0)
    hits = 0
    for _ in range(4000):
        a, b = rng.gauss(10.0, 0.5), rng.gauss(6.0, 0.4)
        change = relative_change(Estimate(a, 0.5), Estimate(b, 0.4))
        hits += change.low < 6.0 / 10.0 - 1 < change.high
    assert hits / 4000 == pytest.approx(0.95, abs=0.012)


def test_a_lower_error_is_said_in_percent_with_its_interval():
    pair = [two_states(1.0e-3, 4e-5, label="plain"), two_states(6.2e-4, 3e-5, label="cured")]
    text = finding(pair, "“cured” ends lower.")
    se = math.hypot(0.03, 0.62 * 0.04)
    low, high = round(100 * (0.38 - 1.96 * se)), round(100 * (0.38 + 1.96 * se))
    assert "(0.62 ± 0.03)×10⁻³ against (1.00 ± 0.04)×10⁻³" in text
    assert "a difference of −0.38×10⁻³ (95 % interval −0.48 to −0.28×10⁻³)" in text
    assert f"(−38 %, −{high} to −{low} %)." in text
    assert "“plain” ends higher." in finding(pair[::-1], "“plain” ends")


def test_a_percentage_is_given_only_within_100_percent():
    pair = [two_states(1.0e-3, 1e-4, label="plain"), two_states(1.9e-3, 1e-4, label="worse")]
    assert "%, " not in finding(pair, "“worse” ends higher.")
    assert "×10⁻³" in finding(pair, "“worse” ends higher.")


def test_a_difference_within_error_bars_is_not_distinguishable():
    pair = [two_states(1.0e-3, 5e-5, label="plain"), two_states(0.97e-3, 5e-5, label="other")]
    text = finding(pair, "the D₀² of “other” is")
    assert text.startswith("the D₀² of “other” is not distinguishable from that of “plain”.")
    assert "(−3.0 %, −17 to +11 %)" in text


def test_no_ratio_to_a_baseline_that_is_not_distinguishable_from_zero():
    pair = [two_states(1e-5, 2e-5, 0.4, label="ideal"), two_states(1e-3, 5e-5, label="worse")]
    text = finding(pair, "“worse” ends")
    assert text.startswith("“worse” ends higher.")
    assert "%," not in text and "a difference of" in text
    assert headline_table(pair).rows[1][-1] == "0.99 (0.88 to 1.10)"
    same = [two_states(1e-5, 2e-5, 0.4, label="a"), two_states(3e-5, 2e-5, 0.1, label="b")]
    assert "is not distinguishable from that of “a”." in finding(same, "the D₀² of “b” is")


def test_what_was_measured_differently_is_said():
    pair = [two_states(1e-3, 5e-5, label="a"), two_states(5e-4, 5e-5, label="b")]
    assert "Compare with care" not in " ".join(verdict(pair))
    pair[0]["how"] = {"data": {"name": "digits"}, "estimator": "u"}
    pair[1]["how"] = {"data": {"name": "letters"}, "estimator": "u"}
    for profile, bandwidth in zip(pair, (120.0, 95.0), strict=True):
        profile["states"][-1]["error"]["bandwidth"] = bandwidth
    assert "Compare with care, measured differently: data, bandwidth." in finding(pair, "“b” ends")


def test_the_limits_are_always_stated():
    text = verdict([two_states(1e-3, 5e-5)])[-1]
    assert "100 drawn, 200 true" in text
    assert "do not cover training again" in text
    assert "A small MMD does not prove that the distributions are close" in text
    assert "not corrected" in verdict([two_states(1e-3, 5e-5, label=n) for n in "abc"])[-1]


# ------------------------------------------------------------------ verdict: budget


def test_the_segment_with_the_largest_weighted_fresh_error_is_named():
    profile = with_budget([8e-3, 3e-3, 4e-3], [1.0, 0.5, 0.5])
    text = finding([profile], "“m”: the most harmful")
    parts = [0.25 * 8e-3, 0.5 * 3e-3, 4e-3]
    assert "made from t = 1 to 0." in text
    assert f"it is {100 * parts[2] / sum(parts):.0f} % of the fresh error of 3 segments" in text
    assert [s.weighted for s in segments(profile)] == pytest.approx(parts)
    assert sum(s.share for s in segments(profile)) == pytest.approx(1)


def test_segments_within_error_bars_of_each_other_share_the_blame():
    text = finding([with_budget([4e-3, 4.1e-3], [1.0, 1.0], 4e-6)], "“m”: no single")
    assert "within error bars of it" in text


def test_undefined_gains_are_counted_not_invented():
    text = finding([with_budget([4e-3, 9e-3, 4e-3], [None, None, 1.0])], "“m”: the most harmful")
    assert "made from t = 2 to 1" in text and "of the fresh error of 2 segments" in text
    assert "1 of 3 segments are left out" in text


def test_no_segment_is_compared_with_itself():
    """With the gain of one segment only, squares are compared, which need no gain."""
    text = finding([with_budget([9e-3, 4e-3], [None, None])], "“m”: the largest fresh")
    assert "made from t = 2 to 1" in text and "the next, from t = 1 to 0, has" in text
    assert not any("fresh" in text for text in verdict([with_budget([9e-3], [None])]))


def test_no_fresh_error_beyond_its_noise():
    assert finding([with_budget([1e-4, 1e-4], [1.0, 1.0], 1e-6)], "“m”: no fresh error")


@pytest.mark.parametrize(
    ("factors", "headline"),
    [
        ([1.5, 1.5], "segments amplify the MMD that reaches them."),
        ([0.5, 0.5], "segments reduce the MMD that reaches them."),
        ([1.5, 0.5], "some segments amplify the MMD that reaches them, others reduce it."),
        ([1.001, 0.999], "the amplification of the MMD is not distinguishable from one."),
    ],
)
def test_amplification_is_compared_with_one(factors, headline):
    text = finding([with_budget([1e-3, 1e-3], factors)], f"“m”: {headline}")
    more, less = sum(f > 1.1 for f in factors), sum(f < 0.9 for f in factors)
    assert f"Of 2 segments, λ is above 1 beyond its error bar in {more}" in text
    assert f"below 1 in {less}" in text


def test_nothing_is_said_of_an_amplification_that_is_undefined_everywhere():
    assert not any("λ" in text for text in verdict([with_budget([1e-3, 1e-3], [None, None])]))


def test_the_error_bar_of_a_factor_follows_the_delta_method():
    before = {"t": 1, "error": {"mmd_sq": 4e-4, "mmd_sq_se": 2e-5}}
    state = {"amplification": 1.5, "inherited_sq": 9e-4, "inherited_sq_se": 3e-5}
    found = amplification(before, {"budget": state})
    assert found.se == pytest.approx(1.5 * 0.5 * math.hypot(3e-5 / 9e-4, 2e-5 / 4e-4))
    assert amplification(before, {"budget": state | {"inherited_sq_se": None}}).se == math.inf
    assert amplification(before, {"budget": state | {"amplification": None}}) is None


# ------------------------------------------------------------------ the page


class Reader(HTMLParser):
    """Collects what a page refers to, the cells of its tables, its headings and its ids."""

    def __init__(self):
        super().__init__()
        self.references, self.ids, self.scripts = [], [], []
        self.headings, self.tags, self.open_script = [], [], None
        self.cells = set()

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append((tag, attrs))
        self.references += [
            v for k, v in attrs.items() if k in ("src", "href", "xlink:href", "action", "srcset")
        ]
        if "id" in attrs:
            self.ids.append(attrs["id"])
        if tag in ("h1", "h2", "h3"):
            self.headings.append(int(tag[1]))
        self.open_script = attrs if tag == "script" else None

    def handle_data(self, data):
        if self.tags and self.tags[-1][0] == "td":
            self.cells.add(data)
        if self.open_script is not None:
            self.scripts.append((self.open_script, data))

    def handle_endtag(self, tag):
        self.open_script = None


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    return reader


def sections(page: str) -> list[str]:
    return re.findall(r'<(?:section|details) id="([a-z]+)"', page)


def data_of(page: str) -> dict[str, Any]:
    (text,) = (t for attrs, t in read(page).scripts if attrs.get("type") == "application/json")
    return json.loads(text)


def test_the_sections_come_in_order(page):
    assert sections(page) == [
        "overview",
        "numbers",
        "verdict",
        "cumulative",
        "budget",
        "amplification",
        "exposure",
        "training",
        "run",
    ]


def test_nothing_outside_the_page_is_referred_to(page):
    references = read(page).references
    assert references
    assert all(r.startswith(("#", "data:image/png;base64,")) for r in references)
    assert all(u.startswith("#") for u in re.findall(r"url\(([^)]*)\)", page))
    assert "@import" not in page
    assert "http:" not in page
    assert "https:" not in page


def test_local_references_lead_somewhere_and_ids_are_unique(page):
    reader = read(page)
    assert len(reader.ids) == len(set(reader.ids))
    anchors = {r[1:] for r in reader.references if r.startswith("#")}
    anchors |= {u[1:] for u in re.findall(r"url\(([^)]*)\)", page)}
    assert anchors <= set(reader.ids)


def test_headings_plots_images_and_tables_are_named(page):
    reader = read(page)
    assert reader.headings[0] == 1
    assert all(b - a <= 1 for a, b in zip(reader.headings[:-1], reader.headings[1:], strict=True))
    for tag, attrs in reader.tags:
        if tag == "svg":
            assert attrs.get("aria-label") or attrs.get("aria-hidden") == "true"
        if tag == "img":
            assert attrs["alt"]
    tags = [tag for tag, _ in reader.tags]
    assert tags.count("table") == tags.count("caption")


def test_the_tables_hold_the_numbers_of_the_profiles(report, page):
    cells = read(page).cells
    for profile in report.profiles:
        for state in profile["states"]:
            wanted = [state["downstream_gain"], state["budget"]["fresh"]]
            wanted += [state["error"]["mmd_sq"], state["error"]["mmd_sq_se"]]
            wanted += [state["budget"]["amplification"]]
            places = [2 if value is None or abs(value) >= 1 else 3 for value in wanted]
            texts = [scientific(*pair) for pair in zip(wanted, places, strict=True)]
            assert cells.issuperset(texts)
    for row, profile in zip(headline_table(report.profiles).rows, report.profiles, strict=True):
        final = profile["states"][-1]["error"]
        value, se = map(float, row[1].split(" ± "))
        assert value == pytest.approx(final["mmd_sq"] * 1e3, abs=0.005)
        assert se == pytest.approx(final["mmd_sq_se"] * 1e3, abs=0.005)
        assert cells.issuperset(row[1:4])


def test_the_embedded_data_are_the_input(report, page):
    data = data_of(page)
    assert data["profiles"] == report.profiles
    assert data["training_logs"][1]["rows"] == list(report.training_logs[1][1])
    assert data["command"] == report.command


def test_nulls_stay_nulls(report, page):
    first = data_of(page)["profiles"][0]["states"][0]["budget"]
    assert first["fresh"] is None
    assert first["amplification"] is None
    table = state_table(report.profiles[0], "plain")
    assert table.rows[0][table.columns.index("λ")] == "–"
    assert ">None<" not in page
    assert ">nan<" not in page


def test_not_a_number_becomes_null():
    profile = two_states(1e-3, 1e-5)
    profile["states"][0]["exposure"] = {"delta": math.nan}
    profile["states"][1]["exposure"] = {"delta": math.inf}
    page = render_html(ReportInput("t", [profile]))
    assert [s["exposure"]["delta"] for s in data_of(page)["profiles"][0]["states"]] == [None, None]
    assert "exposure" not in sections(page)


EVIL = "<script>alert(1)</script>"


def test_labels_cannot_become_markup():
    profile = two_states(1e-3, 1e-5, label=EVIL)
    profile["how"] = {"command": f'undrift "{EVIL}"', EVIL: EVIL}
    other = two_states(5e-4, 1e-5, label='"><img src=x onerror=alert(1)>')
    page = render_html(
        ReportInput(
            EVIL,
            [profile, other],
            sample_grids=[(EVIL, digit_grid(0), EVIL)],
            training_logs=[(EVIL, [{"step": i, "nll": 1.0 / i} for i in (1, 2)])],
            quality=[(EVIL, EVIL, 1.0, 0.1)],
            command=EVIL,
            config={EVIL: EVIL},
            versions={"</style>": EVIL},
            notes=[EVIL],
        )
    )
    assert "<script>alert" not in page
    assert "<img src=x" not in page
    assert page.count("</style>") == 1
    assert len([t for t, _ in read(page).tags if t == "script"]) == 2
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert data_of(page)["title"] == EVIL
    assert data_of(page)["profiles"][0]["how"][EVIL] == EVIL


def test_sections_without_data_are_left_out():
    profile = {
        "label": "m",
        "states": [
            {"t": t, "error": {"mmd_sq": 1e-3 / (1 + t), "mmd_sq_se": 1e-5, "p_value": 0.01}}
            for t in (9, 4, 0)
        ],
    }
    page = render_html(ReportInput("t", [profile]))
    assert sections(page) == ["overview", "numbers", "verdict", "run"]
    assert "Fresh and inherited" not in page
    one = {"label": "m", "states": profile["states"][-1:]}
    page = render_html(ReportInput("t", [one]))
    assert sections(page) == ["overview", "numbers", "verdict", "run"]
    assert "cumulative error D" not in page
    grids = ReportInput("t", sample_grids=[("data", digit_grid(0))])
    assert sections(render_html(grids)) == ["overview", "run"]
    logs = ReportInput("t", training_logs=[("m", [{"step": 1, "loss": 1.0}])])
    assert sections(render_html(logs)) == ["training", "run"]
    assert sections(render_html(ReportInput("t", quality=[("m", "FD", 1.0, None)]))) == [
        "numbers",
        "run",
    ]


def awkward_report() -> ReportInput:
    """Return a report of seven models, one label long, on other grids, with holes everywhere."""
    profiles = [plausible_profile(f"model {i}", 1.0 - 0.1 * i, i) for i in range(6)]
    profiles[1]["label"] = "persistent-cohorts=128-forward=1024-lambda=balanced-share=0.3-seed=0"
    profiles[2]["label"] = "model 0"
    for state in profiles[3]["states"]:
        state |= dict.fromkeys(("budget", "exposure", "downstream_gain"))
    profiles[4]["states"][5]["error"] = dict.fromkeys(("mmd_sq", "mmd_sq_se", "p_value", "null_sd"))
    profiles[5]["states"] = [
        nested(
            {"t": t, "mmd_sq": 2e-3 / (1 + t), "mmd_sq_se": 2e-5, "p_value": 0.005, "null_sd": 2e-5}
        )
        for t in (1000, 600, 300, 100, 30, 10, 3, 1, 0)
    ]
    return ReportInput("Awkward", profiles, training_logs=[("another", training_log(True))])


@pytest.fixture(scope="module")
def awkward_page():
    return render_html(awkward_report())


def test_an_awkward_report_is_still_a_report(awkward_page):
    assert labels(awkward_report().profiles)[2] == "model 0 (2)"
    assert "model 0 (2)" in awkward_page
    assert len(read(awkward_page).ids) == len(set(read(awkward_page).ids))


def test_the_same_data_give_the_same_page_and_nothing_else_changes():
    import matplotlib as mpl

    report = ReportInput("t", [two_states(1e-3, 1e-5), two_states(5e-4, 1e-5, label="n")])
    before, settings = copy.deepcopy(report.profiles), dict(mpl.rcParams)
    assert render_html(report) == render_html(report)
    assert report.profiles == before
    assert dict(mpl.rcParams) == settings


def test_a_page_is_small(page):
    assert len(page.encode()) < 1_000_000


def test_long_logs_are_thinned_in_the_page_and_say_so():
    rows = [{"step": i, "nll": 1.0} for i in range(50_001)]
    page = render_html(ReportInput("t", training_logs=[("m", rows)]))
    (log,) = data_of(page)["training_logs"]
    assert log["every"] == 26
    assert log["rows"][1]["step"] == 26
    assert len(page) < 1_000_000


def test_writing_gives_the_path_and_leaves_nothing_behind(tmp_path):
    quality = ReportInput("t", quality=[("m", "FD", 1.0, None)])
    target = write_report(quality, tmp_path / "new" / "r.html")
    assert target.read_text(encoding="utf-8") == render_html(quality)
    assert [p.name for p in target.parent.iterdir()] == ["r.html"]
    assert write_report(quality, tmp_path) == tmp_path / "report.html"


def test_images_may_be_bytes_and_bad_ones_are_named(tmp_path):
    buffer = io.BytesIO()
    Image.new("RGB", (3000, 1500)).save(buffer, "PNG")
    page = render_html(ReportInput("t", sample_grids=[("data", buffer.getvalue())]))
    (image,) = (a for t, a in read(page).tags if t == "img")
    assert (image["width"], image["height"]) == ("1024", "512")
    with pytest.raises(InvalidInput, match="'broken' is no readable image"):
        write_report(ReportInput("t", sample_grids=[("broken", b"no image")]), tmp_path / "r.html")
    assert not list(tmp_path.iterdir())


def test_nothing_to_report_is_said_in_one_line():
    with pytest.raises(InvalidInput, match="Nothing to report"):
        ReportInput("t")
    with pytest.raises(InvalidInput, match="'m' has no states"):
        ReportInput("t", [{"label": "m", "states": []}])


# ------------------------------------------------------------------ the terminal


def test_the_terminal_table_shows_the_same_numbers(report):
    console = Console(file=io.StringIO(), width=80)
    console.print(console_table(report.profiles))
    text = console.file.getvalue()
    for row in headline_table(report.profiles).rows:
        assert all(cell in text for cell in row)
    assert re.search(r"−0\.\d\d \(−0\.\d\d to −0\.\d\d\)", text)
    assert "units of 10⁻³" in text
    assert max(map(len, text.splitlines())) <= 80


def test_the_terminal_table_takes_labels_literally():
    console = Console(file=io.StringIO(), width=80)
    console.print(console_table([two_states(1e-3, 1e-5, label="[red]m[/red]")]))
    assert "[red]m[/red]" in console.file.getvalue()


def test_the_terminal_table_needs_no_plotting():
    import subprocess

    code = (
        "import sys; from undrift.reporting.tables import console_table;"
        "from undrift.reporting.findings import verdict;"
        "s = [{'t': 0, 'error': {'mmd_sq': 1e-3, 'mmd_sq_se': 1e-5}}];"
        "console_table([{'states': s}]); verdict([{'states': s}]);"
        "print([m for m in ('matplotlib', 'torch', 'jinja2') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


# ------------------------------------------------------------------ a real browser

CHROMIUM = shutil.which("chromium")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("no chromium here")
    with playwright.sync_playwright() as session:
        found = session.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield found
        found.close()


@pytest.mark.parametrize("which", ["page", "awkward_page"])
@pytest.mark.parametrize("width", [390, 768, 1280])
def test_in_a_browser_the_page_fits_and_fetches_nothing(browser, request, tmp_path, which, width):
    path = tmp_path / "report.html"
    path.write_text(request.getfixturevalue(which), encoding="utf-8")
    tab = browser.new_page(viewport={"width": width, "height": 900})
    requests, complaints = [], []
    tab.on("request", lambda sent: requests.append(sent.url))
    tab.on("console", lambda message: complaints.append(message.text))
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.goto(path.as_uri())
    assert [r for r in requests if not r.startswith("data:")] == [path.as_uri()]
    assert complaints == []
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    clipped = """[...document.querySelectorAll('.plot svg')].filter(s => s.checkVisibility())
        .flatMap(s => { const box = s.getBoundingClientRect();
            return [...s.querySelectorAll('text')].filter(t => {
                const r = t.getBoundingClientRect();
                return r.left < box.left - 2 || r.right > box.right + 2
                    || r.top < box.top - 2 || r.bottom > box.bottom + 2;
            }).map(t => t.textContent); })"""
    assert tab.evaluate(clipped) == []
    tab.close()


def test_in_a_browser_the_data_can_be_downloaded(browser, tmp_path, report, page):
    path = tmp_path / "report.html"
    path.write_text(page, encoding="utf-8")
    tab = browser.new_page()
    tab.goto(path.as_uri() + "#run")  # a link to a folded section opens it
    with tab.expect_download() as download:
        tab.click("#download")
    assert json.loads(download.value.path().read_text())["profiles"] == report.profiles
    assert tab.inner_text("#run pre >> nth=0") == report.command
    tab.click("#run [data-copy] >> nth=0")
    tab.wait_for_selector("text=Copied")
    tab.close()


def test_in_a_browser_the_figure_tells_its_values_hides_models_and_magnifies(
    browser, tmp_path, report, page
):
    path = tmp_path / "report.html"
    path.write_text(page, encoding="utf-8")
    tab = browser.new_page(viewport={"width": 1280, "height": 900})
    tab.goto(path.as_uri())
    svg, tip = tab.locator("#overview .wide svg"), tab.locator(".tip")
    points = json.loads(svg.get_attribute("data-points"))
    last = next(i for i, p in enumerate(points) if p[3].startswith("plain, t = 0: D² = "))
    box, view = svg.bounding_box(), [*map(float, svg.get_attribute("viewBox").split())]
    scale = box["width"] / view[2]
    x, y = (box[key] + points[last][i] * scale for i, key in enumerate("xy"))
    tab.mouse.move(x, y)
    value = report.profiles[0]["states"][-1]["error"]["mmd_sq"] * 1e3
    assert f"D² = {value:.2f}×10⁻³ (" in tip.inner_text()
    # a hidden model is drawn no more and says nothing
    tab.click("#overview .legend button >> nth=0")
    assert tab.locator('#overview .wide [id*="-s0-line-0"]').is_hidden()
    assert tab.locator('#overview .wide [id*="-s1-line-0"]').is_visible()
    tab.mouse.move(x, y)
    assert not tip.is_visible() or not tip.inner_text().startswith("plain,")
    # keys walk over the values of what is shown; Escape gives the whole figure again
    svg.focus()
    tab.keyboard.press("ArrowRight")
    assert tip.inner_text().startswith("persistent, t = ")
    tab.mouse.move(box["x"] + 100, box["y"] + 60)
    tab.mouse.down()
    tab.mouse.move(box["x"] + 300, box["y"] + 160)
    tab.mouse.up()
    assert float(svg.get_attribute("viewBox").split()[2]) == pytest.approx(200 / scale, rel=0.02)
    tab.keyboard.press("Escape")
    assert [*map(float, svg.get_attribute("viewBox").split())] == view
    tab.close()
