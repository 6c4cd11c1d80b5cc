r"""Spaces in which generated states and forward draws are compared.

A space maps states :math:`x_t` to blocks of features,
:math:`\varphi_1(x_t, t), \dots, \varphi_K(x_t, t)`, each of which is compared by a separate kernel
(:mod:`undrift.regularizer.population`). A block has shape :math:`(B, G, D)`: the D features of one
of its G groups are measured in one unit. Pixels are one group; each pooled activation is a group,
so that none dominates the others. Several spaces together are the blocks of all of them
(:class:`JointSpace`): each block is in its own units and has its own bandwidth, so that its
discrepancy does not depend on its scale, and the mean over blocks is compared.

A discrepancy in pixels is dominated by what has most variance, in photographs color and brightness,
not by what a viewer sees. The activations of the frozen starting model at :math:`(x_t, t)` describe
a noisy state at every noise level, so no other network is needed (:class:`NetworkSpace`). Of each
stage the means and the root mean squares of its channels are taken, over a few regions of the
image. The first stages, the encoder of a U-Net, describe the state and cost less than half of a
call; the last ones are on their way to the output.

A network of images has never seen noise. It is shown samples as they are, and instead of a noisy
state the frozen starting model's estimate of the data behind it,
:math:`\varphi(\hat x_0(x_t, t))` (:class:`ImageSpace`). That is a fixed function of the state, the
same for generated states and for forward draws, so equal distributions have equal features at
every noise level, and what the network sees looks like an image.

References:
    | Generative Moment Matching Networks (Li et al., 2015)
    | Generating Images with Perceptual Similarity Metrics based on Deep Networks
      (Dosovitskiy and Brox, 2016)
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from undrift.diffusion.denoiser import Prediction
from undrift.diffusion.sampler import Sampler
from undrift.exceptions import InvalidInput
from undrift.quality.pretrained import EfficientNetFeatures
from undrift.regularizer.options import OF_MODEL, is_image_network
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


class FrozenModel(Resumable):
    """A model as it was when it was copied.

    Arguments:
        sampler: The chain over the model.

    Raises:
        InvalidInput: If its network is no module, or has conditions, which states do not carry.
    """

    saved = ("network",)  # the weights of the copy: those of a resumed run have changed since

    def __init__(self, sampler: Sampler) -> None:
        if sampler.is_conditional:
            raise InvalidInput(
                "the features of a conditional network depend on the condition of a state: compare "
                "pixels or pyramid (--regularizer.features), or finished samples by a network of "
                "images"
            )
        if not isinstance(sampler.network, nn.Module):
            raise InvalidInput("a network's own features need a torch module as its network")
        self.network = copy.deepcopy(sampler.network).eval().requires_grad_(False)
        self.sampler = sampler.with_network(self.network)

    def predict(self, x_t: Tensor, t: float) -> Prediction:
        """Its estimates at states; samples have the smallest time of the chain's grid."""
        return self.sampler.predict(x_t, t or self.sampler.grid[-2])


class _Enough(Exception):
    """The last stage that is wanted has been computed."""


class NetworkSpace(Space):
    r"""The activations of a frozen copy of a model, pooled, one block per stage.

    Stages are the blocks of a U-Net (down, middle, up) or of a transformer. The network is computed
    no further than the last stage that is wanted. Of an activation with shape
    :math:`(B, C, H, W)` the means and the root mean squares over ``regions`` × ``regions`` parts of
    the image are taken, :math:`2 C \cdot \text{regions}^2` features; of tokens :math:`(B, N, C)`
    those over all tokens.

    Samples (:math:`t = 0`) are shown to the network at the last time of the chain's grid, the
    smallest noise level that it was trained for there.

    Arguments:
        model: The chain over the model, whose network is copied as it is now; or its frozen copy.
        regions: Parts of the image along each side.
        depth: Whether ``"all"`` stages are taken, or those of the ``"encoder"``: of a U-Net those
            before the up blocks, of another network the first half.

    Raises:
        InvalidInput: If the network has no stages, or the sampler does not say what it predicts.
    """

    saved = ("model",)

    def __init__(
        self,
        model: Sampler | FrozenModel,
        *,
        regions: int = 2,
        depth: Literal["all", "encoder"] = "all",
    ) -> None:
        self.model = model if isinstance(model, FrozenModel) else FrozenModel(model)
        find = stages if depth == "all" else encoder
        self.stages = find(self.model.network)
        self.regions = regions

    def __call__(self, x_t: Tensor, t: float) -> list[Tensor]:
        """Pooled activations at the states, one block per stage."""
        found: list[Tensor] = []

        def keep(module: nn.Module, inputs: Any, output: Any) -> None:
            found.append(output[0] if isinstance(output, tuple) else output)
            if len(found) == len(self.stages):
                raise _Enough

        hooks = [stage.register_forward_hook(keep) for stage in self.stages]
        try:
            with suppress(_Enough):
                self.model.predict(x_t, t)
        finally:
            for hook in hooks:
                hook.remove()
        return [pooled(activation, self.regions)[..., None] for activation in found]


