"""Frequency bands, and the energy that they get: exact for Gaussian data."""

import diffusers
import pytest
import torch

from undrift.diffusion.denoiser import Denoiser
from undrift.diffusion.gaussian import AncestralSampler, DDIMSampler
from undrift.diffusion.sampler import State
from undrift.diffusion.schedule import LinearSchedule
from undrift.diffusion.scheduler import DiffusersSampler
from undrift.exceptions import InvalidInput
from undrift.remedies.band_energy import BandEnergy, measured_gains
from undrift.remedies.haar import band_sizes, bands
from undrift.remedies.registry import apply_remedy
from undrift.remedies.sampler import RemediedSampler, moved

SHAPE, LEVELS = (2, 8, 8), 3
MEAN = torch.linspace(-0.5, 0.5, 128, dtype=torch.float64).view(SHAPE)
VARIANCES = torch.tensor([0.02, 0.1, 0.5, 1.5], dtype=torch.float64)
WRONG = torch.tensor([0.7, 1.1, 0.9, 0.85], dtype=torch.float64)
TABLE = LinearSchedule(40).alphas_cumprod[1:]
SCHEDULE = {"beta_schedule": "linear", "beta_start": 1e-4 * 25, "beta_end": 0.02 * 25}


def source(seed):
    return torch.Generator().manual_seed(seed)


def data(count=4000, seed=1):
    noise = torch.randn(count, *SHAPE, generator=source(seed), dtype=torch.float64)
    return MEAN + combined(noise, VARIANCES.sqrt())


def combined(x, weights):
    return (bands(x, LEVELS) * weights.view(-1, *[1] * x.ndim)).sum(0)


def denoiser_of(wrong):
    """The best estimate of the data, off by a factor in each band."""

    def network(x_t, timestep):
        abar = TABLE[timestep.long()[0]]
        alpha = abar.sqrt()
        slopes = wrong * alpha * VARIANCES / (abar * VARIANCES + 1 - abar)
        return MEAN + combined(x_t - alpha * MEAN, slopes)

    return network


def chain(name, network, steps=8):
    kinds = {"ancestral": AncestralSampler, "ddim": DDIMSampler}
    if name in kinds:
        return kinds[name](Denoiser(network, LinearSchedule(40), "sample"), steps, clip=None)
    options = SCHEDULE | {"prediction_type": "sample", "timestep_spacing": "trailing"}
    kind = getattr(diffusers, name)
    return DiffusersSampler(network, kind(40, **options), steps)


# --- bands --------------------------------------------------------------------------------------


def coefficients(x, levels):
    """Orthonormal Haar coefficients, one list for each band, by the definition."""
    if not levels:
        return [x.flatten(1)]
    a, b, c, d = x[..., ::2, ::2], x[..., ::2, 1::2], x[..., 1::2, ::2], x[..., 1::2, 1::2]
    details = torch.stack([a - b + c - d, a + b - c - d, a - b - c + d]) / 2
    return [details.transpose(0, 1).flatten(1), *coefficients((a + b + c + d) / 2, levels - 1)]


def test_the_bands_have_the_energies_of_orthonormal_haar_coefficients():
    x = torch.randn(5, *SHAPE, generator=source(0), dtype=torch.float64)
    parts, wanted = bands(x, LEVELS), coefficients(x, LEVELS)
    torch.testing.assert_close(parts.sum(0), x)
    for part, coefficient in zip(parts, wanted, strict=True):
        torch.testing.assert_close(part.square().flatten(1).sum(1), coefficient.square().sum(1))
    assert band_sizes(SHAPE, LEVELS).tolist() == [c.shape[1] for c in wanted]


# --- energies -----------------------------------------------------------------------------------


def deviations(sampler, count, seed):
    """How far the energy of each band is from the forward one at each state, in standard errors."""
    x = sampler.prior((count, *SHAPE), generator=source(seed), dtype=torch.float64)
    found = []
    for s, x_s in sampler.trajectory(x, generator=source(seed + 1)):
        alpha, sigma = sampler.scale(s)
        energy = bands(x_s - alpha * MEAN, LEVELS).square().flatten(2).sum(2).mean(1)
        sizes = band_sizes(SHAPE, LEVELS)
        wanted = sizes * (alpha**2 * VARIANCES + sigma**2)
        # states that are looked at, calibration chains and data all have a sampling error
        found.append((energy / wanted - 1) / (3 * 2 / (sizes * count)).sqrt())
    return torch.stack(found)


@pytest.mark.parametrize(
    "name",
    ["ancestral", "ddim", "UniPCMultistepScheduler", "DPMSolverMultistepScheduler"],
)
def test_a_wrong_linear_denoiser_gets_the_exact_variance_of_each_band(name):
    count = 4000
    base = chain(name, denoiser_of(WRONG))
    sampler = apply_remedy(base, BandEnergy(), data(), num_data=count, seed=3)
    corrected, plain = (deviations(each, count, 5)[1:] for each in (sampler, base))
    assert float(corrected.abs().max()) < 3.5
    assert bool((plain[-1].abs() > 10).all())


