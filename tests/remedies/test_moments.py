"""The moment map: what it does to moments, and that it is the optimal transport of Gaussians."""

import diffusers
import pytest
import torch

from oracle import affine_sampler
from undrift.diffusion.schedule import CosineSchedule
from undrift.diffusion.scheduler import DiffusersSampler
from undrift.exceptions import InvalidInput
from undrift.remedies.moments import Moments, moment_map
from undrift.remedies.registry import apply_remedy
from undrift.theory.gaussian_chain import GaussianChain

MEAN = torch.tensor([0.3, -0.2, 0.1], dtype=torch.float64)
FACTOR = torch.tensor([[1.0, 0, 0], [0.6, 0.5, 0], [-0.2, 0.1, 0.3]], dtype=torch.float64)
COV = FACTOR @ FACTOR.mT


def source(seed):
    return torch.Generator().manual_seed(seed)


def gaussian(count, seed, factor=FACTOR, mean=MEAN):
    noise = torch.randn(count, 3, generator=source(seed), dtype=torch.float64)
    return mean + noise @ factor.mT


def standard_errors(count):
    """Of the entries of a sample covariance of data with covariance COV."""
    variances = COV.diagonal()
    return ((variances[:, None] * variances + COV**2) / count).sqrt()


def wrong_chain():
    schedule = CosineSchedule(20)
    chain = GaussianChain.from_schedule(MEAN, COV, schedule, slope_error=-0.1, offset_error=0.2)
    return affine_sampler(chain, schedule)


def test_samples_of_a_wrong_chain_get_the_moments_of_the_data():
    base, data, count = wrong_chain(), gaussian(20000, 1), 20000
    sampler = apply_remedy(base, Moments(), data, num_data=20000)
    found, wrong = (
        each.sample((count, 3), generator=source(2), dtype=torch.float64)
        for each in (sampler, base)
    )
    # three samples err: the data, those of the estimate, those that are looked at
    errors = standard_errors(count) * 3**0.5
    assert float(((found.mT.cov() - COV) / errors).abs().max()) < 4
    assert float(((found.mean(0) - MEAN) / (3 * COV.diagonal() / count).sqrt()).abs().max()) < 4
    assert float(((wrong.mT.cov() - COV) / errors).abs().max()) > 8


def test_the_map_is_the_optimal_transport_between_two_gaussians():
    other = torch.tensor([[0.5, 0, 0], [0, 2.0, 0], [0.3, 0, 1.0]], dtype=torch.float64)
    x, y = gaussian(3000, 1, other, 2 * MEAN), gaussian(3000, 2)
    eye = torch.eye(3, dtype=torch.float64)
    moves = moment_map(x, y)
    columns = moves.span.mT @ (moves.change + eye) @ moves.span
    torch.testing.assert_close(columns, columns.mT)  # a gradient of a convex function
    assert float(torch.linalg.eigvalsh(columns).min()) > 0
    torch.testing.assert_close(columns @ x.mT.cov() @ columns, y.mT.cov(), rtol=1e-3, atol=1e-3)
    cost = (moves(x) - x).square().sum(1).mean()
    cross = torch.linalg.matrix_norm(_root(x.mT.cov()) @ _root(y.mT.cov()), "nuc")
    bures = x.mT.cov().trace() + y.mT.cov().trace() - 2 * cross
    assert float(cost) == pytest.approx(
        float(bures + (x.mean(0) - y.mean(0)).square().sum()), rel=0.01
    )


def _root(cov):
    values, axes = torch.linalg.eigh(cov)
    return axes * values.sqrt() @ axes.mT


def test_data_are_mapped_onto_themselves():
    data = gaussian(500, 1)
    torch.testing.assert_close(moment_map(data, data)(data), data)


def test_outside_of_the_components_only_the_mean_moves():
    y = torch.randn(2000, 4, generator=source(1), dtype=torch.float64) * torch.arange(4.0, 0, -1)
    x = 0.5 * y[torch.randperm(2000, generator=source(2))] + 1
    moved = moment_map(x, y, components=2)(x)
    variances = moved.var(0) / y.var(0)
    torch.testing.assert_close(
        variances, torch.tensor([1, 1, 0.25, 0.25]).double(), rtol=0.02, atol=0
    )
    torch.testing.assert_close(moved.mean(0), y.mean(0), rtol=0, atol=0.03)
    assert len(moment_map(x[:25], y).span) == 2


@pytest.mark.parametrize("side", ["samples", "data"])
def test_a_pixel_that_never_changes_makes_nothing_explode(side):
    x, y = gaussian(500, 1), gaussian(500, 2)
    (x if side == "samples" else y)[:, 1] = 0.7
    moves = moment_map(x, y)
    fresh = gaussian(500, 3)
    assert bool((moves(fresh).abs() <= y.abs().max()).all())
    assert float(moves.change.abs().max()) < 150  # sqrt of 1 / RIDGE, and some
    if side == "data":
        assert float((moves(fresh)[:, 1] - 0.7).abs().max()) < 0.1


def test_a_multistep_solver_is_mapped_after_its_last_step_only():
    def network(x_t, timestep):
        return torch.tanh(x_t)

    base = DiffusersSampler(network, diffusers.UniPCMultistepScheduler(100), 6)
    data = torch.rand(300, 1, 4, 4, generator=source(1)) * 2 - 1
    sampler = apply_remedy(base, Moments(0.5), data)
    x = base.prior((5, 1, 4, 4), generator=source(2))
    plain, mapped = ([state.x for state in each.trajectory(x)] for each in (base, sampler))
    for a, b in zip(plain[:-1], mapped[:-1], strict=True):
        assert torch.equal(a, b)
    wanted = (plain[-1] + sampler.estimate(plain[-1])) / 2
    torch.testing.assert_close(mapped[-1], wanted)


def test_a_map_without_data_is_refused_when_it_is_needed():
    with pytest.raises(InvalidInput, match="moments is estimated from data"):
        apply_remedy(wrong_chain(), "moments")
