r"""undrift: measure how the error of a diffusion model accumulates along its chain, and reduce it.

A name is imported from its module when it is first used, so that ``import undrift`` and
``undrift --help`` do not wait for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from undrift.data.images import ImageData
    from undrift.data.load import load_data
    from undrift.diffusion.denoiser import Denoiser
    from undrift.diffusion.gaussian import AncestralSampler, DDIMSampler
    from undrift.diffusion.schedule import (
        CosineSchedule,
        LinearSchedule,
        Schedule,
        SigmoidSchedule,
    )
    from undrift.diffusion.scheduler import DiffusersSampler
    from undrift.exceptions import InvalidInput
    from undrift.measurement.measure import measure
    from undrift.measurement.profile import ErrorProfile
    from undrift.mmd.estimate import mmd_sq
    from undrift.mmd.kernels import RBFMixture
    from undrift.regularizer.cumulative import CumulativeErrorRegularizer

__version__ = "0.1.0"

_MODULE_OF = {
    "AncestralSampler": "diffusion.gaussian",
    "CosineSchedule": "diffusion.schedule",
    "CumulativeErrorRegularizer": "regularizer.cumulative",
    "DDIMSampler": "diffusion.gaussian",
    "Denoiser": "diffusion.denoiser",
    "DiffusersSampler": "diffusion.scheduler",
    "ErrorProfile": "measurement.profile",
    "ImageData": "data.images",
    "InvalidInput": "exceptions",
    "LinearSchedule": "diffusion.schedule",
    "RBFMixture": "mmd.kernels",
    "Schedule": "diffusion.schedule",
    "SigmoidSchedule": "diffusion.schedule",
    "load_data": "data.load",
    "measure": "measurement.measure",
    "mmd_sq": "mmd.estimate",
}

__all__ = [
    "AncestralSampler",
    "CosineSchedule",
    "CumulativeErrorRegularizer",
    "DDIMSampler",
    "Denoiser",
    "DiffusersSampler",
    "ErrorProfile",
    "ImageData",
    "InvalidInput",
    "LinearSchedule",
    "RBFMixture",
    "Schedule",
    "SigmoidSchedule",
    "__version__",
    "load_data",
    "measure",
    "mmd_sq",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
