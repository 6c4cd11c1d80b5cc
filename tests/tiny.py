"""Chains small enough to compute everything about them again by hand."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from undrift.diffusion.denoiser import Denoiser
from undrift.diffusion.gaussian import AncestralSampler, DDIMSampler
from undrift.diffusion.schedule import LinearSchedule, Schedule
from undrift.regularizer.bootstrap import chain_noise


def noise_source(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class TinyNetwork(nn.Module):
    """A few weights that all matter; counts its calls and those that keep a graph."""

    def __init__(self, dim: int = 3, seed: int = 0) -> None:
        super().__init__()
        generator = noise_source(seed)
        self.inner = nn.Parameter(0.5 * torch.randn(dim + 1, 8, generator=generator))
        self.outer = nn.Parameter(0.5 * torch.randn(8, dim, generator=generator))
        self.timesteps: list[int] = []
        self.with_graph = 0

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        self.timesteps.append(int(timestep[0]))
        self.with_graph += torch.is_grad_enabled()
        t = timestep.to(x)[:, None] / 100
        return torch.tanh(torch.cat([x, t], 1) @ self.inner) @ self.outer


def tiny_sampler(network: nn.Module, modules: int = 10, **options: float) -> DDIMSampler:
    """A chain without noise of its own, over a network that predicts the data."""
    denoiser = Denoiser(network, LinearSchedule(100), "sample")
    return DDIMSampler(denoiser, modules, clip=None, **options)


def exact_sampler(modules: int = 10) -> AncestralSampler:
    """A chain whose every state is standard normal, as its data are: it has no error at all."""
    schedule = LinearSchedule(1000)

    def posterior_mean(x: Tensor, timestep: Tensor) -> Tensor:
        return schedule.alpha(int(timestep[0]) + 1) * x

    denoiser = Denoiser(posterior_mean, schedule, "sample")
    return AncestralSampler(denoiser, modules, variance_type="fixed_large", clip=None)


def shrinking_sampler(factor: float, schedule: Schedule, modules: int) -> AncestralSampler:
    """The same, but for a denoiser that shrinks its estimate: all states stay normal."""

    def shrunk(x: Tensor, timestep: Tensor) -> Tensor:
        return factor * schedule.alpha(int(timestep[0]) + 1) * x

    denoiser = Denoiser(shrunk, schedule, "sample")
    return AncestralSampler(denoiser, modules, variance_type="fixed_large", clip=None)


def life_of_a_cohort(sampler, streams, first, shape):
    """Positions and states of a cohort in a window that begins at a position, call by call."""
    state = None
    for position in range(first + 1, len(sampler.grid)):
        noise = chain_noise(streams, shape[0])
        if state is None:
            x = sampler.prior(shape, generator=noise)
            *_, state = sampler.trajectory(x, stop=sampler.grid[first], generator=noise)
        state = sampler.advance(state, sampler.grid[position], generator=noise)
        yield position, state.x
