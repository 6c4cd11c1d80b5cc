r"""Spaces in which generated states and forward draws are compared.

A space maps states :math:`x_t` to blocks of features,
:math:`\varphi_1(x_t, t), \dots, \varphi_K(x_t, t)`, each of which is compared by a separate kernel
(:mod:`undrift.regularizer.population`). A block has shape :math:`(B, G, D)`: the D features of one
of its G groups are measured in one unit. Pixels are one group; each pooled activation is a group,
so that none dominates the others.

A discrepancy in pixels is dominated by what has most variance, in photographs color and brightness,
not by what a viewer sees. The activations of the frozen starting model at :math:`(x_t, t)` describe
a noisy state at every noise level, so no other network is needed (:class:`NetworkSpace`). Of each
stage the means and the root mean squares of its channels are taken, over a few regions of the
image.

References:
    | Generative Moment Matching Networks (Li et al., 2015)
    | Generating Images with Perceptual Similarity Metrics based on Deep Networks
      (Dosovitskiy and Brox, 2016)
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from undrift.diffusion.sampler import Sampler
from undrift.exceptions import InvalidInput
from undrift.regularizer.resumable import Resumable


class Space(Resumable, ABC):
    """Maps states to blocks of features; a resumed run needs nothing of a fixed map."""

    @abstractmethod
    def __call__(self, x_t: Tensor, t: float) -> list[Tensor]:
        """Blocks of features, differentiable by the states.

        Arguments:
            x_t: States, with shape :math:`(B, *)`.
            t: Their time.

        Returns:
            Blocks with shapes :math:`(B, G_k, D_k)`.
        """


class PixelSpace(Space):
    """The states themselves, one block of one group.

    Example:
        >>> [block.shape for block in PixelSpace()(torch.zeros(2, 1, 8, 8), 0)]
        [torch.Size([2, 1, 64])]
    """

    def __call__(self, x_t: Tensor, t: float) -> list[Tensor]:
        """Flattened states."""
        return [x_t.flatten(1)[:, None]]


class Pyramid(Space):
    r"""Block means of an image at all sizes of block, each of the same noise.

    .. math:: \varphi(x) = \big(2^l\, \bar x_B : |B| = 2^l \times 2^l,\; l = 0, 1, \dots\big)

    where :math:`\bar x_B` is the mean over a block B. White noise of variance 1 has variance 1 in
    every feature, but what neighboring pixels have in common grows with the block: a kernel on
    these features is more sensitive to brightness and coarse shape than to texture. Levels end
    where a block would be larger than the image; rows and columns that are left over at a level
    belong to none of its blocks.

    Example:
        >>> Pyramid()(torch.ones(1, 1, 2, 2), 0)[0].flatten()
        tensor([1., 1., 1., 1., 2.])
    """

    def __call__(self, x_t: Tensor, t: float) -> list[Tensor]:
        """Means of blocks, for states with shape :math:`(B, C, H, W)`, one block of features."""
        levels = [x_t]
        while min(levels[-1].shape[-2:]) > 1:
            levels.append(2 * F.avg_pool2d(levels[-1], 2))
        return [torch.cat([level.flatten(1) for level in levels], 1)[..., None]]


class NetworkSpace(Space):
    r"""The activations of a frozen copy of a model, pooled, one block per stage.

    Stages are the blocks of a U-Net (down, middle, up) or of a transformer. Of an activation with
    shape :math:`(B, C, H, W)` the means and the root mean squares over ``regions`` × ``regions``
    parts of the image are taken, :math:`2 C \cdot \text{regions}^2` features; of tokens
    :math:`(B, N, C)` those over all tokens.

    Samples (:math:`t = 0`) are shown to the network at the last time of the chain's grid, the
    smallest noise level that it was trained for there.

    Arguments:
        sampler: The chain over the model; its network is copied as it is now.
        regions: Parts of the image along each side.
        pixels: Whether the first block is the state itself.

    Raises:
        InvalidInput: If the network has no stages, or the sampler does not say what it predicts.
    """

    saved = ("frozen",)  # the weights of the copy: those of a resumed run have changed since

    def __init__(self, sampler: Sampler, *, regions: int = 2, pixels: bool = False) -> None:
        network = sampler.network
        if not isinstance(network, nn.Module):
            raise InvalidInput("a network's own features need a torch module as its network")
        self.frozen = copy.deepcopy(network).eval().requires_grad_(False)
        self.sampler = sampler.with_network(self.frozen)
        self.stages = stages(self.frozen)
        self.regions = regions
        self.pixels = pixels

    def __call__(self, x_t: Tensor, t: float) -> list[Tensor]:
        """Pooled activations at the states, one block per stage, after the pixels if wanted."""
        found: list[Tensor] = []

        def keep(module: nn.Module, inputs: Any, output: Any) -> None:
            found.append(output[0] if isinstance(output, tuple) else output)

        hooks = [stage.register_forward_hook(keep) for stage in self.stages]
        try:
            self.sampler.predict(x_t, t or self.sampler.grid[-2])
        finally:
            for hook in hooks:
                hook.remove()
        pixels = PixelSpace()(x_t, t) if self.pixels else []
        return pixels + [pooled(activation, self.regions)[..., None] for activation in found]


def stages(network: nn.Module) -> list[nn.Module]:
    """The stages of a network: the parts of its lists of blocks, and its middle block.

    Raises:
        InvalidInput: If it has none.
    """
    found: list[nn.Module] = []
    for name, child in network.named_children():
        if isinstance(child, nn.ModuleList) and name.endswith("blocks"):
            found += child
        elif name == "mid_block" and child is not None:
            found.append(child)
    if not found:
        raise InvalidInput(
            f"{type(network).__name__} has no blocks whose activations could be compared: choose "
            "another feature space"
        )
    return found


def pooled(activation: Tensor, regions: int) -> Tensor:
    """Means and root mean squares of each channel over parts of the image.

    Arguments:
        activation: With shape :math:`(B, C, H, W)`, or tokens with shape :math:`(B, N, C)`.
        regions: Parts along each side; fewer where the activation is smaller.

    Returns:
        Features, with shape :math:`(B, D)`.

    Example:
        >>> pooled(torch.tensor([[[[1.0, -1.0], [1.0, -1.0]]]]), 1)
        tensor([[0., 1.]])
    """
    if activation.ndim == 3:
        activation = activation.mT[..., None]
        regions = 1
    height, width = activation.shape[-2:]
    size = min(regions, height), min(regions, width)
    mean = F.adaptive_avg_pool2d(activation, size)
    square = F.adaptive_avg_pool2d(activation.square(), size)
    return torch.cat([mean.flatten(1), (square + 1e-12).sqrt().flatten(1)], 1)
