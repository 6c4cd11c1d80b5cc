"""Schedules: the tables and the time grids of diffusers, and what a schedule must be."""

import diffusers
import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler

from undrift.diffusion.denoiser import Denoiser
from undrift.diffusion.schedule import (
    SCHEDULES,
    CosineSchedule,
    LinearSchedule,
    Schedule,
    SigmoidSchedule,
)
from undrift.exceptions import InvalidInput

DIFFUSERS_NAME = {"linear": "linear", "cosine": "squaredcos_cap_v2", "sigmoid": "sigmoid"}
WITH_A_TABLE = [
    "DDIMParallelScheduler",
    "DDIMScheduler",
    "DDPMScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "LCMScheduler",
    "LMSDiscreteScheduler",
    "PNDMScheduler",
    "SASolverScheduler",
    "TCDScheduler",
    "UniPCMultistepScheduler",
]


@pytest.mark.parametrize("name", SCHEDULES)
def test_tables_equal_those_of_diffusers(name):
    schedule = SCHEDULES[name](1000)
    theirs = DDPMScheduler(1000, beta_schedule=DIFFUSERS_NAME[name])
    # betas: one float32 rounding (of 1 at the most, so 6e-8 absolute)
    torch.testing.assert_close(schedule.betas, theirs.betas.double(), rtol=2e-7, atol=6e-8)
    # their running product of float32 factors: 1000 roundings, and 1 - 0.999 rounded to 6e-5
    table = theirs.alphas_cumprod.double()
    torch.testing.assert_close(schedule.alphas_cumprod[1:], table, rtol=7e-5, atol=0)
    bulk = table > 1e-5
    torch.testing.assert_close(schedule.alphas_cumprod[1:][bulk], table[bulk], rtol=1e-5, atol=0)


@pytest.mark.parametrize("num_steps", [10, 100, 1000])
@pytest.mark.parametrize("name", SCHEDULES)
def test_options_rebuild_the_table_in_diffusers(name, num_steps):
    schedule = SCHEDULES[name](num_steps)
    theirs = DDPMScheduler(num_steps, **schedule.options)
    again = Schedule.from_diffusers(theirs)
    torch.testing.assert_close(again.alphas_cumprod, schedule.alphas_cumprod, rtol=7e-5, atol=0)
    assert again.num_steps == num_steps
    assert again.options["beta_schedule"] == DIFFUSERS_NAME[name]


@pytest.mark.parametrize(
    "options",
    [
        {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
        {"beta_schedule": "laplace"},
        {"trained_betas": [0.1, 0.2, 0.3]},
        {"rescale_betas_zero_snr": True},
    ],
)
def test_a_scheduler_of_diffusers_survives_the_round_trip(options):
    num_steps = len(options.get("trained_betas", range(50)))
    theirs = DDPMScheduler(num_steps, **options)
    schedule = Schedule.from_diffusers(theirs)
    again = DDPMScheduler(num_steps, **schedule.options)
    assert torch.equal(again.alphas_cumprod, theirs.alphas_cumprod)
    assert torch.equal(schedule.alphas_cumprod[1:].float(), theirs.alphas_cumprod)


@pytest.mark.parametrize("kind", WITH_A_TABLE)
def test_schedules_come_from_every_scheduler_with_a_table(kind):
    ends = {"beta_schedule": "linear", "beta_start": 1e-3, "beta_end": 0.05}
    theirs = getattr(diffusers, kind)(200, **ends)
    schedule = Schedule.from_diffusers(theirs)
    assert schedule.dtype == torch.float32
    assert torch.equal(schedule.alphas_cumprod[1:], theirs.alphas_cumprod.double())
    same = LinearSchedule(200, 1e-3, 0.05).alphas_cumprod
    torch.testing.assert_close(schedule.alphas_cumprod, same, rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    "kind", ["EDMEulerScheduler", "FlowMatchEulerDiscreteScheduler", "IPNDMScheduler"]
)
def test_a_scheduler_without_a_table_is_refused(kind):
    with pytest.raises(InvalidInput, match=f"{kind} has no betas"):
        Schedule.from_diffusers(getattr(diffusers, kind)())


@pytest.mark.parametrize("num_steps", [97, 1000])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_time_grids_equal_those_of_diffusers(spacing, num_steps):
    schedule = LinearSchedule(num_steps)
    theirs = DDPMScheduler(num_steps, timestep_spacing=spacing)
    for n in range(1, num_steps + 1, 1 if num_steps < 100 else 7):
        theirs.set_timesteps(n)
        # np.arange of theirs may run one too far, to timestep -1, when rounding lets it
        expected = [int(t) + 1 for t in theirs.timesteps][:n]
        assert list(schedule.time_grid(n, spacing)) == [*expected, 0], n


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_time_grids_fall_to_zero_in_n_steps(spacing):
    for n in range(1, 98):
        grid = np.array(LinearSchedule(97).time_grid(n, spacing))
        assert len(grid) == n + 1
        assert grid[-1] == 0
        assert (np.diff(grid) < 0).all()
        assert grid[0] <= 97
        assert spacing != "trailing" or grid[0] == 97


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_prior_is_as_good_at_every_length(name):
    for num_steps in (50, 100, 400):
        assert SCHEDULES[name](num_steps).alpha(num_steps) < 0.02


def test_variance_is_preserved_and_rows_equal_steps():
    schedule = SigmoidSchedule(60)
    t = torch.tensor([1, 30, 60])
    alpha, sigma = schedule.alpha_sigma(t, torch.zeros(3, 1, 2, 2, dtype=torch.float64))
    assert alpha.shape == (3, 1, 1, 1)
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(alpha))
    for row, step in enumerate(t.tolist()):
        assert float(alpha[row]) == pytest.approx(schedule.alpha(step), rel=1e-15)
        assert float(sigma[row]) == pytest.approx(schedule.sigma(step), rel=1e-15)


