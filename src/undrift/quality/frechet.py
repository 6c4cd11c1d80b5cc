r"""The Fréchet distance between Gaussians fitted to features, with its uncertainty.

.. math::
    d^2 = \|\mu_x - \mu_y\|^2
        + \operatorname{tr} \Sigma_x + \operatorname{tr} \Sigma_y
        - 2 \operatorname{tr} (\Sigma_x^{1/2} \Sigma_y \Sigma_x^{1/2})^{1/2}

the square of the 2-Wasserstein distance, which the field calls the Fréchet distance. With factors
:math:`\Sigma = L L^\top` the last trace is the nuclear norm :math:`\|L_x^\top L_y\|_*`. The
singular values are the roots of the eigenvalues :math:`\lambda_i` of
:math:`L_x^\top \Sigma_y L_x`, which take a fifth of the time. No square root of a matrix that is
singular up to rounding is taken, so covariances of any rank do.

Rounding moves each of the n eigenvalues by about :math:`\delta = \sqrt n\, \epsilon\,
\lambda_{\max}`, up or down, and their roots together by

.. math:: \Delta \approx \tfrac{\delta}{2} \Bigl(\sum_i \frac{1}{\lambda_i}\Bigr)^{1/2}
          + m \sqrt\delta,

m the number of eigenvalues below :math:`\delta`, whose roots may be anything up to
:math:`\sqrt\delta`. Where :math:`2\Delta` could be seen in the distance, singular values are
taken, which rounding moves by :math:`\epsilon` times the largest. What is zero for certain is left
out beforehand: features that are constant, and the eigenvalues beyond the rank that N samples can
have, N − 1. Of N samples with no more than D features :math:`\|X Y^\top\|_*` is taken in the
space of the samples, :math:`\Sigma = X^\top X`.

Fitted to samples, :math:`d^2` is biased upward, by about :math:`1/N`. The bootstrap repeats that
bias on top of itself: its mean less the value estimates it, and the *basic* interval
:math:`[2 d^2 - q_{1-a/2},\ 2 d^2 - q_{a/2}]`, with :math:`q` the quantiles of resampled distances,
is one for the distance of the distributions. It may lie below the value, and does where the bias
is what the value mostly consists of. A resample only reweights the rows.

References:
    | GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium
      (Heusel et al., 2017)
    | Updating Formulae and a Pairwise Algorithm for Computing Sample Variances (Chan et al., 1983)
    | Effectively Unbiased FID and Inception Score and where to find them (Chong and Forsyth, 2020)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from undrift.exceptions import InvalidInput, Limits

SAMPLES_PER_FEATURE = 8
"""Samples for each feature, of both sides, below which the bootstrap's interval is unreliable."""
ROUNDING = 1e-8
"""Share of a distance that rounding may be, by the faster of two ways."""
MOST_RANK = 256
"""The least of samples, reference and features up to which a bootstrap takes seconds."""


