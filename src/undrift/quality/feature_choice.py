r"""Feature maps by name, as command lines and study files choose them."""

from __future__ import annotations

from undrift.data.images import ImageData
from undrift.exceptions import InvalidInput
from undrift.quality.classifier import ClassifierFeatures
from undrift.quality.features import FeatureMap
from undrift.quality.pretrained import (
    EFFICIENT_NETS,
    EfficientNetFeatures,
    TorchScriptFeatures,
)


def choose_features(name: str | None, data: ImageData) -> FeatureMap | None:
    r"""The feature map :math:`\varphi` of a name.

    Arguments:
        name: classifier (of the labels of the data), efficientnet-lite0, efficientnet-lite1,
            efficientnet-lite2, pixels, or the path of a TorchScript file. When None, the classifier
            where the data have labels, else efficientnet-lite0.
        data: The images that will be compared, with labels or without.

    Returns:
        The feature map; None for the pixels themselves.

    Raises:
        InvalidInput: If the labels, packages or file that it needs are missing.

    Example:
        >>> from undrift.data.load import load_data
        >>> choose_features("pixels", load_data("digits")) is None
        True
    """
    if name == "pixels":
        return None
    if name == "classifier" or (name is None and data.labels is not None):
        if data.labels is None:
            raise InvalidInput(
                f"the data {data.name} have no labels for a classifier: choose the features "
                "efficientnet-lite0, pixels, or a TorchScript file"
            )
        return ClassifierFeatures.cached(data)
    if name in EFFICIENT_NETS:
        return EfficientNetFeatures(name)
    if name is not None:
        return TorchScriptFeatures(name)
    try:
        return EfficientNetFeatures()
    except InvalidInput as missing:
        raise InvalidInput(
            f"the data {data.name} have no labels for a classifier: choose the features pixels or "
            f"a TorchScript file, or install those of ImageNet ({missing})"
        ) from None
