r"""The final cumulative error in the features of the model that methods continue.

:math:`D_0^2` is the unbiased MMD² of samples against data. In pixels it is dominated by what has
most variance; here samples and data are shown to the frozen base of a study, and its pooled
activations are compared, each in the units of the data. The base is another one for each seed, so
values compare within a seed.
"""

from __future__ import annotations

from functools import cached_property

from torch import Tensor

from undrift.diffusion.network import device_of
from undrift.diffusion.sampler import Sampler
from undrift.measurement.feature_error import space_blocks
from undrift.mmd.interval import MMDEstimate
from undrift.mmd.kernels import RBFMixture
from undrift.mmd.two_sample import mmd_estimate
from undrift.mmd.units import Units, side_by_side
from undrift.regularizer.spaces import NetworkSpace

_BATCH_SIZE = 256


class OwnFeatures:
    """Compares samples with data in the activations of a frozen model.

    Arguments:
        base: The chain over the model.
        reference: The data, with shape (M, C, H, W).
    """

    def __init__(self, base: Sampler, reference: Tensor) -> None:
        self.space, self.device = NetworkSpace(base), device_of(base.network)
        self.images = reference

    def error(self, samples: Tensor) -> MMDEstimate:
        r""":math:`D_0^2` of samples with its standard error."""
        x = side_by_side(self._units, self._blocks(samples))
        return mmd_estimate(x, self._reference, kernel=self._kernel, num_permutations=0)

    @cached_property
    def _reference_blocks(self) -> list[Tensor]:
        return self._blocks(self.images)

    @cached_property
    def _units(self) -> list[Units]:
        return [Units.of(block) for block in self._reference_blocks]

    @cached_property
    def _reference(self) -> Tensor:
        return side_by_side(self._units, self._reference_blocks)

    @cached_property
    def _kernel(self) -> RBFMixture:
        return RBFMixture().fit(self._reference)

    def _blocks(self, images: Tensor) -> list[Tensor]:
        blocks = space_blocks(self.space, images.to(self.device), 0, _BATCH_SIZE)
        return [block.cpu() for block in blocks]
