"""Grids of images: every pixel in its place, white between and behind the images."""

import numpy as np
import pytest
import torch

from undrift.data.grids import as_bytes, image_grid
from undrift.exceptions import InvalidInput


@pytest.mark.parametrize("channels", [1, 3])
def test_a_grid_holds_each_image_in_its_place_on_white(channels):
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(5, channels, 4, 6, generator=generator) * 2 - 1
    pixels = np.array(image_grid(images, columns=3, gap=2))
    pixels = pixels.reshape(*pixels.shape[:2], channels)
    assert pixels.shape == (2 * (4 + 2) + 2, 3 * (6 + 2) + 2, channels)
    for i, image in enumerate(as_bytes(images).permute(0, 2, 3, 1).numpy()):
        top, left = 2 + i // 3 * 6, 2 + i % 3 * 8
        np.testing.assert_array_equal(pixels[top : top + 4, left : left + 6], image)
        pixels[top : top + 4, left : left + 6] = 255
    assert (pixels == 255).all()


def test_images_of_two_channels_have_no_picture():
    with pytest.raises(InvalidInput, match="it needs 1 or 3 channels"):
        image_grid(torch.zeros(2, 2, 4, 4))
