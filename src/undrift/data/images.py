r"""Images in memory, and an endless stream of training batches that can be resumed exactly.

A data set is one tensor :math:`x_0^{(1)}, \dots, x_0^{(N)}` with values in :math:`[-1, 1]`, and
the record of how it came to be. The stream visits the data in epochs, each a fresh
permutation, and cuts it into batches that are always full: where an epoch ends within a batch the
next one begins, so a batch may be larger than the data. A horizontal flip is drawn anew for every
use of an image.
"""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from undrift.exceptions import InvalidInput, Limits
from undrift.processes import ALONE, Processes

_BLOCK = 4096  # images per block where a temporary copy is needed


class Batches(Iterator[Tensor]):
    """Endless batches of :math:`x_0`, of which each process gets its rows.

    Arguments:
        batch_size: Images of a batch, over all processes.
        generator: The source of all randomness, on the CPU.
        horizontal_flip: Whether to mirror each drawn image with probability 1/2.
        labels: Classes of this process' rows of the last batch; None where the data have none.
    """

    batch_size: int
    generator: torch.Generator
    horizontal_flip: bool
    labels: Tensor | None

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Everything that determines the next batches, as tensors, numbers and strings."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a saved state: the next batches are those after :meth:`state_dict`."""

    def mirrored(self, x_0: Tensor, count: int, own: slice = slice(None)) -> Tensor:
        """Images, each mirrored with probability 1/2 where that was chosen.

        Arguments:
            x_0: The images, with shape :math:`(B, C, H, W)`.
            count: For how many images it is drawn.
            own: Which of those these are.
        """
        if not self.horizontal_flip:
            return x_0
        heads = torch.rand(count, 1, 1, 1, generator=self.generator) < 0.5
        return torch.where(heads[own], x_0.flip(-1), x_0)


class Source(Protocol):
    """More images than are held in memory, of which a data set is the first block."""

    def through(self, convert: Callable[[ImageData], ImageData]) -> Source:
        """The same images, converted block by block."""

    def batches(
        self,
        first: ImageData,
        batch_size: int,
        generator: torch.Generator,
        horizontal_flip: bool,
        processes: Processes,
    ) -> Batches:
        """Batches of all of its images."""


