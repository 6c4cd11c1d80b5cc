"""The processes that a command was started on, by ``accelerate launch`` or ``torchrun``."""

from __future__ import annotations

import os
from typing import Any

LAUNCHED = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""What both set in the environment of each process."""


def rank() -> int:
    """Which of the processes this one is."""
    return int(os.environ.get("RANK", "0"))


def count() -> int:
    """How many processes were started."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def joined() -> Any:  # noqa: ANN401
    """The state of Accelerate that joins the processes; None for one process alone."""
    if count() == 1:
        return None
    import torch
    from accelerate import PartialState

    return PartialState(cpu=not torch.cuda.is_available())


def leave() -> None:
    """End what joins the processes, if anything does."""
    if count() > 1:
        from accelerate import PartialState

        PartialState().destroy_process_group()


def alone() -> None:
    """Go on as one process that was started by itself."""
    for name in LAUNCHED:
        os.environ.pop(name, None)
