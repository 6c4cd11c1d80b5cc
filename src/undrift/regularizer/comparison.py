r"""The comparison of the model's states with forward draws, by :math:`\mathrm{MMD}^2`.

The kernel block of the forward draws alone has no gradient and is left out of the loss; it is there
in the value that is logged, beside the same estimator on forward draws alone, its null floor.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from undrift.exceptions import InvalidInput
from undrift.mmd.estimate import mmd_sq
from undrift.mmd.kernels import Kernel
from undrift.regularizer.processes import gather


@dataclass
class Comparison:
    r""":math:`\mathrm{MMD}^2` between the states and the forward draws of all processes.

    Arguments:
        kernel: The kernel.
        feature_map: Map from states to what the kernel compares; the states themselves when None.
        estimator: ``"u"``, without the block of the forward draws in the loss; or ``"v"``, with it.
    """

    kernel: Kernel
    feature_map: Callable[[Tensor], Tensor] | None
    estimator: Literal["u", "v"]

    def features(self, samples: Tensor) -> Tensor:
        """What the kernel compares, of the samples of all processes."""
        x = gather(samples)
        return x if self.feature_map is None else self.feature_map(x)

    def loss(self, states: Tensor, forward: Tensor, t: float) -> Tensor:
        """The discrepancy, without the part that has no gradient.

        Arguments:
            states: States of this process, with their graph.
            forward: Features of the forward draws of all processes.
            t: Their time, for the message.

        Raises:
            InvalidInput: If the states are not finite.
        """
        try:
            return self._mmd_sq(self.features(states), forward, "omit")
        except InvalidInput:
            if bool(states.isfinite().all()):
                raise
            raise InvalidInput(
                f"the regularizer's states at t = {t:g} hold NaN or infinity: lower the learning "
                "rate, clip the estimate of the data, or let the network predict v or the data"
            ) from None

    @torch.no_grad()
    def logged(self, loss: Tensor, null: Tensor, forward: Tensor) -> dict[str, float]:
        """The discrepancy with all its parts, and that of forward draws alone.

        Arguments:
            loss: The discrepancy without the part that has no gradient.
            null: Other forward draws of this process, as many as there were states.
            forward: Features of the forward draws of all processes.
        """
        null = self.features(null)
        floor = self._mmd_sq(null, forward, "include")
        omitted = floor - self._mmd_sq(null, forward, "omit")
        return {"regularizer": float(loss + omitted), "regularizer_null": float(floor)}

    def _mmd_sq(self, x: Tensor, y: Tensor, block: Literal["include", "omit"]) -> Tensor:
        # no autocast: squared distances from a product in half precision would be noise
        with torch.autocast(x.device.type, enabled=False):
            if self.estimator == "v":
                return mmd_sq(x, y, kernel=self.kernel, estimator="v")
            return mmd_sq(x, y, kernel=self.kernel, estimator="u", reference_block=block)
