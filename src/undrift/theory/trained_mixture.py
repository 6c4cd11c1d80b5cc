r"""The error budget of a trained network on data whose forward process is known exactly.

The data are a mixture of eight Gaussians in the plane (:mod:`undrift.diffusion.mixture`); a small
network is trained on them like any diffusion model. Its error budget is estimated by particles
(:mod:`undrift.theory.particles`); that the budget closes is a test of the theory on a model that
is not Gaussian.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from undrift.diffusion.denoiser import Denoiser
from undrift.diffusion.gaussian import AncestralSampler
from undrift.diffusion.mixture import ForwardProcess, GaussianMixture
from undrift.diffusion.schedule import CosineSchedule
from undrift.theory.particles import BudgetStep, particle_budget


class PlaneNetwork(nn.Module):
    """A small network over points of the plane.

    Arguments:
        num_steps: T, the number of steps of the chain.
        width: Width of its three hidden layers.
    """

    def __init__(self, num_steps: int, width: int = 128) -> None:
        super().__init__()
        self.num_steps = num_steps
        layers: list[nn.Module] = []
        for size in (2 + 8, width, width):
            layers += [nn.Linear(size, width), nn.SiLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(width, 2))

    def forward(self, x_t: Tensor, timestep: Tensor) -> Tensor:
        """The velocity at states with shape (B, 2) and steps, as diffusers counts them."""
        phase = math.pi * ((timestep + 1).to(x_t) / self.num_steps)[:, None]
        waves = phase * torch.tensor([0.5, 1.0, 2.0, 4.0]).to(x_t)
        return self.layers(torch.cat([x_t, waves.sin(), waves.cos()], 1))  # type: ignore[no-any-return]


def train_network(
    process: ForwardProcess,
    *,
    num_updates: int = 3000,
    batch_size: int = 512,
    generator: torch.Generator,
    advance: Callable[[int], None] = lambda count: None,
) -> Denoiser:
    """A denoiser trained by v-prediction on draws of the forward process.

    Arguments:
        process: Data in the plane, with their schedule.
        num_updates: Updates of the weights; the learning rate falls to 0 over them.
        batch_size: States in one update.
        generator: Source of the weights and of all draws.
        advance: Called after each update, for a progress bar.
    """
    schedule = process.schedule
    network = PlaneNetwork(schedule.num_steps)
    for parameter in network.parameters():
        bound = 1 / math.sqrt(parameter.shape[-1])
        nn.init.uniform_(parameter, -bound, bound, generator=generator)
    denoiser = Denoiser(network, schedule, "v_prediction")
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_updates)
    for _ in range(num_updates):
        x_0 = process.data.sample(batch_size, generator=generator).float()
        noise = torch.randn(x_0.shape, generator=generator)
        t = torch.randint(1, schedule.num_steps + 1, (batch_size,), generator=generator)
        alpha_t, sigma_t = schedule.alpha_sigma(t, x_0)
        x_t = alpha_t * x_0 + sigma_t * noise
        loss = (denoiser.output(x_t, t) - denoiser.target(x_0, noise, t)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        decay.step()
        advance(1)
    return denoiser


def trained_budget(
    *,
    num_steps: int = 30,
    num_updates: int = 3000,
    num_particles: int = 2000,
    seed: int = 0,
    advance: Callable[[int], None] = lambda count: None,
) -> list[BudgetStep]:
    """Train on eight Gaussians and estimate the error budget of the sampler, from T to step 2.

    The last step adds no noise, so its modular error does not exist.

    Arguments:
        num_steps: T.
        num_updates: Updates of the training.
        num_particles: Particles of each of the two runs of the chain.
        seed: Seed of the training and of the particles.
        advance: Called after each update, for a progress bar.
    """
    generator = torch.Generator().manual_seed(seed)
    process = ForwardProcess(GaussianMixture.ring(scale=0.15), CosineSchedule(num_steps))
    denoiser = train_network(process, num_updates=num_updates, generator=generator, advance=advance)
    sampler = AncestralSampler(denoiser, clip=None)
    return list(particle_budget(sampler, process, num_particles, generator=generator))
