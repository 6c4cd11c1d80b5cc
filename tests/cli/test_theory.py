"""`undrift theory`: its JSON against an independent calculation, its page, its refusals."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from undrift import cli
from undrift.diffusion.schedule import LinearSchedule
from undrift.theory.gaussian_chain import GaussianChain


def spec_of(chain: GaussianChain) -> dict[str, Any]:
    return {
        "mean": chain.mean.tolist(),
        "cov": chain.cov.tolist(),
        "betas": chain.betas.tolist(),
        "slope": chain.slope.tolist(),
        "offset": chain.offset.tolist(),
        "var": chain.noise[:, 0, 0].tolist(),
    }


def one_dimension() -> dict[str, Any]:
    chain = GaussianChain.from_schedule(
        torch.tensor([0.7]),
        torch.tensor([[0.4]]),
        LinearSchedule(8),
        variance="large",
        slope_error=-0.1,
        offset_error=0.05,
    )
    return spec_of(chain)


def kl(mean_p: float, var_p: float, mean_q: float, var_q: float) -> float:
    return 0.5 * (var_p / var_q + (mean_p - mean_q) ** 2 / var_q - 1 + math.log(var_q / var_p))


def budget_by_hand(spec: dict[str, Any]) -> dict[int, dict[str, float]]:
    """Every term in scalars, from the definitions: nothing of the library."""
    m, s = spec["mean"][0], spec["cov"][0][0]
    abar = [1.0]
    for beta in spec["betas"]:
        abar.append(abar[-1] * (1 - beta))
    q = [(math.sqrt(a) * m, a * s + 1 - a) for a in abar]
    p, rows = (0.0, 1.0), {}
    inherited = kl(*p, *q[-1])
    for t in range(len(spec["betas"]), 0, -1):
        beta, v = spec["betas"][t - 1], spec["var"][t - 1]
        c0 = math.sqrt(abar[t - 1]) * beta / (1 - abar[t])
        c1 = math.sqrt(1 - beta) * (1 - abar[t - 1]) / (1 - abar[t])
        gain = c0 * spec["slope"][t - 1][0][0] + c1
        shift = c0 * spec["offset"][t - 1][0]
        new = (gain * p[0] + shift, gain**2 * p[1] + v)
        # True reverse conditional N(k x_t + h, w), from the joint of the forward process.
        k = math.sqrt(1 - beta) * q[t - 1][1] / q[t][1]
        h, w = q[t - 1][0] - k * q[t][0], q[t - 1][1] * beta / q[t][1]
        bias = (gain - k) * p[0] + shift - h
        e_mod = kl(0, v, 0, w) + ((gain - k) ** 2 * p[1] + bias**2) / (2 * w)
        # The sampled chain backwards, N(b x_{t-1} + a, u).
        b = p[1] * gain / new[1]
        u = p[1] - b * gain * p[1]
        off = p[0] - math.sqrt(1 - beta) * new[0]
        drift = (b - math.sqrt(1 - beta)) ** 2 * new[1]
        e_con = kl(0, u, 0, beta) + (drift + off**2) / (2 * beta)
        e_cumu = kl(*new, *q[t - 1])
        rows[t] = {
            "e_mod": e_mod, "e_con": e_con, "e_cumu": e_cumu,
            "mu": (e_cumu - e_mod) / inherited,
        }  # fmt: skip
        p, inherited = new, e_cumu
    return rows


def call(capsys: pytest.CaptureFixture[str], *argv: str) -> dict[str, Any]:
    assert cli.main(["theory", *argv, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_chain_of_the_user_s_own_matches_a_calculation_by_hand(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = one_dimension()
    (tmp_path / "chain.json").write_text(json.dumps(spec))
    result = call(capsys, "--gaussian", str(tmp_path / "chain.json"))
    exact = budget_by_hand(spec)
    assert [row["t"] for row in result["steps"]] == list(range(8, 0, -1))
    for row in result["steps"]:
        for key, value in exact[row["t"]].items():
            assert row[key] == pytest.approx(value, rel=1e-6, abs=1e-10)
        assert row["lower"] <= row["e_cumu"] <= row["upper"]
    assert result["identity_gap"] < 1e-9


def test_a_noiseless_last_step_is_null_with_a_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = one_dimension()
    spec["var"][0] = 0.0
    (tmp_path / "chain.json").write_text(json.dumps(spec))
    *_, before, last = call(capsys, "--gaussian", str(tmp_path / "chain.json"))["steps"]
    assert last["t"] == 1 and "adds no noise" in last["reason"]
    assert last["e_mod"] is None and last["e_con"] is None and last["mu"] is None
    assert last["e_cumu"] > 0 and last["upper"] is None
    assert before["e_mod"] is not None and "reason" not in before


def test_the_claims_come_with_verdicts_and_evidence(capsys: pytest.CaptureFixture[str]) -> None:
    result = call(capsys, "--num-chains", "12")
    assert result["identity_gap"] < 1e-9
    verdicts = {claim["name"]: claim["verdict"] for claim in result["claims"]}
    assert all({"name", "verdict", "evidence"} <= claim.keys() for claim in result["claims"])

    def verdict(part: str) -> str:
        (found,) = [v for name, v in verdicts.items() if part in name]
        return found

    assert verdict("Every step amplifies") == "refuted"
    assert verdict("standard Gaussian") == "refuted"
    assert verdict("rises from noise to data") == "not a law"
    assert verdict("bootstrap MMD") == "refuted"
    assert verdict("sample quality") == "holds"
    assert verdict("budget closes") == "holds"


def test_the_page_is_self_contained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "out" / "theory.html"
    result = call(capsys, "--num-chains", "5", "--output", str(path))
    text = path.read_text()
    assert result["report"] == str(path)
    assert text.count("<svg viewBox") >= 4 and "inherited" in text
    assert not any(mark in text for mark in ("<script", "http://", "https://", "url(http"))
    assert "--num-chains 5" in text and "refuted" in text


def test_the_terminal_shows_claims_and_budget(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["theory", "--num-chains", "3"]) == 0
    out = capsys.readouterr().out
    assert "refuted" in out and "error budget in nats" in out and "closes to" in out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cov": [[0.0]]}, "cov is not positive definite"),
        ({"betas": [1.5] * 8}, "betas must lie between 0 and 1"),
        ({"var": [-1.0] * 8}, "var must not be negative"),
        ({"slope": [[[1.0, 2.0]]] * 8}, "slope has shape [8, 1, 2]"),
        ({"offset": [[1.0], "x"]}, "offset must be a table of numbers"),
        ({"mean": 3.0}, "mean must be a vector"),
        ({"extra": 1}, "unknown extra"),
        ({"var": None}, "lacks var"),
    ],
)
def test_an_unusable_chain_is_refused_in_one_line_with_exit_code_2(
    change: dict[str, Any], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = {k: v for k, v in (one_dimension() | change).items() if v is not None}
    (tmp_path / "chain.json").write_text(json.dumps(spec))
    assert cli.main(["theory", "--gaussian", str(tmp_path / "chain.json"), "--json"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err and captured.err.count("\n") == 1


def test_files_that_are_no_chain_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.json").write_text("{not json")
    (tmp_path / "list.json").write_text("[1, 2]")
    for name, message in (
        ("bad.json", "is not JSON"),
        ("list.json", "is a JSON object with mean"),
        ("none.json", "no such file"),
    ):
        assert cli.main(["theory", "--gaussian", str(tmp_path / name)]) == 2
        assert message in capsys.readouterr().err
    # The first chain by itself is too short for a bootstrap: a verdict would rest on nothing.
    assert cli.main(["theory", "--num-chains", "1"]) == 2
    assert "--num-chains is 1: choose at least 2 and at most 200" in capsys.readouterr().err


def test_help_needs_no_torch() -> None:
    code = (
        "import sys; from undrift.cli import main; main(['theory', '--help']);"
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and "--gaussian" in done.stdout


@pytest.mark.slow
def test_the_mixture_example_by_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "theory.html"
    argv = ("--mixture", "--num-chains", "3", "--num-updates", "800", "--num-particles", "500")
    result = call(capsys, *argv, "--output", str(path))["mixture"]
    assert len(result["steps"]) == 29 and result["largest_gap_in_errors"] < 4
    assert {"e_mod", "e_mod_se", "e_con", "e_cumu", "gap", "support"} <= result["steps"][0].keys()
    assert "A trained network" in path.read_text()


def test_the_theory_page_names_tests_that_exist() -> None:
    """Every derivation names its check; a renamed test must not leave the page behind."""
    tests = Path(__file__).parents[1]
    page = (tests.parent / "docs" / "theory.md").read_text(encoding="utf-8")
    named, file = re.findall(r"`([\w/]*test_\w+\.py|…)::(\w+)`", page), ""
    assert len(named) > 30
    for where, name in named:
        file = file if where == "…" else where
        assert f"def {name}(" in (tests / file).read_text(encoding="utf-8"), f"{file}::{name}"
