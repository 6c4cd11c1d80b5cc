"""The growth of perturbations against the Jacobians of affine chains, and where it has none."""

import diffusers
import pytest
import torch
from torch import nn

from affine import AffineSampler, gaussian_chain, gaussian_data
from undrift import AncestralSampler, CosineSchedule, DDIMSampler, Denoiser, measure
from undrift.diffusion.sampler import State
from undrift.diffusion.scheduler import DiffusersSampler
from undrift.measurement.growth import Segment, chain_growth
from undrift.measurement.profile import ErrorProfile

TIMES = (20, 6, 2, 0)


class Affine(nn.Module):
    """A noise estimate that is affine in the state, with a symmetric or another matrix."""

    def __init__(self, matrix):
        super().__init__()
        self.matrix = nn.Parameter(matrix)

    def forward(self, x, timestep):
        return x @ self.matrix.T + 0.3


def a_matrix(size=4, *, symmetric=True):
    matrix = torch.randn(size, size, generator=torch.Generator().manual_seed(1))
    if not symmetric:
        return matrix / 3
    vectors = torch.linalg.qr(matrix).Q
    return vectors @ torch.diag(torch.tensor([-2.0, 0.8, 0.85, 0.9])) @ vectors.T


def samplers(matrix):
    network, schedule = Affine(matrix), CosineSchedule(20)
    unipc = diffusers.UniPCMultistepScheduler(100, thresholding=False)
    return {
        "ddim": DDIMSampler(Denoiser(network, schedule), clip=None),
        "ancestral": AncestralSampler(Denoiser(network, schedule), clip=None),
        "unipc": DiffusersSampler(network, unipc, 8),
    }


def jacobian(segment, size):
    """All columns, by finite differences of any size: the map is affine."""
    x = segment.state.x
    eye = torch.eye(size).to(x)
    base = segment.end(x).x.detach()
    with torch.no_grad():
        return torch.stack([(segment.end(x + e).x - base)[0] for e in eye], 1).double()


def test_growth_of_gaussian_chains_is_that_of_the_closed_form():
    """Gains of the steps multiply; the mean growth within its error, the largest within 3 %.

    The values differ by as little as 5 %, which eight iterations do not tell apart.
    """
    chain = gaussian_chain(variance="large", slope_error=-0.1)
    found = chain_growth(AffineSampler(chain), TIMES, (400, 2), seed=3)
    assert list(found) == list(TIMES[1:])
    for start, (stop, growth) in zip(TIMES, found.items(), strict=False):
        gain = torch.eye(2, dtype=torch.float64)
        for i in range(start - 1, stop - 1, -1):
            gain = chain.gain[i] @ gain
        values = torch.linalg.svdvals(gain)
        assert abs(growth.mean - float(values.square().mean().sqrt())) < 3.5 * growth.mean_se
        assert 0.97 < growth.max / float(values[0]) < 1.0001 and growth.step is None


@pytest.mark.parametrize("name", ["ddim", "ancestral", "unipc"])
def test_growth_of_every_sampler_is_that_of_its_jacobian(name):
    """With the history of UniPC as it is; its corrector starts from the state before."""
    sampler, precise = (samplers(matrix)[name] for matrix in (a_matrix(), a_matrix().double()))
    times = sampler.grid[::2]
    found = chain_growth(sampler, times, (300, 4), seed=0)
    state, generator = State(times[0], torch.zeros(1, 4).double()), torch.Generator()
    for s in times[1:]:
        assert found[s].step is None
        segment = Segment(precise, state, s, [generator.get_state()])
        values = torch.linalg.svdvals(jacobian(segment, 4))
        growth = found[s]
        assert abs(growth.mean - float(values.square().mean().sqrt())) < 3.5 * growth.mean_se
        assert 0.95 < growth.max / float(values[0]) < 1.0001
        state = segment.end(state.x, [generator]).detach()


def test_the_largest_growth_never_exceeds_the_largest_singular_value():
    sampler = samplers(a_matrix(symmetric=False))["ddim"]
    found = chain_growth(sampler, (20, 10), (50, 4), seed=0)[10]
    segment = Segment(sampler, State(20, torch.zeros(1, 4)), 10, [torch.Generator().get_state()])
    limit = float(torch.linalg.svdvals(jacobian(segment, 4))[0])
    assert found.mean < found.max <= limit * 1.0001


class Opaque(torch.autograd.Function):
    """A sine without a forward rule."""

    @staticmethod
    def forward(ctx, x):
        return x.sin()

    @staticmethod
    def backward(ctx, grad):
        raise NotImplementedError


@pytest.mark.parametrize("sine", [Opaque.apply, lambda x: x.detach().sin()])
def test_without_a_forward_rule_differences_give_the_same(sine):
    """A rule that is missing, and a derivative that is lost without any message."""
    exact, other = (
        chain_growth(
            DDIMSampler(Denoiser(lambda x, t, f=f: f(x), CosineSchedule(20), "sample"), clip=None),
            TIMES, (20, 3), seed=0,
        )
        for f in (torch.sin, sine)
    )  # fmt: skip
    for t in TIMES[1:]:
        assert exact[t].step is None and other[t].step == 1e-2
        assert other[t].mean == pytest.approx(exact[t].mean, rel=5e-3)
        assert other[t].max == pytest.approx(exact[t].max, rel=5e-3)


def test_a_profile_has_growth_when_asked_and_nothing_else_changes(tmp_path):
    data, chain = gaussian_data(300), gaussian_chain()
    options = {"num_samples": 100, "states": list(TIMES), "progress": False}
    profile = measure(AffineSampler(chain), data, growth=True, **options)
    plain = measure(AffineSampler(chain), data, **options)
    assert profile.states[0].growth is None and plain.final.growth is None
    assert [s.error for s in profile] == [s.error for s in plain]
    assert ErrorProfile.load(profile.save(tmp_path / "p.json")) == profile
    other = measure(AffineSampler(chain), data, growth=True, seed=1, **options)
    both, one, two = (p.final.growth for p in (profile.merge(other), profile, other))
    assert both.mean == pytest.approx((one.mean + two.mean) / 2)
    assert both.mean_se == pytest.approx((one.mean_se**2 + two.mean_se**2) ** 0.5 / 2)
