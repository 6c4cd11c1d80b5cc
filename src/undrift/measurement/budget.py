r"""The MMD error budget: how much of a state's error is fresh and how much is inherited.

Between two states t' > t of the chain let K be all denoising steps from t' to t. The triangle
inequality

.. math:: D_t \le \underbrace{\mathrm{MMD}(K q_{t'}, q_t)}_{F,\ \text{fresh}}
             + \underbrace{\mathrm{MMD}(K p_{t'}, K q_{t'})}_{I = \lambda D_{t'},\ \text{inherited}}

holds for every sampler, with or without a density (docs/theory). It takes a second pass: each
segment is run once more, from true forward draws. Two kinds of common random numbers make it
precise, and the estimator that pairs them keeps it unbiased: the fresh error compares the end of
a chain from :math:`\alpha_{t'} x_0 + \sigma_{t'} \epsilon` with
:math:`\alpha_t x_0 + \sigma_t \epsilon`, of the same data and the same noise; the inherited one
compares two chains that got the same noise on the way.
"""

from __future__ import annotations

from torch import Tensor

from undrift.measurement.state import Budget
from undrift.mmd.kernel import Kernel
from undrift.mmd.two_sample import mmd_estimate


def segment_budget(
    states: Tensor, rolled: Tensor, forward: Tensor, kernel: Kernel, overlap: float = 0.0
) -> Budget:
    r"""Squares of the fresh and the inherited error of one segment, at the state where it ends.

    Arguments:
        states: :math:`K p_{t'}`, the sampler's states, with shape :math:`(N, *)`.
        rolled: :math:`K q_{t'}`, rows that got the same noise as those of ``states``.
        forward: :math:`q_t`, rows from the same data as those of ``rolled``.
        kernel: A kernel with a fixed bandwidth.
        overlap: Share of the data that the forward draws use.
    """
    fresh = mmd_estimate(rolled, forward, kernel=kernel, estimator="paired", num_permutations=0)
    kept = mmd_estimate(states, rolled, kernel=kernel, estimator="paired", num_permutations=0)
    return Budget(
        fresh_sq=fresh.mmd_sq,
        fresh_sq_se=fresh.standard_error,
        fresh_sq_data_se=fresh.standard_error * overlap**0.5,
        inherited_sq=kept.mmd_sq,
        inherited_sq_se=kept.standard_error,
        inherited_sq_data_se=kept.standard_error * (overlap / 2) ** 0.5,
    )
