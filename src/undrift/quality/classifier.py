r"""Features from a classifier of the data's own labels, which no generative method was trained on.

A small convolutional network is trained on labeled images; its penultimate activations
:math:`\varphi(x) \in \mathbb{R}^{64}` separate what the labels separate. One image in five is held
out, and the accuracy on these shows whether the features are informative. Training takes seconds on
a CPU, is decided by the data and the seed, and its result is kept in the user's cache.

The last digits of trained weights differ between processors. So the SHA-256 of the weights is in
the record: distances are comparable between runs where it is equal.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from undrift.data.images import ImageData
from undrift.exceptions import InvalidInput, reason_of
from undrift.storage.writing import written

CACHE_VARIABLE = "UNDRIFT_CACHE"
FEATURE_DIM = 64
_VERSION = 1  # of the network and its training: another number, another cache file
_WIDTHS = (32, 64, 64, 64, 64, 64)
_FINEST = 7  # images are halved until they are this small
_POOLED = 4
_HELD_OUT = 5  # one image in so many
_BATCH_SIZE = 128
_LEARNING_RATE = 2e-3


class ClassifierFeatures(nn.Module):
    r"""The penultimate activations :math:`\varphi(x) \in \mathbb{R}^{64}` of a trained classifier.

    Convolutions and pooling down to 4x4, a hidden layer of 64, the classes. Make one with
    :meth:`trained` or :meth:`cached`. Calling it is differentiable in the images.

    Arguments:
        how: Data, shape of the images, number of classes, seed, accuracy on held-out images,
            fingerprint of the weights.

    Example:
        >>> from undrift.data.load import load_data
        >>> data = load_data("digits")
        >>> features = ClassifierFeatures.trained(data, num_steps=50)
        >>> features(data.images[:10]).shape, features.accuracy > 0.8
        (torch.Size([10, 64]), True)
    """

    def __init__(self, how: Mapping[str, Any]) -> None:
        super().__init__()
        self.how = dict(how)
        channels, size = how["image_shape"][0], min(how["image_shape"][1:])
        layers: list[nn.Module] = []
        with torch.device("meta"):  # draws no weights: the global random state is not used
            for width in _WIDTHS:
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.SiLU()]
                if size > _FINEST:
                    layers += [nn.MaxPool2d(2)]
                channels, size = width, size // 2
                if size <= _POOLED:
                    break
            self.trunk = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(_POOLED), nn.Flatten())
            self.hidden = nn.Linear(channels * _POOLED**2, FEATURE_DIM)
            self.classes = nn.Linear(FEATURE_DIM, how["num_classes"])
        self.to_empty(device="cpu")

    def forward(self, images: Tensor) -> Tensor:
        """Features of images of the shape trained on, with shape :math:`(B, 64)`."""
        if list(images.shape[1:]) != self.how["image_shape"]:
            raise InvalidInput(
                f"the classifier of {self.how['data']} takes images of shape "
                f"{tuple(self.how['image_shape'])}, not {tuple(images.shape[1:])}"
            )
        return F.silu(self.hidden(self.trunk(images.to(self.hidden.weight))))

    @property
    def accuracy(self) -> float:
        """Share of held-out images that the classifier gets right."""
        return float(self.how["accuracy"])

    @property
    def score_name(self) -> str:
        """Name of the Fréchet distance on these features."""
        return f"Fréchet distance ({self.how['data']} classifier)"

    @classmethod
    def trained(cls, data: ImageData, seed: int = 0, *, num_steps: int = 400) -> Self:
        """Train a classifier on labeled data.

        Arguments:
            data: Images with labels.
            seed: Decides initial weights, batches and which images are held out.
            num_steps: Batches of 128 to train on.

        Raises:
            InvalidInput: If the data has no labels or one class only.
        """
        images, labels = data.images, data.labels
        if labels is None or len(labels.unique()) < 2:
            raise InvalidInput(
                f"a classifier needs labels of two classes or more: {data.name} does not have them"
            )
        how = {
            "features": "classifier",
            "data": data.name,
            "data_fingerprint": data.fingerprint,
            "image_shape": list(data.image_shape),
            "num_classes": int(labels.max()) + 1,
            "seed": seed,
            "num_steps": num_steps,
        }
        features, generator = cls(how), torch.Generator().manual_seed(seed)
        for parameter in features.parameters():
            if parameter.ndim > 1:
                nn.init.kaiming_normal_(parameter, nonlinearity="relu", generator=generator)
            else:
                nn.init.zeros_(parameter)
        order = torch.randperm(len(images), generator=generator)
        test, training = order.tensor_split([len(order) // _HELD_OUT])
        features._fit(images, labels, training, generator)
        with torch.no_grad():
            guesses = [features.classes(features(x)).argmax(1) for x in images[test].split(1024)]
        accuracy = float((torch.cat(guesses) == labels[test]).double().mean())
        content = b"".join(weight.numpy().tobytes() for weight in features.state_dict().values())
        weights = f"sha256:{hashlib.sha256(content).hexdigest()}"
        features.how |= {"accuracy": accuracy, "num_held_out": len(test), "weights": weights}
        return features

    def _fit(
        self, images: Tensor, labels: Tensor, training: Tensor, generator: torch.Generator
    ) -> None:
        """Adam with a learning rate that falls to zero along a cosine."""
        num_steps = self.how["num_steps"]
        optimizer = torch.optim.AdamW(self.parameters(), lr=_LEARNING_RATE, weight_decay=1e-3)
        decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_steps)
        for _ in range(num_steps):
            rows = training[torch.randint(len(training), (_BATCH_SIZE,), generator=generator)]
            optimizer.zero_grad()
            F.cross_entropy(self.classes(self(images[rows])), labels[rows]).backward()
            optimizer.step()
            decay.step()
        optimizer.zero_grad()
        self.requires_grad_(False)

    @classmethod
    def cached(
        cls,
        data: ImageData,
        seed: int = 0,
        *,
        num_steps: int = 400,
        folder: str | Path | None = None,
    ) -> Self:
        """As :meth:`trained`, but only the first time.

        The file is named after data, labels, seed and training, so a changed setting is never
        answered from the cache. It lies in ``folder``, else in :func:`cache_folder`.
        """
        labels = [] if data.labels is None else data.labels.tolist()
        key = json.dumps([_VERSION, data.fingerprint, labels, seed, num_steps]).encode()
        name = f"classifier-{hashlib.sha256(key).hexdigest()[:16]}.safetensors"
        path = Path(folder or cache_folder()) / name
        try:
            return cls.load(path)
        except InvalidInput:
            pass
        features = cls.trained(data, seed, num_steps=num_steps)
        try:
            features.save(path)
        except OSError as fault:
            warnings.warn(f"the classifier is not kept in {path}: {fault}", stacklevel=2)
        return features

    def save(self, path: Path) -> None:
        """Write weights and record to a safetensors file; it appears complete or not at all."""
        weights = {key: value.cpu() for key, value in self.state_dict().items()}
        with written(path) as part:
            save_file(weights, part, metadata={"how": json.dumps(self.how)})

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what :meth:`save` wrote.

        Raises:
            InvalidInput: If the file is missing, damaged or of another kind.
        """
        try:
            with safe_open(path, framework="pt") as file:
                features = cls(json.loads(file.metadata()["how"]))
                weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            features.load_state_dict(weights)
        except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as fault:
            reason = reason_of(fault)
            raise InvalidInput(f"cannot read a classifier from {path} ({reason})") from None
        return features.requires_grad_(False)


def cache_folder() -> Path:
    """The folder for files that can be made again.

    ``UNDRIFT_CACHE``, else in the operating system's folder for caches.
    """
    if chosen := os.environ.get(CACHE_VARIABLE):
        return Path(chosen)
    variable, default = "XDG_CACHE_HOME", "~/.cache"
    if sys.platform == "win32":
        variable, default = "LOCALAPPDATA", "~/AppData/Local"
    elif sys.platform == "darwin":
        default = "~/Library/Caches"
    return Path(os.environ.get(variable) or default).expanduser() / "undrift"
