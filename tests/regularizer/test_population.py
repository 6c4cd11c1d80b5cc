"""The population that a batch is compared as a part of: its gradient, its null, its memory."""

import io
from weakref import WeakSet

import pytest
import torch

from undrift.exceptions import InvalidInput
from undrift.mmd.estimate import mmd_sq
from undrift.mmd.kernels import EnergyKernel, LaplaceKernel, PolynomialKernel, RBFMixture
from undrift.regularizer.population import TILE, Population

KERNELS = (RBFMixture(), LaplaceKernel(), EnergyKernel(), PolynomialKernel())


def normal(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((*shape, 1), generator=generator, dtype=torch.float64)


def gram(kernel, x, y):
    """The kernel matrix from its formula."""
    if isinstance(kernel, PolynomialKernel):
        return (x @ y.T / x.shape[1] + 1) ** 3
    return kernel(x, y)


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.name)
def test_a_batch_gets_the_gradient_that_it_has_as_a_part_of_the_population(kernel):
    x, y = 1.3 * normal(60, 3) + 0.2, normal(80, 3, seed=1)
    population = Population(size=60, kernel=kernel)
    population.renew([y])
    for old in x[:45].split(15):
        population.compare([old])
    batch = x[45:].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(population.compare([batch]), batch)

    whole = population.blocks[0].queue.clone().requires_grad_()
    block = population.blocks[0]
    among, far = gram(block.kernel, whole, whole), gram(block.kernel, whole, block.forward)
    value = (among.sum() - among.diagonal().sum()) / (60 * 59) - 2 * far.mean()
    (of_all,) = torch.autograd.grad(value, whole)
    share = of_all[45:] * len(x) / len(batch)
    assert torch.allclose((gradient * block.units.spread).flatten(1), share, rtol=1e-9)


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.name)
def test_equal_distributions_have_mean_zero_within_its_error(kernel):
    values = []
    for seed in range(200):
        population, stream = Population(40, kernel), iter(range(4 * seed, 4 * seed + 4))
        for count in (60, 60):  # the second draws do not know the units that the first have fixed
            population.renew([normal(count, 4, seed=next(stream))])
        population.compare([normal(20, 4, seed=next(stream))])
        values.append(float(population.compare([normal(20, 4, seed=next(stream))])))
    values = torch.tensor(values)
    assert abs(values.mean()) < 3 * values.std() / len(values) ** 0.5
    assert values.std() > 0


def test_the_queue_keeps_the_newest_and_forward_draws_are_renewed():
    population = Population(size=5)
    population.renew([normal(6, 2)])
    units = population.blocks[0].units
    rows = normal(9, 2, seed=1)
    for part in rows.split(3):
        population.compare([part])
    assert torch.equal(population.blocks[0].queue, units(rows[4:]))
    before, new = population.blocks[0].forward, normal(2, 2, seed=2)
    population.renew([new])
    assert torch.equal(population.blocks[0].forward, torch.cat([before[2:], units(new)]))


def test_a_group_has_one_unit():
    """Pixels keep their proportions; single features each have variance 1."""
    y = normal(400, 2)[..., 0] * torch.tensor([1.0, 3.0])
    apart, together = Population(), Population()
    apart.renew([y[..., None]])
    together.renew([y[:, None]])
    assert torch.allclose(apart.blocks[0].forward.var(0), torch.ones(2).double())
    variance = together.blocks[0].forward.var(0)
    assert float(variance.mean()) == pytest.approx(1)
    assert float(variance[1] / variance[0]) == pytest.approx(float(y[:, 1].var() / y[:, 0].var()))


def test_blocks_count_alike_whatever_their_scale():
    x, y = normal(30, 3) + 1, normal(50, 3, seed=1)
    one, both = Population(size=30), Population(size=30)
    one.renew([y])
    both.renew([y, 1000 * y])
    assert float(both.compare([x, 1000 * x])) == pytest.approx(float(one.compare([x])), rel=1e-9)


