"""The budget by particles against closed forms and quadrature, and its rates."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from oracle import affine_sampler, errors_by_quadrature
from undrift.diffusion.denoiser import Denoiser
from undrift.diffusion.gaussian import AncestralSampler, DDIMSampler
from undrift.diffusion.mixture import ForwardProcess, GaussianMixture, IdealDenoiser
from undrift.diffusion.schedule import CosineSchedule
from undrift.exceptions import InvalidInput
from undrift.theory.claims import normal
from undrift.theory.gaussian_chain import GaussianChain
from undrift.theory.particles import BudgetStep, particle_budget, particle_density


def gaussian_case(steps: int = 8) -> tuple[GaussianChain, AncestralSampler, ForwardProcess]:
    schedule = CosineSchedule(steps)
    mean, cov = torch.tensor([0.5, -0.3]), torch.diag(torch.tensor([0.4, 0.1]))
    chain = GaussianChain.from_schedule(
        mean, cov, schedule, variance="large", slope_error=-0.2, offset_error=0.2
    )
    process = ForwardProcess(GaussianMixture(mean[None], cov[None]), schedule)
    return chain, affine_sampler(chain, schedule), process


def run(
    sampler: AncestralSampler, process: ForwardProcess, count: int, seed: int
) -> list[BudgetStep]:
    generator = torch.Generator().manual_seed(seed)
    return list(particle_budget(sampler, process, count, generator=generator, dtype=torch.float64))


def test_one_component_matches_the_closed_form() -> None:
    """All four terms of every step over 30 runs: unbiased, and z-scores of the right size."""
    chain, sampler, process = gaussian_case()
    exact, scores = chain.budget(), []
    for seed in range(30):
        for step in run(sampler, process, 600, seed):
            i = step.t - 1
            truth = (exact.inherited, exact.e_mod, exact.e_con, exact.e_cumu)
            found = (step.inherited, step.fresh.total, step.forgotten, step.cumulative)
            row = [
                (a.value - float(b[i])) / (a.standard_error + 1e-9)
                for a, b in zip(found, truth, strict=True)
            ]
            scores.append([*row, step.gap_in_errors])
    table = torch.tensor(scores)
    assert (table.square().mean(0).sqrt() < 1.3).all()
    assert (table[:, 1:].square().mean(0).sqrt() > 0.7).all()


def test_mean_over_runs_is_the_exact_value() -> None:
    chain, sampler, process = gaussian_case()
    exact = chain.budget()
    runs = [run(sampler, process, 400, seed) for seed in range(40)]
    for k, step in enumerate(runs[0]):
        for name, truth in (("cumulative", exact.e_cumu), ("forgotten", exact.e_con)):
            values = torch.tensor([getattr(r[k], name).value for r in runs]).double()
            error = float(values.std()) / math.sqrt(len(values))
            # What is left of the logarithm's bias after its correction is of order 1/N².
            assert abs(float(values.mean()) - float(truth[step.t - 1])) < 3.5 * error + 1e-3


def test_intervals_cover_the_truth() -> None:
    """Over 400 runs, at every step: 95 % intervals of the cumulative error and the contraction.

    400 runs tell a coverage to 1.1 % (one standard error).
    """
    chain, sampler, process = gaussian_case(4)
    exact = chain.budget()
    hits = torch.zeros(3, 3)
    for seed in range(400):
        for k, step in enumerate(run(sampler, process, 200, seed)):
            truth = (exact.e_cumu[step.t - 1], exact.e_con[step.t - 1], 0.0)
            found = (step.cumulative, step.forgotten, step.gap)
            for j, (a, b) in enumerate(zip(found, truth, strict=True)):
                hits[k, j] += abs(a.value - float(b)) <= 1.959964 * a.standard_error
    assert (hits / 400 > 0.92).all() and (hits / 400 < 0.985).all()


def test_convergence_in_the_number_of_particles() -> None:
    """RMS error falls as N^(−1/2); without its correction the logarithm is off by c/N."""
    generator = torch.Generator().manual_seed(0)
    counts, errors, biases = (64, 256, 1024), [], []
    for count in counts:
        repeats = 16_384 // count
        values, bare = [], []
        for _ in range(repeats):
            means = normal(generator, count, 1)
            x = means + 0.5 * normal(generator, count, 1)
            found = particle_density(x, means, torch.full_like(x, 0.25))
            exact = -(x[:, 0] ** 2) / 2.5 - math.log(2 * math.pi * 1.25) / 2
            off = found.log_density - exact
            lift = (1 / found.support - 1 / (count - 1)) / 2
            # Against −log q of a shifted Gaussian: the estimate of a KL.
            kl = found.log_density - (-((x[:, 0] - 0.5) ** 2) / 2.5 - math.log(2.5 * math.pi) / 2)
            values.append(float(kl.mean()) - 0.1)
            bare.append(float((off - lift).mean()))
        errors.append(math.sqrt(sum(v * v for v in values) / repeats))
        biases.append(-sum(bare) / repeats)
    slope = math.log(errors[-1] / errors[0]) / math.log(counts[-1] / counts[0])
    assert slope == pytest.approx(-0.5, abs=0.15)
    slope = math.log(biases[-1] / biases[0]) / math.log(counts[-1] / counts[0])
    assert slope == pytest.approx(-1, abs=0.2)


def test_a_nonlinear_denoiser_on_a_mixture_matches_quadrature() -> None:
    """One dimension, two modes, a wrong denoiser: nothing here is Gaussian."""
    schedule = CosineSchedule(8)
    mixture = GaussianMixture(torch.tensor([[-1.0], [0.8]]), torch.tensor([0.05, 0.1]))
    process = ForwardProcess(mixture, schedule)

    def network(x_t: Tensor, timestep: Tensor) -> Tensor:
        del timestep
        return torch.tanh(1.5 * x_t) - 0.1

    sampler = AncestralSampler(
        Denoiser(network, schedule, "sample"), clip=None, variance_type="fixed_large"
    )
    exact = {
        errors.t: errors
        for errors in errors_by_quadrature(
            schedule,
            lambda x, t: process.log_prob(x[:, None], t).exp(),
            lambda x, t: sampler.kernel(x[:, None], t, t - 1).mean[:, 0],
            lambda t: float(schedule.betas[t - 1]),
            stop=1,
        )
    }
    steps = run(sampler, process, 3000, 0)
    assert [step.t for step in steps] == list(range(8, 1, -1))
    for step in steps:
        truth = exact[step.t]
        for found, value in (
            (step.fresh.total, truth.e_mod),
            (step.forgotten, truth.e_con),
            (step.cumulative, truth.e_cumu),
        ):
            assert abs(found.value - value) < 4 * found.standard_error + 1e-4
        assert abs(step.gap_in_errors) < 4


def test_the_budget_closes_on_the_ring() -> None:
    """Eight modes and a denoiser shrunk by 5 %; closure and direct estimate agree."""
    schedule = CosineSchedule(15)
    process = ForwardProcess(GaussianMixture.ring(scale=0.2), schedule)
    ideal = IdealDenoiser(process)
    denoiser = Denoiser(lambda x, t: 0.95 * ideal(x, t), schedule, "sample")
    steps = run(AncestralSampler(denoiser, clip=None), process, 800, 0)
    assert len(steps) == 14
    for step in steps:
        assert abs(step.gap_in_errors) < 3
        closed = step.inherited.value + step.fresh.total.value - step.forgotten.value
        assert step.gap.value == pytest.approx(step.cumulative.value - closed)
        assert step.mu is None or step.mu <= 1 + 3 * step.forgotten.standard_error / (
            step.inherited.value
        )
    assert steps[-1].cumulative.value > 5 * steps[-1].cumulative.standard_error


def test_blocks_do_not_change_the_density() -> None:
    generator = torch.Generator().manual_seed(0)
    means, variances = normal(generator, 50, 2), torch.rand(50, 2, generator=generator) + 0.1
    x = means + variances.sqrt() * normal(generator, 50, 2)
    whole, parts = (particle_density(x, means, variances.double(), block_size=b) for b in (64, 7))
    assert whole.log_density.allclose(parts.log_density, rtol=1e-12)
    others = torch.distributions.Normal(means, variances.double().sqrt())
    logits = others.log_prob(x[:, None]).sum(-1)
    logits.fill_diagonal_(-math.inf)
    plain = logits.logsumexp(1) - math.log(49)
    lift = (1 / whole.support - 1 / 49) / 2
    assert (whole.log_density - lift).allclose(plain, rtol=1e-9)


def test_unusable_input_is_refused() -> None:
    _, sampler, process = gaussian_case()
    with pytest.raises(InvalidInput, match="at least 3 particles"):
        run(sampler, process, 2, 0)
    with pytest.raises(InvalidInput, match="no denoising step of this chain has a density"):
        run(DDIMSampler(sampler.denoiser, clip=None), process, 10, 0)