@dataclass(frozen=True, eq=False)
class FrechetStatistics:
    r"""Count, mean and scatter :math:`\sum_i (x_i - \mu)(x_i - \mu)^\top` of features.

    A part is taken away by the formula for merging two parts (Chan et al., 1983), solved for one:

    .. math:: M = M_a + M_b + \frac{N_a N_b}{N_a + N_b} (\mu_a - \mu_b)(\mu_a - \mu_b)^\top

    Arguments:
        count: Number :math:`N` of features.
        mean: :math:`\mu`, float64, with shape :math:`(D)`.
        scatter: :math:`M`, float64, with shape :math:`(D, D)`.

    Example:
        >>> x = torch.randn(100, 3, generator=torch.Generator().manual_seed(0))
        >>> whole = FrechetStatistics.of(x)
        >>> rest, own = whole.without(FrechetStatistics.of(x[:30])), FrechetStatistics.of(x[30:])
        >>> torch.allclose(rest.covariance, own.covariance), rest.distance(own) < 1e-12
        (True, True)
    """

    count: int
    mean: Tensor
    scatter: Tensor

    @classmethod
    def of(cls, features: Tensor) -> Self:
        """Statistics of features with shape :math:`(N, D)`."""
        check_finite("a feature", features)
        x = in_float64(features)
        if not len(x):
            raise InvalidInput("no features to take statistics of")
        mean = x.mean(0)
        x = x - mean
        return cls(len(x), mean, x.T @ x)

    def without(self, part: Self) -> Self:
        """Statistics without those of a part of the features."""
        count = self.count - part.count
        mean = self.mean + (self.mean - part.mean) * (part.count / count)
        gap = part.mean - mean
        between = torch.outer(gap, gap) * (count * part.count / self.count)
        return type(self)(count, mean, self.scatter - part.scatter - between)

    @property
    def covariance(self) -> Tensor:
        """Unbiased covariance, with shape :math:`(D, D)`.

        Raises:
            InvalidInput: If fewer than two features were seen.
        """
        if self.count < 2:
            raise InvalidInput("a covariance needs at least two samples: give more of them")
        return self.scatter / (self.count - 1)

    def distance(self, other: FrechetStatistics) -> float:
        """The Fréchet distance to the Gaussian of other statistics."""
        return gaussian_distance(self.mean, self.covariance, other.mean, other.covariance)


@dataclass(frozen=True)
class FrechetEstimate:
    """A Fréchet distance with its uncertainty.

    Arguments:
        value: The distance of the samples, which papers report; biased upward.
        standard_error: Spread of the value between equal experiments.
        interval: Confidence interval for the distance of the *distributions*, bias removed.
        bias: The bootstrap's estimate of the bias of the value.
        warning: Why the interval is unreliable, in one line, or None.
    """

    value: float
    standard_error: float
    interval: tuple[float, float]
    bias: float
    warning: str | None


def frechet_distance(x_features: Tensor, y_features: Tensor) -> float:
    r"""The Fréchet distance between Gaussians fitted to two samples of any sizes.

    Biased upward by the order of :math:`1/N`: compare values of equal sample sizes only.

    Arguments:
        x_features: Features of samples, with shape :math:`(N, D)`.
        y_features: Features of the reference, with shape :math:`(M, D)`.

    Returns:
        :math:`d^2`, in squared units of the features, not negative.

    Raises:
        InvalidInput: If there are fewer than two samples, or the shapes do not fit.

    Example:
        >>> x = torch.tensor([[0.0], [2.0]])
        >>> frechet_distance(x, x + 3)
        9.0
    """
    x, y = checked_pair(x_features, y_features)
    if min(len(x), len(y)) > x.shape[1]:
        return FrechetStatistics.of(x).distance(FrechetStatistics.of(y))
    (mean_x, x), (mean_y, y) = _weighted(x), _weighted(y)
    rest = (mean_x - mean_y).square().sum() + x.square().sum() + y.square().sum()
    product = _in_sample_space(x, y)
    norm = _root_sum(product @ product.T, rank=len(product) - 1)
    return _checked_distance(rest, norm, lambda: product)


def gaussian_distance(mean_x: Tensor, cov_x: Tensor, mean_y: Tensor, cov_y: Tensor) -> float:
    r"""The Fréchet distance between :math:`N(\mu_x, \Sigma_x)` and :math:`N(\mu_y, \Sigma_y)`.

    Arguments:
        mean_x: :math:`\mu_x`, with shape :math:`(D)`.
        cov_x: :math:`\Sigma_x`, with shape :math:`(D, D)`, of any rank.
        mean_y: :math:`\mu_y`, with shape :math:`(D)`.
        cov_y: :math:`\Sigma_y`, with shape :math:`(D, D)`, of any rank.

    Returns:
        :math:`d^2`, not negative.
    """
    mean_gap = in_float64(mean_x) - in_float64(mean_y)
    cov_x, cov_y = in_float64(cov_x), in_float64(cov_y)
    rest = mean_gap.square().sum() + cov_x.trace() + cov_y.trace()
    vary = (cov_x.diagonal() > 0) & (cov_y.diagonal() > 0)
    cov_x, cov_y = (cov[vary][:, vary] for cov in (cov_x, cov_y))
    factor = _triangular_factor(cov_x)
    norm = _root_sum(factor.T @ cov_y @ factor)
    return _checked_distance(rest, norm, lambda: factor.T @ _triangular_factor(cov_y))


