"""The modular error and its split against closed forms and quadrature."""

from __future__ import annotations

import math

import pytest
import torch

from oracle import affine_sampler, normal_density, reverse_log_prob
from undrift.diffusion.denoiser import Denoiser
from undrift.diffusion.gaussian import AncestralSampler, DDIMSampler
from undrift.diffusion.mixture import (
    EmpiricalDistribution,
    ForwardProcess,
    GaussianMixture,
    IdealDenoiser,
)
from undrift.diffusion.sampler import GaussianKernel
from undrift.diffusion.schedule import CosineSchedule, LinearSchedule
from undrift.exceptions import InvalidInput
from undrift.measurement.modular import (
    memorizing_from,
    modular_error,
    modular_errors,
)
from undrift.theory.claims import normal
from undrift.theory.gaussian_chain import GaussianChain


def test_gaussian_modular_errors_match_the_closed_form() -> None:
    """Run on samples of the chain: within 4 standard errors, which shrink as 1/√N."""
    schedule = CosineSchedule(12)
    mean, cov = torch.tensor([0.5, -0.3]), torch.diag(torch.tensor([0.4, 0.05]))
    chain = GaussianChain.from_schedule(
        mean, cov, schedule, variance="large", slope_error=-0.1, offset_error=0.05
    )
    process = ForwardProcess(GaussianMixture(mean[None], cov[None]), schedule)
    sampler, errors = affine_sampler(chain, schedule), {}
    for count in (1000, 16_000):
        generator = torch.Generator().manual_seed(count)
        found = list(
            modular_errors(sampler, process, (count, 2), generator=generator, dtype=torch.float64)
        )
        assert [item.sampled.t for item in found] == list(range(12, 1, -1))
        for item in found:
            exact = float(chain.modular_error[item.sampled.t - 1])
            total = item.sampled.total
            assert abs(total.value - exact) < 4 * total.standard_error + 1e-9
            # The reverse conditional is Gaussian with these axes: nothing is left to shape.
            assert abs(item.sampled.shape.value) < 1e-9
        errors[count] = found[-1].sampled.total.standard_error
    assert errors[1000] / errors[16_000] == pytest.approx(4, rel=0.15)


def test_intervals_of_the_modular_error_cover_the_truth() -> None:
    """3,000 repetitions of 300 exact draws of p_t: 95 % intervals cover in 93 to 97 %."""
    schedule = CosineSchedule(12)
    mean, cov = torch.tensor([0.5, -0.3]), torch.diag(torch.tensor([0.4, 0.05]))
    chain = GaussianChain.from_schedule(
        mean, cov, schedule, variance="large", slope_error=-0.2, offset_error=0.1
    )
    process = ForwardProcess(GaussianMixture(mean[None], cov[None]), schedule)
    sampler, generator = affine_sampler(chain, schedule), torch.Generator().manual_seed(0)
    for t in (11, 6, 2):
        root = torch.linalg.cholesky(chain.sampled_cov[t])
        x_t = chain.sampled_mean[t] + normal(generator, 900_000, 2) @ root.mT
        kernel = sampler.kernel(x_t, t, t - 1)
        terms = modular_error(kernel, x_t, process, t, t - 1, generator=generator).terms
        rows = terms.view(3000, 300)
        error = rows.std(1) / math.sqrt(300)
        inside = (rows.mean(1) - chain.modular_error[t - 1]).abs() <= 1.959964 * error
        assert 0.93 < float(inside.double().mean()) < 0.97


def test_forward_states_give_what_training_sees() -> None:
    """On x_t ~ q_t: E_q[(M−R)x + …]² in closed form; the difference is the exposure bias."""
    schedule = CosineSchedule(12)
    mean, cov = torch.tensor([0.5]), torch.tensor([[0.3]])
    chain = GaussianChain.from_schedule(
        mean, cov, schedule, variance="large", slope_error=-0.2, offset_error=0.1
    )
    process = ForwardProcess(GaussianMixture(mean[None], cov[None]), schedule)
    generator = torch.Generator().manual_seed(0)
    sampler = affine_sampler(chain, schedule)
    for item in modular_errors(
        sampler, process, (8000, 1), generator=generator, dtype=torch.float64
    ):
        i = item.sampled.t - 1
        stepped = GaussianChain(
            mean, cov, chain.betas[: i + 1], chain.slope[: i + 1], chain.offset[: i + 1],
            chain.noise[: i + 1], prior_mean=chain.forward_mean[i + 1],
            prior_cov=chain.forward_cov[i + 1],
        )  # fmt: skip
        exact = float(stepped.modular_error[i])
        assert abs(item.forward.total.value - exact) < 4 * item.forward.total.standard_error
        bias = item.exposure_bias
        gap = float(chain.modular_error[i]) - exact
        assert abs(bias.value - gap) < 4 * bias.standard_error + 1e-9


