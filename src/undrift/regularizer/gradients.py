"""Gradients of a term: their norm over all processes, set aside and added up again."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from undrift.processes import Processes


def gradient_norm(term: Tensor, parameters: Sequence[nn.Parameter]) -> float:
    """Norm of a term's gradient, averaged over processes as data-parallel training does.

    It takes a separate backward pass, and the graph is kept.

    Arguments:
        term: The term, a scalar with graph.
        parameters: What it is differentiated by.
    """
    found = torch.autograd.grad(term, parameters, retain_graph=True, allow_unused=True)
    present = [gradient for gradient in found if gradient is not None]
    if (count := Processes.running().count) > 1:
        for gradient in present:
            dist.all_reduce(gradient)
            gradient.div_(count)
    return norm(present)


def norm(gradients: Sequence[Tensor | None]) -> float:
    """Norm of all gradients as one vector; the root mean square over processes if they differ."""
    present = [gradient for gradient in gradients if gradient is not None]
    if not present:
        return 0.0
    total = torch.nn.utils.get_total_norm(present)
    return float(Processes.running().mean(total.square()).sqrt())


def take_gradients(parameters: Sequence[nn.Parameter]) -> list[Tensor | None]:
    """The gradients of the parameters, which have none afterwards."""
    taken = [p.grad for p in parameters]
    for p in parameters:
        p.grad = None
    return taken


def add_gradients(
    parameters: Sequence[nn.Parameter], gradients: Sequence[Tensor | None], factor: float = 1.0
) -> None:
    """Add gradients that were taken, times a factor."""
    for p, gradient in zip(parameters, gradients, strict=True):
        if gradient is None:
            continue
        if p.grad is None:
            p.grad = gradient.mul_(factor)
        else:
            p.grad.add_(gradient, alpha=factor)
