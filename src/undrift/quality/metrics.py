r"""The scores as metrics of torchmetrics: batches in, one value out, over all processes.

Each metric keeps the features of all images that it was given, of samples and of data, as its
states. torchmetrics joins the states of all processes before ``compute``,
which calls the function of this package on the joined features. So the value is the one that the
function gives, whatever the batches and the processes; memory grows with the number of features.

It needs torchmetrics, which the extra ``metrics`` installs.

References:
    | TorchMetrics: Measuring Reproducibility in PyTorch (Detlefsen et al., 2022)
"""

from __future__ import annotations

import logging
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from undrift.exceptions import InvalidInput, Limits
from undrift.mmd.kernel import Kernel
from undrift.mmd.kernels import RBFMixture
from undrift.mmd.two_sample import mmd_estimate
from undrift.quality.features import FeatureMap, extract_features
from undrift.quality.frechet import frechet_distance
from undrift.quality.kernel_distance import kernel_distance
from undrift.quality.precision_recall import precision_recall

try:
    from torchmetrics import Metric
    from torchmetrics.utilities import dim_zero_cat
except ImportError as error:
    raise ImportError(
        "undrift.quality.metrics needs one more package: pip install torchmetrics"
    ) from error


logger = logging.getLogger("undrift")
DARK = -0.5
"""Where images have pixels below it, others without a negative one have another scale."""
ROUNDING = 0.01
"""What may lie beyond [-1, 1] because of half precision."""


