r"""A Gaussian chain described by a JSON file.

```json
{"mean": [d], "cov": [d][d], "betas": [T],
 "slope": [T][d][d], "offset": [T][d], "var": [T]}
```

Entry t − 1 of each table belongs to step t. The data are :math:`N(mean, cov)`; the denoiser is
:math:`\hat x_0 = slope\, x_t + offset`; the mean of a denoising step is the mean of the forward
posterior at :math:`\hat x_0`, and its variance is `var` (one number per step; also one per
dimension, ``[T][d]``, or a covariance, ``[T][d][d]``); :math:`p_T = N(0, I)`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from undrift.exceptions import InvalidInput
from undrift.measurement.reading import load_json
from undrift.theory.gaussian_chain import GaussianChain

FIELDS = ("mean", "cov", "betas", "slope", "offset", "var")


def read_chain(path: str | Path) -> GaussianChain:
    """The chain that a JSON file describes.

    Raises:
        InvalidInput: If the file holds no such chain.
    """
    return chain_from_spec(load_json(path, "Gaussian chain"))


def chain_from_spec(spec: Any) -> GaussianChain:
    """The chain of a specification, as JSON holds it.

    Raises:
        InvalidInput: If a field is missing, unknown, or no table of numbers, or the chain cannot
            be made of them.

    Example:
        >>> chain = chain_from_spec({
        ...     "mean": [0.0], "cov": [[1.0]], "betas": [0.1], "slope": [[[0.9]]],
        ...     "offset": [[0.0]], "var": [0.1]})
        >>> chain.num_steps, chain.dim
        (1, 1)
    """
    if not isinstance(spec, Mapping):
        raise InvalidInput(f"a Gaussian chain is a JSON object with {', '.join(FIELDS)}")
    if wrong := sorted(spec.keys() ^ set(FIELDS)):
        raise InvalidInput(
            f"the Gaussian chain {'lacks' if wrong[0] in FIELDS else 'has unknown'} {wrong[0]}: "
            f"give {', '.join(FIELDS)}"
        )
    return GaussianChain(**spec)
