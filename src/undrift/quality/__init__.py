r"""How good samples are: distances between the features of samples and those of data.

One scorer (:mod:`~undrift.quality.scorer`) gives all numbers to every command. They fail in
different ways: the Fréchet distance compares means and covariances and is biased upward in small
samples (:mod:`~undrift.quality.frechet`); the kernel distance, the MMD² of the cubic kernel, is
unbiased at any size; precision and recall separate low quality from missing modes
(:mod:`~undrift.quality.precision_recall`).
"""
