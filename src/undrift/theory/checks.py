"""Checks of the tables that a Gaussian chain is made of; each error names the table."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from undrift.exceptions import InvalidInput


def as_float64(name: str, value: Any, *shapes: tuple[int, ...]) -> Tensor:
    """A tensor or nested lists in float64: finite numbers, in one of the shapes if any are given.

    Raises:
        InvalidInput: If these are not numbers, one is infinite or NaN, or the shape differs.
    """
    try:
        tensor = torch.as_tensor(value, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidInput(f"{name} must be a table of numbers with equal rows") from error
    if not bool(tensor.isfinite().all()):
        raise InvalidInput(f"{name} holds a number that is not finite")
    if shapes and tensor.shape not in shapes:
        given, wanted = list(tensor.shape), " or ".join(str(list(shape)) for shape in shapes)
        raise InvalidInput(f"{name} has shape {given}, but the chain needs {wanted}")
    return tensor


def as_vector(name: str, value: Any, unit: str) -> Tensor:
    """A vector of at least one number."""
    vector = as_float64(name, value)
    if vector.ndim != 1 or not len(vector):
        raise InvalidInput(f"{name} must be a vector with one number per {unit}")
    return vector


def as_covariance(name: str, value: Any, dim: int) -> Tensor:
    """A symmetric, positive definite matrix."""
    cov = as_float64(name, value, (dim, dim))
    if not torch.allclose(cov, cov.mT, rtol=1e-10, atol=1e-14):
        raise InvalidInput(f"{name} is not symmetric")
    spectrum = torch.linalg.eigvalsh(cov)
    if float(spectrum[0]) <= 1e-14 * float(spectrum[-1]):
        raise InvalidInput(f"{name} is not positive definite: every variance must be above 0")
    return (cov + cov.mT) / 2


def as_step_covariances(value: Any, steps: int, dim: int) -> Tensor:
    """Covariances (T, d, d) from one variance per step, one per dimension, or full matrices."""
    var = as_float64("var", value, (steps,), (steps, dim), (steps, dim, dim))
    if var.ndim < 3:
        var = torch.diag_embed(var[:, None].expand(steps, dim) if var.ndim == 1 else var)
    if bool((torch.linalg.eigvalsh(var) < -1e-12 * var.abs().amax()).any()):
        raise InvalidInput("var must not be negative")
    return var
