"""Laws of the kernels: bounds, definiteness, bandwidth rules, in-place forms, serialization."""

import itertools
import json
import math

import pytest
import torch

from undrift.exceptions import InvalidInput
from undrift.mmd.distances import (
    mean_squared_distance,
    median_squared_distance,
    squared_distances,
)
from undrift.mmd.estimate import mmd_sq
from undrift.mmd.kernel import Kernel
from undrift.mmd.kernels import (
    EnergyKernel,
    LaplaceKernel,
    PolynomialKernel,
    RBFMixture,
)

KERNELS = [
    RBFMixture(bandwidth=1.3),
    RBFMixture(bandwidth=1.3, reduction="sum"),
    RBFMixture(bandwidth=0.7, multipliers=(3.0, 1.0, 0.4, 0.4)),
    RBFMixture(bandwidth=0.7, multipliers=(2.0,)),
    LaplaceKernel(bandwidth=1.3, multiplier=2.0),
    EnergyKernel(),
]


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def pairs(y):
    return [(i, j) for i, j in itertools.product(range(len(y)), repeat=2) if i != j]


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_in_place_forms_agree_with_the_differentiable_one(kernel):
    sq_dist = normal(7, 5).square().requires_grad_()
    value = kernel.radial(sq_dist)
    (slope,) = torch.autograd.grad(value.sum(), sq_dist)
    buffer = sq_dist.detach().clone()
    assert torch.allclose(kernel.radial_(buffer), value, rtol=1e-12)
    total, slope_ = kernel.sum_and_slope_(sq_dist.detach().clone())
    assert torch.allclose(total, value.sum(), rtol=1e-12)
    assert torch.allclose(slope_, slope, rtol=1e-12)


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_diagonal_is_the_self_value(kernel):
    x = normal(6, 3)
    at_zero = kernel.radial(torch.zeros(1, dtype=torch.float64))
    assert float(at_zero) == pytest.approx(kernel.self_value)
    assert torch.allclose(kernel(x, x).diagonal(), at_zero, atol=1e-6)


def test_the_averaged_mixture_is_between_zero_and_one_and_positive_definite():
    x = 5 * normal(60, 2)
    matrix = RBFMixture().fit(x)(x, x)
    assert matrix.min() >= 0
    assert matrix.max() <= 1 + 1e-12
    assert torch.linalg.eigvalsh(matrix).min() > -1e-12


def test_the_energy_kernel_is_positive_definite_on_weights_that_sum_to_zero():
    x = normal(40, 3)
    center = torch.eye(40, dtype=torch.float64) - 1 / 40
    assert torch.linalg.eigvalsh(center @ EnergyKernel()(x, x) @ center).min() > -1e-7


def test_the_mixture_is_the_mean_of_its_components():
    x, y = normal(4, 3), normal(5, 3, seed=1)
    sq_dist = (x[:, None] - y[None]).square().sum(-1)
    parts = [torch.exp(-sq_dist / (m * 1.7)) for m in (0.25, 0.5, 1, 2, 4)]
    assert torch.allclose(RBFMixture(1.7)(x, y), sum(parts) / 5, rtol=1e-10)


def test_the_mean_bandwidth_is_the_mean_over_all_pairs():
    y = normal(12, 3) + 5
    brute = sum(float((y[i] - y[j]).square().sum()) for i, j in pairs(y)) / (12 * 11)
    assert mean_squared_distance(y) == pytest.approx(brute, rel=1e-12)
    assert RBFMixture().fit(y.reshape(12, 3, 1)).bandwidth == pytest.approx(brute)


def test_the_mean_bandwidth_keeps_its_digits_far_from_the_origin():
    y = normal(500, 4, dtype=torch.float32)
    assert mean_squared_distance(y + 300) == pytest.approx(mean_squared_distance(y), rel=1e-4)


