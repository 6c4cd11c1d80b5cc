"""Device and evaluation mode of networks."""

import pytest
import torch
from torch import nn

from undrift.diffusion.network import device_of, evaluating


def test_evaluation_mode_ends_with_the_mode_that_each_part_had():
    network = nn.Sequential(nn.Dropout(0.5), nn.Sequential(nn.Dropout(0.5)).eval())
    x, modes = torch.ones(100), [part.training for part in network.modules()]
    with pytest.raises(KeyError), evaluating(network):
        assert torch.equal(network(x), x)  # no dropout
        raise KeyError
    assert [part.training for part in network.modules()] == modes
    with evaluating(lambda x_t, t: x_t):
        pass


def test_the_device_is_that_of_the_weights():
    assert device_of(nn.Linear(1, 1, device="meta")) == torch.device("meta")
    assert device_of(nn.ReLU()) is None and device_of(len) is None
