"""The example scripts, run as they stand: what they print obeys the laws that they are about."""

import ast
import re
import runpy
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
NUMBER = r"[-+]?\d+\.?\d*(?:e[-+]?\d+)?"


@pytest.fixture
def printed(monkeypatch, capsys):
    """Run an example with arguments and return the lines that it prints."""

    def run(name, *arguments):
        path = EXAMPLES / f"{name}.py"
        monkeypatch.setattr(sys, "argv", [str(path), *map(str, arguments)])
        runpy.run_path(str(path), run_name="__main__")
        return capsys.readouterr().out.splitlines()

    return run


@pytest.fixture
def _no_accelerator():
    """Accelerate remembers precision and devices of the first one that was made in a process."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def numbers(line):
    return [float(number) for number in re.findall(NUMBER, line)]


def test_every_example_is_short_and_run_here():
    source = Path(__file__).read_text()
    for path in EXAMPLES.glob("*.py"):
        assert f'printed("{path.stem}"' in source
        assert len(path.read_text().splitlines()) <= 60
        assert ast.get_docstring(ast.parse(path.read_text()))


FEW = ("--num-samples", 500, "--seed", 1)


@pytest.mark.parametrize("slope_error", [0.0, -0.2])
def test_measured_errors_are_those_of_the_closed_form(printed, slope_error):
    header, *lines = printed("closed_form", "--slope-error", slope_error, *FEW)
    rows = [numbers(line) for line in lines]
    assert [row[0] for row in rows] == [20, 12, 6, 3, 1, 0]
    for _, measured, error, exact, apart in rows:
        assert abs(measured - exact) < 3 * error
        assert apart == pytest.approx((measured - exact) / error, abs=0.05)
    *_, (_, measured, error, _, _) = rows
    assert (measured > 10 * error) == (slope_error != 0)


def test_errors_of_samplers_fall_with_the_calls_of_the_network(printed):
    """With the ideal network all error is of the grid; a second-order solver has less of it."""
    lines = printed("any_scheduler", "--calls", 5, 10, "--num-samples", 300)
    found = {}
    for line in lines:
        calls, name = re.match(r" *(\d+) calls  (\S+)", line).groups()
        found[name, int(calls)] = numbers(line.partition("=")[2])
    for name in ("ancestral", "DPM-Solver++", "Heun"):
        (coarse, error), (fine, _) = found[name, 5], found[name, 10]
        assert coarse > 10 * error
        assert fine < coarse / 3
    one, two, half = (found[name, 5][0] for name in ("ancestral", "DPM-Solver++", "Heun"))
    assert two < one < half  # Heun's steps are twice as long for as many calls


def test_both_ways_to_regularize_leave_less_error_than_none(printed):
    found = {
        line.partition(" D_0")[0].strip(): line.partition("=")[2]
        for line in printed("own_training_loop")
    }
    plain, *regularized = (numbers(line) for line in found.values())
    assert list(found) == ["plain", "one loss", "two backward passes"]
    for final, error in regularized:
        assert final < plain[0] - 3 * (error**2 + plain[1] ** 2) ** 0.5


@pytest.mark.usefixtures("_no_accelerator")
def test_the_strength_follows_from_the_gradient_norms_that_are_printed(printed):
    """λ keeps the averaged norms at the share of a balance by default."""
    from undrift.regularizer.balance import GradientBalance

    rows = [ast.literal_eval(line) for line in printed("accelerate_loop")]
    assert len(rows) == 1797 // 32
    terms = [row for row in rows if "lambda" in row]
    assert len(terms) >= 10
    balance = GradientBalance()
    for row in terms:
        balance.update(row["grad_norm_main"], row["grad_norm_regularizer"] / row["lambda"])
        assert row["lambda"] == pytest.approx(balance.strength, rel=1e-6)
    first = terms[0]["grad_norm_regularizer"] / terms[0]["grad_norm_main"]
    assert first == pytest.approx(balance.share)
    early, late = (sum(row["loss"] for row in part) for part in (rows[:10], rows[-10:]))
    assert late < 0.8 * early


def test_a_pipeline_s_error_grows_from_noise_to_data_within_its_budget(printed):
    header, first, *lines = printed("measure_pipeline", "--num-samples", 160, "--states", 4)
    t, before, error, p_value = numbers(first)
    assert t == 25
    assert p_value > 0.01
    assert abs(before) < 4 * error
    for line in lines:
        t, mmd_sq, error, p_value, fresh, inherited, *ratio = numbers(line)
        assert max(mmd_sq, 0) ** 0.5 < fresh + inherited + 3 * error / max(mmd_sq, error) ** 0.5
        if ratio:
            assert ratio[0] * before**0.5 == pytest.approx(inherited, abs=2e-3)
        before = mmd_sq
    assert (t, p_value) == (0, 0.005)
    assert mmd_sq > 10 * error


@pytest.mark.usefixtures("_no_accelerator")
def test_the_curve_ends_where_the_saved_pipeline_is(printed, tmp_path):
    """The error of the averaged weights falls; its last point is that of the files, and logged."""
    from diffusers import DDPMPipeline
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    import undrift

    rows = [ast.literal_eval(line) for line in printed("diffusers_loop", tmp_path)]
    first, last = rows[0], rows[-1]
    error = (first["mmd_sq_se"] ** 2 + last["mmd_sq_se"] ** 2) ** 0.5
    assert first["mmd_sq"] - last["mmd_sq"] > 3 * error
    saved = DDPMPipeline.from_pretrained(tmp_path)
    chain = undrift.DiffusersSampler(saved.unet, saved.scheduler, 10)
    found = undrift.MeasurementCallback(chain, undrift.load_data("digits")).measure(56).final
    assert last["step"] == 56
    assert last["mmd_sq"] == pytest.approx(found.mmd_sq, rel=1e-3)
    (log,) = tmp_path.rglob("events.out*")
    events = EventAccumulator(str(log.parent)).Reload().Scalars("undrift/mmd_sq")
    assert {e.step: e.value for e in events} == {
        row["step"]: pytest.approx(row["mmd_sq"], rel=1e-6) for row in rows
    }


@pytest.mark.usefixtures("_no_accelerator")
def test_the_curve_is_logged_by_wandb_without_a_network(printed, tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    rows = printed("diffusers_loop", tmp_path / "out", "--log-with", "wandb")
    (log,) = tmp_path.rglob("*.wandb")
    assert log.read_bytes().count(b"undrift/mmd_sq_se") >= len(rows)


@pytest.mark.filterwarnings("ignore::UserWarning")  # of Lightning: few workers, no logger
def test_a_module_of_lightning_trains_to_less_error_than_at_the_start(printed):
    pytest.importorskip("pytorch_lightning")
    rows = [ast.literal_eval(line) for line in printed("lightning_module")]
    assert [row["step"] for row in rows] == [0, 28, 56]
    first, last = rows[0], rows[-1]
    error = (first["mmd_sq_se"] ** 2 + last["mmd_sq_se"] ** 2) ** 0.5
    assert first["mmd_sq"] - last["mmd_sq"] > 3 * error
    assert last["lambda"] > 0
