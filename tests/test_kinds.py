"""Every kind of model that diffusers builds: all commands run, or say why not."""

from pathlib import Path

import pytest

from studies import load_study

ROOT = Path(__file__).parents[1]


KINDS = load_study("kinds").kinds()
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
    found = load_study("kinds").cells(KINDS[kind], tmp_path)
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