class ImageSpace(Space):
    r"""The features of a frozen network of images, one block.

    Samples (:math:`t = 0`) are shown as they are; of a noisy state the network is shown the frozen
    starting model's estimate of the data :math:`\hat x_0(x_t, t)`, not clipped.

    Arguments:
        network: Maps images in :math:`[-1, 1]` to features with shape :math:`(B, D)`.
        model: The chain over the model as it is now, or its frozen copy; None where only samples
            are compared.
    """

    saved = ("model",)

    def __init__(self, network: nn.Module, model: Sampler | FrozenModel | None = None) -> None:
        self.network = network.eval().requires_grad_(False)
        self.model = FrozenModel(model) if isinstance(model, Sampler) else model

    def __call__(self, x_t: Tensor, t: float) -> list[Tensor]:
        """Features of the samples, or of the estimates of the data."""
        self.network.to(x_t.device)
        if t and self.model is None:
            raise InvalidInput(f"states with noise (t = {t:g}) need the starting model: pass model")
        images = self.model.predict(x_t, t).x0_hat if t and self.model else x_t
        return [self.network(images)[..., None]]


class JointSpace(Space):
    """Several spaces together: the blocks of all of them.

    Arguments:
        spaces: The spaces.

    Example:
        >>> joint = JointSpace([PixelSpace(), Pyramid()])
        >>> [block.shape[1] for block in joint(torch.zeros(2, 1, 8, 8), 0)]
        [1, 85]
    """

    def __init__(self, spaces: Sequence[Space]) -> None:
        self.spaces = list(spaces)

    def __call__(self, x_t: Tensor, t: float) -> list[Tensor]:
        """The blocks of all spaces, in their order."""
        return [block for space in self.spaces for block in space(x_t, t)]

    def state_dict(self) -> dict[str, Any]:
        """What each of the spaces needs."""
        return {"spaces": [space.state_dict() for space in self.spaces]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore each of the spaces."""
        for space, saved in zip(self.spaces, state["spaces"], strict=True):
            space.load_state_dict(saved)


def space_named(names: Sequence[str], sampler: Sampler, *, only_samples: bool = False) -> Space:
    """The space of the options (:data:`~undrift.regularizer.options.FEATURES`).

    Arguments:
        names: Spaces by name, compared together.
        sampler: The chain over the model as it is now.
        only_samples: Whether only finished samples are compared, for which networks of images need
            no estimate of the data.

    Raises:
        InvalidInput: If a network lacks what a space needs, or a package is missing.
    """
    spaces = [*spaces_named(names, sampler, only_samples=only_samples).values()]
    return spaces[0] if len(spaces) == 1 else JointSpace(spaces)


def spaces_named(
    names: Sequence[str], sampler: Sampler, *, only_samples: bool = False
) -> dict[str, Space]:
    """Several spaces by name, each alone, over one frozen copy of the model.

    Arguments:
        names: As :func:`space_named` takes them; efficientnet-lite0 too.
        sampler: As there.
        only_samples: As there.

    Raises:
        InvalidInput: If a network lacks what a space needs, or a package is missing.
    """
    images = [name for name in names if is_image_network(name)]
    if images and sampler.space is not None:
        raise InvalidInput(
            f"the features {images[0]} are of images, and the states of this model are codes: "
            "choose network"
        )
    needs_model = not OF_MODEL.isdisjoint(names) or (images and not only_samples)
    model = FrozenModel(sampler) if needs_model else None

    def build(name: str) -> Space:
        if name in OF_MODEL:
            assert model is not None
            return NetworkSpace(model, depth="encoder" if name == "encoder" else "all")
        if is_image_network(name):
            return ImageSpace(EfficientNetFeatures(name), model)
        return Pyramid() if name == "pyramid" else PixelSpace()

    return {name: build(name) for name in names}


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


def encoder(network: nn.Module) -> list[nn.Module]:
    """The first stages: those before the up blocks of a U-Net, or the first half of all.

    Raises:
        InvalidInput: If it has none.
    """
    found = stages(network)
    decoder = set(getattr(network, "up_blocks", ()))
    if decoder:
        return [stage for stage in found if stage not in decoder]
    return found[: (len(found) + 1) // 2]


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
