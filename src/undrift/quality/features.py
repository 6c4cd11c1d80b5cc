r"""Run a feature map over many images, block by block."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from undrift.diffusion.network import device_of, evaluating
from undrift.exceptions import InvalidInput
from undrift.quality.frechet import check_finite

FeatureMap = Callable[[Tensor], Tensor]
"""From images :math:`(B, C, H, W)` in :math:`[-1, 1]` to features with shape (B, *)."""


def extract_features(
    images: Tensor, features: FeatureMap | None = None, *, batch_size: int = 256
) -> Tensor:
    r"""Features :math:`\varphi(x)` of images, without gradient, a network in evaluation mode.

    Arguments:
        images: Images :math:`x \in [-1, 1]`, with shape :math:`(N, C, H, W)`.
        features: The feature map; None takes the pixels themselves. A network gets them on the
            device of its parameters.
        batch_size: Images in a block.

    Returns:
        Features, float32 on the CPU, with shape :math:`(N, D)`.

    Raises:
        InvalidInput: If there are no images, or a feature is not finite.

    Example:
        >>> extract_features(torch.zeros(3, 1, 8, 8)).shape
        torch.Size([3, 64])
    """
    if not len(images):
        raise InvalidInput("no images to take features of")
    found = images.detach().cpu()
    if features is not None:
        device = device_of(features) or images.device
        with torch.no_grad(), evaluating(features):
            blocks = [features(block.to(device)).cpu() for block in images.split(batch_size)]
        found = torch.cat(blocks)
    found = found.flatten(1).float()
    check_finite("a feature of the images", found)
    return found


def score_name(features: FeatureMap | None) -> str:
    """Name of the Fréchet distance on these features, for tables.

    Only on the features of Inception it is FID.

    Example:
        >>> score_name(None)
        'Fréchet distance (pixels)'
    """
    if features is None:
        return "Fréchet distance (pixels)"
    return str(getattr(features, "score_name", f"Fréchet distance ({type(features).__name__})"))
