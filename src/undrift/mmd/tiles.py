r"""Blocks of kernel matrices: prepared samples, and the squared distances of a tile.

The kernel matrix is never stored as a whole. A sum over all pairs is a sum over tiles of
``block_size`` rows and columns, each of them one matrix product

.. math:: \|x_i - y_j\|^2 = \|x_i\|^2 + \|y_j\|^2 - 2 \langle x_i, y_j \rangle .

The three terms cancel where the samples lie far from the origin. The MMD of a function of the
distance does not change when both samples are shifted, so both are shifted, by about the mean of
:math:`y`; the terms are then of the size of the distances themselves. Where the rounding of the
distances is not small against the bandwidth, because the samples lie far apart or in groups far
from each other, all is computed in double precision.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain, combinations_with_replacement

import torch
from torch import Tensor

from undrift.exceptions import InvalidInput
from undrift.mmd.distances import squared_distances
from undrift.mmd.kernel import Kernel, RadialKernel

FAR_OFF = 4.0
"""Samples are shifted when the squared mean exceeds the mean squared deviation by this factor."""
COARSEST = 1e-4
"""Most that single precision may round a squared distance by, in units of the resolution."""


@dataclass(frozen=True)
class Sample:
    r"""Points as rows, with shape :math:`(N, D)`, and their squared norms, with shape :math:`(N)`.

    Arguments:
        points: The points.
        sq_norms: Their squared norms.
    """

    points: Tensor
    sq_norms: Tensor

    @classmethod
    def of(cls, points: Tensor) -> Sample:
        """The sample, with its norms computed."""
        return cls(points, torch.linalg.vector_norm(points, dim=1).square_())

    def __len__(self) -> int:
        return self.points.shape[0]


def compute_dtype(x: Tensor, y: Tensor) -> torch.dtype:
    """The precision to compute in: single for half and single precision, double for double."""
    return torch.promote_types(torch.promote_types(x.dtype, y.dtype), torch.float32)


def total_dtype(device: torch.device) -> torch.dtype:
    """The precision of totals over all pairs: double wherever the device has it."""
    return torch.float32 if device.type == "mps" else torch.float64


def check_pair(x: Tensor, y: Tensor) -> None:
    """Check that two samples can be compared.

    Arguments:
        x: Features, with shape :math:`(N, D)`.
        y: Features, with shape :math:`(M, D)`.

    Raises:
        InvalidInput: If the two differ in size, dtype or device in a way that rules it out.
    """
    for label, sample in (("x", x), ("y", y)):
        if not sample.is_floating_point():
            raise InvalidInput(f"{label} is {sample.dtype}: pass floating-point samples")
    if x.shape[1] != y.shape[1]:
        raise InvalidInput(
            f"x has {x.shape[1]} features per sample and y has {y.shape[1]}: "
            "compare samples of one size"
        )
    if x.device != y.device:
        raise InvalidInput(f"x is on {x.device} and y on {y.device}: move them to one device")


def centered(x: Tensor, y: Tensor) -> tuple[Sample, Sample]:
    r"""Both samples, shifted by the same vector if they lie far from the origin.

    The norms, which the distances need anyway, also show whether all entries are finite, so the
    check adds almost no cost.

    Arguments:
        x: Samples, with shape :math:`(N, D)`.
        y: Samples, with shape :math:`(M, D)`.

    Returns:
        The two samples with their norms.

    Raises:
        InvalidInput: If an entry is NaN or infinite, naming the first such row.
    """
    samples = Sample.of(x), Sample.of(y)
    center = y[:: max(1, y.shape[0] // 32)].mean(0)
    totals = [samples[0].sq_norms.sum(), samples[1].sq_norms.sum(), center.square().sum()]
    x_total, y_total, center_sq = torch.stack(totals).tolist()
    for label, sample, total in zip("xy", samples, (x_total, y_total), strict=True):
        if not total < math.inf:
            raise _not_finite(label, sample)
    if center_sq > FAR_OFF * (y_total / y.shape[0] - center_sq):
        return Sample.of(x - center), Sample.of(y - center)
    return samples


def prepared(x: Tensor, y: Tensor, kernel: Kernel) -> tuple[Sample, Sample, Kernel]:
    """Both samples, shifted and in the precision that the kernel needs, and the kernel, fitted.

    Arguments:
        x: Samples, with shape :math:`(N, D)`.
        y: Samples, with shape :math:`(M, D)`.
        kernel: The kernel; one without a bandwidth is fitted to ``y``.

    Raises:
        InvalidInput: If an entry is NaN or infinite, naming the first such row.
    """
    a, b = centered(x, y)
    kernel = kernel.fit_features(y, x)
    if not isinstance(kernel, RadialKernel):
        return Sample.of(x), Sample.of(y), kernel
    largest = float(torch.maximum(a.sq_norms.max(), b.sq_norms.max()))
    rounding = largest * torch.finfo(x.dtype).eps
    double = total_dtype(x.device)
    if rounding > COARSEST * kernel.resolution and x.dtype != double:
        a, b = centered(x.to(double), y.to(double))
    return a, b, kernel


def blocks(length: int, size: int) -> list[slice]:
    """Consecutive slices of ``size`` indices that cover ``length``."""
    return [slice(start, min(start + size, length)) for start in range(0, length, size)]


def sq_dist_tile(a: Sample, rows: slice, b: Sample, columns: slice) -> Tensor:
    """Squared distances of some rows of one sample and some of another, in a new tensor."""
    return squared_distances(
        a.points[rows], b.points[columns], a.sq_norms[rows], b.sq_norms[columns]
    )


def kernel_tile(kernel: Kernel, a: Sample, rows: slice, b: Sample, columns: slice) -> Tensor:
    """Kernel of some rows of one sample and some of another, in a new tensor."""
    return kernel.values(a.points[rows], b.points[columns], a.sq_norms[rows], b.sq_norms[columns])


def shifted(indices: slice, by: int) -> slice:
    """The slice, moved."""
    return slice(indices.start + by, indices.stop + by)


def label_products(
    tile: Callable[[slice, slice], Tensor], parts: list[list[slice]], labels: Tensor
) -> tuple[Tensor, list[list[float]]]:
    """A symmetric matrix times labels, and its sums of squares, in one pass over its upper tiles.

    Arguments:
        tile: Makes the entries of some rows and columns, in a buffer that may be overwritten.
        parts: Slices that cover the indices, in groups; squares are summed by pairs of groups.
        labels: What to multiply with, numbers or truth values, with shape :math:`(N, C)`.

    Returns:
        The product, in double precision on the CPU, and the sums of squares of the groups' blocks.
        The diagonal counts as zero.
    """
    part_of = {rows.start: part for part, group in enumerate(parts) for rows in group}
    times = torch.zeros(labels.shape, dtype=total_dtype(labels.device), device=labels.device)
    squares = times.new_zeros(len(parts), len(parts))
    for rows, columns in combinations_with_replacement(chain.from_iterable(parts), 2):
        entries = tile(rows, columns)
        part = part_of[rows.start], part_of[columns.start]
        if rows == columns:
            entries.fill_diagonal_(0)
        else:
            times[columns] += entries.T @ labels[rows].to(entries)
        times[rows] += entries @ labels[columns].to(entries)
        total = entries.square_().sum()
        squares[part] += total
        if rows != columns:
            squares[part[::-1]] += total
    return times.cpu().double(), squares.tolist()


def tile_size(block_size: int | None, device: torch.device) -> int:
    """Rows of a tile: the given number, or one that fits a processor's cache and fills a GPU."""
    if block_size is None:
        return 1024 if device.type == "cpu" else 8192
    if block_size < 1:
        raise InvalidInput(f"block_size is {block_size}: use 1 or more")
    return block_size


def _not_finite(label: str, sample: Sample) -> InvalidInput:
    # distances overflow before norms do: then the largest is named
    row = int(torch.where(sample.sq_norms.isfinite(), sample.sq_norms, math.inf).argmax())
    kind = "NaN" if sample.points[row].isnan().any() else "too large or infinite"
    return InvalidInput(f"{label} is {kind} in row {row}: drop such samples, or find their origin")
