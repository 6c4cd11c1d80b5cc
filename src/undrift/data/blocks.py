r"""Streams of images that are not held in memory: read in blocks, block after block without end.

A stream of Hugging Face datasets is read in blocks of N images. A data set is known by its first
block, which every process reads; a measurement uses no more. Training goes on with the other
blocks: batches are drawn from a block without replacement, in random order, and the next block is
read when it is used up; where the stream ends it begins anew. So the memory is that of one block,
and images mix within a block only.

Each of W processes reads a part of the stream of its own: whole shards where W divides their
number, else every W-th image. The loss of a batch is that of one process with the joined batch,
but which images meet in a batch depends on W.

A saved state has the place in the stream where the block begins, which a resumed run reads again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from undrift.data.images import Batches, ImageData
from undrift.exceptions import InvalidInput, Limits, reason_of
from undrift.processes import ALONE, Processes
from undrift.seeds import stream_seed

Row = dict[str, Any]


@dataclass(frozen=True)
class Blocks:
    """A stream, and how a block of its rows becomes images.

    Arguments:
        stream: An ``IterableDataset``.
        size: Images in a block.
        read: Makes images of rows.
        name: What to call the stream in messages.
    """

    stream: Any
    size: int
    read: Callable[[list[Row]], ImageData]
    name: str

    def through(self, convert: Callable[[ImageData], ImageData]) -> Blocks:
        """The same stream with every block converted."""
        return replace(self, read=lambda rows: convert(self.read(rows)))

    def rows(self, source: Iterator[Row]) -> list[Row]:
        """The rows of the next block; none at the end of the stream.

        Raises:
            InvalidInput: If the stream cannot be read.
        """
        try:
            return list(islice(source, self.size))
        except Exception as fault:  # network, format: the library's classes vary with both
            raise InvalidInput(
                f"{self.name} cannot be read further ({reason_of(fault)})"
            ) from fault

    def batches(
        self,
        first: ImageData,
        batch_size: int,
        generator: torch.Generator,
        horizontal_flip: bool,
        processes: Processes,
    ) -> BlockBatches:
        """Batches of all images of the stream."""
        own = torch.Generator().manual_seed(
            stream_seed(generator.initial_seed(), "blocks", processes.index)
        )
        return BlockBatches(self, first, batch_size, own, horizontal_flip, processes)


@dataclass(eq=False)
class BlockBatches(Batches):
    r"""Endless batches of the images of a stream: each process draws its rows from its own part.

    Arguments:
        blocks: The stream.
        first: Its first block, which tells the shape of all images.
        batch_size: Images :math:`B` of a batch, over all processes.
        generator: Source of the orders and flips of this process.
        horizontal_flip: Whether to mirror each drawn image with probability 1/2.
        processes: Those that share the stream.
        block: The images that batches are drawn from now; None before the first batch.
        remaining: Which of them are left.
        epoch: How often the stream began anew.
        place: Where in the stream the block begins; None for its beginning.

    Raises:
        InvalidInput: If the batch size is not positive.
    """

    blocks: Blocks
    first: ImageData
    batch_size: int
    generator: torch.Generator
    horizontal_flip: bool = False
    processes: Processes = ALONE
    labels: Tensor | None = None
    block: ImageData | None = None
    remaining: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    epoch: int = 0
    place: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        """Check the batch size, and open this process' part of the stream."""
        from datasets.distributed import split_dataset_by_node

        Limits(1).check("batch size", self.batch_size)
        part = self.processes.index, self.processes.count
        self.stream = split_dataset_by_node(self.blocks.stream, *part)
        self._open(0, None)

    def __next__(self) -> Tensor:
        """Draw the next batch: the rows of this process, with shape :math:`(B, C, H, W)`."""
        share, images, labels = self.processes.share(self.batch_size), [], []
        missing = share.stop - share.start
        while missing:
            if self.block is None or not len(self.remaining):
                self.place = self.next_place
                self.block = self._read()
                self.remaining = torch.randperm(len(self.block), generator=self.generator)
            rows, self.remaining = self.remaining[:missing], self.remaining[missing:]
            images.append(self.block.images[rows])
            labels.append(self.block.labels_of(rows))
            missing -= len(rows)
        known = [own for own in labels if own is not None]
        self.labels, x_0 = torch.cat(known) if known else None, torch.cat(images)
        return self.mirrored(x_0, len(x_0))

    def _open(self, epoch: int, place: dict[str, Any] | None) -> None:
        """Go to a place of the stream, in an epoch."""
        self.epoch, self.place, self.next_place = epoch, place, place
        self.stream.set_epoch(epoch)
        if place is not None:
            self.stream.load_state_dict(place)
        self.rows = iter(self.stream)

    def _read(self) -> ImageData:
        """The next block, from the beginning of the stream where it is at its end.

        Raises:
            InvalidInput: If there is none for this process, or its images have another shape.
        """
        rows = self.blocks.rows(self.rows)
        if not rows:
            self._open(self.epoch + 1, None)
            rows = self.blocks.rows(self.rows)
        if not rows:
            raise InvalidInput(
                f"{self.blocks.name} has no image for process {self.processes.index + 1} of "
                f"{self.processes.count}: start fewer"
            )
        self.next_place = self.stream.state_dict()
        block = self.blocks.read(rows)
        if block.image_shape != self.first.image_shape:
            raise InvalidInput(
                f"{self.blocks.name} has images of shape {block.image_shape} after others of "
                f"{self.first.image_shape}: give --image-size (image_size=N)"
            )
        return block

    def state_dict(self) -> dict[str, Any]:
        """Everything that determines the next batches of this process."""
        return {
            "generator": self.generator.get_state(),
            "remaining": self.remaining.clone(),
            "epoch": self.epoch,
            "place": self.place,
            "block": self.block and self.block.identity,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a saved state; its block is read again.

        Raises:
            InvalidInput: If there are other images now.
        """
        self._open(int(state["epoch"]), state["place"])
        if state["block"] is not None:
            self.block = self._read()
            if changed := self.block.change_since(state["block"]):
                raise InvalidInput(
                    f"{self.blocks.name} has changed since the run was saved (other {changed}): "
                    "resume with the same data"
                )
        self.generator.set_state(state["generator"])
        self.remaining = state["remaining"].clone()
