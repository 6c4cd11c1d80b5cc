"""The gradient through the last K steps of a chain, where it is known in closed form."""

import math

import pytest
import torch
from diffusers import UniPCMultistepScheduler

from tiny import TinyNetwork, noise_source, tiny_sampler
from undrift.diffusion.scheduler import DiffusersSampler
from undrift.exceptions import InvalidInput
from undrift.regularizer.bootstrap import rollout_streams
from undrift.regularizer.cohorts import PersistentCohorts
from undrift.regularizer.cumulative import CumulativeErrorRegularizer

STEPS = 6


class Slope(torch.nn.Module):
    """The affine denoiser: one number times the state."""

    def __init__(self):
        super().__init__()
        self.slope = torch.nn.Parameter(torch.tensor(0.7, dtype=torch.float64))
        self.with_graph = 0

    def forward(self, x, timestep):
        self.with_graph += torch.is_grad_enabled()
        return self.slope * x


def factors(sampler, slope):
    """g of each step x_s = g x_t of DDIM, and its derivative by the slope."""
    found = []
    for t, s in zip(sampler.grid, sampler.grid[1:], strict=False):
        (alpha_t, sigma_t), (alpha_s, sigma_s) = sampler.scale(t), sampler.scale(s) if s else (1, 0)
        change = alpha_s - sigma_s * alpha_t / sigma_t
        found.append((sigma_s / sigma_t + change * slope, change))
    return found


@pytest.mark.parametrize("steps", [1, 2, 4, STEPS, 100])
@pytest.mark.parametrize("window", [0.34, 1.0])
def test_an_affine_chain_has_the_gradient_of_its_last_steps(steps, window):
    network = Slope()
    sampler = tiny_sampler(network, STEPS)
    cohorts = PersistentCohorts(1, window, stride=2, gradient_steps=steps)
    streams, starts = rollout_streams(3), torch.zeros(5, 3, dtype=torch.float64)
    for _ in range(2 * STEPS):  # over several lives of the cohort
        network.with_graph = 0
        x, position = cohorts(sampler, starts, 5, streams)
        made = factors(sampler, float(network.slope.detach()))[:position][-steps:]
        (gradient,) = torch.autograd.grad(x.sum(), network.slope)
        expected = float(x.detach().sum()) * sum(change / g for g, change in made)
        assert float(gradient) == pytest.approx(expected, rel=1e-9)
        assert network.with_graph == min(steps, position)
        assert len(cohorts.paths[0]) == min(steps, position + 1)


def test_a_solver_with_history_is_followed_through_all_of_its_steps():
    """The gradient of a whole UniPC chain is that of the chain from its noise."""
    network = TinyNetwork().double()
    scheduler = UniPCMultistepScheduler(100, prediction_type="sample")
    sampler = DiffusersSampler(network, scheduler, STEPS)
    cohorts = PersistentCohorts(1, 0.34, gradient_steps=STEPS)
    streams, starts = rollout_streams(3), torch.zeros(5, 3, dtype=torch.float64)
    while True:
        x, position = cohorts(sampler, starts, 5, streams)
        if position == STEPS:
            break
    prior = cohorts.paths[0][0]  # of six states, the first step's result is the oldest
    cohorts(sampler, starts, 5, streams)
    whole = cohorts.paths[0][0]
    assert whole.t == sampler.grid[0] and prior.t == sampler.grid[1]
    for state in sampler.trajectory(whole.x):
        end = state.x
        if state.t == cohorts.paths[0][-1].t:
            break
    assert torch.allclose(end, cohorts.paths[0][-1].x)
    x, _ = cohorts(sampler, starts, 5, streams)
    for state in sampler.trajectory(whole.x):
        end = state.x
    ours, theirs = (
        torch.cat([g.flatten() for g in torch.autograd.grad(y.sum(), [*network.parameters()])])
        for y in (x, end)
    )
    assert torch.allclose(ours, theirs, rtol=1e-8)


def test_a_saved_run_goes_on_exactly_and_keeps_what_it_says():
    network, data = TinyNetwork(), torch.randn(40, 3, generator=noise_source(1))

    def make():
        return CumulativeErrorRegularizer(
            tiny_sampler(network, STEPS),
            strength=1.0,
            every=1,
            num_states=4,
            num_cohorts=2,
            window=0.5,
            gradient_steps=3,
        )

    first, second = make(), make()
    for _ in range(5):
        first(network, data)
    second.load_state_dict(first.state_dict())
    assert float(first(network, data)) == float(second(network, data))
    num_states, num_forward = first.sizes(40)
    assert first.held(40) == num_states + num_forward + 2 * 3 * num_states
    assert math.isfinite(float(first(network, data)))
    with pytest.raises(InvalidInput, match="gradient_steps of the regularizer is 0"):
        CumulativeErrorRegularizer(tiny_sampler(network, STEPS), gradient_steps=0)