def frechet_estimate(
    x_features: Tensor,
    y_features: Tensor,
    *,
    num_resamples: int = 100,
    confidence: float = 0.95,
    generator: torch.Generator | None = None,
) -> FrechetEstimate:
    r"""The Fréchet distance with bootstrap standard error, bias and confidence interval.

    Costs ``num_resamples`` times :math:`O((N + M) D^2 + D^3)`, or :math:`O(N M (N + D))` where the
    smaller sample has :math:`N \le D`: a second for 64 features, or for 100 samples.

    Arguments:
        x_features: Features of samples, with shape :math:`(N, D)`.
        y_features: Features of the reference, with shape :math:`(M, D)`.
        num_resamples: Number of bootstrap resamples.
        confidence: Of the interval.
        generator: Source of the resamples, on the CPU.

    Returns:
        Value, standard error, interval, bias, and a warning where there are fewer than eight
        samples for each feature: with fewer the interval is unreliable, because the bias is no
        longer of the first order that the bootstrap estimates. Beyond 100 features take twice as
        many.

    Raises:
        InvalidInput: If the shapes do not fit, or an option is out of its range.
    """
    x, y = checked_pair(x_features, y_features)
    Limits(2).check("num_resamples of a bootstrap", num_resamples)
    Limits(0, 1, "()").check("confidence of an interval", confidence)
    value = frechet_distance(x, y)
    distances = torch.empty(num_resamples, dtype=torch.float64)
    for i in range(num_resamples):
        distances[i] = _resampled_distance(x, y, generator)
    tail = torch.tensor([(1 + confidence) / 2, (1 - confidence) / 2], dtype=torch.float64)
    low, high = (2 * value - distances.quantile(tail)).clamp(min=0).tolist()
    return FrechetEstimate(
        value=value,
        standard_error=float(distances.std()),
        interval=(low, high),
        bias=float(distances.mean()) - value,
        warning=sample_size_warning(len(x), len(y), x.shape[1]),
    )


def _drawn(x: Tensor, generator: torch.Generator | None) -> Tensor:
    """How often each row is in a resample with replacement."""
    return torch.randint(len(x), (len(x),), generator=generator).bincount(minlength=len(x))


def _weighted(x: Tensor, counts: Tensor | None = None) -> tuple[Tensor, Tensor]:
    r"""The mean of rows with these counts, and rows F with :math:`F^\top F` their covariance."""
    weights = x.new_ones(len(x)) if counts is None else counts.to(x)
    x, weights = x[weights > 0], weights[weights > 0]
    total = weights.sum()
    mean = weights @ x / total
    return mean, (x - mean) * (weights / (total - 1)).sqrt()[:, None]


def _resampled_distance(x: Tensor, y: Tensor, generator: torch.Generator | None) -> Tensor:
    """The distance between resamples, without a check of rounding, which their spread hides."""
    mean_y, y = _weighted(y, _drawn(y, generator))
    mean_x, x = _weighted(x, _drawn(x, generator))
    if min(len(x), len(y)) <= x.shape[1]:
        product = _in_sample_space(x, y)
        norm, _ = _root_sum(product @ product.T, rank=len(product) - 1)
    else:
        factor = _triangular_factor(x.T @ x)
        norm, _ = _root_sum(factor.T @ (y.T @ y) @ factor)
    rest = (mean_x - mean_y).square().sum() + x.square().sum() + y.square().sum()
    return (rest - 2 * norm).clamp(min=0)


def _in_sample_space(x: Tensor, y: Tensor) -> Tensor:
    r""":math:`X Y^\top` or its transpose, with as many rows as the smaller sample has."""
    return x @ y.T if len(x) <= len(y) else y @ x.T