@pytest.mark.parametrize("x", [-0.6, 0.05, 0.4])
def test_the_split_is_unbiased_where_the_reverse_conditional_has_two_modes(x: float) -> None:
    """KL(K ‖ q(·|x_t)) by quadrature at one state, against 40,000 draws there."""
    mixture = GaussianMixture(torch.tensor([[-1.0], [0.8]]), torch.tensor([0.02, 0.05]))
    process = ForwardProcess(mixture, LinearSchedule(10))
    t, s, count = 6, 3, 40_000
    grid = torch.linspace(-6, 6, 20_001, dtype=torch.float64)
    width = float(grid[1] - grid[0])
    here = torch.full((count, 1), x, dtype=torch.float64)
    kernel = GaussianKernel(0.7 * here + 0.1, 0.25)
    log_q = reverse_log_prob(process, grid[:, None], here[:1].expand(len(grid), 1), t, s)
    density = normal_density(grid, 0.7 * x + 0.1, 0.25)
    exact = float((density * (density.clamp(min=1e-300).log() - log_q)).sum()) * width
    found = modular_error(kernel, here, process, t, s, generator=torch.Generator().manual_seed(0))
    mean, variance = process.reverse_moments(here[:1], t, s)
    ratio = 0.25 / float(variance)
    assert abs(found.total.value - exact) < 4 * found.total.standard_error
    off = (0.7 * x + 0.1 - float(mean)) ** 2 / (2 * float(variance))
    assert found.mean.value == pytest.approx(off)
    assert found.variance.value == pytest.approx((ratio - 1 - math.log(ratio)) / 2)
    assert abs(found.shape.value) > 10 * found.shape.standard_error


def test_the_variance_factor_minimizes_the_modular_error() -> None:
    """The error as a function of a factor on the variance is smallest where it says."""
    process = ForwardProcess(GaussianMixture.ring(), CosineSchedule(20))
    x_t = process.draw(2000, 6, generator=torch.Generator().manual_seed(0))
    mean, _ = process.reverse_moments(x_t, 6, 5)

    def error(variance: float) -> tuple[float, float]:
        found = modular_error(GaussianKernel(mean, variance), x_t, process, 6, 5)
        return found.mean.value + found.variance.value, found.variance_factor

    best = 0.03 * error(0.03)[1]
    assert error(best)[1] == pytest.approx(1)
    assert error(best)[0] < min(error(1.05 * best)[0], error(0.95 * best)[0])


def test_the_estimate_is_less_noisy_than_the_mean_log_ratio() -> None:
    """Same expectation as log K − log q, at a tenth of the standard error for short steps."""
    process = ForwardProcess(GaussianMixture.ring(), CosineSchedule(50))
    generator = torch.Generator().manual_seed(0)
    x_t = process.draw(4000, 10, generator=generator)
    mean, variance = process.reverse_moments(x_t, 10, 9)
    kernel = GaussianKernel(mean + 0.3 * variance.sqrt(), 1.2 * variance)
    x_s = kernel.sample(generator)
    found = modular_error(kernel, x_t, process, 10, 9, x_s=x_s)
    plain = kernel.log_prob(x_s) - reverse_log_prob(process, x_s, x_t, 10, 9)
    noise = float(plain.std()) / math.sqrt(len(plain))
    assert abs(float(plain.mean()) - found.total.value) < 4 * noise
    assert found.total.standard_error < noise / 3


def test_a_data_set_gives_errors_down_to_x_1_and_says_when_it_memorizes() -> None:
    """The memorizing denoiser errs by its variance alone; its target memorizes near t = 0."""
    data = torch.rand(40, 1, 3, 3, generator=torch.Generator().manual_seed(0)) * 2 - 1
    schedule = CosineSchedule(50)
    process = ForwardProcess(EmpiricalDistribution(data), schedule)
    sampler = AncestralSampler(Denoiser(IdealDenoiser(process), schedule, "sample"))
    generator = torch.Generator().manual_seed(0)
    found = list(
        modular_errors(sampler, process, (100, 1, 3, 3), generator=generator, dtype=torch.float64)
    )
    assert [item.sampled.s for item in found] == list(range(49, 0, -1))
    assert max(item.sampled.mean.value for item in found) < 1e-9
    memorizing = [item.forward.memorizing for item in found]
    assert not memorizing[0] and memorizing[-1] and memorizing == sorted(memorizing)
    first = found[memorizing.index(True)].forward.t
    assert memorizing_from(first).startswith(f"From t = {first} down")
    last = found[-1]
    assert last.exposure_bias.value == last.sampled.total.value - last.forward.total.value


def test_chains_without_density_are_refused() -> None:
    process = ForwardProcess(GaussianMixture.ring(), CosineSchedule(10))
    denoiser = Denoiser(IdealDenoiser(process), process.schedule, "sample")
    with pytest.raises(InvalidInput, match="no denoising step of this chain has a density"):
        list(modular_errors(DDIMSampler(denoiser, clip=None), process, (8, 2)))
    with pytest.raises(InvalidInput, match="without noise has no density"):
        modular_error(GaussianKernel(torch.zeros(4, 2), 0.0), torch.zeros(4, 2), process, 5, 4)
    with pytest.raises(InvalidInput, match="3 numbers, the data 2"):
        modular_error(GaussianKernel(torch.zeros(4, 3), 1.0), torch.zeros(4, 3), process, 5, 4)
    with pytest.raises(InvalidInput, match="at least 2 states"):
        modular_error(GaussianKernel(torch.zeros(1, 2), 1.0), torch.zeros(1, 2), process, 5, 4)


@pytest.mark.slow
def test_a_digits_profile_takes_less_than_a_minute() -> None:
    """All 100 steps on p_t and on q_t against n = 1,797 data: 500 states, one thread."""
    import time

    generator = torch.Generator().manual_seed(0)
    data = normal(generator, 1797, 64).clamp(-1, 1)
    schedule = CosineSchedule(100)
    process = ForwardProcess(EmpiricalDistribution(data), schedule)
    sampler = AncestralSampler(Denoiser(lambda x, t: 0 * x, schedule, "v_prediction"))
    start = time.process_time()
    found = list(modular_errors(sampler, process, (500, 64), generator=generator))
    assert len(found) == 99
    assert time.process_time() - start < 60
