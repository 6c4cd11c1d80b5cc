"""The number of chains in a batch, by the size of the activations."""

import pytest
import torch
from torch import nn

from tiny import exact_sampler
from undrift import measure
from undrift.diffusion.batch_size import LEAST, MOST, automatic_batch_size
from undrift.training.building import build_network
from undrift.training.config import ModelConfig


@pytest.mark.parametrize("size", [16, 32])
def test_no_activation_of_a_batch_is_much_larger_than_the_caches(size):
    """Of the U-Net of undrift train, which is told by its first layer only."""
    network, sizes = build_network(ModelConfig(), (3, size, size)).eval(), []
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.GroupNorm)):
            module.register_forward_hook(lambda _, inputs, output: sizes.append(output.numel()))
    with torch.no_grad():
        network(torch.zeros(1, 3, size, size), torch.zeros(1, dtype=torch.long))
    count = automatic_batch_size(network, (3, size, size))
    assert LEAST <= count <= MOST
    assert 4 * count * max(sizes) <= 3 * 8 * 2**20 or count == LEAST
    assert 4 * (count + 1) * max(sizes) > 8 * 2**20 or count == MOST


def test_a_measurement_takes_it_and_says_so():
    data = torch.randn(100, 2, generator=torch.Generator().manual_seed(0))
    options = {"num_samples": 40, "states": 2, "budget": False, "progress": False}
    assert measure(exact_sampler(3), data, **options).how["batch_size"] == MOST
    given = measure(exact_sampler(3), data, batch_size=7, **options)
    assert given.how["batch_size"] == 7
