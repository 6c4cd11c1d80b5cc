"""Samplers: ancestral and DDIM of our own, every scheduler of diffusers, remedies around both."""

from undrift.samplers.analytic_variance import AnalyticVarianceSampler
from undrift.samplers.epsilon_scaling import EpsilonScaledSampler
from undrift.samplers.gaussian import AncestralSampler, DDIMSampler, DenoiserSampler, VarianceType
from undrift.samplers.remedied import RemediedSampler
from undrift.samplers.scheduler import DiffusersSampler
from undrift.samplers.snr_correction import SNRCorrectedSampler
from undrift.samplers.time_shift import TimeShiftedSampler

__all__ = [
    "AnalyticVarianceSampler",
    "AncestralSampler",
    "DDIMSampler",
    "DenoiserSampler",
    "DiffusersSampler",
    "EpsilonScaledSampler",
    "RemediedSampler",
    "SNRCorrectedSampler",
    "TimeShiftedSampler",
    "VarianceType",
]
