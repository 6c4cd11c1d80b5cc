r"""A dry run: one training step on synthetic images, and the memory that the run takes.

With P parameters of 4 bytes, a process with B images a step holds

.. math:: 4 P \, (\underbrace{1}_\text{weights} + \underbrace{g}_\text{gradients}
          + \underbrace{2}_\text{Adam's moments} + \underbrace{1}_\text{average}
          + \underbrace{c}_\text{copies}) + a B + r,

where g = 2 with a regularizer, whose gradient is kept while that of the main term is computed, else
1; c counts the frozen copies of the starting network, one for the limit on the main loss and one
for its features; a is what autograd keeps per image for the backward pass; r is the data, the
chains and the populations of the regularizer. All but a is counted. a is measured in the step, by
hooks on what autograd saves, and the memory for it is proportional to the batch; so a step of a few
images gives the memory of the full batch, if states and forward draws are reduced in the same
proportion. A backward pass needs additional workspace, convolutions most of all, and an allocator
rounds up: expect a quarter more.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from math import ceil, prod
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from undrift.data.images import ImageData
from undrift.exceptions import InvalidInput
from undrift.training.config import TrainConfig
from undrift.training.records import Row
from undrift.training.trainer import Trainer

CPU_BATCH = 4
KNOWN_SHAPES = {"digits": (1, 8), "fashion-mnist": (1, 32), "patches": (3, 32)}


def dry_run(
    config: TrainConfig, batch_size: int | None = None, *, accelerator: Any = None
) -> dict[str, Any]:
    """Build what a run needs, make one step on synthetic images, and write nothing.

    The regularizer's term is computed in this step. Its chains are filled with noise, which costs
    as much as states of the model.

    Arguments:
        config: What was chosen; its data are not touched.
        batch_size: Images of the step in each process; if None, a full batch on an accelerator,
            elsewhere the fewest, from 4 on, that leave the regularizer two states.
        accelerator: Devices, processes, precision; a new one when None.

    Returns:
        Parameters, what the step was and how many seconds it took, and the memory of one process at
        the full batch, part by part, in bytes.

    Raises:
        InvalidInput: If an option or the data cannot be used.

    Example:
        >>> found = dry_run(TrainConfig(method="persistent"), batch_size=8)
        >>> found["parameters"], found["step"]["batch_size"], found["batch_size"]
        (159697, 8, 64)
    """
    data = _synthetic(config)
    trainer = Trainer(replace(config, resume=False), data, accelerator)
    config, device = trainer.config, trainer.accelerator.device
    processes = trainer.accelerator.num_processes
    full, regularizer = config.batch_size // processes, trainer.regularizer
    states = regularizer.sizes(full)[0] if regularizer else 0
    held = regularizer.held(full) if regularizer else 0
    if batch_size is None:
        fewest = max(CPU_BATCH, ceil(2 * full / states) if states else 0)
        batch_size = full if device.type == "cuda" else min(full, fewest)
    if not 1 <= batch_size <= full:
        raise InvalidInput(
            f"--dry-run-batch-size is {batch_size}: choose 1 to {full}, the batch of a process"
        )
    generator = torch.Generator().manual_seed(config.seed)
    trainer.stream = data.batches(batch_size * processes, generator, processes=trainer.processes)
    share = batch_size / full
    if regularizer:
        shape = data.image_shape
        noise = partial(torch.randn, generator=generator)
        regularizer.fill(full, share, lambda count: noise(count, *shape).to(device))
    step, kept, peak = _timed_step(trainer)
    memory = _counted(trainer, held)
    memory["activations"] = round(kept.most["scaled"] / share + kept.most["fixed"])
    return {
        "method": config.method,
        "parameters": sum(p.numel() for p in trainer.bare_network.parameters()),
        "image_shape": list(data.image_shape),
        "device": device.type,
        "processes": processes,
        "batch_size": full,
        "step": {"batch_size": batch_size, **step},
        "memory": memory | {"total": sum(memory.values())},
        "measured_peak": peak,
        "starting_passes": regularizer.starting_passes if regularizer else 0,
        "states": states,
    }


class KeptBytes:
    """What autograd keeps for backward passes, in bytes: the most at any time.

    Storages are counted once however often they are saved, those of the parameters not at all.
    Copies of parameters in another precision count separately, as ``fixed``: they do not grow with
    the batch as all other tensors do, the ``scaled`` ones.

    Arguments:
        parameters: The parameters.
    """

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        own = list(parameters)
        self._own = {p.untyped_storage().data_ptr() for p in own}
        self._shapes = {shape for p in own for shape in (p.shape, p.shape[::-1])}
        self._uses: Counter[int] = Counter()
        self.now: Counter[str] = Counter()
        self.most: Counter[str] = Counter()

    def pack(self, tensor: Tensor) -> _Kept:
        """Record a tensor that is saved."""
        return _Kept(self, tensor)

    def count(self, tensor: Tensor, change: int) -> None:
        """Change the number of references to the storage of a tensor, by 1 or -1."""
        storage = tensor.untyped_storage()
        key = storage.data_ptr()
        self._uses[key] += change
        if key in self._own or self._uses[key] != max(change, 0):
            return
        kind = "fixed" if tensor.shape in self._shapes else "scaled"
        self.now[kind] += change * storage.nbytes()
        self.most[kind] = max(self.most[kind], self.now[kind])


class _Kept:
    """A saved tensor; it is counted while this object exists."""

    def __init__(self, kept: KeptBytes, tensor: Tensor) -> None:
        self.kept, self.tensor = kept, tensor.detach()  # without the graph, which holds this object
        kept.count(tensor, 1)

    def __del__(self) -> None:
        self.kept.count(self.tensor, -1)


def _synthetic(config: TrainConfig) -> ImageData:
    """Two images of noise, of the shape that the data have."""
    channels, size = KNOWN_SHAPES.get(config.data, (None, None))
    channels, size = config.channels or channels, config.image_size or size
    if channels is None or size is None:
        raise InvalidInput(
            "a dry run loads no data: give their shape by --channels and --image-size"
        )
    noise = torch.rand(2, channels, size, size, generator=torch.Generator().manual_seed(0))
    return ImageData(noise * 2 - 1, "synthetic", labels=torch.zeros(2, dtype=torch.int64))


def _timed_step(trainer: Trainer) -> tuple[dict[str, float], KeptBytes, int | None]:
    """One step: its seconds and loss, what autograd kept, and the peak of an accelerator."""
    on_gpu = trainer.accelerator.device.type == "cuda"
    kept = KeptBytes(trainer.bare_network.parameters())
    rows: list[Row] = []
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    started = time.perf_counter()
    with saved_tensors_hooks(kept.pack, lambda held: held.tensor):
        trainer.run(rows.append, until=1)
    if on_gpu:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - started
    peak = torch.cuda.max_memory_allocated() if on_gpu else None
    return {"seconds": round(seconds, 3), "loss": rows[0]["loss"]}, kept, peak


def _counted(trainer: Trainer, held: int) -> dict[str, int]:
    """Bytes of everything besides the activations."""
    network = trainer.bare_network
    parameters = list(network.parameters())
    moments = [m for state in trainer.optimizer.state.values() for m in state.values()]
    at_once = 2 if trainer.regularizer else 1
    kept = trainer.regularizer.comparison.state_dict() if trainer.regularizer else {}
    frozen = [trainer.guard.state_dict() if trainer.guard else (), kept.get("space")]
    return {
        "weights": _bytes([*parameters, *network.buffers()]),
        "gradients": at_once * _bytes(p for p in parameters if p.requires_grad),
        "moments": _bytes(m for m in moments if isinstance(m, Tensor) and m.ndim),
        "average": _bytes(trainer.ema.shadow_params),
        "copies": _bytes(_tensors(frozen)),
        "regularizer": 4 * prod(trainer.data.image_shape) * held
        + _bytes(_tensors(kept.get("populations"))),
    }


def _tensors(tree: Any) -> Iterator[Tensor]:  # noqa: ANN401
    """All tensors in a state."""
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, Mapping | list | tuple):
        for part in tree.values() if isinstance(tree, Mapping) else tree:
            yield from _tensors(part)


def _bytes(tensors: Iterable[Tensor]) -> int:
    different = {t.data_ptr(): t for t in tensors}
    return sum(t.numel() * t.element_size() for t in different.values())
