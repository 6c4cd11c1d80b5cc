r"""The uncertainty of an MMD² estimate: standard error and permutation test, in one pass.

**Variance.** Let :math:`f(u) = E k(u, X) - E k(u, Y)` be the witness function of P and Q, and
:math:`\theta = \mathrm{MMD}^2`. The unbiased statistic of :math:`N` and :math:`M` samples is,
exactly (Hoeffding),

.. math::
    T - \theta = \tfrac2N \sum_i \tilde f(x_i) - \tfrac2M \sum_j \tilde f(y_j)
    + \tfrac{1}{N(N-1)} \sum_{i \ne i'} \tilde k(x_i, x_{i'})
    + \tfrac{1}{M(M-1)} \sum_{j \ne j'} \tilde k(y_j, y_{j'})
    - \tfrac{2}{NM} \sum_{ij} \tilde k(x_i, y_j),

where :math:`\tilde f` is centered under the distribution of its argument and :math:`\tilde k`
in both arguments. All terms are uncorrelated, so with :math:`\sigma^2_{PQ} = E \tilde k(x, y)^2`

.. math::
    \operatorname{Var} T = \underbrace{\tfrac4N \operatorname{Var}_P f
    + \tfrac4M \operatorname{Var}_Q f}_{\tau^2, \text{ first order}}
    + \underbrace{\tfrac{2 \sigma^2_{PP}}{N(N-1)} + \tfrac{2 \sigma^2_{QQ}}{M(M-1)}
    + \tfrac{4 \sigma^2_{PQ}}{NM}}_{\text{second order}} .

Where P = Q, f vanishes and only the second order is left. Each variance is estimated without bias
from row sums and sums of squares of the kernel matrix. For a symmetric matrix with entries
:math:`a_{ij}` off the diagonal, row sums :math:`r_i` and total S,

.. math::
    A_1 = \tfrac{\sum r_i^2 - \sum a_{ij}^2}{N(N-1)(N-2)}, \quad
    A_2 = \tfrac{S^2 - 4 \sum r_i^2 + 2 \sum a_{ij}^2}{N(N-1)(N-2)(N-3)}, \quad
    \operatorname{Var} E[a|x] = A_1 - A_2, \quad
    \sigma^2 = \tfrac{\sum a_{ij}^2}{N(N-1)} - 2 A_1 + A_2 .

**Null.** Under random relabeling of the pooled sample :math:`T` has mean zero and, since T ignores
additive parts :math:`u_i + u_j` of the matrix, a variance that needs no permutation: exactly
:math:`\sigma^2_{\text{pool}} \left[ \tfrac{2}{N(N-1)} + \tfrac{2}{M(M-1)} + \tfrac{4}{NM} \right]`
with the estimate above. The p-value compares :math:`T` with B relabelings,
:math:`(1 + \#\{T_b \ge T\})/(1 + B)`, which is exact for every sample size.

**Standard error.** The unbiased first order :math:`\hat\tau^2` is noise of the size of the second
order where P = Q. It enters as :math:`\hat\tau^2 T^2 / (T^2 + \text{null variance})` for positive
T, and the result is never below the null standard deviation.

**Pairs.** With common random numbers the pairs :math:`(x_i, y_i)` are independent, not their
members. Then T is the mean over :math:`i \ne j` of
:math:`h_{ij} = k(x_i, x_j) + k(y_i, y_j) - k(x_i, y_j) - k(x_j, y_i)`, its variance
:math:`\tfrac4N \operatorname{Var} E[h|i] + \tfrac{2}{N(N-1)} \sigma^2_h`, and a swap within a pair
flips the sign of a row and a column of h. The test by swaps is exact if the pairs are exchangeable,
and right for large N if only P = Q.

References:
    | A Kernel Two-Sample Test (Gretton et al., 2012)
    | Partial Distance Correlation with Methods for Dissimilarities (Székely and Rizzo, 2014)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from undrift.exceptions import InvalidInput
from undrift.mmd.interval import MMDEstimate
from undrift.mmd.kernel import Kernel
from undrift.mmd.kernels import RBFMixture
from undrift.mmd.tiles import (
    Sample,
    blocks,
    check_pair,
    compute_dtype,
    kernel_tile,
    label_products,
    prepared,
    shifted,
    tile_size,
)

DEFAULT_KERNEL = RBFMixture()
MIN_SAMPLES = 4
"""The unbiased second-order variance needs four samples."""
MOST_LABELS = 30_000_000
"""Entries of the labels of a pass over the kernel matrix, 9 bytes each; more take more passes."""
AT_ONCE = 16
"""Relabelings that are drawn, and summed up, at once."""
SHRINKAGE = 0.7
"""How strongly the variance slope shrinks, in null standard deviations: by simulated coverage."""


def mmd_estimate(
    x: Tensor,
    y: Tensor,
    *,
    kernel: Kernel = DEFAULT_KERNEL,
    estimator: Literal["u", "paired"] = "u",
    num_permutations: int = 200,
    generator: torch.Generator | None = None,
    block_size: int | None = None,
    dtype: torch.dtype | None = None,
) -> MMDEstimate:
    r"""MMD² between two samples with standard error and permutation test, in one blocked pass.

    Each tile of the kernel matrix is multiplied with a matrix of labels, so B permutations cost
    as much as B features more. Beside the samples, memory is
    :math:`O(\text{block\_size}^2 + B (N + M))` up to a bound (:data:`MOST_LABELS`), from which on
    the permutations take several passes.

    Arguments:
        x: Generated samples, with shape :math:`(N, *)`.
        y: Forward samples, with shape :math:`(M, *)`.
        kernel: The kernel; one without a bandwidth is fitted to ``y``. The error bars hold for the
            bandwidth as it is.
        estimator: ``"u"``, or ``"paired"`` if :math:`x_i` and :math:`y_i` share random numbers.
        num_permutations: B, the number of relabelings; 0 for none, and no p-value.
        generator: Draws the relabelings; by default a new one with seed 0.
        block_size: Rows of a tile; by default chosen for the device.
        dtype: Precision of the kernel matrix, at least single, and double where distances are so
            large that single precision would lose the bandwidth; totals are always double.

    Returns:
        The estimate, in units of the kernel.

    Raises:
        InvalidInput: If the samples are fewer than four, do not match or are not finite.

    Example:
        >>> import torch
        >>> generator = torch.Generator().manual_seed(0)
        >>> x, y = torch.randn(100, 2, generator=generator), torch.randn(80, 2, generator=generator)
        >>> mmd_estimate(x, y).p_value > 0.05, mmd_estimate(x + 1, y).p_value < 0.05
        (True, True)
    """
    x, y = _features(kernel, x, dtype), _features(kernel, y, dtype)
    check_pair(x, y)
    _check_counts(len(x), len(y), estimator, num_permutations)
    common = compute_dtype(x, y)
    a, b, kernel = prepared(x.to(common), y.to(common), kernel)
    generator = generator or torch.Generator().manual_seed(0)
    size = tile_size(block_size, x.device)
    moments = _pooled_moments if estimator == "u" else _paired_moments
    return _conclude(moments(a, b, kernel, num_permutations, generator, size), len(x), len(y))


def _check_counts(num_x: int, num_y: int, estimator: str, num_permutations: int) -> None:
    if estimator not in ("u", "paired"):
        raise InvalidInput(f"estimator {estimator!r} has no error bars: use 'u' or 'paired'")
    if min(num_x, num_y) < MIN_SAMPLES:
        raise InvalidInput(f"{num_x} and {num_y} samples are too few: pass {MIN_SAMPLES} or more")
    if estimator == "paired" and num_x != num_y:
        raise InvalidInput(f"'paired' needs as many x as y, not {num_x} and {num_y}: use 'u'")
    if num_permutations < 0:
        raise InvalidInput(f"num_permutations is {num_permutations}: use 0 or more")


@torch.no_grad()
def _features(kernel: Kernel, samples: Tensor, dtype: torch.dtype | None) -> Tensor:
    """Features in the given precision, mapped a thousand samples at a time."""
    if kernel.feature_map is None:
        features = kernel.features(samples.detach())
    else:
        features = torch.cat([kernel.features(rows) for rows in samples.split(1024)])
    return features if dtype is None else features.to(dtype)


@dataclass(frozen=True)
class _Moments:
    """A statistic and its values under relabelings."""

    statistic: float
    first_order: float
    second_order: float
    null_variance: float
    null_draws: Tensor
    linear_draws: Tensor
    first_order_draws: Tensor


def _pooled_moments(
    a: Sample, b: Sample, kernel: Kernel, count: int, generator: torch.Generator, size: int
) -> _Moments:
    """The two-sample U-statistic, and relabelings of the pooled sample."""
    n, m = len(a), len(b)
    pooled = n + m
    shift = kernel_tile(kernel, a, slice(0, 64), b, slice(0, 64)).mean()

    def tile(rows: slice, columns: slice) -> Tensor:
        ends = [(a, s) if s.stop <= n else (b, shifted(s, -n)) for s in (rows, columns)]
        return kernel_tile(kernel, *ends[0], *ends[1]).sub_(shift)

    own = torch.zeros(pooled, 2, dtype=torch.bool)
    own[:n, 0] = own[n:, 1] = True
    parts, draws = [blocks(n, size), [shifted(s, n) for s in blocks(m, size)]], []
    for group in blocks(count, max(1, MOST_LABELS // pooled)) or [slice(0, 0)]:
        labels = torch.cat([own, _relabelings(group.stop - group.start, n, m, generator)], 1)
        times, ((xx, xy), (_, yy)) = label_products(tile, parts, labels.to(a.points.device))
        witness, first, second = _two_sample_orders(times[:, 0], times[:, 1], n, xx, xy, yy)
        row_sums = times[:, :2].sum(1)
        draws += [
            _under_labels(labels[:, some].double(), times[:, some], witness, row_sums, n, m)
            for some in (shifted(s, 2) for s in blocks(group.stop - group.start, AT_ONCE))
        ]
    null, linear, first_order = torch.cat(draws, 1) if draws else torch.zeros(3, 0).double()
    per_pair = 2 / (n * (n - 1)) + 2 / (m * (m - 1)) + 4 / (n * m)
    return _Moments(
        statistic=float(witness[:n].mean() - witness[n:].mean()),
        first_order=first,
        second_order=second,
        null_variance=per_pair * _symmetric_moments(row_sums, xx + 2 * xy + yy)[1],
        null_draws=null,
        linear_draws=linear,
        first_order_draws=first_order,
    )


def _relabelings(count: int, n: int, m: int, generator: torch.Generator) -> Tensor:
    """Random relabelings of the pooled sample, with shape (N + M, count): true for N points."""
    labels = torch.empty(n + m, count, dtype=torch.bool)
    for some in blocks(count, AT_ONCE):
        shape = some.stop - some.start, n + m
        order = torch.rand(shape, generator=generator, device=generator.device).argsort(1)
        labels[:, some] = (order < n).T
    return labels


def _under_labels(
    labels: Tensor, times: Tensor, witness: Tensor, row_sums: Tensor, n: int, m: int
) -> Tensor:
    """What becomes of a pooled sample under relabelings.

    Arguments:
        labels: 1 for the points in the role of x, with shape :math:`(N + M, C)`.
        times: The kernel matrix times the labels.
        witness: The witness at all points, with shape :math:`(N + M)`.
        row_sums: Row sums of the kernel matrix.
        n: Number of points in the role of x.
        m: Number of the others.

    Returns:
        The U-statistic, its first-order part and the first-order variance, with shape (3, C).
    """
    weights = labels / n - (1 - labels) / m
    witnesses = (1 / n + 1 / m) * times - row_sums[:, None] / m
    first_order = 4 * (1 / n + 1 / m) * _variances(witnesses)
    null = _relabeled(labels, times, row_sums, n, m)
    return torch.stack([null, weights.T @ witness, first_order])


def _two_sample_orders(
    to_x: Tensor, to_y: Tensor, n: int, xx: float, xy: float, yy: float
) -> tuple[Tensor, float, float]:
    """The witness at all points, and both orders of the variance, from row sums and squares."""
    m = len(to_x) - n
    (x_in, y_across), (x_across, y_in) = to_x.split([n, m]), to_y.split([n, m])
    var_xx, sigma_xx = _symmetric_moments(x_in, xx)
    var_yy, sigma_yy = _symmetric_moments(y_in, yy)
    var_xy, var_yx, sigma_xy = _cross_moments(x_across, y_across, xy)
    var_p = var_xx + var_xy - 2 * _covariance(x_in, x_across, m)
    var_q = var_yy + var_yx - 2 * _covariance(y_in, y_across, n)
    witness = torch.cat([x_in / (n - 1) - x_across / m, y_across / n - y_in / (m - 1)])
    second = 2 * sigma_xx / (n * (n - 1)) + 2 * sigma_yy / (m * (m - 1)) + 4 * sigma_xy / (n * m)
    return witness, 4 * var_p / n + 4 * var_q / m, second


def _relabeled(labels: Tensor, times: Tensor, row_sums: Tensor, n: int, m: int) -> Tensor:
    """The U-statistic under each column of labels, which are 1 for the n in the role of x."""
    xx = (labels * times).sum(0)
    xy = labels.T @ row_sums - xx
    yy = row_sums.sum() - 2 * xy - xx
    return xx / (n * (n - 1)) + yy / (m * (m - 1)) - 2 * xy / (n * m)


def _paired_moments(
    a: Sample, b: Sample, kernel: Kernel, count: int, generator: torch.Generator, size: int
) -> _Moments:
    """The one-sample U-statistic of pairs, and swaps within pairs."""
    n = len(a)

    def tile(rows: slice, columns: slice) -> Tensor:
        def values(rows_of: Sample, columns_of: Sample) -> Tensor:
            return kernel_tile(kernel, rows_of, rows, columns_of, columns)

        return values(a, a).add_(values(b, b)).sub_(values(a, b)).sub_(values(b, a))

    coins = torch.randint(2, (n, count), generator=generator, device=generator.device)
    labels = torch.ones(n, count + 1)
    labels[:, 1:] = 2 * coins - 1
    times, ((squares,),) = label_products(tile, [blocks(n, size)], labels.to(a.points))
    row_sums, times, signs = times[:, 0], times[:, 1:], labels[:, 1:].double()
    variance, sigma = _symmetric_moments(row_sums, squares)
    return _Moments(
        statistic=float(row_sums.sum()) / (n * (n - 1)),
        first_order=4 * variance / n,
        second_order=2 * sigma / (n * (n - 1)),
        null_variance=2 * squares / (n * (n - 1)) ** 2,
        null_draws=(signs * times).sum(0) / (n * (n - 1)),
        linear_draws=signs.T @ row_sums / (n * (n - 1)),
        first_order_draws=4 / n * _variances(signs * times / (n - 1)),
    )


def _symmetric_moments(row_sums: Tensor, squares: float) -> tuple[float, float]:
    r"""Unbiased :math:`\operatorname{Var} E[a|x]` and :math:`\sigma^2` of a symmetric matrix."""
    n, total, row_squares = len(row_sums), float(row_sums.sum()), float(row_sums.square().sum())
    a1 = (row_squares - squares) / (n * (n - 1) * (n - 2))
    a2 = (total**2 - 4 * row_squares + 2 * squares) / (n * (n - 1) * (n - 2) * (n - 3))
    return a1 - a2, max(squares / (n * (n - 1)) - 2 * a1 + a2, 0.0)


def _cross_moments(
    row_sums: Tensor, column_sums: Tensor, squares: float
) -> tuple[float, float, float]:
    r"""Unbiased variances of both conditional means, and :math:`\sigma^2`, of N by M entries."""
    n, m, total = len(row_sums), len(column_sums), float(row_sums.sum())
    rows, columns = float(row_sums.square().sum()), float(column_sums.square().sum())
    apart = (total**2 - rows - columns + squares) / (n * (n - 1) * m * (m - 1))
    same_row = (rows - squares) / (n * m * (m - 1))
    same_column = (columns - squares) / (n * m * (n - 1))
    sigma = squares / (n * m) - same_row - same_column + apart
    return same_row - apart, same_column - apart, max(sigma, 0.0)


def _covariance(within: Tensor, across: Tensor, num_across: int) -> float:
    r"""Unbiased covariance over x of :math:`E k(x, X)` and :math:`E k(x, Y)`, from row sums."""
    n, product = len(within), float((within * across).sum())
    apart = (float(within.sum() * across.sum()) - 2 * product) / (n - 2)
    return (product - apart) / (n * (n - 1) * num_across)


def _variances(columns: Tensor) -> Tensor:
    """Variance of each column; none for no columns."""
    return (columns - columns.mean(0)).square().mean(0)


def _conclude(moments: _Moments, num_x: int, num_y: int) -> MMDEstimate:
    """The estimate with its standard error, its p-value and the draws behind its interval."""
    value, draws = moments.statistic, moments.null_draws
    null_sd = math.sqrt(max(moments.null_variance, 0.0))
    above_zero = max(value, 0.0)
    clear = above_zero**2 / (above_zero**2 + null_sd**2) if above_zero > 0 else 0.0
    variance = max(moments.first_order, 0.0) * clear + moments.second_order
    rounding = 1e-6 * null_sd  # a relabeling that changes nothing counts as equal
    exceeding = int((draws >= value - rounding).sum())
    return MMDEstimate(
        mmd_sq=value,
        standard_error=max(math.sqrt(max(variance, 0.0)), null_sd),
        p_value=(1 + exceeding) / (1 + len(draws)) if len(draws) else math.nan,
        null_sd=null_sd,
        num_x=num_x,
        num_y=num_y,
        variance_slope=_variance_slope(moments, null_sd),
        null_draws=tuple(draws.tolist()),
        linear_draws=tuple(_normal_scores(moments.linear_draws).tolist()),
    )


def _variance_slope(moments: _Moments, null_sd: float) -> float:
    """First-order variance per unit of MMD², shrunk to its slope over relabelings in the noise."""
    slope, shrink = 0.0, SHRINKAGE * null_sd
    if len(moments.null_draws) > 1 and null_sd > 0:
        centered_draws = moments.null_draws - moments.null_draws.mean()
        slope = float(centered_draws @ moments.first_order_draws / centered_draws.square().sum())
    unit = max(moments.statistic, 0.0) + shrink
    excess = moments.first_order - slope * moments.statistic
    return max(slope + excess / unit, 0.0) if unit > 0 else 0.0


def _normal_scores(draws: Tensor) -> Tensor:
    """The absolute values replaced by the half-normal quantiles of the same ranks."""
    ranks = draws.abs().argsort().argsort()
    scores: Tensor = torch.special.ndtri((1 + (ranks + 0.5) / max(len(draws), 1)) / 2)
    return scores
