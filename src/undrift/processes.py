r"""The processes of a run: which rows of a batch each of them has, and how they are joined again.

Chains and batches are divided into contiguous parts, one for each process. Random numbers are drawn
for all rows, by each process alike, and every process takes those of its own; what depends on all
rows is computed from the gathered ones, in their order. So neither depends on the number of
processes, beyond rounding.

A loss that depends on all rows is the same in every process. Its gradient by the rows of one
process, times the number of processes, is what averaging over processes, as data-parallel training
does, turns into the gradient of that loss: the backward pass needs no communication.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Processes:
    """The processes that share some work.

    Arguments:
        index: Which of them this one is, counted from 0.
        count: How many there are.

    Example:
        >>> [Processes(index, 3).share(10) for index in range(3)]
        [slice(0, 4, None), slice(4, 7, None), slice(7, 10, None)]
    """

    index: int = 0
    count: int = 1

    @classmethod
    def of(cls, accelerator: Any) -> Processes:  # noqa: ANN401
        """Those of an accelerator, or of a state, of Accelerate; this one alone for None."""
        if accelerator is None:
            return ALONE
        return cls(accelerator.process_index, accelerator.num_processes)

    @classmethod
    def running(cls) -> Processes:
        """Those that torch.distributed has started; this one alone where it has none."""
        import torch.distributed as dist

        if not (dist.is_available() and dist.is_initialized()):
            return ALONE
        return cls(dist.get_rank(), dist.get_world_size())

    @property
    def is_main(self) -> bool:
        """Whether this is the one that prints and writes."""
        return self.index == 0

    def share(self, total: int) -> slice:
        """The rows of this process, of so many: contiguous, one more in the first processes."""
        size, more = divmod(total, self.count)
        start = self.index * size + min(self.index, more)
        return slice(start, start + size + (self.index < more))

    def gather(self, rows: Tensor) -> Tensor:
        """The rows of all processes, in the order of the processes; without gradient.

        Arguments:
            rows: Those of this process, with shape (B, *); B may differ between processes.
        """
        if self.count == 1:
            return rows.detach()
        import torch

        return torch.cat(self.parts(rows))

    def parts(self, rows: Tensor) -> list[Tensor]:
        """The rows of each process; without gradient."""
        import torch
        import torch.distributed as dist

        device = torch.device("cuda") if dist.get_backend() == "nccl" else torch.device("cpu")
        sizes = [torch.zeros(1, dtype=torch.long, device=device) for _ in range(self.count)]
        dist.all_gather(sizes, torch.tensor([len(rows)], device=device))
        counts = [int(size) for size in sizes]
        own = rows.new_zeros((max(counts), *rows.shape[1:]), device=device)
        own[: len(rows)] = rows.detach()
        parts = [torch.empty_like(own) for _ in counts]
        dist.all_gather([_bytes(part) for part in parts], _bytes(own))
        return [part[:n].to(rows.device) for part, n in zip(parts, counts, strict=True)]

    def drawn(self, draw: Callable[[int], Tensor], own: int) -> Tensor:
        """This process' rows of random numbers that are drawn for the rows of all.

        Arguments:
            draw: Draws so many rows, the same in every process.
            own: Number of rows of this process, the same in every process.
        """
        total = own * self.count
        return draw(total)[self.share(total)]

    def mean(self, value: Tensor) -> Tensor:
        """The mean of a number over the processes, without gradient."""
        return self.gather(value.reshape(1)).mean()


ALONE = Processes()
"""One process that does all."""


def _bytes(values: Tensor) -> Tensor:
    """The same memory as bytes, which every backend sends."""
    import torch

    return values.flatten().view(torch.uint8)


def gather(rows: Tensor) -> Tensor:
    """The rows of all processes that are running; differentiable, as the module describes.

    Arguments:
        rows: Those of this process, with shape (B, *); B may differ between processes.
    """
    processes = Processes.running()
    if processes.count == 1:
        return rows
    import torch

    parts, own = processes.parts(rows), rows.detach()
    parts[processes.index] = own + processes.count * (rows - own)
    return torch.cat(parts)