def test_betas_make_the_table_and_the_table_gives_them_back():
    betas = torch.tensor([0.1, 0.2, 0.5], dtype=torch.float64)
    schedule = Schedule.from_betas(betas)
    table = torch.tensor([1, 0.9, 0.72, 0.36], dtype=torch.float64)
    torch.testing.assert_close(schedule.alphas_cumprod, table)
    torch.testing.assert_close(schedule.betas, betas)


def test_a_capped_cosine_of_another_cap_is_rebuilt_from_its_betas():
    schedule = CosineSchedule(20, max_beta=0.9)
    again = Schedule.from_diffusers(DDPMScheduler(20, **schedule.options))
    torch.testing.assert_close(again.alphas_cumprod, schedule.alphas_cumprod, rtol=1e-5, atol=0)


def test_a_schedule_may_end_without_signal():
    theirs = DDIMScheduler(30, rescale_betas_zero_snr=True, prediction_type="v_prediction")
    schedule = Schedule.from_diffusers(theirs)
    assert schedule.alpha(30) == 0
    assert schedule.sigma(30) == 1


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Schedule(torch.tensor([1.0, 0.5, 0.6])),
        lambda: Schedule(torch.tensor([0.9, 0.5])),
        lambda: Schedule(torch.tensor([1.0])),
        lambda: Schedule(torch.tensor([1.0, 0.5, -0.1])),
        lambda: Schedule(torch.tensor([1.0, float("nan"), 0.1])),
        lambda: Schedule.from_betas(torch.tensor([0.1, 1.5])),
        lambda: Schedule.from_betas(torch.tensor([0.1, 0.0])),
        lambda: Schedule.from_betas(torch.tensor([])),
        lambda: CosineSchedule(10).time_grid(11),
        lambda: CosineSchedule(10).time_grid(0),
        lambda: CosineSchedule(10).time_grid(5, "even"),
    ],
)
def test_what_is_no_schedule_is_refused_in_one_line(wrong):
    with pytest.raises(InvalidInput) as refusal:
        wrong()
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_whole_number_is_a_step_whatever_its_type(name):
    schedule = SCHEDULES[name](20)
    for t in (0, 7, 20):
        for quantity in (schedule.alpha_bar, schedule.alpha, schedule.sigma):
            assert quantity(float(t)) == quantity(t)
        assert schedule.alpha_sigma(float(t), torch.ones(2)) == (
            schedule.alpha(t),
            schedule.sigma(t),
        )


@pytest.mark.parametrize("t", [7.5, -1, 21, 20.001, float("nan"), float("inf")])
def test_a_time_that_is_no_step_is_refused(t):
    """Neither cut to an integer nor counted from the end of the table."""
    schedule = CosineSchedule(20)
    denoiser = Denoiser(lambda x_t, timestep: x_t, schedule)
    asked = (
        lambda: schedule.alpha_bar(t),
        lambda: schedule.alpha(t),
        lambda: schedule.sigma(t),
        lambda: schedule.alpha_sigma(t, torch.ones(2)),
        lambda: denoiser.predict(torch.ones(2, 1), t),
    )
    for ask in asked:
        with pytest.raises(InvalidInput, match=f"time {t:g} is not a step of the noise schedule"):
            ask()
