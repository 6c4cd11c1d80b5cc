r"""A study: methods side by side, over seeds, at equal steps and at equal compute.

From scratch, plain training varies more between seeds than methods do; methods that continue one
checkpoint on the same data and noise differ by what they do alone. A study has runs
(:mod:`~undrift.study.job`), which are trained and judged alike (:mod:`~undrift.study.bench`,
:mod:`~undrift.study.judgment`), and compares them within a seed (:mod:`~undrift.study.pairing`).
"""

from undrift.study.judgment import Judge, judge
from undrift.study.pairing import mean_interval, paired
from undrift.study.plan import check
from undrift.study.running import run_study

__all__ = ["Judge", "check", "judge", "mean_interval", "paired", "run_study"]
