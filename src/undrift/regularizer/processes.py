r"""States of all processes of a run, as the rows of one batch.

The kernel spans the states of all processes, so every process computes the same value from the
gathered rows. Its gradient by the rows of one process, times the number of processes, is what
averaging over processes turns into the gradient of that value: the backward pass needs no
communication.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def is_shared() -> bool:
    """Whether there are several processes."""
    return dist.is_available() and dist.is_initialized()


def num_processes() -> int:
    """How many processes there are."""
    return dist.get_world_size() if is_shared() else 1


def process_index() -> int:
    """Which of them this one is."""
    return dist.get_rank() if is_shared() else 0


def gather(x: Tensor) -> Tensor:
    """The rows of all processes, as many from each; differentiable.

    Arguments:
        x: Rows of this process, with shape :math:`(B, *)`.
    """
    return _Gather.apply(x) if is_shared() else x  # type: ignore[no-untyped-call]


class _Gather(torch.autograd.Function):
    """Gather rows; the backward pass takes this process' rows of the common gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.contiguous()
        parts = [torch.empty_like(x) for _ in range(num_processes())]
        dist.all_gather(parts, x)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient.chunk(num_processes())[process_index()] * num_processes()