def _root_sum(gram: Tensor, rank: int | None = None) -> tuple[Tensor, Tensor]:
    r"""The sum of the roots of the eigenvalues, and :math:`\Delta`, what rounding may do to it.

    Arguments:
        gram: A positive semidefinite matrix, with shape :math:`(n, n)`.
        rank: The most that its rank can be, if that is less than n.
    """
    if not len(gram):
        return gram.new_zeros(()), gram.new_zeros(())
    squares = torch.linalg.eigvalsh(gram)
    noise = squares[-1].clamp(min=0) * math.sqrt(len(squares)) * torch.finfo(gram.dtype).eps
    if rank is not None:
        squares = squares[len(squares) - rank :]
    seen = squares[squares > noise]
    hidden = (len(squares) - len(seen)) * noise.sqrt()
    return seen.sqrt().sum(), noise / 2 * (1 / seen).sum().sqrt() + hidden


def _checked_distance(
    rest: Tensor, norm: tuple[Tensor, Tensor], product: Callable[[], Tensor]
) -> float:
    """The distance, by singular values where rounding could be seen in it.

    Arguments:
        rest: All terms but the last.
        norm: The nuclear norm by eigenvalues, and what rounding may do to it.
        product: Computes the matrix whose nuclear norm it is.
    """
    value, error = norm
    if 2 * error > ROUNDING * (rest - 2 * value):
        value = torch.linalg.svdvals(product()).sum()
    return max(0.0, float(rest - 2 * value))


def _triangular_factor(covariance: Tensor) -> Tensor:
    r"""A factor :math:`L` with :math:`L L^\top = \Sigma`: Cholesky's, if there is full rank."""
    factor, failed = torch.linalg.cholesky_ex(covariance)
    pivots = factor.diagonal().square()
    floor = pivots.max() * len(pivots) * torch.finfo(pivots.dtype).eps
    return _factor(covariance) if failed or pivots.min() <= floor else factor


def _factor(covariance: Tensor) -> Tensor:
    r"""A factor :math:`L` with :math:`L L^\top = \Sigma`, its columns as many as the rank."""
    values, vectors = torch.linalg.eigh((covariance + covariance.T) / 2)
    floor = values[-1].clamp(min=0) * len(values) * torch.finfo(values.dtype).eps
    kept = values > floor
    factor: Tensor = vectors[:, kept] * values[kept].sqrt()
    return factor


def in_float64(x: Tensor) -> Tensor:
    """In double precision, which Apple's GPUs do not have."""
    found = x.detach()
    return (found.cpu() if found.device.type == "mps" else found).to(torch.float64)


def checked_pair(x_features: Tensor, y_features: Tensor, least: int = 2) -> tuple[Tensor, Tensor]:
    """Two samples of features in double precision.

    Raises:
        InvalidInput: If the shapes do not fit, there are fewer than the least number of samples, or
            an entry is NaN or infinite.
    """
    fits = x_features.ndim == y_features.ndim == 2 and x_features.shape[1] == y_features.shape[1]
    if not fits or min(len(x_features), len(y_features)) < least:
        raise InvalidInput(
            f"features must have shapes (N, D) and (M, D) with N and M at least {least}, not "
            f"{tuple(x_features.shape)} and {tuple(y_features.shape)}"
        )
    check_finite("x_features", x_features)
    check_finite("y_features", y_features)
    return in_float64(x_features), in_float64(y_features)


def check_finite(label: str, features: Tensor) -> None:
    """Check that features are finite.

    Raises:
        InvalidInput: If one is NaN or infinite, naming the first such row.
    """
    bad = (~features.isfinite()).any(1).nonzero()
    if len(bad):
        raise InvalidInput(
            f"{label} is NaN or infinite in row {int(bad[0])} ({len(bad)} such rows): "
            "drop such samples, or find their origin"
        )


def sample_size_warning(num_x: int, num_y: int, dim: int) -> str | None:
    """The warning where there are too few samples for so many features, else None."""
    least, fewest = SAMPLES_PER_FEATURE * dim, min(num_x, num_y)
    if fewest >= least:
        return None
    return (
        f"{fewest} samples are too few for {dim} features: take {least} or more, or use the kernel "
        "distance"
    )
