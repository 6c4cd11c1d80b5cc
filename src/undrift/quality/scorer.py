r"""What a model's samples are judged by: the same samples' noise, reference and features for all.

:math:`D_0^2` is the unbiased MMD² of samples against the data in pixels, and there are two of it.
Against the *population* (``mmd_sq``, as :func:`~undrift.measure` has it) the data are N independent
draws of what the model should be like; but the model was trained on these very draws, and one that
repeats them reads less than 0. Against the *data set itself* (``empirical_mmd_sq``) only such a
model reads 0. The two differ by

.. math:: (k(x, x) - E\, k(y, y')) / N,

the same for every model, below 1/N. A relative change is smaller by the second. Fréchet and kernel
distance, precision and recall are taken on features that no method was trained on.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from undrift.data.images import ImageData
from undrift.diffusion.network import device_of, evaluating
from undrift.diffusion.sampler import Sampler
from undrift.mmd.kernels import RBFMixture, squared_distances
from undrift.mmd.two_sample import mmd_estimate
from undrift.quality.feature_choice import choose_features
from undrift.quality.features import FeatureMap, extract_features, score_name
from undrift.quality.frechet import frechet_distance, frechet_estimate, sample_size_warning
from undrift.quality.kernel_distance import kernel_distance
from undrift.quality.precision_recall import precision_recall

Row = dict[str, Any]
SAMPLING_SEED = 10_000
BLOCK = 250
NEIGHBORS = 3
MOST_DIM = 256
"""Features beyond which the Fréchet distance has no bootstrap: it would take minutes a model."""


@dataclass(frozen=True, eq=False)
class Judge:
    """Draws samples of a chain and judges them, the same way for every method.

    Arguments:
        data: The images that the samples should be like.
        num_samples: Number of samples.
        num_reference: Number of images, evenly spread; all, up to four times the samples, if None.
        features: The feature map; None for pixels.
    """

    data: ImageData
    num_samples: int
    num_reference: int | None = None
    features: FeatureMap | None = None

    @cached_property
    def reference(self) -> Tensor:
        """The images that samples are compared with."""
        most = self.num_reference or 4 * self.num_samples
        count = min(most, len(self.data))
        if count == len(self.data):
            return self.data.images
        return self.data.images[torch.arange(count) * len(self.data) // count]

    @cached_property
    def reference_features(self) -> Tensor:
        """Their features."""
        return extract_features(self.reference, self.features)

    @cached_property
    def kernel(self) -> RBFMixture:
        """The kernel, its bandwidth fixed by the reference."""
        return RBFMixture().fit(self.reference)

    @cached_property
    def data_set_offset(self) -> float:
        r"""What :math:`D_0^2` against the data set itself is above that against its population."""
        y, kernel = self.reference.flatten(1), self.kernel
        total = sum(
            float(kernel.radial_(squared_distances(rows, y)).sum(dtype=torch.float64))
            for rows in y.split(BLOCK)
        )
        between = (total - len(y) * kernel.self_value) / (len(y) * (len(y) - 1))
        return (kernel.self_value - between) / len(self.data)

    def draw(self, sampler: Sampler, seed: int) -> tuple[Tensor, torch.Generator]:
        """Samples of a chain, the same noise for every chain, and the generator that goes on."""
        generator = torch.Generator().manual_seed(SAMPLING_SEED + seed)
        sizes = [min(BLOCK, self.num_samples - k) for k in range(0, self.num_samples, BLOCK)]
        shape, network = self.data.image_shape, sampler.network
        device = device_of(network)
        with evaluating(network):
            blocks = [
                sampler.sample((n, *shape), generator=generator, device=device).cpu() for n in sizes
            ]
        return torch.cat(blocks), generator

    def scores(self, samples: Tensor, generator: torch.Generator) -> Row:
        """Final cumulative error and quality of samples, with standard errors."""
        estimate = mmd_estimate(samples, self.reference, kernel=self.kernel)
        x, y = extract_features(samples, self.features), self.reference_features
        kernel = kernel_distance(x, y)
        row = {
            "mmd_sq": estimate.mmd_sq,
            "mmd_sq_se": estimate.standard_error,
            "mmd_sq_low": estimate.lower_confidence_limit(),
            "p_value": estimate.p_value,
            **_frechet(x, y, generator),
            "kernel_distance": kernel.value,
            "kernel_distance_se": kernel.standard_error,
            "precision": None,
            "precision_se": None,
            "recall": None,
            "recall_se": None,
            "pixel_variance_ratio": float(samples.var(0).sum() / self.data.images.var(0).sum()),
        }
        if min(len(x), len(y)) > NEIGHBORS:
            shares = precision_recall(x, y, num_neighbors=NEIGHBORS)
            row |= {key: value for key, value in asdict(shares).items() if key in row}
        return row

    @cached_property
    def account(self) -> dict[str, Any]:
        """How models are judged, and what the Fréchet distance cannot say for want of samples."""
        _, dim = extract_features(self.reference[:2], self.features).shape
        warning = sample_size_warning(self.num_samples, len(self.reference), dim)
        return self.how() | {"warning": warning}

    def how(self) -> dict[str, Any]:
        """All that decides a judgment besides the chain and the seed."""
        features = dict(getattr(self.features, "how", {"features": "pixels"}))
        return {
            "num_samples": self.num_samples,
            "num_reference": len(self.reference),
            "data": self.data.fingerprint,
            "features": features,
            "score_name": score_name(self.features),
        }


def judge(sampler: Sampler, data: ImageData, num_samples: int, seed: int) -> Row:
    """Final cumulative error and quality of a chain's samples, with standard errors.

    Arguments:
        sampler: The chain.
        data: The images that it should be like.
        num_samples: Number of samples.
        seed: Seed of the samples: the same noise for every method.
    """
    features = choose_features("pixels" if data.labels is None else "classifier", data)
    bench = Judge(data, num_samples, features=features)
    return bench.scores(*bench.draw(sampler, seed))


def judgment_file(folder: Path, what: str, how: Mapping[str, Any]) -> Path:
    """Where a judgment is kept: another question has another name, so it never gets the old answer.

    Example:
        >>> judgment_file(Path("run"), "final", {"seed": 0}).name
        'judged-final-de7d7744.json'
    """
    text = json.dumps(how, sort_keys=True, default=str)
    return folder / f"judged-{what}-{hashlib.sha256(text.encode()).hexdigest()[:8]}.json"


def _frechet(x: Tensor, y: Tensor, generator: torch.Generator) -> Row:
    if x.shape[1] > MOST_DIM:
        return {"frechet": frechet_distance(x, y), "frechet_se": None}
    quality = frechet_estimate(x, y, num_resamples=30, generator=generator)
    return {"frechet": quality.value, "frechet_se": quality.standard_error}
