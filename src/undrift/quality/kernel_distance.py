"""The kernel distance: MMD² of features under the cubic kernel; on Inception's features the KID."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from undrift.mmd.interval import MMDEstimate
from undrift.mmd.kernels import PolynomialKernel
from undrift.mmd.two_sample import mmd_estimate

CUBIC = PolynomialKernel()


def kernel_distance(x_features: Tensor, y_features: Tensor, **options: Any) -> MMDEstimate:
    r"""The unbiased MMD² of features under a polynomial kernel, with its standard error.

    Unbiased, so values of different sample sizes compare; it is computed in double precision.

    Arguments:
        x_features: Features of samples, with shape :math:`(N, D)`.
        y_features: Features of the reference, with shape :math:`(M, D)`.
        options: Those of :func:`~undrift.mmd.two_sample.mmd_estimate`, such as ``block_size``; the
            kernel is :math:`(\langle x, y \rangle / D + 1)^3` by default.

    Raises:
        InvalidInput: If there are fewer than four samples, or the shapes do not fit.

    References:
        | Demystifying MMD GANs (Bińkowski et al., 2018)

    Example:
        >>> x = torch.randn(500, 4, generator=torch.Generator().manual_seed(0))
        >>> y = torch.randn(300, 4, generator=torch.Generator().manual_seed(1))
        >>> null, far = kernel_distance(x, y), kernel_distance(x, y + 1)
        >>> abs(null.mmd_sq) < 3 * null.standard_error, far.mmd_sq > 5 * far.standard_error
        (True, True)
    """
    chosen: dict[str, Any] = {
        "kernel": CUBIC,
        "num_permutations": 0,
        "dtype": torch.float64,
    } | options
    return mmd_estimate(x_features, y_features, **chosen)
