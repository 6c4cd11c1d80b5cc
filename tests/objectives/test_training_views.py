"""Networks under every kind of scheduler as denoisers to train: the exact one is the optimum."""

import diffusers
import pytest
import torch
from torch import nn

from undrift.diffusion.condition import ConditionalNetwork
from undrift.diffusion.denoiser import Denoiser
from undrift.diffusion.gaussian import DDIMSampler
from undrift.diffusion.scheduler import DiffusersSampler
from undrift.exceptions import InvalidInput
from undrift.objectives.objective import Plain, trained_denoiser

MEAN, SPREAD = 0.3, 0.25
SCHEDULERS = {
    "betas, DPM++": diffusers.DPMSolverMultistepScheduler(),
    "betas, Euler": diffusers.EulerDiscreteScheduler(),
    "betas, v": diffusers.UniPCMultistepScheduler(prediction_type="v_prediction"),
    "zero SNR": diffusers.DDIMScheduler(
        prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing"
    ),
    "learned variance": diffusers.DDPMScheduler(variance_type="learned_range"),
    "flow": diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
    "flow, DPM++": diffusers.DPMSolverMultistepScheduler(
        use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=2.0
    ),
    "EDM": diffusers.EDMEulerScheduler(),
    "continuous": diffusers.EulerDiscreteScheduler(
        timestep_type="continuous", prediction_type="v_prediction"
    ),
}


def noise_source(seed=0):
    return torch.Generator().manual_seed(seed)


class Exact(nn.Module):
    """The exact network of N(0.3, 0.25²) in the terms of a scheduler, plus errors to be learned."""

    def __init__(self, kind, scheduler):
        super().__init__()
        self.kind, self.scheduler = kind, scheduler
        self.shift, self.slope = nn.Parameter(torch.zeros(())), nn.Parameter(torch.ones(()))

    def level(self, timestep):
        """The noise level sigma/alpha of a timestep."""
        if self.kind.startswith("flow"):
            return (timestep / 1000) / (1 - timestep / 1000)
        if self.kind in ("EDM", "continuous"):
            return (4 * timestep).exp()
        table = self.scheduler.alphas_cumprod.double()
        return (1 / table - 1).sqrt()[timestep.long()]

    def forward(self, x, timestep):
        level = self.level(timestep.double()).view(-1, *[1] * (x.ndim - 1))
        alpha = 1 / (1 + level**2).sqrt()
        sigma = torch.where(level.isinf(), 1.0, alpha * level)
        state = x.double()
        if self.kind.startswith("flow"):
            state = state * (alpha + sigma)
        if self.kind == "EDM":
            norm = (level**2 + 0.25).sqrt()
            state = state * norm * alpha
        x_0 = MEAN + alpha * SPREAD**2 / (alpha**2 * SPREAD**2 + sigma**2) * (state - alpha * MEAN)
        epsilon = (state - alpha * x_0) / sigma
        predicts = DiffusersSampler.predicted_under(self.scheduler)
        if self.kind == "EDM":
            out = (x_0 - (0.5 / norm) ** 2 * state / alpha) * norm / (level * 0.5)
        elif predicts == "flow_prediction":
            out = epsilon - x_0
        else:
            out = epsilon if predicts == "epsilon" else alpha * epsilon - sigma * x_0
        out = (self.slope * out + self.shift).to(x)
        if self.kind == "learned variance":  # its second half of channels, which is not trained
            return torch.cat([out, 5 * out + self.shift], 1)
        return out


def batch(count=4000):
    return MEAN + SPREAD * torch.randn(count, 1, 2, 1, generator=noise_source(3))


@pytest.mark.parametrize("kind", SCHEDULERS)
def test_the_exact_network_of_each_kind_minimizes_its_loss(kind):
    """The gradient is 0 within its noise there, and leads back after an error."""
    network = Exact(kind, SCHEDULERS[kind])
    objective = Plain(DiffusersSampler(network, SCHEDULERS[kind], 20))
    parameters = [network.shift, network.slope]
    gradients = []
    for seed in range(8):
        loss = objective(network, batch(), generator=noise_source(seed))
        gradients.append(torch.stack(torch.autograd.grad(loss, parameters)))
    mean, error = torch.stack(gradients).mean(0), torch.stack(gradients).std(0) / 8**0.5
    assert bool((mean.abs() < 5 * error + 1e-4).all())
    for i, change in enumerate((0.3, -0.6)):
        parameters[i].data += change
        loss = objective(network, batch(), generator=noise_source(1))
        moved = torch.autograd.grad(loss, parameters)[i]
        assert float(moved) * change > 8 * float(error[i]) * abs(change)
        parameters[i].data -= change


@pytest.mark.parametrize("kind", ["flow", "EDM", "continuous"])
def test_a_network_of_another_family_runs_on_our_own_chain(kind):
    """The exact one of each has samples with the mean and the spread of its data."""
    network = Exact(kind, SCHEDULERS[kind])
    denoiser = trained_denoiser(DiffusersSampler(network, SCHEDULERS[kind], 20))
    x = DDIMSampler(denoiser, 100, clip=None).sample((4000, 1), generator=noise_source())
    assert abs(float(x.mean()) - MEAN) < 0.02 and abs(float(x.std()) - SPREAD) < 0.02


def test_the_loss_of_edm_is_that_of_its_raw_network():
    """Weighted as published: the mean square of F less its target."""
    network = Exact("EDM", SCHEDULERS["EDM"])
    network.shift.data += 0.2
    denoiser = trained_denoiser(DiffusersSampler(network, SCHEDULERS["EDM"], 20))
    x_0, noise, t = batch(64), torch.randn(64, 1, 2, 1, generator=noise_source(1)), 400
    rows = torch.full((64,), t)
    loss = Plain(denoiser)(denoiser, x_0, t=rows, epsilon=noise)
    sigma = denoiser.schedule.sigma(t) / denoiser.schedule.alpha(t)
    x, norm = x_0 + sigma * noise, (sigma**2 + 0.25) ** 0.5
    raw = network(x / norm, torch.full((64,), sigma).log() / 4)
    target = (x_0 - (0.5 / norm) ** 2 * x) * norm / (sigma * 0.5)
    torch.testing.assert_close(loss, (raw - target).square().mean(), rtol=1e-4, atol=1e-5)


def test_rows_are_trained_under_their_own_conditions():
    class OfClass(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Parameter(torch.zeros(3))

        def forward(self, x, timestep, class_labels):
            return self.table[class_labels].view(-1, 1, 1, 1).expand_as(x)

    network = ConditionalNetwork(OfClass(), {"class_labels": torch.arange(3)})
    denoiser = Denoiser(network, trained_denoiser_schedule(), "sample")
    labels = torch.tensor([0, 2, 2, 0])
    x_0 = torch.tensor([1.0, -1.0, -1.0, 1.0]).view(-1, 1, 1, 1)
    loss = Plain(denoiser)(network.given(labels), x_0)
    (gradient,) = torch.autograd.grad(loss, [network.network.table])
    torch.testing.assert_close(gradient, torch.tensor([-1.0, 0.0, 1.0]))


def trained_denoiser_schedule():
    from undrift.diffusion.schedule import CosineSchedule

    return CosineSchedule(10)


@pytest.mark.parametrize("kind", ["LCM", "TCD", "CMStochasticIterative"])
def test_distilled_networks_are_not_trained_by_denoising(kind):
    sampler = DiffusersSampler(lambda x, t: x, getattr(diffusers, f"{kind}Scheduler")(), 4)
    with pytest.raises(InvalidInput, match="was distilled: a denoising loss would undo that"):
        Plain(sampler)
