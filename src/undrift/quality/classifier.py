r"""Features from a classifier of the data's own labels, which no generative method was trained on.

A small convolutional network is trained on labelled images; its penultimate activations
:math:`\varphi(x) \in \mathbb{R}^{64}` separate what the labels separate. One image in five is held
out, and the accuracy on these says whether the features see anything. Training takes seconds on a
CPU, is decided by the data and the seed, and its result is kept in the user's cache.

The last digits of trained weights differ between processors. So the SHA-256 of the weights is in
the record: distances are comparable between runs where it is equal.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from undrift.data.images import ImageData
from undrift.data.load import load_data
from undrift.exceptions import InvalidInput

CACHE_VARIABLE = "UNDRIFT_CACHE"
FEATURE_DIM = 64
_VERSION = 1  # of the network and its training: another number, another cache file
_WIDTHS = (32, 64, 64, 64, 64, 64)
_FINEST = 7  # images are halved until they are this small
_POOLED = 4
_HELD_OUT = 5  # one image in so many
_BATCH_SIZE = 128
_LEARNING_RATE = 2e-3


class Classifier(nn.Module):
    """Convolutions and pooling down to 4x4, a hidden layer of 64, the classes."""

    def __init__(self, image_shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__()
        channels, size = image_shape[0], min(image_shape[1:])
        layers: list[nn.Module] = []
        for width in _WIDTHS:
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.SiLU()]
            if size > _FINEST:
                layers += [nn.MaxPool2d(2)]
            channels, size = width, size // 2
            if size <= _POOLED:
                break
        self.trunk = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(_POOLED), nn.Flatten())
        self.hidden = nn.Linear(channels * _POOLED**2, FEATURE_DIM)
        self.classes = nn.Linear(FEATURE_DIM, num_classes)

    def penultimate(self, x: Tensor) -> Tensor:
        """Activations of the hidden layer, with shape :math:`(B, 64)`."""
        return F.silu(self.hidden(self.trunk(x)))

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the classes."""
        logits: Tensor = self.classes(self.penultimate(x))
        return logits


