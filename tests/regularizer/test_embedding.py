"""A population as a moving mean embedding: its kernel, its null, its gradient, its memory."""

import pytest
import torch

from undrift.exceptions import InvalidInput
from undrift.mmd.kernels import EnergyKernel, LaplaceKernel, RBFMixture
from undrift.regularizer.embedding import draw_frequencies
from undrift.regularizer.population import Population

KERNELS = (RBFMixture(), LaplaceKernel())
IDS = [kernel.name for kernel in KERNELS]


def normal(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((*shape, 1), generator=generator, dtype=torch.float64)


def moving(size, kernel):
    return Population(size, kernel, "moving")


@pytest.mark.parametrize("kernel", KERNELS, ids=IDS)
def test_random_frequencies_approach_the_kernel_at_their_rate(kernel):
    x = normal(30, 4)[..., 0]
    kernel = kernel.fit(x)
    exact, errors = kernel(x, x), []
    for count in (300, 30_000):
        omega = draw_frequencies(kernel, x, count)
        approximate = torch.cos((x[:, None] - x[None]) @ omega).mean(-1)
        errors.append(float((approximate - exact).square().mean().sqrt()))
    assert errors[0] < 3 / 300**0.5
    assert 4 < errors[0] / errors[1] < 25  # 10 on average


@pytest.mark.parametrize("kernel", KERNELS, ids=IDS)
def test_equal_distributions_have_mean_zero_within_its_error(kernel):
    values, logged = [], []
    for seed in range(150):
        population, stream = moving(40, kernel), iter(range(5 * seed, 5 * seed + 5))
        population.renew([normal(60, 4, seed=next(stream))])
        for _ in range(3):  # draws that do not know the units that the first have fixed
            population.renew([normal(60, 4, seed=10_000 + next(stream))])
        population.compare([normal(20, 4, seed=20_000 + 2 * seed)])
        values.append(float(population.compare([normal(20, 4, seed=20_001 + 2 * seed)])))
        logged.append(population.discrepancy())
    for found in (torch.tensor(values), *torch.tensor(logged).T):
        assert abs(found.mean()) < 3 * found.std() / len(values) ** 0.5
        assert found.std() > 0


@pytest.mark.parametrize("kernel", KERNELS, ids=IDS)
def test_the_gradient_is_that_of_the_weighted_population(kernel):
    """All states that were ever seen are kept here, with the weights of the recursion."""
    x, y = 1.3 * normal(60, 3) + 0.2, normal(80, 3, seed=1)
    population = moving(30, kernel)
    population.renew([y])
    for old in x[:45].split(15):
        population.compare([old])
    batch = x[45:].clone().requires_grad_()
    value = population.compare([batch])
    (gradient,) = torch.autograd.grad(value, batch)

    (block,), omega = population.blocks, population.blocks[0].frequencies
    rows = block.units(x)
    weights = torch.tensor([0.25, 0.25, 0.5]).double().repeat_interleave(15) / 15  # N = 2 B

    def gram(a, b):
        return torch.cos((a[:, None] - b[None]) @ omega).mean(-1)

    v = rows[45:].clone().requires_grad_()
    own = gram(v, rows[45:]) * (1 - torch.eye(15))
    near = 0.5 * (gram(v, rows[:45]) * weights).sum(1) + 0.5 * own.sum(1) / 14
    expected = 2 * (near - gram(v, block.units(y)).mean(1)).mean()
    (theirs,) = torch.autograd.grad(expected, v)
    assert float(value.detach()) == pytest.approx(float(expected.detach()), rel=1e-9)
    assert torch.allclose((gradient * block.units.spread).flatten(1), theirs, rtol=1e-8)


def test_its_discrepancy_is_the_unbiased_estimate_of_the_weighted_population():
    x, y = normal(30, 2) + 0.5, normal(60, 2, seed=1)
    population = moving(30, RBFMixture())
    population.renew([y])
    for part in x.split(10):
        population.compare([part])
    (block,) = population.blocks
    a, b = block.units(x), block.units(y)

    def mean(p, q, same):
        gram = torch.cos((p[:, None] - q[None]) @ block.frequencies).mean(-1)
        gram = gram - torch.diag(gram.diagonal()) if same else gram
        return float(gram.sum()) / (len(p) * (len(q) - same))

    halves = [b[::2], b[1::2]]
    of_y = sum(mean(h, h, True) - 2 * mean(a, h, False) for h in halves) / 2
    value, null = population.discrepancy()
    assert value == pytest.approx(mean(a, a, True) + of_y, rel=1e-9)
    inner = sum(mean(h, h, True) for h in halves)
    assert null == pytest.approx(inner - 2 * mean(*halves, False), rel=1e-9)


def test_a_saved_average_goes_on_exactly_and_takes_the_memory_of_one_state():
    first, second = moving(8, RBFMixture()), moving(8, RBFMixture())
    first.renew([normal(10, 2)])
    first.compare([normal(4, 2, seed=1)])
    state = first.state_dict()
    second.load_state_dict(state)
    batch = [normal(4, 2, seed=2)]
    assert torch.equal(first.compare(batch), second.compare(batch))
    assert max(each["mean"].ndim for each in state["blocks"][0]["embeddings"]) == 1


def test_a_kernel_that_is_no_mean_over_frequencies_is_refused():
    with pytest.raises(InvalidInput, match="needs the kernel rbf or laplace, not energy"):
        moving(8, EnergyKernel()).renew([normal(10, 2)])
