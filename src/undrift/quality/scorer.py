r"""All scores of a model's samples, with error bars, the same way for every command.

:math:`D_0^2` is the unbiased MMD² of samples against the data in pixels, computed against two
references. Against the *population* (``mmd_sq``, as :func:`~undrift.measure` has it) the data are N
independent draws of what the model should be like; but the model was trained on these very draws,
and one that repeats them reads less than 0. Against the *data set itself* (``empirical_mmd_sq``)
only such a model reads 0. The two differ by

.. math:: (k(x, x) - E\, k(y, y')) / N,

the same for every model, below 1/N. A relative change is smaller by the second. Fréchet, kernel and
sliced distance, precision and recall are taken on features that no method was trained on.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from undrift.data.images import ImageData
from undrift.diffusion.sampler import Sampler
from undrift.measurement.cumulative import check_states, data_variance, permutations
from undrift.measurement.forward_draws import default_count, evenly_spread
from undrift.measurement.parallel_chains import draw_images
from undrift.mmd.distances import squared_distances
from undrift.mmd.kernels import RBFMixture
from undrift.mmd.two_sample import mmd_estimate
from undrift.processes import ALONE, Processes
from undrift.quality.features import FeatureMap, extract_features, score_name
from undrift.quality.frechet import (
    MOST_RANK,
    frechet_distance,
    frechet_estimate,
    sample_size_warning,
)
from undrift.quality.held_out import HeldOut, too_few
from undrift.quality.kernel_distance import kernel_distance
from undrift.quality.precision_recall import precision_recall
from undrift.quality.scores import FinalError, Quality, Scores
from undrift.quality.sliced import LEAST, sliced_distance
from undrift.seeds import stream_seed

Row = dict[str, Any]
NUM_NEIGHBORS = 3
NUM_RESAMPLES = 100


@dataclass(frozen=True, eq=False)
class Scorer:
    """Draws samples of a chain and scores them, the same way for every command.

    The images that samples are compared with are the last state's of :func:`~undrift.measure`, and
    so are the noise of the samples, the kernel and the permutations: :math:`D_0^2` is the same.

    Arguments:
        data: The images to compare the samples with.
        num_samples: Number of samples, four or more.
        num_reference: Number of images, evenly spread; all, up to four times the samples, if None.
        features: The feature map; None for pixels.
        num_resamples: Bootstrap resamples behind the error bars of the Fréchet distance; when None
            100, or none where there are too many samples of too many features (:attr:`notes`).
        batch_size: Chains that go through the network at once; by its activations when None.
        processes: Those that share the chains; each of them scores the samples of all.

    Example:
        >>> from undrift.data.load import load_data
        >>> digits = load_data("digits")
        >>> scorer = Scorer(digits, num_samples=500)
        >>> scores = scorer.scores(digits.images[::4])
        >>> scores.p_value > 0.05, scores.mmd_sq < 4 * scores.mmd_sq_se
        (True, True)
    """

    data: ImageData
    num_samples: int
    num_reference: int | None = None
    features: FeatureMap | None = None
    num_resamples: int | None = None
    batch_size: int | None = None
    processes: Processes = ALONE

    @cached_property
    def reference(self) -> Tensor:
        """The images that samples are compared with."""
        images = self.data.images
        count = self.num_reference or default_count(images, self.num_samples, "population")
        return images if count >= len(images) else images[evenly_spread(len(images), count)]

    @cached_property
    def reference_features(self) -> Tensor:
        """Their features."""
        return extract_features(self.reference, self.features)

    @cached_property
    def kernel(self) -> RBFMixture:
        """The kernel, its bandwidth fixed by the reference."""
        return RBFMixture().fit(self.reference)

    @cached_property
    def feature_kernel(self) -> RBFMixture:
        """The kernel of the error in the features, fixed by those of the reference."""
        return RBFMixture().fit(self.reference_features)

    @cached_property
    def data_set_offset(self) -> float:
        r""":math:`D_0^2` against the data set itself less that against its population."""
        y, kernel = self.reference.flatten(1), self.kernel
        tiles = (kernel.radial_(squared_distances(rows, y)) for rows in y.split(1024))
        total = sum(float(tile.sum(dtype=torch.float64)) for tile in tiles)
        between = (total - len(y) * kernel.self_value) / (len(y) * (len(y) - 1))
        return (kernel.self_value - between) / len(self.data)

    def draw(
        self, sampler: Sampler, seed: int, tick: Callable[[int], None] = lambda amount: None
    ) -> Tensor:
        """Samples of a chain, the same noise for every chain, with shape (N, C, H, W)."""
        return draw_images(
            sampler, self.num_samples, self.data.image_shape, seed,
            batch_size=self.batch_size, tick=tick, processes=self.processes,
        )  # fmt: skip

    def scores(self, samples: Tensor, seed: int = 0) -> Scores:
        """All scores of samples.

        Arguments:
            samples: Images, with shape (N, C, H, W).
            seed: Seed of permutations and bootstrap.

        Raises:
            InvalidInput: If the samples are not finite or too few.
        """
        quality = self.quality(samples, seed)
        return Scores(**asdict(self.error(samples, seed)), **asdict(quality))

    def error(self, samples: Tensor, seed: int = 0) -> FinalError:
        """The final cumulative error of samples, in pixels."""
        check_states(samples, 0, "the sampler's images")
        found = mmd_estimate(
            samples, self.reference, kernel=self.kernel, generator=permutations(seed, 0)
        )
        by_data = data_variance(found, len(self.reference) / len(self.data))
        ratio = samples.var(0).sum() / self.data.images.var(0).sum()
        return FinalError(
            mmd_sq=found.mmd_sq,
            mmd_sq_se=found.standard_error,
            mmd_sq_low=found.lower_confidence_limit(),
            interval=found.confidence_interval(),
            p_value=found.p_value,
            empirical_mmd_sq=found.mmd_sq + self.data_set_offset,
            empirical_mmd_sq_se=math.sqrt(max(found.standard_error**2 - by_data, 0.0)),
            pixel_variance_ratio=float(ratio),
        )

    def quality(self, samples: Tensor, seed: int = 0) -> Quality:
        """The quality of samples in the features."""
        check_states(samples, 0, "the sampler's images")
        x, y = extract_features(samples, self.features), self.reference_features
        kernel = kernel_distance(x, y)
        error = mmd_estimate(x, y, kernel=self.feature_kernel, num_permutations=0)
        return Quality(
            feature_mmd_sq=error.mmd_sq,
            feature_mmd_sq_se=error.standard_error,
            kernel_distance=kernel.mmd_sq,
            kernel_distance_se=kernel.standard_error,
            **self._frechet(x, y, seed),
            **self._ratio(x),
            **self._sliced(x, y),
            **asdict(precision_recall(x, y, num_neighbors=NUM_NEIGHBORS)),
        )

    def _frechet(self, x: Tensor, y: Tensor, seed: int) -> Row:
        """The Fréchet distance, with an error bar and an interval where they are reliable."""
        if not self.bootstraps:
            return dict(frechet=frechet_distance(x, y), frechet_se=None, frechet_interval=None)
        generator = torch.Generator().manual_seed(stream_seed(seed, "bootstrap"))
        found = frechet_estimate(x, y, num_resamples=self.bootstraps, generator=generator)
        return {
            "frechet": found.value,
            "frechet_se": found.standard_error,
            "frechet_interval": None if found.warning else found.interval,
        }

    @cached_property
    def held_out(self) -> HeldOut:
        """The features of the reference, a half of them held out."""
        return HeldOut.of(self.reference_features, self.num_samples)

    def _ratio(self, x: Tensor) -> Row:
        """FDr, with an error bar where those of Fréchet distances are made."""
        if too_few(len(self.reference), len(x)):
            return {}
        error = self.held_out.standard_error(x) if self.bootstraps else None
        return {"frechet_ratio": self.held_out.ratio(x), "frechet_ratio_se": error}

    def _sliced(self, x: Tensor, y: Tensor) -> Row:
        """The sliced distance with its error bar."""
        if min(len(x), len(y)) < LEAST:
            return {}
        found = sliced_distance(x, y)
        return {"sliced": found.value, "sliced_se": found.standard_error}

    @cached_property
    def dim(self) -> int:
        """Number of features."""
        return int(extract_features(self.reference[:2], self.features).shape[1])

    @property
    def bootstraps(self) -> int:
        """Bootstrap resamples that are made; 0 where they would take minutes."""
        if self.num_resamples is not None:
            return self.num_resamples
        rank = min(self.num_samples, len(self.reference), self.dim)
        return NUM_RESAMPLES if rank <= MOST_RANK else 0

    @property
    def warning(self) -> str | None:
        """The warning that there are too few samples, known before any is drawn."""
        return sample_size_warning(self.num_samples, len(self.reference), self.dim)

    @property
    def notes(self) -> list[str]:
        """Limits of these numbers of samples and images, one line each."""
        found = [f"Fréchet distance: {self.warning}"] if self.warning else []
        if not self.bootstraps:
            slow = f"no error bar, which takes minutes for {self.dim} features"
            found.append(f"Fréchet distance: {slow}")
        if reason := too_few(len(self.reference), self.num_samples):
            found.append(reason)
        return found

    def how(self) -> dict[str, Any]:
        """All that the scores depend on besides the chain and the seed."""
        return {
            "num_samples": self.num_samples,
            "num_reference": len(self.reference),
            "num_resamples": self.bootstraps,
            "data": self.data.fingerprint,
            "features": dict(getattr(self.features, "how", {"features": "pixels"})),
            "score_name": score_name(self.features),
            "warning": self.warning,
            "scores": sorted(field.name for field in fields(Scores)),
        }


def judgment_file(folder: Path, what: str, how: Mapping[str, Any]) -> Path:
    """The file that keeps scores, named after all they depend on.

    So a changed setting is never answered from the file.

    Example:
        >>> judgment_file(Path("run"), "final", {"seed": 0}).name
        'judged-final-de7d7744.json'
    """
    text = json.dumps(how, sort_keys=True, default=str)
    return folder / f"judged-{what}-{hashlib.sha256(text.encode()).hexdigest()[:8]}.json"