def test_a_saved_population_goes_on_exactly():
    first, second = Population(size=8), Population(size=8)
    first.renew([normal(10, 2)])
    first.compare([normal(4, 2, seed=1)])
    buffer = io.BytesIO()
    torch.save(first.state_dict(), buffer)
    buffer.seek(0)
    second.load_state_dict(torch.load(buffer, weights_only=True))
    batch = [normal(4, 2, seed=2)]
    assert torch.equal(first.compare(batch), second.compare(batch))


def test_half_precision_changes_neither_the_loss_nor_its_gradient_to_be_seen():
    x, y = 1.3 * normal(400, 50) + 0.2, normal(300, 50, seed=1)
    found = []
    for dtype in (torch.float64, torch.float32):
        population = Population(size=350)
        population.renew([y.to(dtype)])
        population.compare([x[:350].to(dtype)])
        batch = x[350:].to(dtype).requires_grad_()
        loss = population.compare([batch])
        (gradient,) = torch.autograd.grad(loss, batch)
        found.append((float(loss.detach()), gradient.double(), *population.discrepancy()))
        kept = population.blocks[0].queue, population.blocks[0].forward
        assert {rows.dtype for rows in kept} == {dtype if len(found) == 1 else torch.float16}
    (loss, gradient, *values), (half_loss, half_gradient, *half_values) = found
    assert half_loss == pytest.approx(loss, rel=1e-3)
    assert float((half_gradient - gradient).norm() / gradient.norm()) < 1e-3
    assert half_values == pytest.approx(values, rel=2e-2)
    population.compare([torch.full((2, 50, 1), 1e6)])  # beyond its range, and finite
    assert torch.isfinite(population.compare([x[:2].float()]))


@pytest.mark.parametrize("size", [50, TILE + 50])
def test_its_discrepancy_is_the_estimate_of_the_whole_queue(size):
    population = Population(size=size)
    population.renew([normal(size + 10, 2, seed=1)])
    for part in (normal(size, 2) + 0.5).split(10):
        population.compare([part])
    block = population.blocks[0]
    value, null = population.discrepancy()
    assert value == pytest.approx(float(mmd_sq(block.queue, block.forward, kernel=block.kernel)))
    assert abs(null) < value / 3


class Saved:
    """A tensor that a graph holds."""

    def __init__(self, tensor):
        self.tensor = tensor


def test_no_graph_holds_the_population_and_the_gradient_is_that_of_the_block():
    population, direct = (Population(size=500) for _ in range(2))
    for each in (population, direct):
        each.renew([normal(300, 6, seed=1)])
        each.compare([normal(500, 6) + 0.3])
    batch = (normal(20, 6, seed=2) + 0.3).requires_grad_()
    kept: WeakSet[Saved] = WeakSet()

    def keep(tensor):
        kept.add(saved := Saved(tensor))
        return saved

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda saved: saved.tensor):
        direct_loss = direct.blocks[0].compare(batch, 500)
        assert max(saved.tensor.numel() for saved in kept) >= 480 * 6
        (theirs,) = torch.autograd.grad(direct_loss, batch)
        taken = population.compare([batch])
        assert max(saved.tensor.numel() for saved in kept) <= 20 * 6
    (ours,) = torch.autograd.grad(taken, batch)
    assert taken.item() == pytest.approx(direct_loss.item(), rel=1e-6)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("averaging", ["queue", "moving"])
def test_a_sum_of_kernels_counts_as_often_as_there_are_kernels(averaging):
    found, x, y = [], 1.3 * normal(60, 3) + 0.2, normal(80, 3, seed=1)
    for reduction in ("mean", "sum"):
        population, again = (
            Population(50, RBFMixture(reduction=reduction), averaging) for _ in "ab"
        )
        population.renew([y])
        population.compare([x[:45]])
        again.load_state_dict(population.state_dict())
        batch = x[45:].clone().requires_grad_()
        loss = again.compare([batch])
        (gradient,) = torch.autograd.grad(loss, batch)
        found.append((loss.detach(), *torch.tensor(again.discrepancy()), gradient))
    for mean, total in zip(*found, strict=True):
        torch.testing.assert_close(total, 5 * mean)


def test_a_population_of_one_is_refused():
    with pytest.raises(InvalidInput, match="population is 1"):
        Population(size=1)
