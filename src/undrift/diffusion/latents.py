r"""Latent models: the chain runs in the codes of an autoencoder.

A state at time 0 is :math:`x_0 = c \, (E(y) - b)` for an image :math:`y`, with the encoder E and
the scaling factor c and the shift b of the autoencoder, as diffusers trains and samples; an image
is decoded as :math:`D(x_0 / c + b)`. Where E(y) is a distribution, :math:`x_0` is a draw of it, the
same in each run.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from undrift.exceptions import InvalidInput

BATCH = 64


class LatentSpace:
    """An autoencoder of diffusers: images to states and back.

    Arguments:
        autoencoder: An AutoencoderKL, a VQModel, or another with ``encode`` and ``decode``.
    """

    def __init__(self, autoencoder: nn.Module) -> None:
        self.autoencoder = autoencoder.requires_grad_(False).eval()
        config: Any = getattr(autoencoder, "config", {})
        self.factor = float(config.get("scaling_factor") or 1.0)
        self.shift = float(config.get("shift_factor") or 0.0)
        self.channels = int(config.get("in_channels", 0))
        blocks = config.get("block_out_channels") or config.get("encoder_block_out_channels")
        if not blocks:
            kind = type(autoencoder).__name__
            raise InvalidInput(
                f"a {kind} does not say the size of its codes: give a DiffusersSampler over the "
                "network, and data that are encoded"
            )
        self.downscaling = 2 ** (len(blocks) - 1)

    def image_shape(self, state: tuple[int, int, int]) -> tuple[int, int, int]:
        """The shape of the images whose codes have a shape.

        Arguments:
            state: Channels, height and width of the codes.
        """
        _, height, width = state
        return self.channels, self.downscaling * height, self.downscaling * width

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        r"""The states of images, with shape :math:`(N, *)`, on the device of the images.

        Arguments:
            images: Images in [-1, 1], with shape :math:`(N, C, H, W)`.
        """
        generator = torch.Generator().manual_seed(0)
        return torch.cat([self._encoded(y, generator) for y in images.split(BATCH)])

    @torch.no_grad()
    def decode(self, states: Tensor) -> Tensor:
        r"""The images of states, with shape :math:`(N, C, H, W)`, on the device of the states.

        Arguments:
            states: States at time 0, with shape :math:`(N, *)`.
        """
        return torch.cat([self._decoded(x) for x in states.split(BATCH)])

    def describe(self) -> dict[str, Any]:
        """What the states are codes of, as plain data."""
        return {
            "autoencoder": type(self.autoencoder).__name__,
            "scaling_factor": self.factor,
            "shift_factor": self.shift,
        }

    def _encoded(self, images: Tensor, generator: torch.Generator) -> Tensor:
        found: Any = self.autoencoder.encode(self._placed(images))  # type: ignore[operator]
        if hasattr(found, "latent_dist"):
            mean, spread = found.latent_dist.mean, found.latent_dist.std
            noise = torch.randn(mean.shape, generator=generator).to(mean)
            codes = mean + spread * noise
        else:
            codes = found.latents if hasattr(found, "latents") else found.latent
        states: Tensor = self.factor * (codes - self.shift)
        return states.to(images)

    def _decoded(self, states: Tensor) -> Tensor:
        codes = self._placed(states / self.factor + self.shift)
        found: Any = self.autoencoder.decode(codes)  # type: ignore[operator]
        images: Tensor = found.sample
        return images.to(states)

    def _placed(self, x: Tensor) -> Tensor:
        weight = next(self.autoencoder.parameters())
        return x.to(weight.device, weight.dtype)
