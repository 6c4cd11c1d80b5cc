"""Tuning: the strength of a remedy, searched on one half of the data, judged on the other."""

from undrift.tuning.difference import Change, frechet_change, mmd_change
from undrift.tuning.search import GRIDS, Metric, Trial, Tuning, tune

__all__ = ["GRIDS", "Change", "Metric", "Trial", "Tuning", "frechet_change", "mmd_change", "tune"]