@dataclass(frozen=True, eq=False)
class ImageData:
    r"""Images :math:`x_0` of one data set, and how they were made.

    Arguments:
        images: Images in :math:`[-1, 1]`, float32, with shape :math:`(N, C, H, W)`.
        name: The name under which the data was asked for.
        split: The part of the data set: ``"train"``, ``"test"``, ...
        how: All that describes the data: source, scaling, resizing, what was skipped. The entry
            ``"fingerprint"`` is added, the SHA-256 of shape and content, and ``"labels"``, that of
            the labels, where there are any.
        labels: Class of each image, int64, with shape :math:`(N)`, or None.
        source: The stream that the images are the first block of; None where they are all.

    Raises:
        InvalidInput: If an image is not finite or leaves :math:`[-1, 1]`, or the shapes are wrong.

    Example:
        >>> data = ImageData(torch.zeros(5, 1, 8, 8), name="black")
        >>> len(data), data.image_shape, data.how["fingerprint"][:14]
        (5, (1, 8, 8), 'sha256:169778c')
    """

    images: Tensor
    name: str
    split: str = "train"
    how: Mapping[str, Any] = field(default_factory=dict)
    labels: Tensor | None = None
    source: Source | None = None

    def __post_init__(self) -> None:
        """Check the images, lay them out contiguously and take their fingerprint."""
        if self.images.ndim != 4 or not self.images.numel():
            shape = f"images must have shape (N, C, H, W), not {tuple(self.images.shape)}"
            raise InvalidInput(f"data '{self.name}': {shape}")
        images = self.images.detach().to("cpu", torch.float32).contiguous()
        self._check(images)
        if self.labels is not None and self.labels.shape != (len(images),):
            raise InvalidInput(
                f"data '{self.name}': {len(images)} images need as many labels, "
                f"not {tuple(self.labels.shape)}"
            )
        labels = None if self.labels is None else self.labels.detach().to("cpu", torch.int64)
        facts = {
            "name": self.name,
            "split": self.split,
            "num_images": len(images),
            "image_shape": list(images.shape[1:]),
        }
        digests = {"fingerprint": images} | ({} if labels is None else {"labels": labels})
        how = {**facts, **self.how, **{key: fingerprint(x) for key, x in digests.items()}}
        object.__setattr__(self, "images", images)
        object.__setattr__(self, "labels", labels)
        object.__setattr__(self, "how", how)

    def _check(self, images: Tensor) -> None:
        """Check the values."""
        _check_values(images, self.name)

    def __len__(self) -> int:
        """Return the number of images :math:`N`."""
        return len(self.images)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Shape :math:`(C, H, W)` of one image."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    def labels_of(self, rows: Tensor) -> Tensor | None:
        """Classes of some images; None where there are no labels."""
        return None if self.labels is None else self.labels[rows]

    def of_classes(self, labels: Collection[int]) -> ImageData:
        """The images of some classes.

        Raises:
            InvalidInput: If there are none of one of them.
        """
        if self.labels is None:
            raise InvalidInput(f"data '{self.name}' have no labels: give data with classes")
        for label in labels:
            if not bool((self.labels == label).any()):
                raise InvalidInput(f"data '{self.name}' have no image with label {label}")
        rows = torch.isin(self.labels, torch.tensor(sorted(set(labels))))
        how = {k: v for k, v in self.how.items() if k not in ("num_images", "fingerprint")}
        how["classes_taken"] = sorted(set(labels))
        return ImageData(self.images[rows], self.name, self.split, how, self.labels[rows])

    @property
    def fingerprint(self) -> str:
        """SHA-256 of shape and content: equal if and only if two runs saw the same images."""
        return str(self.how["fingerprint"])

    @property
    def identity(self) -> dict[str, str | None]:
        """What tells these data from others: the fingerprints of images and labels."""
        return {key: self.how.get(key) for key in ("fingerprint", "labels")}

    def change_since(self, saved: Mapping[str, Any]) -> str | None:
        """What these data have changed in, "images" or "labels"; None if nothing is known to.

        Arguments:
            saved: The :attr:`identity` that was kept, or more of the data; labels that one of both
                does not have are not compared.
        """
        for key, here in self.identity.items():
            if here is not None and saved.get(key) not in (None, here):
                return "images" if key == "fingerprint" else key
        return None

    def batches(
        self,
        batch_size: int,
        generator: torch.Generator,
        horizontal_flip: bool = False,
        processes: Processes = ALONE,
    ) -> Batches:
        """Stream full batches of :math:`x_0` without end: see :class:`BatchStream`.

        Arguments:
            batch_size: Images of a batch, over all processes.
            generator: The source of permutations and flips, on the CPU.
            horizontal_flip: Whether to mirror each drawn image with probability 1/2.
            processes: Those that share a batch; this one gets its rows.
        """
        if self.source is not None:
            return self.source.batches(self, batch_size, generator, horizontal_flip, processes)
        return BatchStream(self, batch_size, generator, horizontal_flip, processes)


class Codes(ImageData):
    """Codes of images by an autoencoder, which have no range."""

    def _check(self, images: Tensor) -> None:
        """Check that the values are finite."""
        if not bool(images.isfinite().all()):
            raise InvalidInput(f"data '{self.name}': their codes hold NaN or infinite values")


