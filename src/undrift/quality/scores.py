r"""All scores of a set of samples at once, from images to a record."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from undrift.quality.features import FeatureMap, extract_features, score_name
from undrift.quality.frechet import FrechetEstimate, frechet_estimate
from undrift.quality.kernel_distance import KernelDistance, kernel_distance
from undrift.quality.precision_recall import PrecisionRecall, precision_recall


@dataclass(frozen=True)
class QualityScores:
    """Fréchet distance, kernel distance, precision and recall of one set of samples.

    Arguments:
        name: What the Fréchet distance on these features may be called.
        frechet: Fréchet distance with its error.
        kernel: Kernel distance with its error.
        precision_recall: Shares inside the other's manifold.
        how: What the features are.
    """

    name: str
    frechet: FrechetEstimate
    kernel: KernelDistance
    precision_recall: PrecisionRecall
    how: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """All numbers, ready for JSON."""
        return asdict(self)


def quality_scores(
    samples: Tensor,
    reference: Tensor,
    features: FeatureMap | None = None,
    *,
    num_resamples: int = 100,
    num_neighbors: int = 3,
    batch_size: int = 256,
    generator: torch.Generator | None = None,
) -> QualityScores:
    r"""Judge samples against reference images on the features of both.

    Arguments:
        samples: Generated images in :math:`[-1, 1]`, with shape :math:`(N, C, H, W)`.
        reference: Images of the data, with shape :math:`(M, C, H, W)`.
        features: The feature map; None takes pixels.
        num_resamples: Bootstrap resamples for the Fréchet distance.
        num_neighbors: Neighbors for precision and recall.
        batch_size: Images in a block.
        generator: Source of the resamples, on the CPU.

    Returns:
        The scores.
    """
    x = extract_features(samples, features, batch_size=batch_size)
    y = extract_features(reference, features, batch_size=batch_size)
    return QualityScores(
        name=score_name(features),
        frechet=frechet_estimate(x, y, num_resamples=num_resamples, generator=generator),
        kernel=kernel_distance(x, y),
        precision_recall=precision_recall(x, y, num_neighbors=num_neighbors),
        how=dict(
            getattr(features, "how", {"features": "pixels" if features is None else "custom"})
        ),
    )
