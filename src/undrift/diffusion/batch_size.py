r"""How many chains go through a network at once, where nobody says.

The activations of a batch should stay in the caches of a processor: beyond them a batch of more
chains takes longer for each, and more memory. The largest activations of a U-Net are one to three
times those of its first layer, of w channels at the full size, so for states :math:`(C, *)` of P
pixels

.. math:: B = \max\bigl(8, \min(250, \lfloor A / (4\, w\, P) \rfloor)\bigr)

with A of 8 MiB on a processor, and 1 GiB on an accelerator, where only memory limits the batch.
The noise of a chain does not depend on its batch, so numbers differ by rounding only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import nn

from undrift.diffusion.network import device_of

MOST, LEAST = 250, 8
"""Chains in a batch, at most and at least."""
_BYTES = {"cpu": 8 * 2**20}
_BYTES_OF_ACCELERATORS = 2**30
_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


def automatic_batch_size(network: Any, shape: Sequence[int]) -> int:  # noqa: ANN401
    """Number of chains that go through a network at once.

    Arguments:
        network: The network, on its device; a function without layers takes the most.
        shape: Shape of one state.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Conv2d(64, 3, 3))
        >>> [automatic_batch_size(network, (3, size, size)) for size in (8, 32, 64)]
        [250, 32, 8]
    """
    layers = network.modules() if isinstance(network, nn.Module) else ()
    widths = (layer.weight.shape[0] for layer in layers if isinstance(layer, _LAYERS))
    width, device = next(widths, 1), device_of(network)
    budget = _BYTES.get("cpu" if device is None else device.type, _BYTES_OF_ACCELERATORS)
    return max(LEAST, min(MOST, budget // (4 * width * math.prod(shape[1:]))))
