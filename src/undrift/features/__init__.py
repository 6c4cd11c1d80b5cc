r"""Feature maps :math:`\varphi`: what an image shows, as a vector, so that distances mean quality.

Any callable from images :math:`(B, C, H, W)` in :math:`[-1, 1]` to a tensor :math:`(B, \dots)` is a
feature map, above all any torch module. Here are three to choose from: a classifier trained within
seconds on the labels of the data itself (:class:`ClassifierFeatures`), EfficientNet-Lite0 trained
on ImageNet (:class:`EfficientNetFeatures`), and any TorchScript file
(:class:`TorchScriptFeatures`), among them the Inception network whose Fréchet distance is called
FID.
"""

from undrift.features.choice import choose_features
from undrift.features.classifier import ClassifierFeatures, digit_features
from undrift.features.extract import FeatureMap, extract_features, score_name
from undrift.features.pretrained import EfficientNetFeatures, TorchScriptFeatures

__all__ = [
    "ClassifierFeatures",
    "EfficientNetFeatures",
    "FeatureMap",
    "TorchScriptFeatures",
    "choose_features",
    "digit_features",
    "extract_features",
    "score_name",
]
