r"""Squared maximum mean discrepancy (MMD²) between two samples, in blocks, with its gradient.

For :math:`x_1, \dots, x_N \sim P` and :math:`y_1, \dots, y_M \sim Q`

.. math::
    \mathrm{MMD}^2(P, Q) = E k(x, x') + E k(y, y') - 2 E k(x, y),

and three estimators replace the expectations by means over pairs of samples:

=============  ==============================  ==============================  =================
``estimator``  :math:`x x'` and :math:`y y'`   :math:`x y`                     use
=============  ==============================  ==============================  =================
``"u"``        pairs :math:`i \ne j`           all pairs                       unbiased, N ≠ M
``"v"``        all pairs                       all pairs                       the released code
``"paired"``   pairs :math:`i \ne j`           pairs :math:`i \ne j`           unbiased, common
                                                                               random numbers
=============  ==============================  ==============================  =================

The gradient is computed in the same pass: with :math:`g'` the derivative of the kernel by the
squared distance,

.. math::
    \partial_{x_i} \sum_j g(\|x_i - z_j\|^2)
    = 2 \Big( x_i \sum_j g'_{ij} - \sum_j g'_{ij} z_j \Big),

one more matrix product per tile. Beyond the samples and their gradients the memory is
:math:`O(\text{block\_size}^2)`.

References:
    | A Kernel Two-Sample Test (Gretton et al., 2012), Lemma 6
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations_with_replacement
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from undrift.exceptions import InvalidInput
from undrift.mmd.kernel import Kernel, RadialKernel
from undrift.mmd.tiles import (
    Sample,
    blocks,
    check_pair,
    compute_dtype,
    prepared,
    sq_dist_tile,
    tile_size,
    total_dtype,
)
from undrift.mmd.two_sample import DEFAULT_KERNEL

Estimator = Literal["u", "v", "paired"]
ReferenceBlock = Literal["include", "omit"]


def mmd_sq(
    x: Tensor,
    y: Tensor,
    *,
    kernel: Kernel = DEFAULT_KERNEL,
    estimator: Estimator = "u",
    reference_block: ReferenceBlock = "include",
    block_size: int | None = None,
) -> Tensor:
    r"""Squared MMD between two samples, differentiable once.

    The unbiased estimators are negative about half of the time when the distributions are equal:
    do not clip them in a loss. ``"v"`` is never negative and reads about
    :math:`(1/N + 1/M)(1 - E k)` when nothing differs.

    ``reference_block="omit"`` leaves out the :math:`y y'` term. It has no gradient by
    :math:`x`, so it changes a training loss only by a constant; without it many forward draws
    :math:`y` are cheap. The value is then not a squared distance.

    A kernel without a fixed bandwidth is fitted to :math:`y` in each call, without a gradient
    through the bandwidth. Half precision is computed in single precision.

    Arguments:
        x: Generated samples, with shape :math:`(N, *)`.
        y: Forward samples, with shape :math:`(M, *)`.
        kernel: The kernel, on the samples or on its feature map.
        estimator: ``"u"``, ``"v"`` or ``"paired"``.
        reference_block: Whether the term in :math:`y` alone is computed.
        block_size: Rows of a tile; by default chosen for the device.

    Returns:
        The estimate, with shape :math:`()`, in units of the kernel.

    Raises:
        InvalidInput: If the samples are too few, do not match or are not finite.

    Example:
        >>> from undrift.mmd.kernels import RBFMixture
        >>> x, y = torch.tensor([[0.0], [1.0]]), torch.tensor([[0.0], [1.0], [2.0]])
        >>> mmd_sq(x, y, kernel=RBFMixture(bandwidth=1.0, multipliers=(1.0,)))
        tensor(-0.4214)
    """
    x, y = kernel.features(x), kernel.features(y)
    check_pair(x, y)
    _check_choices(x, y, estimator, reference_block)
    if not isinstance(kernel, RadialKernel):
        raise InvalidInput(
            f"mmd_sq takes kernels of the distance, not {kernel.name}: use mmd_estimate for it"
        )
    dtype = compute_dtype(x, y)
    size = tile_size(block_size, x.device)
    plan = _Plan.of(kernel, x.shape[0], y.shape[0], estimator, reference_block == "include", size)
    value: Tensor = _BlockedMMD.apply(x.to(dtype), y.to(dtype), plan)  # type: ignore[no-untyped-call]
    return value


def _check_choices(x: Tensor, y: Tensor, estimator: str, reference_block: str) -> None:
    """Check that the estimator is defined for these samples."""
    if estimator not in get_args(Estimator):
        raise InvalidInput(f"estimator {estimator!r}: use one of {get_args(Estimator)}")
    if reference_block not in get_args(ReferenceBlock):
        raise InvalidInput(f"reference_block {reference_block!r}: use 'include' or 'omit'")
    n, m = x.shape[0], y.shape[0]
    if estimator == "paired" and n != m:
        raise InvalidInput(f"'paired' needs as many x as y, not {n} and {m}: use 'u'")
    least = 1 if estimator == "v" else 2
    if n < least or m < (1 if reference_block == "omit" else least):
        raise InvalidInput(
            f"{n} samples of x and {m} of y are too few: estimator {estimator!r} needs "
            f"{least} or more of each"
        )
    if reference_block == "omit" and y.requires_grad:
        raise InvalidInput("y needs a gradient, which reference_block='omit' would leave out")


@dataclass(frozen=True)
class _Plan:
    """Weights of the blocks in one call, and how pairs of equal index are treated."""

    kernel: Kernel
    weight_x: float
    weight_y: float
    weight_xy: float
    estimator: Estimator
    block_size: int

    @classmethod
    def of(
        cls, kernel: Kernel, n: int, m: int, estimator: Estimator, reference: bool, block_size: int
    ) -> _Plan:
        """The weights of an estimator for n and m samples."""
        x, y = (1 / (k**2 if estimator == "v" else k * max(k - 1, 1)) for k in (n, m))
        xy = 2 * x if estimator == "paired" else 2 / (n * m)
        return cls(kernel, x, y if reference else 0.0, xy, estimator, block_size)


class _Gradient:
    r"""Accumulates :math:`\sum_j w_{ij} (x_i - z_j)` over tiles, for all points of one sample."""

    def __init__(self, sample: Sample) -> None:
        self.points = sample.points
        self.row_sums = torch.zeros_like(sample.sq_norms)
        self.products = torch.zeros_like(sample.points)

    def add(self, rows: slice, slope: Tensor, others: Tensor, weight: float) -> None:
        """Add a tile of slopes between these rows and the other points."""
        self.row_sums[rows].add_(slope.sum(1), alpha=weight)
        self.products[rows].addmm_(slope, others, alpha=-weight)

    def total(self) -> Tensor:
        """The gradient."""
        return self.products.addcmul_(self.row_sums[:, None], self.points)


class _BlockedMMD(torch.autograd.Function):
    """The weighted sum over all tiles; the gradient is computed in the same pass and stored."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, plan: _Plan) -> Tensor:
        a, b, kernel = prepared(x, y, plan.kernel)
        assert isinstance(kernel, RadialKernel)
        gradient_x = _Gradient(a) if ctx.needs_input_grad[0] else None
        gradient_y = _Gradient(b) if ctx.needs_input_grad[1] else None
        total = plan.weight_x * _within(a, kernel, plan, gradient_x, plan.weight_x)
        total -= plan.weight_xy * _between(a, b, kernel, plan, gradient_x, gradient_y)
        if plan.weight_y:
            total += plan.weight_y * _within(b, kernel, plan, gradient_y, plan.weight_y)
        gradients = (g.total().to(x.dtype) if g else None for g in (gradient_x, gradient_y))
        ctx.save_for_backward(x, y, *gradients)
        return total.to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        *inputs, gradient_x, gradient_y = ctx.saved_tensors
        results: list[Tensor | None] = []
        for source, gradient in zip(inputs, (gradient_x, gradient_y), strict=True):
            result = None if gradient is None else grad * gradient
            if result is not None and torch.is_grad_enabled():
                result = _NoSecondDerivative.apply(result, source)  # type: ignore[no-untyped-call]
            results.append(result)
        return *results, None


