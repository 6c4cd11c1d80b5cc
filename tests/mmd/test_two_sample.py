"""Laws of the error bars of MMD²: exact variances, slopes, valid tests, coverage."""

import itertools
import math

import pytest
import torch

from oracle import gaussian_mmd_sq
from undrift.exceptions import InvalidInput
from undrift.mmd import two_sample
from undrift.mmd.estimate import mmd_sq
from undrift.mmd.kernels import EnergyKernel, RBFMixture
from undrift.mmd.tiles import prepared
from undrift.mmd.two_sample import mmd_estimate

KERNEL = RBFMixture(4.0)


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def correlated(count, n, shift=0.0, seed=0):
    """Exchangeable pairs but for a shift, with correlation 0.9."""
    common, own, other = normal(3, count, n, 2, seed=seed)
    keep, add = math.sqrt(0.9), math.sqrt(0.1)
    return keep * common + add * own + shift, keep * common + add * other


def uniform_distance(p_values):
    """Kolmogorov and Smirnov's distance from uniform, in units of its 1 % point."""
    ranks = torch.arange(1, len(p_values) + 1) / len(p_values)
    ordered = torch.tensor(sorted(p_values))
    gap = max(float((ranks - ordered).abs().max()), float((ordered - ranks).abs().max()))
    return gap * math.sqrt(len(p_values)) / 1.63


@pytest.mark.parametrize("kernel", [KERNEL, EnergyKernel()])
@pytest.mark.parametrize("estimator", ["u", "paired"])
def test_the_estimate_is_mmd_sq(kernel, estimator):
    x, y = normal(9, 2) + 0.4, normal(9 if estimator == "paired" else 14, 2, seed=1)
    estimate = mmd_estimate(x, y, kernel=kernel, estimator=estimator, num_permutations=5)
    expected = float(mmd_sq(x, y, kernel=kernel, estimator=estimator))
    assert estimate.mmd_sq == pytest.approx(expected, rel=1e-9)
    assert (estimate.num_x, estimate.num_y) == (len(x), len(y))


@pytest.mark.parametrize("most", [1, 35 * 4, 35 * 17])
def test_nothing_depends_on_the_passes(most, monkeypatch):
    """Permutations that do not fit into memory at once are the same in several passes."""
    x, y = normal(13, 2) + 0.4, normal(22, 2, seed=1)
    whole = mmd_estimate(x, y, kernel=KERNEL, num_permutations=50)
    monkeypatch.setattr(two_sample, "MOST_LABELS", most)
    other = mmd_estimate(x, y, kernel=KERNEL, num_permutations=50)
    for name, value in vars(whole).items():
        assert getattr(other, name) == pytest.approx(value, rel=1e-9, abs=1e-12), name


@pytest.mark.parametrize("estimator", ["u", "paired"])
def test_nothing_depends_on_the_blocks(estimator):
    x, y = normal(13, 2) + 0.4, normal(13 if estimator == "paired" else 22, 2, seed=1)
    whole, tiny, uneven = (
        mmd_estimate(x, y, kernel=KERNEL, estimator=estimator, block_size=size)
        for size in (100, 1, 5)
    )
    for other in (tiny, uneven):
        assert other.p_value == whole.p_value
        for name in ("mmd_sq", "standard_error", "null_sd", "variance_slope"):
            assert getattr(other, name) == pytest.approx(getattr(whole, name), rel=1e-9)
        assert other.null_draws == pytest.approx(whole.null_draws, abs=1e-12)


def test_the_null_deviation_is_exactly_that_of_all_relabelings():
    x, y = normal(4, 2) + 1, normal(5, 2, seed=1)
    pooled = torch.cat([x, y])
    values = []
    for chosen in itertools.combinations(range(9), 4):
        rest = [i for i in range(9) if i not in chosen]
        values.append(float(mmd_sq(pooled[list(chosen)], pooled[rest], kernel=KERNEL)))
    exact = math.sqrt(sum(v * v for v in values) / len(values))
    assert sum(values) == pytest.approx(0, abs=1e-12)
    assert mmd_estimate(x, y, kernel=KERNEL).null_sd == pytest.approx(exact, rel=1e-9)


def test_the_null_deviation_of_pairs_is_exactly_that_of_all_swaps():
    x, y = normal(6, 2) + 1, normal(6, 2, seed=1)
    values = []
    for signs in itertools.product((True, False), repeat=6):
        keep = torch.tensor(signs)[:, None]
        swapped = torch.where(keep, x, y), torch.where(keep, y, x)
        values.append(float(mmd_sq(*swapped, kernel=KERNEL, estimator="paired")))
    exact = math.sqrt(sum(v * v for v in values) / len(values))
    estimate = mmd_estimate(x, y, kernel=KERNEL, estimator="paired")
    assert estimate.null_sd == pytest.approx(exact, rel=1e-9)