@dataclass(eq=False)
class BatchStream(Batches):
    r"""Endless batches of :math:`x_0`, sampled without replacement within each epoch.

    All randomness comes from ``generator``; :meth:`state_dict` holds its state, so that a resumed
    run sees exactly the batches that an uninterrupted one would have seen.

    Arguments:
        data: The images.
        batch_size: Images :math:`B` in every batch; may exceed the number of images.
        generator: The source of permutations and flips, on the CPU. It may be shared.
        horizontal_flip: Whether to mirror each drawn image with probability 1/2.
        processes: Those that share a batch.
        epoch: Number of epochs begun.
        indices: Which images the last batch was made of, over all processes, with shape
            :math:`(B)`.
        remaining: Which images of the epoch are left.

    Raises:
        InvalidInput: If the batch size is not positive.

    Example:
        >>> images = torch.linspace(-1, 1, 3).reshape(3, 1, 1, 1)
        >>> stream = ImageData(images, "three").batches(6, torch.Generator().manual_seed(0))
        >>> next(stream).flatten().sort().values.tolist(), stream.epoch
        ([-1.0, -1.0, 0.0, 0.0, 1.0, 1.0], 2)
    """

    data: ImageData
    batch_size: int
    generator: torch.Generator
    horizontal_flip: bool = False
    processes: Processes = ALONE
    epoch: int = 0
    indices: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    remaining: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    labels: Tensor | None = None

    def __post_init__(self) -> None:
        """Check the batch size."""
        Limits(1).check("batch size", self.batch_size)

    def __next__(self) -> Tensor:
        """Draw the next batch: the rows of this process, with shape :math:`(B, C, H, W)`."""
        self.indices, own = self._draw_indices(), self.processes.share(self.batch_size)
        rows = self.indices[own]
        self.labels = self.data.labels_of(rows)
        return self.mirrored(self.data.images[rows], self.batch_size, own)

    def _draw_indices(self) -> Tensor:
        queue = [self.remaining]
        missing = self.batch_size - len(self.remaining)
        while missing > 0:
            queue.append(torch.randperm(len(self.data), generator=self.generator))
            self.epoch += 1
            missing -= len(self.data)
        indices = torch.cat(queue)
        self.remaining = indices[self.batch_size :].clone()
        return indices[: self.batch_size]

    def state_dict(self) -> dict[str, Any]:
        """Everything that determines the next batches, as tensors, numbers and strings."""
        return {
            "generator": self.generator.get_state(),
            "remaining": self.remaining.clone(),
            "epoch": self.epoch,
            **self.data.identity,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a saved state: the next batches are those after :meth:`state_dict`.

        Raises:
            InvalidInput: If the data is not the data of the state.
        """
        if changed := self.data.change_since(state):
            raise InvalidInput(
                f"data '{self.data.name}' has changed since the run was saved (other {changed}): "
                "resume with the same data"
            )
        self.generator.set_state(state["generator"])
        self.remaining = state["remaining"].clone()
        self.epoch = int(state["epoch"])


def fingerprint(values: Tensor) -> str:
    """SHA-256 of shape and content, as float32 for images and as int64 for labels.

    Arguments:
        values: A contiguous tensor on the CPU.

    Returns:
        ``"sha256:"`` and 64 hexadecimal digits.
    """
    digest = hashlib.sha256(repr(tuple(values.shape)).encode())
    kind = "<f4" if values.is_floating_point() else "<i8"
    for block in values.split(_BLOCK):
        digest.update(block.numpy().astype(kind, copy=False).tobytes())
    return f"sha256:{digest.hexdigest()}"


def check_finite(rows: Tensor, source: str, first: int = 0, count: int | None = None) -> None:
    """Check that images hold numbers.

    Arguments:
        rows: The pixels of each image, with shape :math:`(N, D)`.
        source: What to call them in the message.
        first: Index of the first of them.
        count: Number of images they are part of, if not all.

    Raises:
        InvalidInput: Names the first image that does not.
    """
    bad = ~rows.isfinite().all(dim=1)
    if bad.any():
        which = f"image {first + int(bad.nonzero()[0])} of {count or len(rows)}"
        fault = "holds NaN or infinite values: repair it or leave it out"
        raise InvalidInput(f"{source}: {which} {fault}")


def _check_values(images: Tensor, source: str) -> None:
    """Check that all images are finite and lie in [-1, 1].

    Raises:
        InvalidInput: Names the first image that is not.
    """
    for number, block in enumerate(images.split(_BLOCK)):
        rows, first = block.flatten(1), number * _BLOCK
        check_finite(rows, source, first, len(images))
        bad = ~((rows >= -1) & (rows <= 1)).all(dim=1)
        if bad.any():
            which = f"image {first + int(bad.nonzero()[0])} of {len(images)}"
            fault = "leaves the range [-1, 1]: repair it or leave it out"
            raise InvalidInput(f"{source}: {which} {fault}")
