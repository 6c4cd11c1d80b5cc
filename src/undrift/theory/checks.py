"""What a Gaussian chain can be made of: each check says in one line what was wrong."""

from __future__ import annotations

import torch
from torch import Tensor

from undrift.exceptions import InvalidInput


def as_float64(name: str, value: Tensor) -> Tensor:
    """The value in float64, without infinities and NaN."""
    tensor = torch.as_tensor(value, dtype=torch.float64)
    if not bool(tensor.isfinite().all()):
        raise InvalidInput(f"{name} holds a number that is not finite")
    return tensor


def as_shape(name: str, value: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The value in float64, with the shape that the chain needs."""
    tensor = as_float64(name, value)
    if tensor.shape != shape:
        given, wanted = list(tensor.shape), list(shape)
        raise InvalidInput(f"{name} has shape {given}, but the chain needs {wanted}")
    return tensor


def as_covariance(name: str, value: Tensor, dim: int) -> Tensor:
    """A symmetric, positive definite matrix."""
    cov = as_shape(name, value, (dim, dim))
    if not torch.allclose(cov, cov.mT, rtol=1e-10, atol=1e-14):
        raise InvalidInput(f"{name} is not symmetric")
    spectrum = torch.linalg.eigvalsh(cov)
    if float(spectrum[0]) <= 1e-14 * float(spectrum[-1]):
        raise InvalidInput(f"{name} is not positive definite: every variance must be above 0")
    return (cov + cov.mT) / 2


def as_noise(var: Tensor, steps: int, dim: int) -> Tensor:
    """Reverse covariances (T, d, d) from variances by step, dimension or in full."""
    var = as_float64("var", var)
    if var.shape not in {(steps,), (steps, dim), (steps, dim, dim)}:
        raise InvalidInput(f"var has shape {list(var.shape)}, but the chain needs [{steps}]")
    if var.ndim < 3:
        var = torch.diag_embed(var[:, None].expand(steps, dim) if var.ndim == 1 else var)
    if bool((torch.linalg.eigvalsh(var) < -1e-12 * var.abs().amax()).any()):
        raise InvalidInput("var must not be negative")
    return var