@dataclass(frozen=True, eq=False)
class ClassifierFeatures:
    r"""The penultimate activations :math:`\varphi(x) \in \mathbb{R}^{64}` of a trained classifier.

    Make one with :meth:`train`, :meth:`cached` or :func:`digit_features`. Calling it is
    differentiable in the images.

    Arguments:
        network: The classifier.
        how: Data, seed, accuracy on held-out images, fingerprint of the weights.

    Example:
        >>> data = load_data("digits")
        >>> features = ClassifierFeatures.train(data, num_steps=50)
        >>> features(data.images[:10]).shape, features.accuracy > 0.8
        (torch.Size([10, 64]), True)
    """

    network: Classifier
    how: Mapping[str, Any]

    def __call__(self, images: Tensor) -> Tensor:
        """Features of images of the shape trained on, with shape :math:`(B, 64)`."""
        if list(images.shape[1:]) != self.how["image_shape"]:
            raise InvalidInput(
                f"the classifier of {self.how['data']} takes images of shape "
                f"{tuple(self.how['image_shape'])}, not {tuple(images.shape[1:])}"
            )
        weight = next(self.network.parameters())
        return self.network.penultimate(images.to(weight))

    @property
    def accuracy(self) -> float:
        """Share of held-out images that the classifier gets right."""
        return float(self.how["accuracy"])

    @property
    def score_name(self) -> str:
        """What the Fréchet distance on these features is called."""
        return f"Fréchet distance ({self.how['data']} classifier)"

    def to(self, device: str | torch.device) -> Self:
        """Move the network to a device."""
        return replace(self, network=self.network.to(device))

    @classmethod
    def train(
        cls, data: ImageData, seed: int = 0, *, num_steps: int = 400, min_accuracy: float = 0.0
    ) -> Self:
        """Train a classifier on labelled data.

        Arguments:
            data: Images with labels.
            seed: Decides initial weights, batches and which images are held out.
            num_steps: Batches of 128 to train on.
            min_accuracy: Smallest share of held-out images to get right.

        Raises:
            InvalidInput: If the data has no labels or one class only.
            RuntimeError: If the accuracy is not reached.
        """
        images, labels = data.images, data.labels
        if labels is None or len(labels.unique()) < 2:
            raise InvalidInput(
                f"a classifier needs labels of two classes or more: {data.name} has not"
            )
        generator = torch.Generator().manual_seed(seed)
        network = _initialized(data.image_shape, int(labels.max()) + 1, generator)
        order = torch.randperm(len(images), generator=generator)
        test, training = order[: len(order) // _HELD_OUT], order[len(order) // _HELD_OUT :]
        _fit(network, images, labels, training, num_steps, generator)
        accuracy = _accuracy(network, images[test], labels[test])
        if accuracy < min_accuracy:
            raise RuntimeError(
                f"the classifier of {data.name} gets {accuracy:.1%} right, not enough"
            )
        how = {
            "features": "classifier",
            "data": data.name,
            "data_fingerprint": data.fingerprint,
            "image_shape": list(data.image_shape),
            "num_classes": int(labels.max()) + 1,
            "seed": seed,
            "num_steps": num_steps,
            "accuracy": accuracy,
            "num_held_out": len(test),
            "weights": _digest(network),
        }
        return cls(network, how)

    @classmethod
    def cached(
        cls,
        data: ImageData,
        seed: int = 0,
        *,
        num_steps: int = 400,
        min_accuracy: float = 0.0,
        folder: str | Path | None = None,
    ) -> Self:
        """As :meth:`train`, but only the first time.

        The file is named after data, labels, seed and training, so another question never gets the
        old answer. It lies in ``folder``, else where ``UNDRIFT_CACHE`` says, else in the place for
        caches of the operating system.
        """
        labels = data.labels if data.labels is not None else torch.empty(0, dtype=torch.int64)
        question = [_VERSION, data.fingerprint, labels.tolist(), seed, num_steps]
        key = hashlib.sha256(json.dumps(question).encode()).hexdigest()[:16]
        path = Path(folder or cache_folder()) / f"classifier-{key}.safetensors"
        try:
            found = cls.load(path)
            if found.accuracy >= min_accuracy:
                return found
        except InvalidInput:
            pass
        features = cls.train(data, seed, num_steps=num_steps, min_accuracy=min_accuracy)
        try:
            features.save(path)
        except OSError as fault:
            warnings.warn(f"the classifier is not kept in {path}: {fault}", stacklevel=2)
        return features

    def save(self, path: str | Path) -> None:
        """Write weights and record to a safetensors file, whole or not at all."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, draft = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
        os.close(descriptor)
        try:
            weights = {
                k: v.detach().cpu().contiguous() for k, v in self.network.state_dict().items()
            }
            save_file(weights, draft, metadata={"how": json.dumps(dict(self.how))})
            os.replace(draft, path)
        finally:
            Path(draft).unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what :meth:`save` wrote.

        Raises:
            InvalidInput: If the file is missing, damaged or of another kind.
        """
        try:
            with safe_open(path, framework="pt") as file:
                how = json.loads(file.metadata()["how"])
                weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            channels, height, width = how["image_shape"]
            network = _empty((channels, height, width), how["num_classes"])
            network.load_state_dict(weights)
        except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as fault:
            reason = " ".join(str(fault).split())[:200]
            raise InvalidInput(f"cannot read a classifier from {path} ({reason})") from None
        return cls(network.requires_grad_(False), how)


def digit_features(seed: int = 0) -> ClassifierFeatures:
    """Features for 8x8 digits: a classifier of scikit-learn's digits, at least 95 % right."""
    return ClassifierFeatures.cached(load_data("digits"), seed, min_accuracy=0.95)


def cache_folder() -> Path:
    """Where things are kept that can be made again: ``UNDRIFT_CACHE`` or the system's place."""
    if chosen := os.environ.get(CACHE_VARIABLE):
        return Path(chosen)
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or "~/AppData/Local"
    elif sys.platform == "darwin":
        base = "~/Library/Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "undrift"


def _empty(image_shape: tuple[int, int, int], num_classes: int) -> Classifier:
    """A network without weights yet; the global random state is left alone."""
    with torch.device("meta"):
        network = Classifier(image_shape, num_classes)
    return network.to_empty(device="cpu")


def _initialized(
    image_shape: tuple[int, int, int], num_classes: int, generator: torch.Generator
) -> Classifier:
    network = _empty(image_shape, num_classes)
    for parameter in network.parameters():
        if parameter.ndim > 1:
            nn.init.kaiming_normal_(parameter, nonlinearity="relu", generator=generator)
        else:
            nn.init.zeros_(parameter)
    return network


def _fit(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    training: Tensor,
    num_steps: int,
    generator: torch.Generator,
) -> None:
    """Adam with a learning rate that falls to zero along a cosine."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=_LEARNING_RATE, weight_decay=1e-3)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_steps)
    for _ in range(num_steps):
        draw = torch.randint(len(training), (_BATCH_SIZE,), generator=generator)
        rows = training[draw]
        loss = F.cross_entropy(network(images[rows]), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        decay.step()
    optimizer.zero_grad()
    network.requires_grad_(False)


def _accuracy(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    with torch.no_grad():
        guesses = torch.cat([network(block).argmax(1) for block in images.split(1024)])
    return float((guesses == labels).double().mean())


def _digest(network: nn.Module) -> str:
    content = b"".join(weight.numpy().tobytes() for weight in network.state_dict().values())
    return f"sha256:{hashlib.sha256(content).hexdigest()}"
