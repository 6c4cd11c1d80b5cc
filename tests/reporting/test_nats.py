"""What the report says in nats: advice that follows from the split, the band, the terminal."""

from __future__ import annotations

import re

import pytest
from rich.console import Console

from undrift.reporting.content import ReportInput
from undrift.reporting.findings import verdict
from undrift.reporting.html import render_html
from undrift.reporting.nats import ADVICE, PARTS, Split, advice, nats_findings, nats_table
from undrift.reporting.nats_figures import bracket_plot, modular_plot
from undrift.reporting.tables import rich_table


def state(t, mean=0.5, variance=0.1, shape=0.02, *, se=0.01, lower=0.01, **more):
    """A state whose segment has a modular error, of two steps."""
    total = mean + variance + shape
    values = {
        "error": total,
        "error_forward": 0.8 * total,
        "exposure_bias": 0.2 * total,
        "mean": mean,
        "variance": variance,
        "shape": shape,
    }
    modular = {"steps": 2, "variance_factor": 1.25, "nearest_weight": 0.2}
    for name, value in values.items():
        modular |= {name: value, f"{name}_se": se}
    return {
        "t": t,
        "error": {"mmd_sq": 1e-3, "mmd_sq_se": 1e-4, "p_value": 0.005},
        "kl": {"lower": lower, "upper": 2.0, "path": 1.8, "path_se": 0.1},
        "modular": modular | more,
    }


def profile(*segments, label="plain", **how):
    """A profile that starts from noise and ends with data, which have no density."""
    start = {"error": {"mmd_sq": 0.0, "mmd_sq_se": 1e-4}, "kl": {"lower": 0.0, "upper": 1e-3}}
    end = {"error": {"mmd_sq": 2e-3, "mmd_sq_se": 1e-4, "p_value": 0.005}}
    chain = [{"t": 20} | start, *segments, {"t": 0} | end]
    return {"label": label, "states": chain, "how": how}


def headline(*segments):
    found = nats_findings(profile(*segments), "plain")
    return found[0].headline, found[0].detail


@pytest.mark.parametrize(
    ("parts", "words", "instruction"),
    [
        ((0.5, 0.1, 0.02), "81 % of the modular error is in the mean", "Train more"),
        ((0.1, 0.5, 0.02), "81 % of the modular error is in the variance", "no training. A factor"),
        ((0.1, 0.02, 0.5), "81 % of the modular error is in the shape", "smaller steps"),
    ],
)
def test_the_advice_follows_the_part_that_is_largest(parts, words, instruction) -> None:
    head, text = headline(state(10, *parts), state(1, *parts))
    assert words in head and instruction in text
    assert "add up to 1.24 ± 0.02 nats over 4 steps down to t = 1" in text
    assert ("1.25" in text) == ("variance" in head)


def test_no_advice_where_parts_are_within_their_error_bars() -> None:
    head, text = headline(state(1, 0.50, 0.48, 0.0, se=0.02))
    assert "no part of the modular error stands out" in head and "Train" not in text
    assert "variance" in headline(state(1, 0.40, 0.48, 0.0, se=0.01))[0]


def test_segments_where_the_target_memorizes_give_no_advice() -> None:
    """The mean would dominate there whatever is wrong."""
    clear, single = state(10, 0.1, 0.5), state(1, 50.0, 0.1, nearest_weight=0.95)
    head, text = headline(clear, single)
    assert "in the variance" in head and "Left out: 50.1 nats below t = 10" in text
    head, text = headline(single)
    assert "the target memorizes in every segment" in head and "everywhere" in text
    findings = nats_findings(profile(clear, single), "plain")
    assert not any("50" in f.detail for f in findings if "accurate" in f.headline)


def test_one_split_gets_the_advice_of_its_largest_part() -> None:
    for part in PARTS:
        text = advice(dict.fromkeys(PARTS, 0.1) | {part: 0.5})
        assert f"in the {part}" in text and ADVICE[part] in text
    assert "stands out" in advice(dict.fromkeys(PARTS, 0.0))


def test_a_negative_shape_is_no_share() -> None:
    """What is below zero cannot carry a part of the whole."""
    assert "100 % of the modular error is in the mean" in headline(state(1, 0.5, 0.0, -0.1))[0]


def test_exposure_bias_is_named_with_its_sign_only_beyond_its_error() -> None:
    def words(bias, se):
        record = state(1, exposure_bias=bias, exposure_bias_se=se)
        return nats_findings(profile(record), "plain")[1].headline

    assert "steps are less accurate" in words(0.1, 0.01)
    assert "steps are more accurate" in words(-0.1, 0.01)
    assert "no exposure bias" in words(0.1, 0.08)


def test_standard_errors_of_segments_add_up() -> None:
    """The same chains run through all of them: the worst case is full correlation."""
    found = Split([state(10), state(1)])
    assert found.sum("error") == pytest.approx((1.24, 0.02)) and found.steps == 4
    assert found.variance_factor == pytest.approx(1.25)


def test_the_verdict_and_the_page_hold_the_error_in_nats() -> None:
    measured = profile(state(10), state(1, nearest_weight=0.95))
    texts = " ".join(verdict([measured]))
    assert "at t = 1 the cumulative error lies between 0.0100 and 2.00 nats" in texts
    page = render_html(ReportInput("x", [measured]))
    assert 'id="nats"' in page and "target memorizes" in page and "concentrates on single" in page
    assert page.count("Modular error of every segment in nats") == 2  # wide and narrow
    assert "Limits of the cumulative error in nats. plain, lower limit: from" in page
    plain = {"label": "p", "states": [{"t": 1, "error": {"mmd_sq": 1e-3, "mmd_sq_se": 1e-4}}]}
    assert 'id="nats"' not in render_html(ReportInput("x", [plain]))


def test_a_chain_without_density_says_why_on_the_page() -> None:
    measured = profile(modular={"reason": "no denoising step of this chain has a density"})
    measured["states"] = [s | {"kl": None} for s in measured["states"]]
    page = render_html(ReportInput("x", [measured]))
    assert "No modular errors for plain: no denoising step of this chain has a density." in page
    assert "stacked" not in page and nats_findings(measured, "plain") == []


def test_the_band_is_open_where_nothing_is_certified() -> None:
    """A lower limit of 0 has no mark on a logarithmic scale; the others do."""
    marks = []
    for low in (0.0, 0.01):
        drawn = bracket_plot([profile(state(10, lower=low), state(1))]).wide
        marks.append(len(re.findall(r"<use ", drawn)))
    assert marks[1] == marks[0] + 1


def test_the_stack_is_as_high_as_the_error_per_step() -> None:
    """Two models, other errors: panels of their own, the axis reaches 0.31 and 31 nats a step."""
    small, large = profile(state(1)), profile(state(1, 50.0, 10.0, 2.0), label="other")
    drawn = modular_plot([small, large]).wide
    assert "plain: nats per step" in drawn and "other: nats per step" in drawn
    ticks = re.findall(r">([\d.]+)</text>", drawn)
    assert "0.3" in ticks and "30" in ticks


def test_the_terminal_shows_the_split_and_the_limits() -> None:
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    console.print(rich_table(nats_table(profile(state(10), state(1, nearest_weight=0.95)))))
    lines = console.export_text().splitlines()
    row = next(line for line in lines if line.strip().startswith("10 "))
    for text in ("0.620 ± 0.010", "0.496", "0.500", "0.100", "0.0200", "0.010 to 2.0"):
        assert text in row
    assert any(line.strip().startswith("1*") for line in lines)
    assert "single training images" in lines[-1]
