"""The tutorials: their outputs are of their code, run from top to bottom, and they run."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "docs" / "tutorials"
NOTEBOOKS = {path.stem: json.loads(path.read_text("utf-8")) for path in FOLDER.glob("*.ipynb")}
SMALL = {
    r'(\bsteps=|"steps": )\d+': r"\g<1>2",
    r'("num_steps": )\d+': r"\g<1>10",
    r"(num_inference_steps=)10": r"\g<1>5",
    r'(num_samples=|"num_samples": )\d+': r"\g<1>40",
    r"(states=)\d+": r"\g<1>3",
}
"""What makes the tutorials quick; they stay what they are otherwise."""


def code(notebook: dict) -> list[dict]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def source(cell: dict) -> str:
    return "".join(cell["source"])


def test_the_tutorials_follow_each_other():
    assert [name[0] for name in sorted(NOTEBOOKS)] == ["1", "2", "3", "4", "5"]


@pytest.mark.parametrize("name", sorted(NOTEBOOKS))
def test_outputs_are_of_this_code_run_from_top_to_bottom(name):
    cells = code(NOTEBOOKS[name])
    digest = hashlib.sha256("\n".join(map(source, cells)).encode()).hexdigest()
    assert NOTEBOOKS[name]["metadata"]["undrift"]["executed"] == digest, "run make notebooks"
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert {output["output_type"] for output in outputs} <= {
        "stream",
        "display_data",
        "execute_result",
    }
    assert not [output for output in outputs if output.get("name") == "stderr"]


def test_the_tutorials_run_in_their_order(tmp_path, monkeypatch):
    """Each in a scope of its own and all in one folder, where the later ones find the model."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    scopes = {}
    for name in sorted(NOTEBOOKS):
        scope = scopes[name] = {}
        for cell in code(NOTEBOOKS[name]):
            text = source(cell)
            for pattern, value in SMALL.items():
                text = re.sub(pattern, value, text)
            exec(text, scope)
    first, _, third, fourth, fifth = (scopes[name] for name in sorted(scopes))
    assert (
        first["profile"].final.mmd_sq == fourth["profile"].final.mmd_sq
    )  # the same model and seed
    assert [profile.label for profile in third["profiles"]] == ["plain", "regularized"]
    assert {change.num_seeds for change in fifth["record"].paired} == {2}
    for file in ("report.html", "repair.html", "advice/advice.json", "runs/study/study.json"):
        assert Path(file).exists()
