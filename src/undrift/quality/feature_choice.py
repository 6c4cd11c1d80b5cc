r"""Feature maps by name, as command lines and study files choose them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from undrift.data.images import ImageData
from undrift.exceptions import InvalidInput
from undrift.quality.classifier import ClassifierFeatures
from undrift.quality.features import FeatureMap
from undrift.quality.pretrained import (
    EFFICIENT_NETS,
    EfficientNetFeatures,
    TorchScriptFeatures,
)

logger = logging.getLogger("undrift")
NAMES = ("classifier", *EFFICIENT_NETS, "pixels")
"""The features that are no file."""


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


def features_or_pixels(name: str | None, data: ImageData) -> FeatureMap | None:
    """As :func:`choose_features`, but pixels where the default one is not installed."""
    try:
        return choose_features(name, data)
    except InvalidInput as missing:
        if name is not None or data.labels is not None:
            raise
        logger.info("samples are compared in pixels: %s", missing)
        return None


def choose_judges(
    names: Sequence[str] | str | None, data: ImageData
) -> dict[str, FeatureMap | None]:
    """The feature maps of several networks that judge the same samples, by name.

    Arguments:
        names: Names as :func:`choose_features` takes them, or one of them; its default when None. A
            TorchScript file goes by its name without folder and ending.
        data: The images that will be compared, with labels or without.

    Raises:
        InvalidInput: If there is none or one comes twice, or what it needs is missing.

    Example:
        >>> from undrift.data.load import load_data
        >>> list(choose_judges(["pixels", "classifier"], load_data("digits")))
        ['pixels', 'classifier']
    """
    if names is None:
        return {default_features(data): choose_features(None, data)}
    chosen = [names] if isinstance(names, str) else list(names)
    titles = [judge_name(name) for name in chosen]
    if not chosen or len(set(titles)) < len(titles):
        raise InvalidInput(f"features {chosen}: give at least one network, each once")
    return {title: choose_features(name, data) for title, name in zip(titles, chosen, strict=True)}


def judge_name(name: str) -> str:
    """How a network is called in tables: its name, or that of its file.

    Example:
        >>> judge_name("classifier"), judge_name("models/inception-2015.pt")
        ('classifier', 'inception-2015')
    """
    return Path(name).stem if name not in NAMES else name


def default_features(data: ImageData) -> str:
    """The name of the features that are chosen for data when none are named."""
    return "efficientnet-lite0" if data.labels is None else "classifier"
