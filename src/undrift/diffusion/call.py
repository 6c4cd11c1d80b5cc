"""How a network is called: where its time goes, and what of its output is the tensor."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

from torch import Tensor, nn


def with_timestep(network: Callable[..., Any]) -> Callable[..., Any]:
    """A network as it is called with ``(x_t, timestep, **more)``.

    Some transformers of diffusers have their second argument for something else: they are given
    the time by its name.
    """
    inner = unwrapped(network)
    if isinstance(inner, nn.Module) and _time_by_name(type(inner).forward):
        return partial(_by_name, network)
    return network


def unwrapped(network: Any) -> Any:  # noqa: ANN401
    """The network inside of torch.compile, DistributedDataParallel and the like."""
    while inner := getattr(network, "_orig_mod", None) or getattr(network, "module", None):
        network = inner
    return network


def returned(output: Any) -> Tensor:  # noqa: ANN401
    """The tensor in the output of a network: itself, the first of a tuple, or its ``sample``."""
    output = getattr(output, "sample", output)
    found: Tensor = output[0] if isinstance(output, tuple) else output
    return found


@lru_cache
def _time_by_name(forward: Callable[..., Any]) -> bool:
    """Whether a class of networks has its time elsewhere than in second place."""
    names = list(inspect.signature(forward).parameters)
    return "timestep" in names[3:]


def _by_name(network: Callable[..., Any], x_t: Tensor, timestep: Tensor, **more: Any) -> Any:  # noqa: ANN401
    return network(x_t, timestep=timestep, **more)
