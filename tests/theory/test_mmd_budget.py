"""The closed-form MMD of Gaussians and the MMD budget of a Gaussian chain."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import MultivariateNormal

from undrift.diffusion.schedule import CosineSchedule
from undrift.exceptions import InvalidInput
from undrift.mmd.estimate import mmd_sq
from undrift.mmd.gaussian import rbf_mmd_sq
from undrift.mmd.kernels import RBFMixture
from undrift.theory.claims import normal, random_chain
from undrift.theory.gaussian_chain import GaussianChain
from undrift.theory.mmd_budget import (
    MULTIPLIERS,
    bootstrap_mmd_sq,
    forward_widths,
    mmd_budget,
    mmd_sq_of_states,
    pushforward,
)


def test_closed_form_mmd_matches_integration_and_keeps_its_digits() -> None:
    """Against a double sum over a fine grid; and quadratic in a vanishing difference."""
    x = torch.linspace(-12, 12, 1201, dtype=torch.float64)
    p = torch.exp(-((x - 0.3) ** 2) / (2 * 0.5))
    q = torch.exp(-(x**2) / (2 * 1.2))
    gap = p / p.sum() - q / q.sum()
    widths = torch.tensor([0.5, 1.0, 4.0], dtype=torch.float64)
    kernel = torch.exp(-((x[:, None] - x[None, :]) ** 2)[..., None] / widths).mean(-1)
    one = torch.ones(1, dtype=torch.float64)
    exact = rbf_mmd_sq(0.3 * one, 0.5 * one[:, None], 0 * one, 1.2 * one[:, None], widths)
    assert float(exact) == pytest.approx(float(gap @ kernel @ gap), rel=1e-9)
    eye = torch.eye(3, dtype=torch.float64)

    def near(h: float) -> float:
        return float(rbf_mmd_sq(eye[0] * h, eye * (1 + h), 0 * eye[0], eye, widths))

    assert near(1e-7) / near(1e-5) == pytest.approx(1e-4, rel=1e-4)
    assert near(1e-7) > 0


def test_widths_are_the_mean_squared_distance_of_forward_draws() -> None:
    chain, generator = random_chain(5, longest=20), torch.Generator().manual_seed(0)
    draws = MultivariateNormal(chain.forward_mean[3], chain.forward_cov[3])
    noise = normal(generator, 2, 100_000, chain.dim)
    x, y = draws.loc + noise @ draws.scale_tril.mT
    mean_sq = float(((x - y) ** 2).sum(1).mean())
    assert float(forward_widths(chain, [3])[0, MULTIPLIERS.index(1.0)]) == pytest.approx(
        mean_sq, rel=0.02
    )


@pytest.mark.parametrize("index", range(3, 200, 7))
def test_the_mmd_budget_bounds_the_final_discrepancy(index: int) -> None:
    """D_{s} ≤ F + λ D_t on every segment, and D_0 ≤ Σ G F + G D_T, for two sets of states."""
    chain = random_chain(index, longest=100)
    steps = chain.num_steps
    for states in (None, sorted({0, steps // 4, steps // 2, steps})):
        budget = mmd_budget(chain, states)
        slack = 1e-12 + 1e-9 * budget.discrepancy[:-1]
        assert (budget.discrepancy[:-1] <= budget.fresh + budget.inherited + slack).all()
        assert float(budget.discrepancy[0]) <= budget.bound * (1 + 1e-9) + 1e-12
        defined = budget.amplification.isfinite()
        carried = (budget.amplification * budget.discrepancy[1:])[defined]
        assert carried.allclose(budget.inherited[defined], rtol=1e-9)


def test_amplification_is_undefined_where_nothing_arrives() -> None:
    """Data N(0, I): the prior is right, so D_T = 0 and the first segment has no λ."""
    eye = torch.eye(2, dtype=torch.float64)
    chain = GaussianChain.from_schedule(0 * eye[0], eye, CosineSchedule(10), slope_error=0.1)
    budget = mmd_budget(chain)
    assert budget.discrepancy[-1] < 1e-13 and budget.amplification[-1].isnan()
    assert budget.amplification[0].isfinite() and budget.discrepancy[0] <= budget.bound


def test_a_segment_is_its_steps_in_turn() -> None:
    """Segments of different lengths side by side; a step by the formula of its kernel."""
    chain = random_chain(7, longest=20)
    means, covs = pushforward(chain, [5, 9, 2], [3, 8, 1])
    for k, (t, s) in enumerate([(5, 3), (9, 8), (2, 1)]):
        mean, cov = chain.forward_mean[t], chain.forward_cov[t]
        for step in range(t, s, -1):
            alpha_s, beta = chain.alpha[step - 1], chain.betas[step - 1]
            x0_hat = chain.slope[step - 1] @ mean + chain.offset[step - 1]
            kept = (1 - beta).sqrt() * chain.sigma_sq[step - 1] * mean
            mean = (alpha_s * beta * x0_hat + kept) / chain.sigma_sq[step]
            gain = chain.gain[step - 1]
            cov = gain @ cov @ gain.mT + chain.noise[step - 1]
        assert means[k].allclose(mean) and covs[k].allclose(cov)


@pytest.mark.parametrize("state", [0, 2, 5])
def test_the_u_statistic_is_unbiased_for_the_exact_mmd_of_a_chain(state: int) -> None:
    """Over 1,000 repetitions its mean is the closed form, within 3 of its standard errors.

    From the data, where D² is 100 standard errors, to a state where it is a few.
    """
    generator = torch.Generator().manual_seed(state)
    chain, count = random_chain(118, longest=20), 1000
    exact = float(mmd_sq_of_states(chain, [state]))
    kernel = RBFMixture(bandwidth=float(forward_widths(chain, [state])[0, 2]))
    roots = [torch.linalg.cholesky(cov[state]) for cov in (chain.sampled_cov, chain.forward_cov)]
    xs = chain.sampled_mean[state] + normal(generator, count, 60, chain.dim) @ roots[0].mT
    ys = chain.forward_mean[state] + normal(generator, count, 40, chain.dim) @ roots[1].mT
    values = [float(mmd_sq(x, y, kernel=kernel)) for x, y in zip(xs, ys, strict=True)]
    table = torch.tensor(values, dtype=torch.float64)
    error = float(table.std()) / count**0.5
    assert abs(float(table.mean()) - exact) < 3 * error
    assert exact > 3 * error


def test_a_bootstrap_is_its_steps_on_forward_draws() -> None:
    """Side by side for all states, against one state at a time; L = 1 is the fresh error."""
    chain = random_chain(7, longest=20)
    found = bootstrap_mmd_sq(chain, 3)
    assert len(found) == chain.num_steps - 2
    for s in (0, 2, len(found) - 1):
        (mean,), (cov,) = pushforward(chain, [s + 3], [s])
        target = chain.forward_mean[s], chain.forward_cov[s]
        alone = rbf_mmd_sq(mean, cov, *target, forward_widths(chain, [s])[0])
        assert float(found[s]) == pytest.approx(float(alone), rel=1e-9)
    assert bootstrap_mmd_sq(chain, 1).sqrt().allclose(mmd_budget(chain).fresh, rtol=1e-9)
    with pytest.raises(InvalidInput, match="choose from 1 to 20"):
        bootstrap_mmd_sq(chain, 1000)
