"""Restart: exact for Gaussian data, and honest about its network calls."""

import diffusers
import pytest
import torch

from undrift.diffusion.denoiser import Denoiser
from undrift.diffusion.gaussian import DDIMSampler
from undrift.diffusion.sampler import State
from undrift.diffusion.schedule import LinearSchedule
from undrift.diffusion.scheduler import DiffusersSampler
from undrift.exceptions import InvalidInput
from undrift.remedies.registry import apply_remedy
from undrift.remedies.restart import Restart, noisier

SCHEDULE, SPREAD, STEPS = LinearSchedule(1000), 0.4, 250
TABLE = SCHEDULE.alphas_cumprod[1:]


def ideal(x_t, timestep):
    """The ideal noise estimate of data N(0, SPREAD)."""
    abar = TABLE[timestep.long()[0]].to(x_t)
    return (1 - abar).sqrt() / (abar * SPREAD + 1 - abar) * x_t


def forward_variance(sampler, t):
    alpha, sigma = sampler.scale(t)
    return alpha**2 * SPREAD + sigma**2


def fine_chain():
    """Deterministic, and with so many steps nearly without error."""
    return DDIMSampler(Denoiser(ideal, SCHEDULE), STEPS, clip=None)


def source(seed):
    return torch.Generator().manual_seed(seed)


def test_the_forward_process_goes_on_from_its_own_marginal():
    chain, count = fine_chain(), 200000
    low, high = chain.grid[-40], chain.grid[-120]
    x = torch.randn(count, generator=source(0)).double() * forward_variance(chain, low) ** 0.5
    again = noisier(chain, State(low, x, {"solver": 1}), high, source(1))
    assert again.t == high and again.history is None
    variance = forward_variance(chain, high)
    assert abs(float(again.x.var()) - variance) < 3 * variance * (2 / count) ** 0.5
    # the signal shrinks by the ratio of the alphas
    slope = float((again.x * x).mean() / x.square().mean())
    ratio = chain.scale(high)[0] / chain.scale(low)[0]
    assert slope == pytest.approx(ratio, abs=0.01)


def test_a_chain_without_error_keeps_its_marginal():
    sampler = apply_remedy(fine_chain(), Restart(4, low=30, length=60))
    x = sampler.sample((20000,), generator=source(0))
    assert float(x.var()) == pytest.approx(SPREAD, rel=3 * (2 / 20000) ** 0.5 + 0.005)


@pytest.mark.parametrize("restarts", [0, 1, 3])
def test_an_error_of_the_mean_shrinks_by_the_factor_of_the_theory(restarts):
    chain, count = fine_chain(), 20000
    sampler = apply_remedy(chain, Restart(restarts, low=30, length=60))
    high, low = sampler.remedy._times(chain)[0], sampler.remedy._times(chain)[-1]
    before, variance = chain.grid[chain.grid.index(low) - 1], forward_variance
    x = 1 + torch.randn(count, generator=source(0)).double() * variance(chain, before) ** 0.5
    after = sampler.advance(State(before, x), low, generator=source(1))
    # the flow scales by the ratio of standard deviations, the forward process by that of alphas
    flow = lambda t, s: (variance(chain, s) / variance(chain, t)) ** 0.5  # noqa: E731
    factor = chain.scale(high)[0] / chain.scale(low)[0] * flow(high, low)
    error = (variance(chain, low) / count) ** 0.5 + 0.003
    assert abs(float(after.x.mean()) - flow(before, low) * factor**restarts) < 3 * error
    assert factor < 0.8


@pytest.mark.parametrize("name", ["UniPCMultistepScheduler", "HeunDiscreteScheduler"])
def test_the_steps_that_are_taken_again_call_the_network(name):
    calls = []

    def network(x_t, timestep):
        calls.append(float(timestep[0]))
        return ideal(x_t, timestep)

    base = DiffusersSampler(network, getattr(diffusers, name)(1000), 6)
    base.sample((2, 1, 4, 4), generator=source(0))
    without = list(calls)
    calls.clear()
    x = apply_remedy(base, Restart(2, low=1, length=2)).sample((2, 1, 4, 4), generator=source(0))
    each = 4 if name.startswith("Heun") else 2
    assert len(calls) == len(without) + 2 * each
    again = calls[len(without) - 1 : len(without) - 1 + each]  # all but the last step came first
    assert calls[len(without) - 1 + each :][:each] == again == without[-1 - each : -1]
    assert bool(x.isfinite().all())


def test_a_chain_that_is_too_short_is_refused():
    with pytest.raises(InvalidInput, match="2 steps again with 1 left, of a chain of 2 steps"):
        apply_remedy(DDIMSampler(Denoiser(ideal, SCHEDULE), 2), "restart")
