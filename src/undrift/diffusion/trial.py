"""The first step of a chain, tried on one state before long work."""

from __future__ import annotations

import torch

from undrift.diffusion.condition import draw_labels
from undrift.diffusion.network import device_of
from undrift.diffusion.sampler import Sampler
from undrift.exceptions import InvalidInput, reason_of


@torch.no_grad()
def try_first_step(sampler: Sampler, shape: tuple[int, ...]) -> None:
    """Take the first step, in which network and solver meet the states and each other.

    Arguments:
        sampler: The chain.
        shape: Shape of a state.

    Raises:
        InvalidInput: If the solver does not fit the network, or the network the states.
    """
    generator = torch.Generator().manual_seed(0)
    x = sampler.prior((1, *shape), generator=generator, device=device_of(sampler.network))
    sampler = sampler.given(draw_labels(sampler.network, 1, seed=0))
    try:
        sampler.step(x, *sampler.grid[:2], generator=generator)
    except (ValueError, RuntimeError) as error:
        raise InvalidInput(
            f"the sampler does not fit the model, or the model images of shape {shape}: "
            f"{reason_of(error)}"
        ) from error
