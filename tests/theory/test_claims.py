"""The claims of the paper: verdicts follow from the numbers of the chains."""

from __future__ import annotations

import pytest
import torch

from undrift.theory.claims import (
    evaluate_claims,
    example_chain,
    random_chain,
    scaled_frechet_distance,
)


def test_verdicts_rest_on_numbers_of_the_chains() -> None:
    """μ_t from the chains themselves, and a bootstrap below D_0 in a chain that we make."""
    claims = evaluate_claims(10)
    numbers = {claim.name[:12]: claim.numbers for claim in claims}
    chains = [random_chain(round(i * 199 / 9)) for i in range(10)]
    mu = torch.cat([chain.budget().mu for chain in chains])
    assert numbers["Every step a"]["largest"] == float(mu[mu.isfinite()].max()) <= 1
    assert numbers["Every step a"]["above_one"] == 0
    gap = max(chain.budget().relative_gap for chain in chains)
    assert numbers["The error bu"]["identity_gap"] == gap
    assert example_chain()[0].budget().relative_gap < 1e-9


@pytest.mark.parametrize("index", [0, 16, 48, 112])
def test_the_scaled_frechet_distance_in_one_dimension(index: int) -> None:
    """((m_p − m)² + (√P − √S)²) / S, at most twice the cumulative error (Talagrand)."""
    chain = random_chain(index)
    assert chain.dim == 1
    shift = float(chain.sampled_mean[0] - chain.mean)
    spread = float(chain.sampled_cov[0].sqrt() - chain.cov.sqrt())
    expected = (shift**2 + spread**2) / float(chain.cov)
    assert scaled_frechet_distance(chain) == pytest.approx(expected, rel=1e-6)
    assert expected <= 2 * float(chain.kl[0]) * (1 + 1e-9)