def test_the_moments_are_means_over_all_different_indices():
    a = normal(6, 6)
    a = (a + a.T).fill_diagonal_(0)
    of = {k: list(itertools.permutations(range(6), k)) for k in (2, 3, 4)}
    square = sum(a[i, j] ** 2 for i, j in of[2]) / len(of[2])
    shared = sum(a[i, j] * a[i, k] for i, j, k in of[3]) / len(of[3])
    apart = sum(a[i, j] * a[k, h] for i, j, k, h in of[4]) / len(of[4])
    variance, sigma = two_sample._symmetric_moments(a.sum(1), float(a.square().sum()))
    assert variance == pytest.approx(float(shared - apart))
    assert sigma == pytest.approx(max(float(square - 2 * shared + apart), 0))


def test_the_cross_moments_are_means_over_all_different_indices():
    b, a = normal(5, 4), normal(5, 5, seed=1)
    a = (a + a.T).fill_diagonal_(0)
    rows, columns = (list(itertools.permutations(range(k), 2)) for k in (5, 4))
    same_row = sum(b[i, j] * b[i, k] for i in range(5) for j, k in columns) / 60
    same_column = sum(b[i, j] * b[k, j] for j in range(4) for i, k in rows) / 80
    apart = sum(b[i, j] * b[k, h] for i, k in rows for j, h in columns) / 240
    moments = two_sample._cross_moments(b.sum(1), b.sum(0), float(b.square().sum()))
    sigma = float(b.square().mean() - same_row - same_column + apart)
    expected = float(same_row - apart), float(same_column - apart), max(sigma, 0)
    assert moments == pytest.approx(expected)
    triples = list(itertools.permutations(range(5), 3))
    joint = sum(a[i, k] * b[i, j] for i, k in rows for j in range(4)) / 80
    free = sum(a[i, k] * b[h, j] for i, k, h in triples for j in range(4)) / 240
    covariance = two_sample._covariance(a.sum(1), b.sum(1), 4)
    assert covariance == pytest.approx(float(joint - free))


@pytest.mark.parametrize("shift", [0.0, 1.5])
def test_the_standard_error_is_the_spread_of_the_estimate(shift):
    estimates = [
        mmd_estimate(x + shift, y, kernel=KERNEL, num_permutations=0)
        for x, y in zip(normal(400, 20, 2), normal(400, 35, 2, seed=1), strict=True)
    ]
    values = torch.tensor([e.mmd_sq for e in estimates])
    errors = torch.tensor([e.standard_error for e in estimates])
    null_sds = torch.tensor([e.null_sd for e in estimates])
    assert (errors >= null_sds).all()
    ratio = float(errors.square().mean().sqrt() / values.std())
    assert 0.9 < ratio < (1.35 if shift == 0 else 1.1)


@pytest.mark.parametrize(("shift", "slope"), [(0.0, -1.0), (1.5, -0.5)])
def test_the_standard_error_shrinks_at_the_rate_of_its_regime(shift, slope):
    sizes, logs = (20, 40, 80, 160), []
    for size in sizes:
        errors = [
            mmd_estimate(x + shift, y, kernel=KERNEL, num_permutations=0).standard_error
            for x, y in zip(normal(40, size, 2), normal(40, size, 2, seed=1), strict=True)
        ]
        logs.append(math.log(sum(errors) / len(errors)))
    measured = (logs[-1] - logs[0]) / math.log(sizes[-1] / sizes[0])
    assert measured == pytest.approx(slope, abs=0.12)


def test_the_permutation_p_value_is_uniform_on_equal_distributions():
    p_values, values = [], []
    for index, (x, y) in enumerate(
        zip(normal(1000, 6, 2), normal(1000, 10, 2, seed=1), strict=True)
    ):
        generator = torch.Generator().manual_seed(index)
        estimate = mmd_estimate(x, y, kernel=KERNEL, num_permutations=99, generator=generator)
        p_values.append(estimate.p_value)
        values.append(estimate.mmd_sq)
    values = torch.tensor(values)
    assert abs(float(values.mean())) < 3 * float(values.std()) / math.sqrt(len(values))
    assert uniform_distance(p_values) < 1


def test_the_swap_p_value_is_uniform_on_exchangeable_pairs():
    p_values = []
    for index, (x, y) in enumerate(zip(*correlated(500, 10), strict=True)):
        generator = torch.Generator().manual_seed(index)
        p_values.append(
            mmd_estimate(
                x, y, kernel=KERNEL, estimator="paired", num_permutations=99, generator=generator
            ).p_value
        )
    assert uniform_distance(p_values) < 1


