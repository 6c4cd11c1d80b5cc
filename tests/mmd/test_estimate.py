"""Laws of MMD²: its definition, blocks, gradients, unbiasedness, closed form, the released code."""

import math

import pytest
import torch

from oracle import gaussian_mmd_sq
from undrift.exceptions import InvalidInput
from undrift.mmd.estimate import mmd_sq
from undrift.mmd.kernels import EnergyKernel, RBFMixture

KERNELS = [RBFMixture(3.0), RBFMixture(3.0, multipliers=(2.0, 0.7)), EnergyKernel()]
ESTIMATORS = ["u", "v", "paired"]


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def dense(x, y, kernel, estimator, reference_block="include"):
    """The definition, with whole matrices."""
    n, m = len(x), len(y)
    xx, yy, xy = kernel(x, x), kernel(y, y), kernel(x, y)
    off = {k: 1 - torch.eye(k, dtype=x.dtype) for k in (n, m)}
    if estimator == "v":
        terms = xx.mean(), yy.mean(), xy.mean()
    elif estimator == "u":
        terms = (xx * off[n]).sum() / (n * n - n), (yy * off[m]).sum() / (m * m - m), xy.mean()
    else:
        terms = tuple((k * off[n]).sum() / (n * n - n) for k in (xx, yy, xy))
    return terms[0] - 2 * terms[2] + (terms[1] if reference_block == "include" else 0)


def samples(estimator, seed=0):
    n, m = (7, 7) if estimator == "paired" else (7, 11)
    return normal(n, 3, seed=seed), 0.5 + normal(m, 3, seed=seed + 100)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("block_size", [1, 3, 4, 1000])