class FeatureMetric(Metric):
    """A score of the features of samples against those of data.

    Arguments:
        features: The feature map of images; None for their pixels, and for states of a chain.
        reset_real_features: Whether :meth:`reset` forgets the data too, not only the samples.
        options: Those of ``torchmetrics.Metric``, such as ``compute_on_cpu``.
    """

    is_differentiable = False
    full_state_update = False
    fake: list[Tensor]
    real: list[Tensor]
    fake_low: Tensor
    real_low: Tensor

    def __init__(
        self,
        features: FeatureMap | None = None,
        *,
        reset_real_features: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.features = features
        self.reset_real_features = reset_real_features
        self.add_state("fake", default=[], dist_reduce_fx="cat")
        self.add_state("real", default=[], dist_reduce_fx="cat")
        for name in ("fake_low", "real_low"):  # the darkest pixels
            self.add_state(name, default=torch.tensor(torch.inf), dist_reduce_fx="min")

    def update(self, images: Tensor, real: bool) -> None:
        """Add a batch.

        Arguments:
            images: Images as floats in [-1, 1], with shape (N, C, H, W). Without a feature map also
                latents, states of a chain, or rows of features, in any range.
            real: Whether they are data, not samples.

        Raises:
            InvalidInput: If images have another range, or a feature is not finite.
        """
        self._check_range(images)
        found = extract_features(images, self.features).to(self.device)
        (self.real if real else self.fake).append(found)
        if images.ndim == 4:
            name = "real_low" if real else "fake_low"
            lowest = images.detach().amin().to(self.device, torch.float32)
            setattr(self, name, torch.minimum(getattr(self, name), lowest))

    def _check_range(self, images: Tensor) -> None:
        """Check that images are scaled as feature maps take them.

        Raises:
            InvalidInput: If they are not.
        """
        if not images.is_floating_point():
            kind = str(images.dtype).removeprefix("torch.")
            raise InvalidInput(
                f"the images are {kind}: give floats in [-1, 1] (of 0..255: images / 127.5 - 1)"
            )
        bound = 1 + ROUNDING
        if self.features is not None and bool((images.abs() > bound).any()):
            low, high = map(float, images.aminmax())
            raise InvalidInput(
                f"the images reach from {low:.3g} to {high:.3g}: scale them to [-1, 1] (of 0..255: "
                "images / 127.5 - 1), and clamp what lies beyond"
            )

    def compute(self) -> dict[str, Tensor]:
        """The score of all samples so far against all data so far, by the names of ``evaluate``.

        Images of one side without a negative value are logged as a warning: they may be in [0, 1].

        Raises:
            InvalidInput: If there are too few of either.
        """
        if not len(self.fake) or not len(self.real):
            raise InvalidInput(
                "a metric needs samples and data: call update(images, real=False) and "
                "update(images, real=True) first"
            )
        low, other = sorted(map(float, (self.fake_low, self.real_low)))
        if low < DARK and 0 <= other <= 1:
            name = "data" if float(self.real_low) == other else "samples"
            logger.warning(
                "the %s have no negative value, the others reach down to %.2g: is one of them in "
                "[0, 1]? Scale both to [-1, 1], 2 * images - 1",
                name,
                low,
            )
        values = self.score(dim_zero_cat(self.fake), dim_zero_cat(self.real))
        return {name: torch.tensor(value, device=self.device) for name, value in values.items()}

    def reset(self) -> None:
        """Forget the samples, and the data unless they are kept."""
        kept, low = [*self.real], self.real_low
        super().reset()
        if not self.reset_real_features:
            self.real, self.real_low = kept, low

    def score(self, fake: Tensor, real: Tensor) -> dict[str, float]:
        """The score of features.

        Arguments:
            fake: Features of samples, with shape (N, D).
            real: Features of data, with shape (M, D).
        """
        raise NotImplementedError


class FrechetDistance(FeatureMetric):
    r"""The Fréchet distance :math:`d^2` of features: ``{"frechet": …}``; FID on Inception's.

    Example:
        >>> metric = FrechetDistance()
        >>> metric.update(torch.tensor([[0.0], [2.0]]), real=False)
        >>> metric.update(torch.tensor([[3.0], [5.0]]), real=True)
        >>> metric.compute()
        {'frechet': tensor(9.)}
    """

    higher_is_better = False

    def score(self, fake: Tensor, real: Tensor) -> dict[str, float]:
        """:func:`~undrift.frechet_distance`."""
        return {"frechet": frechet_distance(fake, real)}


class KernelDistance(FeatureMetric):
    """The kernel distance of features and its standard error; KID on Inception's.

    The value has ``kernel_distance`` and ``kernel_distance_se``.
    """

    higher_is_better = False

    def score(self, fake: Tensor, real: Tensor) -> dict[str, float]:
        """:func:`~undrift.kernel_distance`."""
        found = kernel_distance(fake, real)
        return {
            "kernel_distance": found.mmd_sq,
            "kernel_distance_se": found.standard_error,
        }


class PrecisionRecall(FeatureMetric):
    """Precision and recall of features, with standard errors.

    The value has ``precision``, ``recall``, ``precision_se`` and ``recall_se``.

    Arguments:
        features: As for every metric of this module.
        num_neighbors: Balls reach to the neighbor of this rank.
        options: As for every metric of this module.
    """

    higher_is_better = True

    def __init__(
        self, features: FeatureMap | None = None, *, num_neighbors: int = 3, **options: Any
    ) -> None:
        super().__init__(features, **options)
        Limits(1).check("num_neighbors", num_neighbors)
        self.num_neighbors = num_neighbors

    def score(self, fake: Tensor, real: Tensor) -> dict[str, float]:
        """:func:`~undrift.precision_recall`."""
        return asdict(precision_recall(fake, real, num_neighbors=self.num_neighbors))


class CumulativeError(FeatureMetric):
    r"""The cumulative error :math:`D_t^2`: states of a chain at t against forward draws at t.

    For :math:`D_0^2` these are samples and data. The value has ``mmd_sq`` and ``mmd_sq_se``.

    Arguments:
        kernel: The kernel; its bandwidth is fixed by the forward draws. The RBF mixture with the
            mean squared distance when None.
        options: As for every metric of this module.
    """

    higher_is_better = False

    def __init__(self, kernel: Kernel | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.kernel = kernel or RBFMixture()

    def score(self, fake: Tensor, real: Tensor) -> dict[str, float]:
        """:func:`~undrift.mmd_estimate`, without permutations."""
        found = mmd_estimate(fake, real, kernel=self.kernel, num_permutations=0)
        return {"mmd_sq": found.mmd_sq, "mmd_sq_se": found.standard_error}