def test_pairs_resolve_a_shift_that_separate_samples_do_not():
    x, y = (samples[0] for samples in correlated(1, 60, shift=0.25))
    by = {name: mmd_estimate(x, y, kernel=KERNEL, estimator=name) for name in ("u", "paired")}
    assert by["paired"].p_value < 0.01 < 0.1 < by["u"].p_value


def shift_at(distance, null_sd):
    """A mean shift in two dimensions whose MMD² is a number of null deviations; its MMD²."""
    low, high = 0.0, 5.0
    mean, cov = torch.zeros(2, dtype=torch.float64), torch.eye(2, dtype=torch.float64)
    for _ in range(40):
        middle = (low + high) / 2
        moved = mean + torch.tensor([middle, 0.0])
        value = float(gaussian_mmd_sq(moved, cov, mean, cov, KERNEL))
        low, high = (middle, high) if value < distance * null_sd else (low, middle)
    return torch.tensor([high if distance else 0.0, 0.0]), value if distance else 0.0


@pytest.mark.parametrize("distance", [0, 1, 3, 8, 40])
def test_the_interval_covers_the_truth_at_every_distance(distance):
    """95 % intervals cover in 93 to 97 %, at the null and so many null deviations from it.

    Of 300 runs, 3.3 % more or less (2.6 binomial standard errors) may be inside by chance;
    benchmarks/coverage_mmd.py makes 1,000 at each of ten distances for five models.
    """
    runs, n, m = 300, 50, 60
    null_sd = 0.0098  # of this kernel and these sizes
    shift, truth = shift_at(distance, null_sd)
    covered = above = 0
    for index in range(runs):
        x, y = normal(n, 2, seed=2 * index) + shift, normal(m, 2, seed=2 * index + 1)
        generator = torch.Generator().manual_seed(index)
        estimate = mmd_estimate(x, y, kernel=KERNEL, generator=generator, num_permutations=119)
        lower, upper = estimate.confidence_interval()
        covered += lower <= truth <= upper
        above += estimate.lower_confidence_limit() <= truth
    tolerance = 2.6 * math.sqrt(0.05 * 0.95 / runs) + 0.02
    assert covered / runs == pytest.approx(0.95, abs=tolerance)
    assert above / runs == pytest.approx(0.95, abs=tolerance)


def test_the_interval_excludes_zero_exactly_if_the_test_rejects():
    decisions = set()
    for index in range(60):
        x, y = normal(20, 2, seed=2 * index) + 0.5, normal(20, 2, seed=2 * index + 1)
        estimate = mmd_estimate(x, y, kernel=KERNEL)
        lower, upper = estimate.confidence_interval(0.9)
        assert (lower > 0) == (estimate.p_value <= 0.1)
        assert (estimate.lower_confidence_limit(0.9) > 0) == (estimate.p_value <= 0.1)
        assert 0 <= lower <= max(estimate.mmd_sq, 0) <= upper
        wide = estimate.confidence_interval(0.95)
        assert wide[0] <= lower
        assert upper <= wide[1]
        decisions.add(lower > 0)
    assert decisions == {True, False}


def test_without_permutations_the_interval_is_normal_and_there_is_no_p_value():
    estimate = mmd_estimate(normal(50, 2) + 2, normal(50, 2, seed=1), num_permutations=0)
    assert math.isnan(estimate.p_value)
    lower, upper = estimate.confidence_interval()
    assert (lower + upper) / 2 == pytest.approx(estimate.mmd_sq)
    assert upper - lower == pytest.approx(2 * 1.959964 * estimate.standard_error)


def test_a_seed_reproduces_and_the_default_is_a_seed():
    x, y = normal(20, 2), normal(20, 2, seed=1)
    seeded = mmd_estimate(x, y, generator=torch.Generator().manual_seed(0))
    assert seeded == mmd_estimate(x, y)
    assert seeded != mmd_estimate(x, y, generator=torch.Generator().manual_seed(1))


def test_far_samples_get_the_smallest_p_value():
    estimate = mmd_estimate(normal(10, 2) + 20, normal(12, 2, seed=1), num_permutations=99)
    assert estimate.p_value == 0.01


def test_single_precision_is_far_below_the_noise():
    x, y = normal(150, 30), normal(120, 30, seed=1)
    kernel = RBFMixture(60.0)
    single, double = (
        mmd_estimate(x.to(d), y.to(d), kernel=kernel) for d in (torch.float32, x.dtype)
    )
    assert abs(single.mmd_sq - double.mmd_sq) < 1e-3 * double.null_sd
    assert single.null_sd == pytest.approx(double.null_sd, rel=1e-4)
    assert single.standard_error == pytest.approx(double.standard_error, rel=1e-3)
    assert single.p_value == pytest.approx(double.p_value, abs=0.006)
    upgraded = mmd_estimate(x, y, kernel=kernel, dtype=torch.float32)
    assert upgraded.mmd_sq == pytest.approx(double.mmd_sq, abs=1e-3 * double.null_sd)


