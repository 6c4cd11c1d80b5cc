"""Losses of finished samples against explicit chains, plain formulas and their null."""

import pytest
import torch

from tiny import TinyNetwork, exact_sampler, noise_source, tiny_sampler
from undrift.diffusion.sampler import chain_generators, draw_noise
from undrift.exceptions import InvalidInput
from undrift.objectives.fd_loss import FrechetLoss, Moments, frechet_loss
from undrift.objectives.mmd_ddm import KernelDistanceLoss
from undrift.quality.frechet import gaussian_distance
from undrift.regularizer.spaces import Space


class Curved(Space):
    """Two blocks of features of a state with three numbers."""

    def __call__(self, x_t, t):
        return [x_t[:, None], torch.cat([x_t.square(), x_t.sin()], 1)[..., None]]


def draws(*shape, seed=0):
    return torch.randn(*shape, generator=noise_source(seed), dtype=torch.float64)


def explicit_chain(network, sampler, x):
    """DDIM by its formula."""
    for t, s in zip(sampler.grid, sampler.grid[1:], strict=False):
        (alpha_t, sigma_t), (alpha_s, sigma_s) = sampler.scale(t), sampler.scale(s) if s else (1, 0)
        x0_hat = network(x, torch.full((len(x),), t - 1))
        x = alpha_s * x0_hat + sigma_s * (x - alpha_t * x0_hat) / sigma_t
    return x


def prior_of(objective, shape):
    """The noise that the next call starts from."""
    state = objective.streams["own"].get_state()
    seed = int(torch.randint(2**62, (), generator=objective.streams["own"]))
    objective.streams["own"].set_state(state)
    like = torch.empty(shape, dtype=torch.float64)
    return draw_noise(like, chain_generators(seed, slice(0, len(like))))


def gradients(loss, network):
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, [*network.parameters()])])


def test_mmd_ddm_is_the_unbiased_cubic_distance_through_the_whole_chain():
    network = TinyNetwork().double()
    objective = KernelDistanceLoss(tiny_sampler(network, 4), space=Curved(), seed=3)
    first, data = draws(30, 3, seed=1), draws(9, 3, seed=2)
    objective(network, first)  # fixes the units
    x = explicit_chain(network, objective.sampler, prior_of(objective, (9, 3)))
    expected = 0.0
    for block in range(2):
        of_first, of_data, of_x = (Curved()(rows, 0)[block].flatten(1) for rows in (first, data, x))
        unit = of_first.std(0) if block else of_first.var(0).mean().sqrt()
        a, b = ((rows - of_first.mean(0)) / unit for rows in (of_x, of_data))
        cubes = [[(torch.dot(u, v) / a.shape[1] + 1) ** 3 for v in [*a, *b]] for u in [*a, *b]]
        for i, j in ((i, j) for i in range(18) for j in range(18) if i != j):
            same = (i < 9) == (j < 9)
            expected = expected + cubes[i][j] / (9 * 8 if same else -9 * 9) / 2
    network.with_graph = 0
    loss = objective(network, data)
    assert network.with_graph == 4
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-9)
    ours, theirs = gradients(loss, network), gradients(expected, network)
    assert torch.allclose(ours, theirs, rtol=1e-8, atol=1e-12) and float(theirs.norm()) > 1e-3


def test_mmd_ddm_is_zero_on_average_where_the_samples_are_data():
    sampler = exact_sampler(5)
    objective = KernelDistanceLoss(sampler)
    values = [float(objective(sampler.network, draws(40, 3, seed=s).float())) for s in range(150)]
    values = torch.tensor(values[1:])  # the first batch has fixed the units
    assert abs(values.mean()) < 3 * values.std() / len(values) ** 0.5
    assert values.std() > 0


def plain_frechet(x, y):
    """The Fréchet distance of two samples by its formula, with population moments."""

    def moments(rows):
        centered = rows - rows.mean(0)
        return rows.mean(0), centered.T @ centered / len(rows)

    (mean_x, cov_x), (mean_y, cov_y) = moments(x), moments(y)
    cross = torch.linalg.eigvals(cov_x @ cov_y).real.clamp(min=0).sqrt().sum()
    return (mean_x - mean_y).square().sum() + cov_x.trace() + cov_y.trace() - 2 * cross


