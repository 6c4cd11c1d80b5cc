"""The Gaussian chain against independent calculations: its errors and its budget."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, kl_divergence

from oracle import errors_by_quadrature, normal_density
from undrift.diffusion.schedule import CosineSchedule, LinearSchedule
from undrift.exceptions import InvalidInput
from undrift.theory.claims import normal, random_chain, random_covariance
from undrift.theory.gaussian_chain import GaussianChain, kl_to_standard_normal


def joint_divergences(chain: GaussianChain, t: int) -> tuple[float, float]:
    """E_mod and E_con from the 2d-dimensional joints of two neighbors, by Schur complements."""
    p, q = _joint(chain, t, sampled=True), _joint(chain, t, sampled=False)
    d = chain.dim
    late, early = slice(0, d), slice(d, 2 * d)
    values = []
    for given, free in ((late, early), (early, late)):
        # The reference: the sampled marginal of one, the true conditional of the other.
        gain = torch.linalg.solve(
            q.covariance_matrix[given, given], q.covariance_matrix[given, free]
        ).mT
        noise = q.covariance_matrix[free, free] - gain @ q.covariance_matrix[given, free]
        mean, cov = torch.empty(2 * d).double(), torch.empty(2 * d, 2 * d).double()
        mean[given], cov[given, given] = p.mean[given], p.covariance_matrix[given, given]
        mean[free] = q.mean[free] + gain @ (p.mean[given] - q.mean[given])
        cov[free, given] = gain @ cov[given, given]
        cov[given, free] = cov[free, given].mT
        cov[free, free] = gain @ cov[given, given] @ gain.mT + noise
        reference = MultivariateNormal(mean, cov, validate_args=False)
        values.append(float(kl_divergence(p, reference)))
    return values[0], values[1]


def _joint(chain: GaussianChain, t: int, *, sampled: bool) -> MultivariateNormal:
    if sampled:
        late_mean, late, gain = chain.sampled_mean[t], chain.sampled_cov[t], chain.gain[t - 1]
        early_mean, noise = chain.sampled_mean[t - 1], chain.noise[t - 1]
        across = gain @ late
        cov = torch.cat(
            [torch.cat([late, across.mT], 1), torch.cat([across, gain @ across.mT + noise], 1)]
        )
    else:
        late_mean, early_mean = chain.forward_mean[t], chain.forward_mean[t - 1]
        early, keep = chain.forward_cov[t - 1], (1 - chain.betas[t - 1]).sqrt()
        late = keep**2 * early + chain.betas[t - 1] * torch.eye(chain.dim).double()
        cov = torch.cat([torch.cat([late, keep * early], 1), torch.cat([keep * early, early], 1)])
    return MultivariateNormal(torch.cat([late_mean, early_mean]), cov, validate_args=False)


def test_budget_closes_on_200_random_chains() -> None:
    """E_cumu(t) = E_cumu(t+1) + E_mod(t) − E_con(t) to 1e-9, and μ_t ≤ 1 everywhere."""
    gaps, factors = [], []
    for index in range(200):
        budget = random_chain(index).budget()
        gaps.append(budget.relative_gap)
        factors.append(float(budget.mu.nan_to_num(-math.inf).max()))
        exists = budget.e_mod.isfinite()
        assert exists[1:].all()
        assert (budget.e_mod[exists] >= 0).all() and (budget.e_con[exists] >= 0).all()
    assert max(gaps) < 1e-9
    assert max(factors) <= 1


@pytest.mark.parametrize("index", range(0, 200, 11))
def test_modular_error_and_contraction_match_the_joint_of_two_neighbors(index: int) -> None:
    """Both by the chain rule on the 2d joint, with PyTorch's own divergence."""
    chain = random_chain(index, longest=60)
    budget = chain.budget()
    for t in range(2, chain.num_steps + 1, max(chain.num_steps // 6, 1)):
        e_mod, e_con = joint_divergences(chain, t)
        assert float(budget.e_mod[t - 1]) == pytest.approx(e_mod, rel=1e-6, abs=1e-8)
        assert float(budget.e_con[t - 1]) == pytest.approx(e_con, rel=1e-6, abs=1e-8)


def test_every_error_matches_quadrature_in_one_dimension() -> None:
    """Densities on a grid, integrals by the trapezoidal rule: no Gaussian formula at all."""
    schedule = LinearSchedule(6)
    chain = GaussianChain.from_schedule(
        torch.tensor([0.4]),
        torch.tensor([[0.3]]),
        schedule,
        variance="large",
        slope_error=-0.15,
        offset_error=0.1,
    )

    def density(x: Tensor, t: int) -> Tensor:
        return normal_density(x, float(chain.forward_mean[t]), float(chain.forward_cov[t]))

    def step_mean(x: Tensor, t: int) -> Tensor:
        abar_t, abar_s, beta = schedule.alpha_bar(t), schedule.alpha_bar(t - 1), schedule.betas
        x0_hat = chain.slope[t - 1, 0] * x + chain.offset[t - 1]
        pulled = math.sqrt(abar_s) * beta[t - 1] * x0_hat
        return (pulled + math.sqrt(abar_t / abar_s) * (1 - abar_s) * x) / (1 - abar_t)

    budget = chain.budget()
    for errors in errors_by_quadrature(
        schedule, density, step_mean, lambda t: float(chain.noise[t - 1])
    ):
        i = errors.t - 1
        assert float(budget.e_mod[i]) == pytest.approx(errors.e_mod, rel=1e-7)
        assert float(budget.e_con[i]) == pytest.approx(errors.e_con, rel=1e-7)
        assert float(budget.e_cumu[i]) == pytest.approx(errors.e_cumu, rel=1e-7)


def test_marginals_match_a_simulated_chain() -> None:
    """Run the steps on 200,000 draws: means and covariances within 5 standard errors."""
    chain = random_chain(66, longest=20)
    generator = torch.Generator().manual_seed(0)
    count, dim = 200_000, chain.dim
    x = normal(generator, count, dim)
    for t in range(chain.num_steps, 0, -1):
        alpha, alpha_s = chain.alpha[t], chain.alpha[t - 1]
        sigma_sq, sigma_sq_s, beta = chain.sigma_sq[t], chain.sigma_sq[t - 1], chain.betas[t - 1]
        x0_hat = x @ chain.slope[t - 1].mT + chain.offset[t - 1]
        mean = (alpha / alpha_s * sigma_sq_s * x + alpha_s * beta * x0_hat) / sigma_sq
        x = mean + torch.sqrt(chain.noise[t - 1].diagonal()) * normal(generator, count, dim)
    spread = chain.sampled_cov[0].diagonal().sqrt()
    assert ((x.mean(0) - chain.sampled_mean[0]).abs() < 5 * spread / math.sqrt(count)).all()
    error = (x.mT.cov() - chain.sampled_cov[0]).abs() / torch.outer(spread, spread)
    assert (error < 5 * math.sqrt(2 / count)).all()


def test_the_ideal_denoiser_with_the_exact_variance_errs_only_through_its_prior() -> None:
    """No modular error, and what the prior brings is only ever forgotten."""
    generator = torch.Generator().manual_seed(3)
    mean, cov = normal(generator, 4), random_covariance(generator, 4)
    chain = GaussianChain.from_schedule(mean, cov, LinearSchedule(50), variance="exact")
    budget = chain.budget()
    assert budget.e_mod.abs().max() < 1e-12
    assert (budget.inherited >= budget.e_cumu - 1e-12).all() and budget.e_prior > 1e-6
    started = GaussianChain(
        mean, cov, chain.betas, chain.slope, chain.offset, chain.noise,
        prior_mean=chain.forward_mean[-1], prior_cov=chain.forward_cov[-1],
    )  # fmt: skip
    assert started.kl.max() < 1e-12
    assert started.sampled_cov[0].allclose(cov, rtol=1e-9)


def test_the_optimal_variance_has_the_least_modular_error_of_all_isotropic_ones() -> None:
    generator = torch.Generator().manual_seed(4)
    mean, cov = normal(generator, 5), random_covariance(generator, 5)

    def errors(factor: float) -> Tensor:
        chain = GaussianChain.from_schedule(
            mean, cov, CosineSchedule(20), variance="optimal", slope_error=0.1,
            variance_error=torch.tensor([0.0] * 19 + [factor]),
        )  # fmt: skip
        return chain.modular_error[-1]

    assert errors(0.0) < min(errors(-0.05), errors(0.05), errors(-0.01), errors(0.01))


def test_a_grid_makes_one_step_of_a_segment() -> None:
    """The forward marginals on a grid are those of the full schedule at its times."""
    schedule, eye = CosineSchedule(100), torch.eye(2, dtype=torch.float64)
    full = GaussianChain.from_schedule(eye[0], 0.5 * eye, schedule)
    grid = schedule.time_grid(10)
    strided = GaussianChain.from_schedule(eye[0], 0.5 * eye, schedule, grid=grid)
    times = list(grid[::-1])
    assert strided.forward_cov.allclose(full.forward_cov[times], rtol=1e-12)
    assert strided.forward_mean.allclose(full.forward_mean[times], rtol=1e-12)
    assert strided.budget().relative_gap < 1e-9


def test_divergences_exist_only_where_the_step_has_a_density() -> None:
    """A noiseless last step: E_mod and E_con do not exist, E_cumu does; a collapse has none."""
    eye = torch.eye(2, dtype=torch.float64)
    chain = GaussianChain.from_schedule(0 * eye[0], 0.5 * eye, CosineSchedule(10), variance="small")
    budget = chain.budget()
    assert budget.e_mod[0].isinf() and budget.e_con[0].isinf() and budget.mu[0].isnan()
    assert budget.e_cumu[0].isfinite() and budget.e_mod[1:].isfinite().all()
    collapsed = GaussianChain(
        chain.mean, chain.cov, chain.betas, 0 * chain.slope, chain.offset, chain.noise
    )
    assert collapsed.kl[0].isinf()


def test_nearly_equal_gaussians_keep_their_digits() -> None:
    """KL(N(0, 1+h) ‖ N(0, 1)) = h²/4 − h³/6 + … at h = 1e-7, where the usual formula gives 0."""
    zero, one, h = torch.tensor(0.0).double(), torch.ones(1, 1).double(), 1e-7
    exact = (1 + h) - 1
    series = exact**2 / 4 - exact**3 / 6
    assert float(kl_to_standard_normal(one + h, zero)) == pytest.approx(series, rel=1e-8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cov": [[1.0, 2.0], [2.0, 1.0]]}, "cov is not positive definite"),
        ({"cov": [[1.0, 0.1], [0.2, 1.0]]}, "cov is not symmetric"),
        ({"betas": [0.1, 1.0]}, "betas must lie between 0 and 1"),
        ({"betas": [0.1]}, r"slope has shape \[2, 2, 2\]"),
        ({"offset": [[0.0, 0.0]]}, r"offset has shape \[1, 2\], but the chain needs \[2, 2\]"),
        ({"var": [-0.1, 0.1]}, "var must not be negative"),
        ({"mean": [math.nan, 0.0]}, "mean holds a number that is not finite"),
    ],
)
def test_unusable_chains_are_refused_in_one_line(
    change: dict[str, list[float]], message: str
) -> None:
    good = {
        "mean": [0.0, 0.0], "cov": [[1.0, 0.0], [0.0, 1.0]], "betas": [0.1, 0.2],
        "slope": [[[0.9, 0.0], [0.0, 0.9]]] * 2, "offset": [[0.0, 0.0]] * 2, "var": [0.1, 0.1],
    }  # fmt: skip
    tensors = {key: torch.tensor(value).double() for key, value in (good | change).items()}
    with pytest.raises(InvalidInput, match=message):
        GaussianChain(**tensors)


@pytest.mark.parametrize("variance", ["small", "large"])
def test_the_error_of_taking_steps_falls_with_their_number(variance: str) -> None:
    """The ideal denoiser still errs by its fixed variance: Σ E_mod falls as 1/T."""
    cov = torch.tensor([[0.5]])
    totals = [
        float(
            GaussianChain.from_schedule(
                torch.zeros(1), cov, CosineSchedule(steps), variance=variance
            )
            .modular_error[1 + steps // 10 :]
            .sum()
        )
        for steps in (200, 400, 800, 1600)
    ]
    slopes = [math.log2(a / b) for a, b in pairwise(totals)]
    assert slopes == pytest.approx([1.0] * 3, abs=0.1)
