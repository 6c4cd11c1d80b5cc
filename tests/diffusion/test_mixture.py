"""Mixtures and data sets under a forward process, against PyTorch's own densities and grids."""

from __future__ import annotations

import math
import time

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from oracle import reverse_log_prob
from undrift.diffusion.denoiser import Denoiser
from undrift.diffusion.gaussian import AncestralSampler
from undrift.diffusion.mixture import (
    EmpiricalDistribution,
    ForwardProcess,
    GaussianMixture,
    IdealDenoiser,
)
from undrift.diffusion.schedule import CosineSchedule, LinearSchedule
from undrift.exceptions import InvalidInput
from undrift.theory.claims import normal, random_covariance
from undrift.theory.gaussian_chain import GaussianChain


def random_mixture(seed: int, count: int = 4, dim: int = 3) -> GaussianMixture:
    generator = torch.Generator().manual_seed(seed)
    covs = torch.stack([random_covariance(generator, dim) for _ in range(count)])
    weights = torch.rand(count, generator=generator) + 0.1
    return GaussianMixture(normal(generator, count, dim), covs, weights)


def diffused(mixture: GaussianMixture, alpha: float, sigma: float) -> MixtureSameFamily:
    """The density of α x_0 + σ ε by PyTorch's distributions."""
    root = mixture._basis * mixture._spectrum.sqrt().unsqueeze(-2)
    cov = alpha**2 * root @ root.mT + sigma**2 * torch.eye(mixture.dim, dtype=torch.float64)
    components = MultivariateNormal(alpha * mixture.means, cov)
    return MixtureSameFamily(Categorical(mixture.weights), components)


@pytest.mark.parametrize(("alpha", "sigma"), [(1.0, 0.0), (0.9, 0.3), (0.1, 0.99)])
def test_density_matches_pytorch(alpha: float, sigma: float) -> None:
    mixture = random_mixture(0)
    x = 2 * normal(torch.Generator().manual_seed(1), 50, 3)
    log_prob = diffused(mixture, alpha, sigma).log_prob(x)
    assert mixture.log_prob(x, alpha, sigma).allclose(log_prob, rtol=1e-9)


def test_posterior_moments_obey_the_formulas_of_tweedie() -> None:
    """E[x0|x] from the gradient and Var[x0|x] from the Hessian of PyTorch's log-density."""
    mixture, alpha, sigma = random_mixture(2), 0.8, 0.6
    x = normal(torch.Generator().manual_seed(1), 20, 3)
    density = diffused(mixture, alpha, sigma)
    posterior = mixture.posterior(x, alpha, sigma)
    for i, row in enumerate(x):
        score = torch.func.grad(density.log_prob)(row)
        hessian = torch.func.hessian(density.log_prob)(row)
        mean = (row + sigma**2 * score) / alpha
        cov = (sigma / alpha) ** 2 * (torch.eye(3, dtype=torch.float64) + sigma**2 * hessian)
        assert posterior.mean[i].allclose(mean, rtol=1e-8)
        assert posterior.variance[i].allclose(cov.diagonal(), rtol=1e-6, atol=1e-9)


def test_draws_have_the_mixture_s_moments() -> None:
    mixture = random_mixture(3)
    x = mixture.sample(100_000, generator=torch.Generator().manual_seed(0))
    mean = mixture.weights @ mixture.means
    exact = diffused(mixture, 1.0, 0.0)
    assert ((x.mean(0) - mean).abs() < 5 * exact.variance.sqrt() / math.sqrt(len(x))).all()
    assert x.var(0).allclose(exact.variance, rtol=0.05)


def test_one_component_is_the_gaussian_chain() -> None:
    """Forward moments, ideal denoiser and reverse conditional agree with the closed form."""
    generator, schedule = torch.Generator().manual_seed(4), CosineSchedule(20)
    mean, cov = normal(generator, 3), random_covariance(generator, 3)
    chain = GaussianChain.from_schedule(mean, cov, schedule, variance="exact")
    process = ForwardProcess(GaussianMixture(mean[None], cov[None]), schedule)
    x_t = normal(generator, 7, 3)
    for t in (1, 8, 20):
        x0_hat = x_t @ chain.ideal_slope[t - 1].mT + chain.ideal_offset[t - 1]
        assert process.posterior(x_t, t).mean.allclose(x0_hat, rtol=1e-9)
        density = MultivariateNormal(chain.forward_mean[t], chain.forward_cov[t])
        assert process.log_prob(x_t, t).allclose(density.log_prob(x_t), rtol=1e-9)
        _, variance = process.reverse_moments(x_t, t, t - 1)
        exact = chain.noise[t - 1].diagonal().expand_as(variance)
        assert variance.allclose(exact, rtol=1e-8)


def test_the_reverse_conditional_is_a_density_with_its_moments() -> None:
    """On a grid it integrates to 1 and has the mean and the variance of `reverse_moments`."""
    mixture = GaussianMixture(torch.tensor([[-1.0], [0.8]]), torch.tensor([0.02, 0.1]))
    schedule = LinearSchedule(10)
    grid = torch.linspace(-9, 9, 40_001, dtype=torch.float64)
    step = float(grid[1] - grid[0])
    for process in (
        ForwardProcess(mixture, schedule),
        ForwardProcess(EmpiricalDistribution(torch.tensor([[-1.0], [0.2], [0.9]])), schedule),
    ):
        for t, s, x in ((10, 9, 0.1), (6, 3, -0.2), (3, 1, 0.5)):
            x_t = torch.full((len(grid), 1), x, dtype=torch.float64)
            density = reverse_log_prob(process, grid[:, None], x_t, t, s).exp() * step
            mean, variance = process.reverse_moments(x_t[:1], t, s)
            assert float(density.sum()) == pytest.approx(1, abs=1e-9)
            assert float(density @ grid) == pytest.approx(float(mean), abs=1e-9)
            second = float(density @ (grid - mean[0]) ** 2)
            assert second == pytest.approx(float(variance), rel=1e-7)