class _NoSecondDerivative(torch.autograd.Function):
    """Returns the stored gradient; raises when a second derivative is requested."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, source: Tensor) -> Tensor:
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        raise NotImplementedError(
            "mmd_sq has no second derivative: differentiate kernel(x, y) for it"
        )


def _within(
    sample: Sample, kernel: RadialKernel, plan: _Plan, gradient: _Gradient | None, weight: float
) -> Tensor:
    """Sum of the kernel over pairs of one sample, each tile off the diagonal counted twice."""
    total = torch.zeros((), dtype=total_dtype(sample.points.device), device=sample.points.device)
    parts = blocks(len(sample), plan.block_size)
    for rows, columns in combinations_with_replacement(parts, 2):
        sq_dist = sq_dist_tile(sample, rows, sample, columns)
        if rows == columns:
            sq_dist.fill_diagonal_(0)
        if gradient is None:
            tile = kernel.radial_(sq_dist).sum()
        else:
            tile, slope = kernel.sum_and_slope_(sq_dist)
            gradient.add(rows, slope, sample.points[columns], 4 * weight)
            if rows != columns:
                gradient.add(columns, slope.T, sample.points[rows], 4 * weight)
        total += tile if rows == columns else 2 * tile
    if plan.estimator != "v":
        total -= len(sample) * kernel.self_value
    return total


def _between(
    a: Sample,
    b: Sample,
    kernel: RadialKernel,
    plan: _Plan,
    gradient_a: _Gradient | None,
    gradient_b: _Gradient | None,
) -> Tensor:
    """Sum of the kernel over pairs of two samples, without those of equal index if paired."""
    total = torch.zeros((), dtype=total_dtype(a.points.device), device=a.points.device)
    weight = -2 * plan.weight_xy
    for rows in blocks(len(a), plan.block_size):
        for columns in blocks(len(b), plan.block_size):
            sq_dist = sq_dist_tile(a, rows, b, columns)
            dropped = plan.estimator == "paired" and rows == columns
            if dropped:
                total -= kernel.radial_(sq_dist.diagonal().clone()).sum()
            if gradient_a is None and gradient_b is None:
                total += kernel.radial_(sq_dist).sum()
                continue
            tile, slope = kernel.sum_and_slope_(sq_dist)
            total += tile
            if dropped:
                slope.fill_diagonal_(0)
            if gradient_a is not None:
                gradient_a.add(rows, slope, b.points[columns], weight)
            if gradient_b is not None:
                gradient_b.add(columns, slope.T, a.points[rows], weight)
    return total
