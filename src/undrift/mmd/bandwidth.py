"""The bandwidth of a kernel: a number, or a statistic of the squared distances of samples."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from undrift.exceptions import InvalidInput
from undrift.mmd.distances import mean_squared_distance, median_squared_distance

BandwidthRule = Literal["mean", "median", "pooled"]


def check_bandwidth(bandwidth: float | BandwidthRule) -> None:
    """Check that a bandwidth is a rule, or a positive number.

    Raises:
        InvalidInput: If it is neither.
    """
    rules = get_args(BandwidthRule)
    if isinstance(bandwidth, str):
        if bandwidth not in rules:
            raise InvalidInput(f"bandwidth {bandwidth!r}: use a number or one of {rules}")
    elif not (bandwidth > 0 and math.isfinite(bandwidth)):
        raise InvalidInput(f"bandwidth {bandwidth} must be positive and finite")


def known_bandwidth(bandwidth: float | BandwidthRule) -> float:
    """A bandwidth that is already a number.

    Raises:
        InvalidInput: If it is still a rule.
    """
    if isinstance(bandwidth, str):
        raise InvalidInput("the kernel has no bandwidth yet: call kernel.fit(y) first")
    return bandwidth


def bandwidth_of(rule: BandwidthRule, y: Tensor, x: Tensor | None = None) -> float:
    """The mean or median squared distance of samples.

    Arguments:
        rule: Which statistic, and whether of the forward samples or of both.
        y: Features of forward samples, with shape :math:`(N, D)`.
        x: Features of generated samples, which the rule ``"pooled"`` needs.

    Raises:
        InvalidInput: If there are too few samples, or all are equal, or one is not finite.
    """
    if rule == "pooled":
        if x is None:
            raise InvalidInput("bandwidth 'pooled' needs both samples: call kernel.fit(y, x)")
        y = torch.cat([x, y])
    if len(y) < 2:
        raise InvalidInput(f"a bandwidth needs 2 forward samples or more, not {len(y)}")
    y = y.detach().to(torch.promote_types(y.dtype, torch.float32))
    statistic = median_squared_distance if rule == "median" else mean_squared_distance
    bandwidth = 0.0 if bool((y == y[0]).all()) else statistic(y)  # not what rounding leaves of it
    if not bandwidth > 0 or not math.isfinite(bandwidth):
        raise InvalidInput(
            f"the {rule} squared distance of the forward samples is {bandwidth}: "
            "pass samples that are finite and differ, or a number as the bandwidth"
        )
    return bandwidth
