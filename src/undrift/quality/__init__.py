r"""How good samples are: distances between the features of samples and those of data.

Three numbers that fail in different ways: the Fréchet distance compares means and covariances and
is biased upward in small samples (:mod:`~undrift.quality.frechet`); the kernel distance is unbiased
at any size (:mod:`~undrift.quality.kernel_distance`); precision and recall tell bad samples from
missing ones (:mod:`~undrift.quality.precision_recall`). All take features, with shape :math:`(N,
D)`, from
:func:`undrift.quality.features.extract_features`; :func:`quality_scores` takes images and gives all
three.
"""