def test_the_median_bandwidth_is_the_median_over_all_pairs():
    y = normal(12, 3)
    brute = sorted(float((y[i] - y[j]).square().sum()) for i, j in pairs(y))
    assert median_squared_distance(y) == pytest.approx(brute[(len(brute) - 1) // 2])


def test_the_median_of_many_samples_is_bounded_reproducible_and_right():
    y = normal(4000, 2)
    median = median_squared_distance(y)
    assert median == median_squared_distance(y)
    assert median == pytest.approx(4 * math.log(2), rel=0.1)  # |y − y'|²/4 is exponential


def test_the_bandwidth_ignores_the_generated_samples():
    y = normal(50, 2)
    for rule in ("mean", "median"):
        kernel = RBFMixture(rule)
        assert kernel.fit(y) == kernel.fit(y, normal(50, 2, seed=1) * 100)


def test_the_pooled_bandwidth_is_the_total_over_n_squared_minus_n():
    x, y = normal(5, 2), normal(7, 2, seed=1)
    pooled = torch.cat([x, y])
    brute = torch.cdist(pooled, pooled).square().sum() / (12**2 - 12)
    assert RBFMixture("pooled").fit(y, x).bandwidth == pytest.approx(float(brute))
    with pytest.raises(InvalidInput, match="both samples"):
        RBFMixture("pooled").fit(y)


def test_a_fitted_bandwidth_stays():
    kernel = RBFMixture(2.0)
    assert kernel.fit(normal(5, 2)) is kernel


@pytest.mark.parametrize("seed", range(3))
def test_squared_distances_match_their_definition(seed):
    x, y = normal(6, 4, seed=seed), normal(5, 4, seed=seed + 9)
    assert torch.allclose(squared_distances(x, y), (x[:, None] - y).square().sum(-1))


def test_kernel_values_do_not_depend_on_how_samples_are_shaped():
    x, y = normal(4, 6), normal(3, 6, seed=1)
    kernel = RBFMixture(2.0)
    assert torch.equal(kernel(x.reshape(4, 1, 2, 3), y.reshape(3, 1, 2, 3)), kernel(x, y))


def test_a_polynomial_has_one_default_scale_and_no_distance():
    x, y = normal(4, 3), normal(5, 3, seed=1)
    kernel = PolynomialKernel().fit(y)
    assert kernel.gamma == pytest.approx(1 / 3) and PolynomialKernel(gamma=2.0).fit(y).gamma == 2
    norms = x.square().sum(1), y.square().sum(1)
    assert torch.allclose(kernel.values(x, y, *norms), (x @ y.T / 3 + 1) ** 3)
    with pytest.raises(InvalidInput, match="kernels of the distance, not polynomial"):
        mmd_sq(x, y, kernel=kernel)


def test_dense_kernel_values_keep_their_digits_far_from_the_origin():
    x, y = normal(6, 4), normal(5, 4, seed=1)
    kernel = RBFMixture(2.0)
    far = kernel((x + 1000).float(), (y + 1000).float()).double()
    assert torch.allclose(far, kernel(x, y), atol=1e-3)


def test_a_feature_map_acts_before_the_bandwidth_and_the_distance():
    y = normal(30, 2)
    doubled = RBFMixture(feature_map=lambda z: 2 * z).fit(y)
    plain = RBFMixture().fit(y)
    assert doubled.bandwidth == pytest.approx(4 * plain.bandwidth)
    assert torch.allclose(doubled(y, y), plain(y, y))


@pytest.mark.parametrize("kernel", [*KERNELS, PolynomialKernel(2, 0.5)])
def test_a_kernel_survives_plain_data(kernel):
    assert Kernel.from_dict(kernel.to_dict()) == kernel
    assert Kernel.from_dict(json.loads(json.dumps(kernel.to_dict()))) == kernel


def test_the_laplace_kernel_is_its_formula():
    x, y = normal(4, 3), normal(6, 3, seed=1)
    kernel = LaplaceKernel(multiplier=0.5).fit(y)
    brute = sum(float((y[i] - y[j]).square().sum()) for i, j in pairs(y)) / len(pairs(y))
    expected = torch.exp(-torch.cdist(x, y) / (0.5 * brute) ** 0.5)
    assert torch.allclose(kernel(x, y), expected, rtol=1e-9)


@pytest.mark.parametrize("kernel", [*KERNELS, PolynomialKernel(), PolynomialKernel(2, 0.5, 0.1)])
def test_the_matrix_with_a_gradient_is_the_one_without(kernel):
    x, y = normal(4, 3).requires_grad_(), normal(6, 3, seed=1)
    inner = [rows.detach().square().sum(1) for rows in (x, y)]
    without = kernel.values(x.detach(), y, *inner)
    assert torch.allclose(kernel.gram(x, y), without, rtol=1e-10)
    assert torch.autograd.gradcheck(lambda rows: kernel.gram(rows, y), x)


def test_plain_data_says_that_a_feature_map_is_missing():
    data = RBFMixture(1.0, feature_map=torch.nn.Identity()).to_dict()
    assert data["feature_map"] == "Identity"
    with pytest.raises(InvalidInput, match="Identity"):
        Kernel.from_dict(data)
    with pytest.raises(InvalidInput, match="unknown"):
        Kernel.from_dict({"kernel": "cubic"})


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"bandwidth": 0.0}, "positive"),
        ({"bandwidth": math.inf}, "finite"),
        ({"bandwidth": "mode"}, "'mode'"),
        ({"multipliers": ()}, "at least one"),
        ({"multipliers": (1.0, -1.0)}, "positive"),
        ({"reduction": "max"}, "'max'"),
    ],
)
def test_impossible_kernels_are_refused_in_one_line(arguments, words):
    with pytest.raises(InvalidInput, match=words) as error:
        RBFMixture(**arguments)
    assert "\n" not in str(error.value)


def test_samples_that_give_no_bandwidth_are_refused():
    with pytest.raises(InvalidInput, match="differ"):
        RBFMixture().fit(torch.ones(5, 2))
    with pytest.raises(InvalidInput, match="2 forward samples"):
        RBFMixture().fit(torch.ones(1, 2))
    with pytest.raises(InvalidInput, match="nan"):
        RBFMixture().fit(torch.full((5, 2), math.nan))
    with pytest.raises(InvalidInput, match="fit"):
        RBFMixture()(torch.ones(2, 2), torch.ones(2, 2))