def test_the_frechet_loss_is_the_distance_and_its_gradient_by_finite_differences():
    x, y = 1.5 * draws(40, 3) + 0.3, draws(50, 3, seed=1)
    own, data = Moments.of(x), Moments.of(y)
    value = frechet_loss(own, data)
    of_quality = gaussian_distance(own.first, own.covariance, data.first, data.covariance)
    assert float(value) == pytest.approx(of_quality, rel=1e-9)
    assert float(value) == pytest.approx(float(plain_frechet(x, y)), rel=1e-9)
    few = x[:6].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda rows: frechet_loss(Moments.of(rows), data), few)
    degenerate = Moments.of(torch.cat([y, y[:, :1]], 1))  # a feature that depends on another
    also = torch.cat([x, x[:, :1]], 1).requires_grad_()
    (gradient,) = torch.autograd.grad(frechet_loss(Moments.of(also), degenerate), also)
    assert bool(gradient.isfinite().all())


def test_a_queue_gets_the_gradient_of_the_whole_queue_through_the_batch():
    network, data = TinyNetwork().double(), draws(60, 3, seed=1)
    objective = FrechetLoss(tiny_sampler(network, 3), data, queue=24, seed=5)
    for _ in range(2):
        objective(network, data[:8])
    x = explicit_chain(network, objective.sampler, prior_of(objective, (8, 3)))
    whole = torch.cat([objective.rows[0][8:], x])
    assert len(whole) == 24
    expected = plain_frechet(whole, data)
    loss = objective(network, data[:8])
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-9)
    assert torch.allclose(gradients(loss, network), gradients(expected, network), rtol=1e-6)
    assert torch.allclose(objective.rows[0], whole.detach(), rtol=1e-10)


def test_moving_moments_follow_their_recursion_and_the_gradient_the_batch():
    network, data = TinyNetwork().double(), draws(60, 3, seed=1)
    objective = FrechetLoss(tiny_sampler(network, 3), data, decay=0.9, seed=5)
    objective(network, data[:8])
    (before,) = objective.moments
    x = explicit_chain(network, objective.sampler, prior_of(objective, (8, 3)))
    mean = 0.9 * before.first + 0.1 * x.mean(0)
    second = 0.9 * before.second + 0.1 * (x[:, :, None] * x[:, None]).mean(0)
    covariance, centered = second - torch.outer(mean, mean), data - data.mean(0)
    of_data = centered.T @ centered / len(data)
    cross = torch.linalg.eigvals(covariance @ of_data).real.sqrt().sum()
    gap = (mean - data.mean(0)).square().sum()
    expected = gap + covariance.trace() + of_data.trace() - 2 * cross
    loss = objective(network, data[:8])
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-9)
    assert torch.allclose(gradients(loss, network), gradients(expected, network), rtol=1e-6)
    assert torch.allclose(objective.moments[0].first, mean.detach())


def test_several_blocks_are_each_divided_by_their_own_value():
    network, data = TinyNetwork().double(), draws(60, 3, seed=1)
    sampler = tiny_sampler(network, 3)
    both = FrechetLoss(sampler, data, queue=32, space=Curved(), seed=5)
    loss = both(network, data[:8])
    assert float(loss.detach()) == pytest.approx(2)
    expected = 0.0
    for block in range(2):
        one = FrechetLoss(sampler, data, queue=32, space=OneBlock(block), seed=5)
        value = one(network, data[:8])
        expected = expected + gradients(value, network) / float(value.detach())
    assert torch.allclose(gradients(loss, network), expected, rtol=1e-6, atol=1e-12)


class OneBlock(Curved):
    """One of the blocks alone."""

    def __init__(self, block):
        self.block = block

    def __call__(self, x_t, t):
        return super().__call__(x_t, t)[self.block : self.block + 1]


@pytest.mark.parametrize(
    "make", [KernelDistanceLoss, lambda s, **o: FrechetLoss(s, draws(9, 3), **o)]
)
def test_samples_that_are_not_finite_are_one_line(make):
    network = TinyNetwork().double()
    with torch.no_grad():
        network.outer.fill_(float("nan"))
    with pytest.raises(InvalidInput, match="NaN or infinity: lower the learning rate"):
        make(tiny_sampler(network, 3))(network, draws(8, 3))
