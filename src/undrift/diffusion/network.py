"""Device and evaluation mode of a network."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


def device_of(network: Any) -> torch.device | None:  # noqa: ANN401
    """Device of a network's weights; None for a network without."""
    parameters = network.parameters() if isinstance(network, nn.Module) else iter(())
    return next((parameter.device for parameter in parameters), None)


@contextmanager
def evaluating(network: Any) -> Iterator[None]:  # noqa: ANN401
    """Evaluation mode for a network (no dropout), then the mode that each part of it had."""
    parts = list(network.modules()) if isinstance(network, nn.Module) else []
    modes = [part.training for part in parts]
    for part in parts:
        part.training = False
    try:
        yield
    finally:
        for part, training in zip(parts, modes, strict=True):
            part.training = training
