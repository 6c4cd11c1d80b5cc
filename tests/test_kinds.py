"""Every kind of model that diffusers builds: all commands run, or say why not."""

import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def study():
    """The command that writes the table."""
    spec = importlib.util.spec_from_file_location("kinds_study", ROOT / "studies" / "kinds.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


KINDS = study().kinds()
REFUSED = {
    ("zero terminal SNR, v-prediction", "tune"): "the schedule ends without signal",
    ("SD3-like (latent, prompts, flow)", "tune"): "prediction type is flow_prediction",
    ("flow matching", "tune"): "prediction type is flow_prediction",
    ("Euler, continuous times", "tune"): "needs a schedule of betas",
    ("consistency model", "tune"): "prediction type is unknown",
    **{
        (kind, command): reason
        for kind in ("consistency model", "LCM")
        for command, reason in (
            ("another sampler", "one is for distilled networks, the other is not"),
            ("fine-tune", "was distilled"),
            ("regularized", "was distilled"),
        )
    },
}


@pytest.mark.parametrize("kind", KINDS)
def test_all_commands_run_on_a_kind_or_say_why_not(kind, tmp_path):
    found = study().cells(KINDS[kind], tmp_path)
    for command, cell in found.items():
        reason = REFUSED.get((kind, command))
        if reason is None and (kind, "fine-tune") in REFUSED and command == "out again":
            assert cell == "–"
        else:
            assert (cell == "yes") if reason is None else reason in cell, (command, cell)
            assert "\n" not in cell


def test_the_table_in_the_docs_is_that_of_the_command():
    text = (ROOT / "docs" / "data" / "kinds.md").read_text()
    assert [line.split(" | ")[0][2:] for line in text.splitlines()[2 : 2 + len(KINDS)]] == list(
        KINDS
    )