def test_a_single_state_has_no_error_and_changes_nothing(recwarn):
    energies = torch.tensor([[3.0, 1.0]], dtype=torch.float64)
    assert measured_gains(energies, 2 * energies) == [1.0, 1.0]
    assert measured_gains(energies.expand(5, 2), 2 * energies) == [1.0, 1.0] and not recwarn.list


def test_a_weight_differs_from_1_by_chance_in_one_case_of_twenty():
    energies = (
        torch.randn(2, 100, 4000, 20, generator=source(0), dtype=torch.float64).square().sum(3)
    )
    gains = torch.tensor(measured_gains(*energies))
    share = float((gains != 1).double().mean())
    assert 0.04 < share < 0.065  # 4,000 bands; the 95 % interval is that of 100 samples


def test_a_clear_weight_is_the_root_of_the_ratio():
    energies = torch.randn(2, 5000, 3, 20, generator=source(0), dtype=torch.float64).square().sum(3)
    scale = torch.tensor([0.25, 1.0, 4.0], dtype=torch.float64)
    found = torch.tensor(measured_gains(scale * energies[0], energies[1]), dtype=torch.float64)
    torch.testing.assert_close(found, scale.sqrt(), rtol=0.02, atol=0)


@pytest.mark.parametrize("shape", [(5,), (1, 7, 7)])
def test_states_that_cannot_be_halved_have_one_band(shape):
    base = AncestralSampler(
        Denoiser(lambda x, t: 0.5 * x, LinearSchedule(40), "sample"), 5, clip=None
    )
    images = 0.8 * torch.randn(3000, *shape, generator=source(1))
    sampler = apply_remedy(base, BandEnergy(), images, num_data=2000)
    (how,) = sampler.describe()["remedies"]
    assert [len(weights) for weights in how["weights"]] == [1] * 5
    x = sampler.sample((3000, *shape), generator=source(2))
    assert float(x.square().mean()) == pytest.approx(0.64, rel=0.03)
    assert float(base.sample((3000, *shape)).square().mean()) < 0.5


def test_weights_belong_to_the_steps_that_they_were_measured_on():
    base = chain("ancestral", denoiser_of(WRONG))
    estimate = apply_remedy(base, BandEnergy(), data(50), num_data=50).estimate
    sampler = RemediedSampler(base.with_steps(5), BandEnergy(), estimate)
    with pytest.raises(InvalidInput, match="at time 32 are not measured"):
        sampler.sample((1, *SHAPE))


# --- the history of a solver --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("DDIMScheduler", "sample"),
        ("DPMSolverMultistepScheduler", "sample"),
        ("DEISMultistepScheduler", "epsilon"),
        ("UniPCMultistepScheduler", "sample"),
        ("PNDMScheduler", "epsilon"),
    ],
)
@pytest.mark.parametrize("place", [1, 2, 4])
def test_a_solver_continues_from_a_moved_state(name, kind, place):
    """With an output that does not depend on the state, each step multiplies a difference."""
    more = {"clip_sample": False} if name == "DDIMScheduler" else {}
    more |= {"skip_prk_steps": True} if name == "PNDMScheduler" else {}
    if name == "UniPCMultistepScheduler":
        more |= {"solver_order": 3}
    scheduler = getattr(diffusers, name)(40, **SCHEDULE, **more, prediction_type=kind)
    base = DiffusersSampler(
        lambda x, t: torch.sin(t.float()).view(-1, 1).expand_as(x), scheduler, 8
    )
    x = base.prior((4, 3), generator=source(0), dtype=torch.float64)
    state, change = State(base.grid[0], x), torch.randn(4, 3, generator=source(1)).double()
    for s in base.grid[1 : place + 1]:
        t, state = state.t, base.advance(state, s)
    ends = [state, moved(base, t, state, state.x + change)]
    start = base.scale(state.t)
    for s in base.grid[place + 1 : -1]:
        ends = [base.advance(end, s) for end in ends]
        part = 1 if kind == "sample" else 0  # of noise, or of signal
        factor = base.scale(s)[part] / start[part]
        torch.testing.assert_close(ends[1].x - ends[0].x, factor * change, rtol=1e-4, atol=1e-5)


def test_a_solver_whose_states_cannot_be_moved_is_refused():
    base = DiffusersSampler(lambda x, t: 0.1 * x, diffusers.SASolverScheduler(40), 5)
    with pytest.raises(InvalidInput, match="choose another solver"):
        apply_remedy(base, BandEnergy(), 2 * torch.randn(50, 1, 4, 4), num_data=50)