def test_value_and_gradient_are_those_of_the_definition_in_any_blocks(
    kernel, estimator, block_size
):
    x, y = samples(estimator)
    x.requires_grad_(), y.requires_grad_()
    value = mmd_sq(x, y, kernel=kernel, estimator=estimator, block_size=block_size)
    gradients = torch.autograd.grad(3 * value, (x, y))
    expected = dense(x, y, kernel, estimator)
    assert float(value.detach()) == pytest.approx(float(expected.detach()), rel=1e-7)
    for ours, theirs in zip(gradients, torch.autograd.grad(3 * expected, (x, y)), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_the_gradient_is_that_of_finite_differences(kernel, estimator):
    x, y = samples(estimator, seed=3)
    assert torch.autograd.gradcheck(
        lambda x, y: mmd_sq(x, y, kernel=kernel, estimator=estimator, block_size=4),
        (x.requires_grad_(), y.requires_grad_()),
    )


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_omitting_the_reference_block_changes_no_gradient_of_x(estimator):
    x, y = samples(estimator)
    kernel = RBFMixture(3.0)
    values, gradients = [], []
    for block in ("include", "omit"):
        x.grad = None
        x.requires_grad_()
        value = mmd_sq(x, y, kernel=kernel, estimator=estimator, reference_block=block)
        value.backward()
        values.append(float(value.detach()))
        gradients.append(x.grad)
    of_y, m = kernel(y, y), len(y)
    within = of_y.mean() if estimator == "v" else (of_y.sum() - m) / (m * m - m)
    assert torch.equal(*gradients)
    assert values[0] - values[1] == pytest.approx(float(within), rel=1e-6)


def test_one_gradient_alone_is_the_same_as_with_both():
    x, y = samples("u")
    x.requires_grad_(), y.requires_grad_()
    kernel = RBFMixture(3.0)
    both = torch.autograd.grad(mmd_sq(x, y, kernel=kernel), (x, y))
    (only_x,) = torch.autograd.grad(mmd_sq(x, y.detach(), kernel=kernel), x)
    (only_y,) = torch.autograd.grad(mmd_sq(x.detach(), y, kernel=kernel), y)
    assert torch.equal(only_x, both[0])
    assert torch.equal(only_y, both[1])


def test_a_second_derivative_is_refused_and_not_silently_wrong():
    x, y = samples("u")
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(mmd_sq(x, y, kernel=RBFMixture(3.0)), x, create_graph=True)
    with pytest.raises(NotImplementedError, match="no second derivative"):
        (gradient.sum() + x.sum()).backward()


def test_the_gradient_reaches_through_a_feature_map():
    weight = normal(3, 5, seed=7)
    x, y = samples("u")
    x.requires_grad_()
    kernel = RBFMixture(3.0, feature_map=lambda z: torch.tanh(z @ weight))
    (ours,) = torch.autograd.grad(mmd_sq(x, y, kernel=kernel), x)
    (theirs,) = torch.autograd.grad(dense(x, y, kernel, "u"), x)
    assert torch.allclose(ours, theirs, rtol=1e-6, atol=1e-9)


def released_loss(source, target):
    """The loss of the released code, from its published formula: whole matrices, summed kernels."""
    total = torch.cat([source, target])
    count = len(total)
    l2 = (total[None] - total[:, None]).square().sum(2)
    bandwidth = l2.detach().sum() / (count**2 - count) / 2 ** (5 // 2)
    kernels = sum(torch.exp(-l2 / (bandwidth * 2**i)) for i in range(5))
    n = len(source)
    return torch.mean(kernels[:n, :n] + kernels[n:, n:] - kernels[:n, n:] - kernels[n:, :n])


@pytest.mark.parametrize(("dtype", "rel"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_the_v_statistic_reproduces_the_released_code(dtype, rel):
    x, y = normal(64, 3, 4, 4, dtype=dtype), 0.1 + normal(64, 3, 4, 4, seed=1, dtype=dtype)
    x.requires_grad_()
    kernel = RBFMixture("pooled", reduction="sum")
    ours = mmd_sq(x, y, kernel=kernel, estimator="v")
    theirs = released_loss(x.flatten(1), y.flatten(1))
    assert float(ours.detach()) == pytest.approx(float(theirs.detach()), rel=rel)
    pair = torch.autograd.grad(ours, x)[0], torch.autograd.grad(theirs, x)[0]
    assert torch.allclose(*pair, rtol=1e3 * rel, atol=rel)


def test_the_u_statistic_is_unbiased_and_the_v_statistic_has_the_known_bias():
    n, m, dim, width = 5, 9, 2, 4.0
    kernel = RBFMixture(width, multipliers=(1.0,))
    draws = normal(1000, n + m, dim)
    u = torch.stack([mmd_sq(d[:n], d[n:], kernel=kernel) for d in draws])
    v = torch.stack([mmd_sq(d[:n], d[n:], kernel=kernel, estimator="v") for d in draws])
    error = float(u.std()) / math.sqrt(len(draws))
    assert abs(float(u.mean())) < 3 * error
    expected_kernel = (1 + 4 / width) ** (-dim / 2)
    bias = (1 / n + 1 / m) * (1 - expected_kernel)
    assert abs(float(v.mean()) - bias) < 3 * float(v.std()) / math.sqrt(len(draws))
    assert bias > 40 * error


def test_pairs_that_share_randomness_bias_the_u_statistic_but_not_the_paired_one():
    kernel = RBFMixture(4.0)
    x = normal(1000, 8, 2)
    y = 0.99 * x + math.sqrt(1 - 0.99**2) * normal(1000, 8, 2, seed=1)
    by = {
        name: torch.stack(
            [mmd_sq(a, b, kernel=kernel, estimator=name) for a, b in zip(x, y, strict=True)]
        )
        for name in ("u", "paired")
    }
    error = {name: float(values.std()) / math.sqrt(1000) for name, values in by.items()}
    assert abs(float(by["paired"].mean())) < 3 * error["paired"]
    assert float(by["u"].mean()) < -10 * error["u"]


def test_the_closed_form_is_that_of_quadrature():
    grid = torch.linspace(-9, 9, 601, dtype=torch.float64)
    step = float(grid[1] - grid[0])

    def density(mean, variance):
        return torch.exp(-((grid - mean) ** 2) / (2 * variance)) / math.sqrt(2 * math.pi * variance)

    kernel = RBFMixture(1.5)
    difference = density(0.3, 0.8) - density(0.0, 1.1)
    quadrature = difference @ kernel(grid[:, None], grid[:, None]) @ difference * step**2
    moments = [torch.tensor(v, dtype=torch.float64) for v in ([0.3], [[0.8]], [0.0], [[1.1]])]
    assert float(gaussian_mmd_sq(*moments, kernel)) == pytest.approx(float(quadrature), rel=1e-8)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_the_estimate_agrees_with_the_closed_form(reduction):
    mean_p, mean_q = normal(3) * 0.3, torch.zeros(3, dtype=torch.float64)
    root = torch.eye(3, dtype=torch.float64) + 0.3 * normal(3, 3, seed=1)
    kernel = RBFMixture("mean", reduction=reduction)
    truth = gaussian_mmd_sq(mean_p, root @ root.T, mean_q, torch.eye(3).double(), kernel)
    kernel = RBFMixture(6.0, reduction=reduction)
    estimates = torch.stack(
        [
            mmd_sq(mean_p + normal(200, 3, seed=s) @ root.T, normal(150, 3, seed=1000 + s),
                   kernel=kernel)
            for s in range(100)
        ]
    )  # fmt: skip
    error = float(estimates.std()) / 10
    assert abs(float(estimates.mean() - truth)) < 3 * error < 0.2 * float(truth)


def test_equal_gaussians_are_at_no_distance():
    mean, cov = normal(4), torch.eye(4, dtype=torch.float64)
    assert float(gaussian_mmd_sq(mean, cov, mean, cov, RBFMixture())) == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_single_precision(dtype):
    x = normal(40, 6).to(dtype).requires_grad_()
    y = normal(50, 6, seed=1).to(dtype)
    value = mmd_sq(x, y)
    value.backward()
    x_single = x.detach().float().requires_grad_()
    single = mmd_sq(x_single, y.float())
    single.backward()
    assert value.dtype == torch.float32
    assert torch.equal(value, single)
    assert x.grad.dtype == dtype
    assert torch.equal(x.grad, x_single.grad.to(dtype))


def test_single_precision_survives_samples_far_from_the_origin():
    x, y = normal(100, 5), normal(80, 5, seed=1)
    exact = mmd_sq(x, y, kernel=RBFMixture(10.0))
    far = [(s + 1000).float() for s in (x, y)]
    assert float(mmd_sq(*far, kernel=RBFMixture(10.0))) == pytest.approx(float(exact), abs=2e-5)


def test_any_shape_of_samples_counts_as_a_vector():
    x, y = normal(6, 12), normal(5, 12, seed=1)
    kernel = RBFMixture(20.0)
    shaped = mmd_sq(x.reshape(6, 3, 2, 2), y.reshape(5, 3, 2, 2), kernel=kernel)
    assert torch.equal(shaped, mmd_sq(x, y, kernel=kernel))
    assert torch.equal(
        mmd_sq(x[:, 0], y[:, 0], kernel=kernel), mmd_sq(x[:, :1], y[:, :1], kernel=kernel)
    )


def test_an_unfitted_kernel_takes_its_bandwidth_from_the_forward_samples():
    x, y = normal(20, 2) * 9, normal(30, 2, seed=1)
    assert torch.equal(mmd_sq(x, y), mmd_sq(x, y, kernel=RBFMixture().fit(y)))


GOOD = torch.zeros(5, 2)


def with_nan(row):
    bad = torch.zeros(5, 2)
    bad[row, 1] = math.nan
    return bad


@pytest.mark.parametrize(
    ("x", "y", "options", "words"),
    [
        (GOOD[:1], GOOD, {}, "1 samples of x"),
        (GOOD, GOOD[:1], {}, "1 of y"),
        (GOOD, torch.zeros(5, 3), {}, "2 features per sample and y has 3"),
        (with_nan(3), GOOD, {}, "x is NaN in row 3"),
        (GOOD, with_nan(2), {}, "y is NaN in row 2"),
        (GOOD + math.inf, GOOD, {}, "x is too large or infinite in row 0"),
        (GOOD.int(), GOOD, {}, "x is torch.int32"),
        (GOOD[:0], GOOD, {}, "0 samples of x"),
        (torch.tensor(1.0), GOOD, {}, "x has 1 features"),
        (GOOD, GOOD[:4], {"estimator": "paired"}, "5 and 4"),
        (GOOD, GOOD, {"estimator": "w"}, "'w'"),
        (GOOD, GOOD, {"block_size": 0}, "block_size is 0"),
        (GOOD, GOOD, {"reference_block": "drop"}, "'drop'"),
        (GOOD, GOOD.clone().requires_grad_(), {"reference_block": "omit"}, "y needs a gradient"),
    ],
)
def test_unusable_samples_are_refused_in_one_line(x, y, options, words):
    with pytest.raises(InvalidInput, match=words) as error:
        mmd_sq(x, y, kernel=RBFMixture(1.0), **options)
    assert "\n" not in str(error.value)


def test_one_forward_sample_suffices_without_its_own_block():
    kernel = RBFMixture(1.0)
    value = mmd_sq(GOOD, GOOD[:1], kernel=kernel, reference_block="omit")
    assert float(value) == pytest.approx(-1.0)
