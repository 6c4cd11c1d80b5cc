"""Devices, processes and precision of a run."""

from __future__ import annotations

import os
from typing import Any

import torch

from undrift.exceptions import InvalidInput
from undrift.training.config import TrainConfig


def accelerator_for(config: TrainConfig) -> Any:
    """An accelerator with the precision that was asked for, whatever the last one had.

    Several processes without a GPU are joined on the CPU, whatever started them.

    Arguments:
        config: What was chosen.

    Raises:
        InvalidInput: If the device does not have the precision.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    last = AcceleratorState._shared_state.get("_mixed_precision")
    if last not in (None, config.mixed_precision):
        AcceleratorState._reset_state()
    try:
        on_cpu = int(os.environ.get("WORLD_SIZE", "1")) > 1 and not torch.cuda.is_available()
        accelerator = Accelerator(mixed_precision=config.mixed_precision, cpu=on_cpu)
    except ValueError as error:
        raise InvalidInput(f"--mixed-precision {config.mixed_precision}: {error}") from None
    if config.mixed_precision != "no" and not accelerator.native_amp:  # it would have no effect
        device = accelerator.device.type
        raise InvalidInput(f"--mixed-precision {config.mixed_precision}: not on {device}; use bf16")
    return accelerator


def check_processes(config: TrainConfig, accelerator: Any) -> None:
    """Check that all processes have whole weights, and batches of one size.

    Arguments:
        config: What was chosen.
        accelerator: That of the run.

    Raises:
        InvalidInput: If they do not.
    """
    kind, num_processes = accelerator.distributed_type.value, accelerator.num_processes
    if kind in ("FSDP", "DEEPSPEED", "MEGATRON_LM"):
        raise InvalidInput(
            f"undrift train keeps whole weights in each process, which {kind} divides: launch it "
            "with --multi_gpu, or use the regularizer in your own loop"
        )
    if config.batch_size % num_processes:
        raise InvalidInput(
            f"--batch-size {config.batch_size} does not split over {num_processes} processes: "
            "choose a multiple"
        )
