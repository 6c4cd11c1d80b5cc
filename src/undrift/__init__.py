r"""undrift: measure how the error of a diffusion model accumulates along its chain, and reduce it.

A name is imported from its module when it is first used, so that ``import undrift`` and
``undrift --help`` do not wait for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from undrift.api.advise import advise as advise
    from undrift.api.compare import compare as compare
    from undrift.api.evaluate import evaluate as evaluate
    from undrift.api.report import report as report
    from undrift.api.sample import sample as sample
    from undrift.api.train import train as train
    from undrift.api.tune import tune as tune
    from undrift.data.images import ImageData as ImageData
    from undrift.data.load import load_data as load_data
    from undrift.diffusion.denoiser import Denoiser as Denoiser
    from undrift.diffusion.gaussian import AncestralSampler as AncestralSampler
    from undrift.diffusion.gaussian import DDIMSampler as DDIMSampler
    from undrift.diffusion.sampler import Sampler as Sampler
    from undrift.diffusion.schedule import CosineSchedule as CosineSchedule
    from undrift.diffusion.schedule import LinearSchedule as LinearSchedule
    from undrift.diffusion.schedule import Schedule as Schedule
    from undrift.diffusion.schedule import SigmoidSchedule as SigmoidSchedule
    from undrift.diffusion.scheduler import DiffusersSampler as DiffusersSampler
    from undrift.exceptions import InvalidInput as InvalidInput
    from undrift.measurement.callback import MeasurementCallback as MeasurementCallback
    from undrift.measurement.measure import measure as measure
    from undrift.measurement.modular import modular_error as modular_error
    from undrift.measurement.profile import ErrorProfile as ErrorProfile
    from undrift.measurement.state import ErrorState as ErrorState
    from undrift.mmd.estimate import mmd_sq as mmd_sq
    from undrift.mmd.kernels import EnergyKernel as EnergyKernel
    from undrift.mmd.kernels import LaplaceKernel as LaplaceKernel
    from undrift.mmd.kernels import PolynomialKernel as PolynomialKernel
    from undrift.mmd.kernels import RBFMixture as RBFMixture
    from undrift.mmd.two_sample import mmd_estimate as mmd_estimate
    from undrift.quality.frechet import frechet_distance as frechet_distance
    from undrift.quality.kernel_distance import kernel_distance as kernel_distance
    from undrift.quality.precision_recall import precision_recall as precision_recall
    from undrift.regularizer.balance import GradientBalance as GradientBalance
    from undrift.regularizer.cumulative import (
        CumulativeErrorRegularizer as CumulativeErrorRegularizer,
    )
    from undrift.remedies.registry import apply_remedy as apply_remedy

__version__ = "0.1.0"

_MODULE_OF = {
    "measure": "measurement.measure",
    "train": "api.train",
    "sample": "api.sample",
    "evaluate": "api.evaluate",
    "tune": "api.tune",
    "advise": "api.advise",
    "compare": "api.compare",
    "report": "api.report",
    "load_data": "data.load",
    "ImageData": "data.images",
    "ErrorProfile": "measurement.profile",
    "ErrorState": "measurement.state",
    "MeasurementCallback": "measurement.callback",
    "Sampler": "diffusion.sampler",
    "AncestralSampler": "diffusion.gaussian",
    "DDIMSampler": "diffusion.gaussian",
    "DiffusersSampler": "diffusion.scheduler",
    "Denoiser": "diffusion.denoiser",
    "Schedule": "diffusion.schedule",
    "LinearSchedule": "diffusion.schedule",
    "CosineSchedule": "diffusion.schedule",
    "SigmoidSchedule": "diffusion.schedule",
    "RBFMixture": "mmd.kernels",
    "LaplaceKernel": "mmd.kernels",
    "EnergyKernel": "mmd.kernels",
    "PolynomialKernel": "mmd.kernels",
    "mmd_sq": "mmd.estimate",
    "mmd_estimate": "mmd.two_sample",
    "modular_error": "measurement.modular",
    "frechet_distance": "quality.frechet",
    "kernel_distance": "quality.kernel_distance",
    "precision_recall": "quality.precision_recall",
    "CumulativeErrorRegularizer": "regularizer.cumulative",
    "GradientBalance": "regularizer.balance",
    "apply_remedy": "remedies.registry",
    "InvalidInput": "exceptions",
}
"""Each public name with its module, in the order of the documentation's page."""

__all__ = ["__version__", *_MODULE_OF]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
