"""The scores of a set of samples, as records hold them. Nothing here needs torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class FinalError:
    r"""Final cumulative error of a set of samples, in pixels.

    Arguments:
        mmd_sq: :math:`D_0^2` to the population that the data were drawn from.
        mmd_sq_se: Its standard error.
        mmd_sq_low: Its lower confidence limit, one-sided, 95 %.
        interval: Its 95 % confidence interval.
        p_value: Permutation p-value of samples and data having one distribution.
        empirical_mmd_sq: :math:`D_0^2` to the data set itself.
        empirical_mmd_sq_se: Its standard error, of samples that are independent of the data; of a
            model that only repeats them, :math:`\sqrt{1 + 2N/M}` times as much as it should be
            with N samples and M data.
        pixel_variance_ratio: Total variance of the samples over that of the data.
    """

    mmd_sq: float
    mmd_sq_se: float | None = None
    mmd_sq_low: float | None = None
    interval: tuple[float, float] | None = None
    p_value: float | None = None
    empirical_mmd_sq: float | None = None
    empirical_mmd_sq_se: float | None = None
    pixel_variance_ratio: float | None = None


@dataclass(frozen=True)
class Quality:
    r"""Quality of a set of samples in the features of one network. None: too few samples for it.

    Arguments:
        frechet: Fréchet distance, biased upward.
        frechet_se: Its standard error.
        frechet_interval: 95 % interval of the distance of the distributions, with the bias removed.
        frechet_ratio: Fréchet distance over that of held-out images (FDr), both to the other images
            and with equally many samples: 1 for samples as good as data.
        frechet_ratio_se: Its standard error.
        kernel_distance: Unbiased MMD² under the cubic kernel.
        kernel_distance_se: Its standard error.
        feature_mmd_sq: :math:`D_0^2` in the features instead of pixels, to the population.
        feature_mmd_sq_se: Its standard error.
        sliced: Sliced Wasserstein distance (MIND), biased upward.
        sliced_se: Its standard error.
        precision: Share of samples inside of the data's manifold.
        precision_se: Its standard error.
        recall: Share of data inside of the samples' manifold.
        recall_se: Its standard error.
    """

    frechet: float | None = None
    frechet_se: float | None = None
    frechet_interval: tuple[float, float] | None = None
    frechet_ratio: float | None = None
    frechet_ratio_se: float | None = None
    kernel_distance: float | None = None
    kernel_distance_se: float | None = None
    feature_mmd_sq: float | None = None
    feature_mmd_sq_se: float | None = None
    sliced: float | None = None
    sliced_se: float | None = None
    precision: float | None = None
    precision_se: float | None = None
    recall: float | None = None
    recall_se: float | None = None


@dataclass(frozen=True)
class Scores(Quality, FinalError):
    """Final cumulative error, and quality in one network, of a set of samples."""

    def to_dict(self) -> dict[str, Any]:
        """All scores, ready for JSON."""
        return asdict(self)


def mean_ratio(quality: dict[str, Quality]) -> float | None:
    """Mean over networks of the ratio of Fréchet distances (FDr), None where one has none.

    Example:
        >>> mean_ratio({"a": Quality(frechet_ratio=1.0), "b": Quality(frechet_ratio=2.0)})
        1.5
    """
    ratios = [each.frechet_ratio for each in quality.values()]
    known = [ratio for ratio in ratios if ratio is not None]
    return sum(known) / len(known) if known and len(known) == len(ratios) else None