def naive_posterior(data: Tensor, x: Tensor, alpha: float, sigma: float) -> tuple[Tensor, ...]:
    """The n × N × d tensor that the library never makes."""
    distance = ((x[:, None] - alpha * data[None]) ** 2).sum(-1)
    logits = -distance / (2 * sigma**2) - data.shape[1] / 2 * math.log(2 * math.pi * sigma**2)
    weight = logits.softmax(1)
    mean = weight @ data
    variance = torch.einsum("bn,bni->bi", weight, (data[None] - mean[:, None]) ** 2)
    return logits.logsumexp(1) - math.log(len(data)), mean, variance, weight.amax(1)


@pytest.mark.parametrize("block_size", [7, 64, 4096])
@pytest.mark.parametrize("sigma", [0.01, 0.3, 0.999])
def test_a_data_set_matches_the_direct_sum_in_any_blocks(block_size: int, sigma: float) -> None:
    generator, alpha = torch.Generator().manual_seed(0), math.sqrt(1 - sigma**2)
    data = torch.rand(150, 1, 3, 4, generator=generator) * 2 - 1
    process = EmpiricalDistribution(data, block_size=block_size)
    x = alpha * process.data[:40] + sigma * normal(generator, 40, 12)
    exact = naive_posterior(process.data, x, alpha, sigma)
    found = process.posterior(x, alpha, sigma)
    assert found.log_density.allclose(exact[0], rtol=1e-10)
    assert found.mean.allclose(exact[1], rtol=1e-9, atol=1e-10)
    assert found.variance.allclose(exact[2], rtol=1e-7, atol=1e-10)
    assert found.top_weight.allclose(exact[3], rtol=1e-9)
    assert process.log_prob(x.view(40, 1, 3, 4), alpha, sigma).allclose(exact[0], rtol=1e-10)


def test_a_data_set_is_the_limit_of_narrow_components() -> None:
    data = normal(torch.Generator().manual_seed(0), 30, 2)
    narrow, points = GaussianMixture(data, 1e-14), EmpiricalDistribution(data)
    x = normal(torch.Generator().manual_seed(1), 50, 2)
    a, b = narrow.posterior(x, 0.8, 0.6), points.posterior(x, 0.8, 0.6)
    assert a.log_density.allclose(b.log_density, rtol=1e-9)
    assert a.mean.allclose(b.mean, rtol=1e-9) and a.variance.allclose(b.variance, atol=1e-9)


def test_the_ideal_denoiser_of_a_data_set_memorizes() -> None:
    """Its samples are the data, and the largest responsibility goes to 1 as t goes to 0."""
    generator = torch.Generator().manual_seed(0)
    data = torch.rand(20, 1, 2, 3, generator=generator) * 2 - 1
    schedule = CosineSchedule(60)
    process = ForwardProcess(EmpiricalDistribution(data), schedule)
    denoiser = Denoiser(IdealDenoiser(process), schedule, "sample")
    samples = AncestralSampler(denoiser).sample((50, 1, 2, 3), generator=generator)
    nearest = torch.cdist(samples.flatten(1), data.flatten(1)).amin(1)
    assert nearest.max() < 1e-3
    weights = [
        float(process.posterior(process.draw(200, t, generator=generator), t).top_weight.mean())
        for t in (60, 30, 5)
    ]
    assert weights[0] < 0.1 < weights[1] < 0.999 < weights[2]


def test_the_ideal_denoiser_takes_one_step_a_row() -> None:
    process = ForwardProcess(GaussianMixture.ring(), CosineSchedule(20))
    x_t = process.draw(6, 10, generator=torch.Generator().manual_seed(0))
    steps = torch.tensor([4, 9, 4, 9, 4, 9])
    mixed = IdealDenoiser(process)(x_t.float(), steps)
    assert mixed.dtype == torch.float32
    for row, step in enumerate(steps.tolist()):
        alone = process.posterior(x_t[row : row + 1], step + 1).mean
        assert mixed[row].allclose(alone[0].float(), atol=1e-5)


@pytest.mark.slow
def test_the_cost_of_a_posterior_is_linear_in_the_data() -> None:
    """Slope of log CPU time against log n, best of five."""
    x, generator = torch.zeros(256, 64), torch.Generator().manual_seed(0)
    best = []
    for count in (4_000, 32_000):
        data = EmpiricalDistribution(normal(generator, count, 64))
        times = []
        for _ in range(5):
            start = time.process_time()
            data.posterior(x, 0.7, 0.7)
            times.append(time.process_time() - start)
        best.append(min(times))
    assert math.log(best[1] / best[0]) / math.log(8) == pytest.approx(1, abs=0.2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GaussianMixture(torch.zeros(2, 2), torch.tensor([1.0, -1.0])), "not positive"),
        (lambda: GaussianMixture(torch.zeros(2, 2), 1.0, torch.ones(3)), "one positive weight"),
        (lambda: GaussianMixture(torch.zeros(2), 1.0), "one row per component"),
        (lambda: EmpiricalDistribution(torch.zeros(0, 3)), "empty"),
        (lambda: EmpiricalDistribution(torch.full((2, 3), math.nan)), "not finite"),
        (
            lambda: EmpiricalDistribution(torch.zeros(2, 3)).log_prob(torch.zeros(1, 3)),
            "no density",
        ),
        (lambda: GaussianMixture.ring().log_prob(torch.zeros(1, 3)), "3 numbers, but the data 2"),
    ],
)
def test_unusable_input_is_refused_in_one_line(make: object, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        make()
