r"""The cumulative error in other spaces than that of the states: :math:`D_t^2` of features.

A space maps states to blocks of features :math:`\varphi_k(x_t, t)`, for instance the activations of
a frozen model, or an image network's features of the estimate of the data
(:mod:`undrift.regularizer.spaces`). Every group of features gets the units of the forward draws at
the same t (:mod:`undrift.mmd.units`), blocks stand side by side with equal weights, and

.. math:: D_{t,\varphi}^2 = \mathrm{MMD}^2(\varphi_\# p_t, \varphi_\# q_t)

is estimated as in the space of the states (:mod:`undrift.measurement.cumulative`), on the same
states and forward draws. A fixed map sends equal distributions to equal ones, so an error that a
space shows is an error of the states; one that it does not show may still be there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from undrift.diffusion.sampler import Sampler
from undrift.exceptions import InvalidInput
from undrift.measurement.cumulative import cumulative_error
from undrift.measurement.state import CumulativeError
from undrift.mmd.kernels import RBFMixture
from undrift.mmd.two_sample import MIN_SAMPLES
from undrift.mmd.units import Units, side_by_side

FeatureSpace = Callable[[Tensor, float], Sequence[Tensor]]
r"""Maps states with shape :math:`(B, *)` at a time to blocks with shapes :math:`(B, G, D)`."""


def feature_error(
    space: FeatureSpace,
    x: Tensor,
    y: Tensor,
    t: float,
    *,
    batch_size: int,
    num_permutations: int = 200,
    overlap: float = 0.0,
    generator: torch.Generator | None = None,
) -> CumulativeError:
    r"""The cumulative error of a state in a space of features.

    Arguments:
        space: The space.
        x: The sampler's states, with shape :math:`(N, *)`.
        y: Forward draws, with shape :math:`(M, *)`.
        t: Their time.
        batch_size: States that pass the space at once.
        num_permutations: Permutations of the test; 0 for none, and no p-value.
        overlap: Share of the data that the forward draws use.
        generator: Source of the permutations.

    Example:
        >>> x, y = torch.randn(2, 200, 3, generator=torch.Generator().manual_seed(0))
        >>> square = lambda x_t, t: [x_t.square()[..., None]]
        >>> feature_error(square, x, y, 0, batch_size=64).p_value > 0.05
        True
        >>> feature_error(square, 2 * x, y, 0, batch_size=64).p_value
        0.004975124378109453
    """
    forward = space_blocks(space, y, t, batch_size)
    units = [Units.of(block) for block in forward]
    rows = side_by_side(units, space_blocks(space, x, t, batch_size))
    return cumulative_error(
        rows,
        side_by_side(units, forward),
        RBFMixture(),
        num_permutations=num_permutations,
        overlap=overlap,
        generator=generator,
    )[0]


@torch.no_grad()
def space_blocks(space: FeatureSpace, x: Tensor, t: float, batch_size: int) -> list[Tensor]:
    r"""Blocks of features of many states, without gradient, with shapes :math:`(N, G_k, D_k)`."""
    parts = [[block.float() for block in space(rows, t)] for rows in x.split(batch_size)]
    return [torch.cat(blocks) for blocks in zip(*parts, strict=True)]


def check_spaces(spaces: Mapping[str, FeatureSpace], sampler: Sampler, data: Tensor) -> None:
    """Check that spaces can be used at every kind of state of a chain: with noise and without.

    Arguments:
        spaces: The spaces by name.
        sampler: The chain.
        data: Data, with shape (n, *).

    Raises:
        InvalidInput: If a name cannot be one, the chain needs conditions, or a space fails.
    """
    if spaces and sampler.is_conditional:
        raise InvalidInput(
            "features of states are measured without conditions, and this model needs them: leave "
            f"the features {', '.join(spaces)} out"
        )
    draws = torch.Generator().manual_seed(0)
    for name, space in spaces.items():
        if not name or "." in name:
            raise InvalidInput(f"{name!r} is no name of a feature space: give one without a point")
        for t in (sampler.grid[0], 0):
            x = sampler.forward(data[:MIN_SAMPLES], t, generator=draws)
            blocks = space_blocks(space, x, t, len(x))
            if not blocks or any(block.ndim != 3 or len(block) != len(x) for block in blocks):
                raise InvalidInput(
                    f"the features {name} are no blocks of shape (states, groups, features)"
                )
