r"""A study compares methods over seeds, at equal steps and at equal compute.

From scratch, plain training varies more between seeds than methods do; methods that continue one
checkpoint on the same data and noise differ only by the method. A study has runs
(:mod:`~undrift.study.jobs`), which are trained and evaluated alike (:mod:`~undrift.study.worker`,
:mod:`~undrift.quality.scorer`), and compares them within a seed (:mod:`~undrift.study.statistics`).
"""