@pytest.mark.parametrize("estimator", ["u", "paired"])
def test_single_precision_holds_however_far_the_samples_lie_apart(estimator):
    """Squared distances of 6e8 cancel in single precision, where the bandwidth is 130."""
    y = normal(300, 64, seed=1)
    groups = y + 3000 * (torch.arange(300) % 2)[:, None]
    kernel = RBFMixture(128.0)
    for x, other in ((normal(300, 64) + 3000, y), (groups.flip(0), groups)):
        single, double = (
            mmd_estimate(x.to(d), other.to(d), kernel=kernel, estimator=estimator)
            for d in (torch.float32, torch.float64)
        )
        assert single.mmd_sq == pytest.approx(double.mmd_sq, abs=0.1 * double.standard_error)
        assert single.standard_error == pytest.approx(double.standard_error, rel=0.01)
        value = float(mmd_sq(x.float(), other.float(), kernel=kernel, estimator=estimator))
        assert value == pytest.approx(double.mmd_sq, abs=0.1 * double.standard_error)


def test_single_precision_is_kept_where_it_does():
    x, y = normal(50, 64, dtype=torch.float32) + 500, normal(50, 64, seed=1).float() + 500
    a, b, _ = prepared(x, y, RBFMixture())
    assert a.points.dtype == b.points.dtype == torch.float32


def test_the_gradient_keeps_its_dtype_where_it_is_computed_in_double():
    x = (normal(20, 8) + 3000).float().requires_grad_()
    mmd_sq(x, normal(20, 8, seed=1).float(), kernel=RBFMixture(16.0)).backward()
    exact = (normal(20, 8) + 3000).float().double().requires_grad_()
    mmd_sq(exact, normal(20, 8, seed=1).float().double(), kernel=RBFMixture(16.0)).backward()
    assert x.grad.dtype == torch.float32
    assert torch.allclose(x.grad.double(), exact.grad, rtol=1e-5, atol=1e-9)


def test_a_feature_map_is_applied_in_pieces_without_a_graph():
    sizes = []

    def features(z):
        sizes.append((len(z), torch.is_grad_enabled()))
        return z[:, :1]

    x, y = normal(1500, 2), normal(30, 2, seed=1)
    kernel = RBFMixture(2.0, feature_map=features)
    mapped = mmd_estimate(x, y, kernel=kernel, num_permutations=0)
    assert sizes == [(1024, False), (476, False), (30, False)]
    plain = mmd_estimate(x[:, :1], y[:, :1], kernel=RBFMixture(2.0), num_permutations=0)
    assert mapped.mmd_sq == pytest.approx(plain.mmd_sq)


def test_samples_that_are_all_equal_are_at_no_distance():
    estimate = mmd_estimate(torch.zeros(5, 2), torch.zeros(6, 2), kernel=KERNEL)
    assert (estimate.mmd_sq, estimate.p_value, estimate.null_sd) == (0, 1, 0)
    assert estimate.confidence_interval() == (0, 0)


@pytest.mark.parametrize(
    ("x", "y", "options", "words"),
    [
        (normal(3, 2), normal(9, 2), {}, "3 and 9 samples are too few"),
        (normal(8, 2), normal(9, 2), {"estimator": "paired"}, "8 and 9"),
        (normal(8, 2), normal(9, 2), {"estimator": "v"}, "'v' has no error bars"),
        (normal(8, 2), normal(9, 2), {"num_permutations": -1}, "-1"),
        (normal(8, 2), normal(9, 3), {}, "2 features"),
        (normal(8, 2), normal(9, 2) * math.nan, {}, "y is NaN in row 0"),
    ],
)
def test_unusable_input_is_refused_in_one_line(x, y, options, words):
    with pytest.raises(InvalidInput, match=words) as error:
        mmd_estimate(x, y, **options)
    assert "\n" not in str(error.value)


def test_a_level_beyond_the_permutations_is_refused():
    estimate = mmd_estimate(normal(8, 2), normal(9, 2), num_permutations=38)
    with pytest.raises(InvalidInput, match="num_permutations=39"):
        estimate.confidence_interval(0.95)
    estimate.lower_confidence_limit(0.95)
    with pytest.raises(InvalidInput, match="no probability"):
        estimate.lower_confidence_limit(95)
