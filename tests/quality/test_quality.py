"""Fréchet and kernel distances, precision and recall: closed forms, nulls, slopes, calibration."""

import math

import pytest
import torch

from undrift.exceptions import InvalidInput
from undrift.mmd.kernels import PolynomialKernel
from undrift.quality.frechet import (
    SAMPLES_PER_FEATURE,
    FrechetStatistics,
    _root_sum,
    frechet_distance,
    frechet_estimate,
    gaussian_distance,
)
from undrift.quality.kernel_distance import kernel_distance
from undrift.quality.precision_recall import precision_recall


def normal(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def spd(dim, seed=0):
    """A positive definite matrix that commutes with no other of these."""
    root = normal(dim, dim, seed=seed)
    return root @ root.T / dim + 0.1 * torch.eye(dim, dtype=torch.float64)


def covariance(x):
    return x.T.cov()


# --- Fréchet -----------------------------------------------------------------------------------


def test_gaussians_in_one_dimension():
    one = torch.ones(1, 1, dtype=torch.float64)
    distance = gaussian_distance(3 * one[0], 4 * one, 1 * one[0], 25 * one)
    assert distance == pytest.approx((3 - 1) ** 2 + (2 - 5) ** 2, rel=1e-14)


def test_gaussians_that_do_not_commute():
    for seed in range(5):
        cov_x, cov_y = spd(6, seed), spd(6, seed + 100)
        cross = torch.linalg.eigvals(cov_x @ cov_y).real.sqrt().sum()  # the textbook's square root
        gap = normal(6, seed=seed)
        expected = gap.square().sum() + cov_x.trace() + cov_y.trace() - 2 * cross
        found = gaussian_distance(gap, cov_x, torch.zeros(6), cov_y)
        assert found == pytest.approx(float(expected), rel=1e-12)


@pytest.mark.parametrize("count", [500, 12, 5, 2])  # the last three: covariances without full rank
def test_an_optimal_transport_costs_what_it_moves(count):
    """A symmetric positive map is optimal (Brenier), so its cost is the distance, exactly."""
    x = normal(count, 20) + 1
    transport, shift = spd(20, seed=1), normal(20, seed=2)
    y = x @ transport + shift
    moved = y - x
    expected = moved.mean(0).square().sum() + moved.T.cov().trace()
    assert frechet_distance(x, y) == pytest.approx(float(expected), rel=1e-9)


@pytest.mark.parametrize("decades", [1, 6, 12, 18])
@pytest.mark.parametrize("rank", [60, 40])
@pytest.mark.parametrize("gap", [0.5, 1e-3])
def test_covariances_that_commute_have_a_closed_form_however_singular(decades, rank, gap):
    """The sum of squared differences of standard deviations, to a millionth, and both ways."""
    basis = torch.linalg.qr(normal(60, 60)).Q
    spread = torch.logspace(0, -decades / 2, 60, dtype=torch.float64)
    spread[rank:] = 0
    other = spread * (1 + gap * normal(60, seed=1).abs())
    cov_x, cov_y = (basis * spread.square() @ basis.T, basis * other.square() @ basis.T)
    expected = float((spread - other).square().sum())
    zero = torch.zeros(60)
    for pair in ((cov_x, cov_y), (cov_y, cov_x)):
        found = gaussian_distance(zero, pair[0], zero, pair[1])
        assert found == pytest.approx(expected, rel=1e-6)


def test_both_ways_to_a_distance_agree(monkeypatch):
    x, y = FrechetStatistics.of(normal(200, 40)), FrechetStatistics.of(normal(90, 40, seed=1) * 2)
    fast = x.distance(y)
    monkeypatch.setattr("undrift.quality.frechet.ROUNDING", -1.0)
    called = []
    svdvals = torch.linalg.svdvals
    monkeypatch.setattr(torch.linalg, "svdvals", lambda a: called.append(1) or svdvals(a))
    assert x.distance(y) == pytest.approx(fast, rel=1e-10) and called


@pytest.mark.parametrize("count", [900, 100])  # the second: fewer samples than features
def test_features_like_those_of_images_need_no_singular_values(count, monkeypatch):
    """Variances that fall like 1/k; the textbook's root in twice the space is another way."""
    from scipy.linalg import sqrtm

    monkeypatch.delattr(torch.linalg, "svdvals")
    spread = torch.arange(1, 301, dtype=torch.float64) ** -0.5
    x, y = normal(count, 300) * spread, normal(count + 50, 300, seed=1) * 1.1 * spread
    found = frechet_distance(x, y)
    cov_x, cov_y = covariance(x), covariance(y)
    gap = (x.mean(0) - y.mean(0)).square().sum()
    root = sqrtm((cov_x @ cov_y).numpy())
    expected = float(gap + cov_x.trace() + cov_y.trace()) - 2 * float(root.trace().real)
    precision = 1e-8 if count > 300 else 1e-5  # of a root of a singular matrix
    assert found == pytest.approx(expected, rel=precision)
    one, other = FrechetStatistics.of(x), FrechetStatistics.of(y)
    assert count < 300 or found == one.distance(other)


@pytest.mark.parametrize("decades", [0, 2, 4, 8, 16])
@pytest.mark.parametrize("zeros", [0, 1, 20])
def test_rounding_moves_the_sum_of_roots_by_no_more_than_is_said(decades, zeros):
    for seed in range(5):
        basis = torch.linalg.qr(normal(80, 80, seed=seed)).Q
        squares = torch.logspace(0, -decades, 80, dtype=torch.float64)
        squares[80 - zeros :] = 0
        total, error = _root_sum((basis * squares) @ basis.T)
        assert abs(float(total - squares.sqrt().sum())) < float(error) + 1e-13
        assert zeros or decades > 8 or error < 1e-8  # and it is not said of everything
    known, little = _root_sum((basis * squares) @ basis.T, rank=80 - zeros)
    assert decades > 8 or (little < 1e-8 and abs(float(known - squares.sqrt().sum())) < 1e-8)


def test_features_that_never_vary_do_no_harm():
    x = torch.cat([normal(100, 3), torch.zeros(100, 5), torch.full((100, 1), 1e3)], dim=1)
    y = x.clone()
    y[:, 3] += 2
    assert frechet_distance(x, y) == pytest.approx(4, rel=1e-9)
    assert frechet_distance(x, x) < 1e-9


def test_frechet_symmetries():
    x, y = normal(80, 6), normal(50, 6, seed=1) @ spd(6) + 1
    base = frechet_distance(x, y)
    rotation = torch.linalg.qr(normal(6, 6, seed=3)).Q
    assert frechet_distance(y, x) == pytest.approx(base, rel=1e-12)
    assert frechet_distance(x @ rotation, y @ rotation) == pytest.approx(base, rel=1e-12)
    assert frechet_distance(x + 100, y + 100) == pytest.approx(base, rel=1e-9)
    assert frechet_distance(3 * x, 3 * y) == pytest.approx(9 * base, rel=1e-12)
    assert frechet_distance(x.flip(0), y) == pytest.approx(base, rel=1e-12)
    assert frechet_distance(x.float(), y.float()) == pytest.approx(base, rel=1e-5)


def test_unequal_samples_of_known_gaussians():
    mean, scale = torch.tensor([1.0, 0, -2]), torch.tensor([0.5, 2, 1])
    x, y = normal(40_000, 3), normal(60_000, 3, seed=1) * scale + mean
    expected = float(mean.square().sum() + (scale - 1).square().sum())
    assert frechet_distance(x, y) == pytest.approx(expected, rel=0.02)


def test_bias_falls_like_one_over_n():
    """On the null the expected value is the bias: its slope in log-log is -1."""
    sizes = [50, 100, 200, 400]
    biases = [
        sum(frechet_distance(normal(n, 8, seed=i), normal(n, 8, seed=-1 - i)) for i in range(40))
        for n in sizes
    ]
    slope = math.log(biases[-1] / biases[0]) / math.log(sizes[-1] / sizes[0])
    assert slope == pytest.approx(-1, abs=0.1)


def test_bootstrap_covers_the_distance_of_the_distributions():
    """Interval, standard error and bias against 80 experiments with known truth."""
    scale = torch.tensor([1.5, 1, 1, 0.7])
    truth = float((scale - 1).square().sum() + 0.09)
    shift = torch.tensor([0.3, 0, 0, 0])
    experiments = [
        frechet_estimate(
            normal(150, 4, seed=i) * scale + shift,
            normal(250, 4, seed=-1 - i),
            num_resamples=80,
            generator=torch.Generator().manual_seed(i),
        )
        for i in range(80)
    ]
    covered = sum(e.interval[0] <= truth <= e.interval[1] for e in experiments)
    assert covered >= 0.85 * 80
    values = torch.tensor([e.value for e in experiments])
    errors = torch.tensor([e.standard_error for e in experiments])
    biases = torch.tensor([e.bias for e in experiments])
    assert errors.mean() == pytest.approx(float(values.std()), rel=0.25)
    assert biases.mean() == pytest.approx(float(values.mean()) - truth, rel=0.5)
    assert biases.mean() > 0


def test_bootstrap_on_the_null_reaches_zero():
    estimate = frechet_estimate(normal(100, 8), normal(100, 8, seed=1))
    assert estimate.interval[0] == 0
    assert estimate.value > 0.05  # all of it is bias
    assert estimate.bias == pytest.approx(estimate.value, rel=0.5)


@pytest.mark.parametrize(
    ("n", "m", "dim"), [(30, 50, 80), (50, 30, 80), (30, 70, 40), (90, 40, 12)], ids=str
)
def test_resamples_are_reweighted_rows(n, m, dim):
    """The bootstrap is that of whole distances of rows drawn again, whatever the rank."""
    x, y = normal(n, dim), normal(m, dim, seed=1) * torch.linspace(0.1, 2, dim) + 0.3
    source = torch.Generator().manual_seed(0)
    found = frechet_estimate(x, y, num_resamples=12, generator=torch.Generator().manual_seed(0))
    values = []
    for _ in range(12):
        draw_y = y[torch.randint(m, (m,), generator=source)]
        draw_x = x[torch.randint(n, (n,), generator=source)]
        moments = [f(z) for z in (draw_x, draw_y) for f in (lambda z: z.mean(0), covariance)]
        values.append(gaussian_distance(*moments))
    values = torch.tensor(values, dtype=torch.float64)
    moments = [f(z) for z in (x, y) for f in (lambda z: z.mean(0), covariance)]
    value = gaussian_distance(*moments)
    assert found.value == pytest.approx(value, rel=1e-8)
    assert found.standard_error == pytest.approx(float(values.std()), rel=1e-7)
    assert found.bias == pytest.approx(float(values.mean()) - value, rel=1e-7)
    tails = torch.tensor([0.975, 0.025], dtype=torch.float64)
    low, high = (2 * value - values.quantile(tails)).clamp(min=0).tolist()
    assert found.interval == pytest.approx((low, high), rel=1e-7)


def test_few_samples_of_many_features_take_no_decomposition_of_their_covariance(monkeypatch):
    sizes = []
    for name in ("eigh", "eigvalsh", "svdvals"):
        whole = getattr(torch.linalg, name)
        monkeypatch.setattr(
            torch.linalg, name, lambda a, whole=whole: sizes.append(min(a.shape)) or whole(a)
        )
    frechet_estimate(normal(20, 300), normal(90, 300, seed=1), num_resamples=3)
    assert sizes and max(sizes) <= 20


@pytest.mark.parametrize("score", [frechet_distance, precision_recall])
def test_a_feature_that_is_no_number_names_its_row(score):
    x, y = normal(20, 3), normal(20, 3, seed=1)
    x[4, 1] = math.nan
    for arguments, name in (((x, y), "x_features"), ((y, x), "y_features")):
        with pytest.raises(InvalidInput, match=f"{name} is NaN or infinite in row 4") as caught:
            score(*arguments)
        assert "\n" not in str(caught.value)


def test_too_few_samples_are_warned_of():
    enough = frechet_estimate(normal(24, 3), normal(30, 3), num_resamples=2)
    few = frechet_estimate(normal(23, 3), normal(30, 3), num_resamples=2)
    assert enough.warning is None
    assert "23 samples are too few for 3 features: take 24" in few.warning


def test_with_enough_samples_for_each_feature_the_interval_holds():
    dim, runs = 48, 12
    covered = missed = 0
    for seed in range(runs):
        generator = torch.Generator().manual_seed(seed)
        x, y = torch.randn(2, SAMPLES_PER_FEATURE * dim, dim, generator=generator)
        found = frechet_estimate(x, y, num_resamples=40, generator=generator)
        few = frechet_estimate(x[: 2 * dim], y[: 2 * dim], num_resamples=40, generator=generator)
        assert found.warning is None and few.warning is not None
        covered += found.interval[0] == 0  # the truth
        missed += few.interval[0] > 0
    assert covered >= 0.8 * runs and missed >= 0.4 * runs


def test_a_part_taken_away_leaves_the_rest():
    x = normal(40, 5) + 3
    rest = FrechetStatistics.of(x).without(FrechetStatistics.of(x[:13]))
    own = FrechetStatistics.of(x[13:])
    torch.testing.assert_close(rest.covariance, x[13:].T.cov(), rtol=1e-12, atol=1e-14)
    assert rest.count == own.count
    assert torch.allclose(rest.mean, own.mean) and torch.allclose(rest.scatter, own.scatter)


@pytest.mark.parametrize(
    ("score", "x", "y"),
    [
        (frechet_distance, (1, 3), (5, 3)),
        (frechet_distance, (5, 3), (5, 4)),
        (frechet_distance, (5, 3, 2), (5, 3, 2)),
        (frechet_estimate, (5, 3), (1, 3)),
        (precision_recall, (3, 3), (5, 3)),
        (precision_recall, (5, 3), (5, 4)),
    ],
)
def test_unusable_shapes_are_named(score, x, y):
    with pytest.raises(InvalidInput, match="must have shapes") as caught:
        score(torch.zeros(x), torch.zeros(y))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("options", [{"num_resamples": 1}, {"confidence": 1.0}])
def test_unusable_bootstrap_options(options):
    with pytest.raises(InvalidInput, match=f"{next(iter(options))} of .* is 1"):
        frechet_estimate(normal(9, 2), normal(9, 2), **options)


# --- kernel distance ---------------------------------------------------------------------------


@pytest.mark.parametrize("block_size", [1, 7, 1000])
def test_kernel_distance_is_its_definition(block_size):
    x, y = normal(15, 3), normal(22, 3, seed=1) + 0.5

    def k(a, b):
        return (float(a @ b) / 3 + 1) ** 3

    within = [
        sum(k(a, b) for i, a in enumerate(z) for j, b in enumerate(z) if i != j)
        / (len(z) * (len(z) - 1))
        for z in (x, y)
    ]
    between = sum(k(a, b) for a in x for b in y) / (15 * 22)
    found = kernel_distance(x, y, block_size=block_size)
    assert found.mmd_sq == pytest.approx(sum(within) - 2 * between, rel=1e-12)
    whole = kernel_distance(x, y)
    assert found.standard_error == pytest.approx(whole.standard_error, rel=1e-9)


def test_a_linear_kernel_compares_means():
    """Of degree 1 it is the squared gap of the means less what their noise adds, exactly."""
    x, y = normal(40, 5), normal(70, 5, seed=1) + 0.2
    noise = x.T.cov().trace() / 40 + y.T.cov().trace() / 70
    expected = 0.3 * float((x.mean(0) - y.mean(0)).square().sum() - noise)
    found = kernel_distance(x, y, kernel=PolynomialKernel(1, 0.3, 5.0))
    assert found.mmd_sq == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("shift", [0.0, 0.5], ids=["null", "far"])
@pytest.mark.parametrize("sizes", [(60, 60), (40, 160)])
def test_kernel_distance_is_unbiased_and_its_error_calibrated(shift, sizes):
    n, m = sizes
    found = [
        kernel_distance(normal(n, 4, seed=i) + shift, normal(m, 4, seed=-1 - i)) for i in range(400)
    ]
    values = torch.tensor([f.mmd_sq for f in found], dtype=torch.float64)
    errors = torch.tensor([f.standard_error for f in found], dtype=torch.float64)
    # k = (<x,y>/4 + 1)^3 for x ~ N(a, I): expectations of polynomials of Gaussians.
    truth = _cubic_mmd_sq(torch.full((4,), shift, dtype=torch.float64))
    assert abs(values.mean() - truth) < 4 * values.std() / math.sqrt(len(values))
    ratio = float(errors.square().mean().sqrt() / values.std())
    assert 0.87 < ratio < (1.3 if shift == 0 else 1.15)  # on the null its floor makes it larger


def _cubic_mmd_sq(a):
    """MMD² of k(x, y) = (<x, y>/d + 1)³ between N(a, I) and N(0, I), from moments up to three."""
    d = len(a)
    eye = torch.eye(d, dtype=a.dtype)
    second = torch.outer(a, a)  # E xx' less that of the other
    third = torch.einsum("i,j,k->ijk", a, a, a) + sum(
        torch.einsum(indices, a, eye) for indices in ("i,jk->ijk", "j,ik->ijk", "k,ij->ijk")
    )
    gaps = (3 / d) * a.square().sum() + (3 / d**2) * second.square().sum()
    return float(gaps + third.square().sum() / d**3)


def test_kernel_distance_ignores_order():
    x, y = normal(20, 3), normal(30, 3, seed=1)
    assert kernel_distance(x.flip(0), y).mmd_sq == pytest.approx(
        kernel_distance(x, y).mmd_sq, rel=1e-9
    )
    assert kernel_distance(y, x).mmd_sq == pytest.approx(kernel_distance(x, y).mmd_sq, rel=1e-9)


# --- precision and recall ----------------------------------------------------------------------


@pytest.mark.parametrize("block_size", [1, 9, 1000])
def test_precision_and_recall_are_their_definition(block_size):
    x, y = normal(30, 2), normal(40, 2, seed=1) * 0.7 + 0.5
    between, k = torch.cdist(x, y), 3
    radius_x, radius_y = (torch.cdist(z, z).sort().values[:, k] for z in (x, y))
    found = precision_recall(x, y, num_neighbors=k, block_size=block_size)
    assert found.precision == (between <= radius_y).any(1).double().mean()
    assert found.recall == (between <= radius_x[:, None]).any(0).double().mean()
    assert 0 < found.precision < 1
    assert 0 < found.recall < 1


def test_precision_shows_bad_samples_and_recall_missing_ones():
    left, right = normal(200, 3), normal(200, 3, seed=1) + 50
    data = torch.cat([left, right])
    missing = precision_recall(normal(200, 3, seed=2), data)
    assert missing.precision > 0.9
    assert 0.4 < missing.recall <= 0.5
    bad = precision_recall(torch.cat([data, normal(400, 3, seed=3) - 500]), data)
    assert bad.precision == 0.5
    assert bad.recall == 1
    apart = precision_recall(data, data + 1e4)
    assert (apart.precision, apart.recall) == (0, 0)


@pytest.mark.parametrize("offset", [0, 1e6])
def test_a_sample_covers_itself(offset):
    x = normal(50, 4).float() + offset
    copies = torch.cat([x, x[:1].repeat(9, 1)])  # a point with as many copies has radius 0
    for z in (x, copies):
        found = precision_recall(z, z)
        assert (found.precision, found.recall) == (1, 1)
