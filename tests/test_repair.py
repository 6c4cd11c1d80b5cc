"""Networks of diffusers alone, repaired: each loss is that of its kind, the table is real."""

import ast
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from studies import load_study

ROOT = Path(__file__).parents[1]
IMAGE = torch.linspace(-1, 1, 64).view(1, 1, 8, 8)


STUDY = load_study("repair")


def ideal(kind, scheduler):
    """What a perfect network of a kind says if all data are one image."""

    def ddpm(x_t, t):
        alpha_bar = scheduler.alphas_cumprod[t].view(-1, 1, 1, 1)
        return (x_t - alpha_bar.sqrt() * IMAGE) / (1 - alpha_bar).sqrt()

    def flow(x_t, t):
        return (x_t - IMAGE) / (t.view(-1, 1, 1, 1) / scheduler.config.num_train_timesteps)

    def edm(scaled, c_noise):  # Karras et al. (2022), table 1, solved for the raw output
        sigma, data = torch.exp(4 * c_noise).view(-1, 1, 1, 1), scheduler.config.sigma_data
        total = sigma**2 + data**2
        x_t = scaled * total.sqrt()
        return (IMAGE - data**2 / total * x_t) / (sigma * data / total.sqrt())

    return {"DDPM": ddpm, "EDM": edm, "flow matching": flow}[kind]


@pytest.mark.parametrize("kind", STUDY.KINDS)
def test_each_loss_is_that_of_its_kind(kind):
    """A perfect network has none; another one has."""
    make, loss, _ = STUDY.KINDS[kind]
    scheduler, x_0 = make(), IMAGE.expand(64, -1, -1, -1)
    perfect = ideal(kind, scheduler)
    torch.manual_seed(0)
    found, wrong = (
        float(
            loss(lambda x, t, add=add: SimpleNamespace(sample=perfect(x, t) + add), scheduler, x_0)
        )
        for add in (0.0, 0.5)
    )
    assert found < 1e-4 < 0.2 < wrong


def test_training_needs_diffusers_alone():
    tree = ast.parse((ROOT / "studies" / "repair.py").read_text())
    for part in tree.body:
        names = {
            node.module.partition(".")[0]
            for node in ast.walk(part)
            if isinstance(node, ast.ImportFrom) and node.module
        }
        assert "undrift" not in names or getattr(part, "name", "") == "undrift"


def test_the_table_in_the_results_is_that_of_the_record():
    """Its intervals are those of independent estimates."""
    rows = json.loads((ROOT / "docs" / "data" / "repair.json").read_text())
    assert STUDY.table(rows) in (ROOT / "docs" / "results.md").read_text()
    assert STUDY.change([5.0, 0.3], [3.0, 0.4]) == pytest.approx((-2.0, 1.96 * 0.5))
