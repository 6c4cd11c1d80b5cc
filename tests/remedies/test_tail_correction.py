"""The tail correction: nearer to the solution, fitted only where held-out samples gain."""

import diffusers
import pytest
import torch

from undrift.diffusion.denoiser import Denoiser
from undrift.diffusion.gaussian import AncestralSampler, DDIMSampler
from undrift.diffusion.schedule import LinearSchedule
from undrift.diffusion.scheduler import DiffusersSampler
from undrift.exceptions import InvalidInput
from undrift.remedies.registry import apply_remedy
from undrift.remedies.sampler import RemediedSampler
from undrift.remedies.tail_correction import TailCorrection, _is_lower, reference_chain

SCHEDULE = LinearSchedule(1000)
TABLE = SCHEDULE.alphas_cumprod[1:]
VARIANCES = torch.tensor([0.01, 0.1, 0.5, 2.0])
DATA = torch.zeros(1, 4)
SOLVERS = ["DPMSolverMultistepScheduler", "UniPCMultistepScheduler", "DEISMultistepScheduler"]


def ideal(x_t, timestep):
    """The ideal noise estimate of Gaussian data."""
    abar = TABLE[timestep.long()[0]].to(x_t)
    return (1 - abar).sqrt() / (abar * VARIANCES.to(x_t) + 1 - abar) * x_t


def chain(name, steps, network=ideal):
    if name == "ddim":
        return DDIMSampler(Denoiser(network, SCHEDULE), steps, clip=None)
    scheduler = getattr(diffusers, name)(
        1000, beta_schedule="linear", prediction_type="epsilon", timestep_spacing="trailing"
    )
    return DiffusersSampler(network, scheduler, steps)


def solution(x_T):
    """The exact solution of the probability flow: it keeps the quantile of each dimension."""
    return x_T * (VARIANCES / (TABLE[-1] * VARIANCES + 1 - TABLE[-1])).sqrt()


def finished(sampler, x_T):
    *_, last = sampler.trajectory(x_T)
    return last.x


def distance(sampler, x_T):
    return float((finished(sampler, x_T) - solution(x_T)).square().mean().sqrt())


@pytest.mark.parametrize(("name", "factor"), [("ddim", 4), *((name, 1.5) for name in SOLVERS)])
def test_samples_come_nearer_to_the_exact_solution(name, factor):
    base = chain(name, 6)
    sampler = apply_remedy(base, TailCorrection(), DATA, num_data=500)
    x_T = torch.randn(500, 4, generator=torch.Generator().manual_seed(9))
    assert distance(sampler, x_T) < distance(base, x_T) / factor
    how = sampler.describe()["remedies"][0]
    assert how["reference_steps"] == 60 and how["coordinates"]


def test_a_chain_that_many_steps_do_not_change_is_not_corrected():
    # where the estimate of the data is constant, every step of DDIM is exact
    constant = lambda x, timestep: (  # noqa: E731
        (x - TABLE[timestep.long()[0]].sqrt()) / (1 - TABLE[timestep.long()[0]]).sqrt()
    )
    base = chain("ddim", 5, constant)
    sampler = apply_remedy(base, TailCorrection(), DATA, num_data=200)
    before, after = sampler.describe()["remedies"][0]["distances"]
    assert before < 1e-8 and after <= before


def test_what_is_noise_is_kept_in_one_case_of_forty():
    pairs = torch.randn(2, 4000, 200, generator=torch.Generator().manual_seed(0))
    kept = sum(_is_lower(errors, than) for errors, than in zip(*pairs, strict=True))
    assert 0.015 < kept / 4000 < 0.035


def test_a_trajectory_from_the_middle_has_fewer_displacements():
    sampler = apply_remedy(chain("ddim", 6), TailCorrection(), DATA, num_data=200)
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(1))
    *_, last = sampler.trajectory(x, start=sampler.grid[-2])
    c_0, c_1, *_ = sampler.estimate.coordinates[0]
    x_0 = sampler.base.step(x, sampler.grid[-2], 0)
    torch.testing.assert_close(last.x, x_0 + c_0 * x_0 + c_1 * (x_0 - x))


def test_references_have_the_times_of_the_chain():
    for name in ("ddim", *SOLVERS):
        base = chain(name, 7)
        reference = reference_chain(base, base.grid)
        assert set(base.grid) <= set(reference.grid) and len(reference.grid) > 5 * len(base.grid)


@pytest.mark.parametrize(
    ("base", "message"),
    [
        (AncestralSampler(Denoiser(ideal, SCHEDULE), 5), "needs steps without noise"),
        (DDIMSampler(Denoiser(ideal, SCHEDULE), 5, eta=0.5), "needs steps without noise"),
        (chain("ddim", 600), "at least twice the 600 steps"),
    ],
)
def test_chains_that_have_no_references_are_refused(base, message):
    with pytest.raises(InvalidInput, match=message):
        apply_remedy(base, TailCorrection(), DATA, num_data=10)


def test_corrections_belong_to_the_steps_that_they_were_fitted_to():
    estimate = apply_remedy(chain("ddim", 5), TailCorrection(), DATA, num_data=10).estimate
    sampler = RemediedSampler(chain("ddim", 6), TailCorrection(), estimate)
    with pytest.raises(InvalidInput, match="fitted to other steps"):
        sampler.sample((1, 4))
