"""The limit on the main loss: a process whose rise is proportional to the share, and its null."""

import math

import pytest
import torch

from undrift.exceptions import InvalidInput
from undrift.regularizer.balance import GradientBalance
from undrift.regularizer.guard import MainLossGuard


def controlled(full_rise, calls=600, noise=0.3, guard=None):
    """The mean scale and rise at the end, where the full share would raise the main loss so much.

    The rise follows the share with a delay; both losses vary alike from batch to batch.
    """
    guard = guard or MainLossGuard(limit=0.02)
    generator = torch.Generator().manual_seed(0)
    rise, scales, rises = 0.0, [], []
    for _ in range(calls):
        rise = 0.9 * rise + 0.1 * full_rise * guard.scale
        start = math.exp(noise * float(torch.randn((), generator=generator)))
        own = 1 + 0.005 * float(torch.randn((), generator=generator))
        guard.update(start * (1 + rise) * own, start)
        scales.append(guard.scale)
        rises.append(rise)
    late = calls // 2
    return sum(scales[late:]) / (calls - late), sum(rises[late:]) / (calls - late)


@pytest.mark.parametrize("full_rise", [0.04, 0.1, 0.4])
def test_the_share_settles_where_the_rise_is_the_limit(full_rise):
    scale, rise = controlled(full_rise)
    assert rise == pytest.approx(0.02, rel=0.1)
    assert scale == pytest.approx(0.02 / full_rise, rel=0.1)


@pytest.mark.parametrize("full_rise", [-0.1, 0.0, 0.01])
def test_the_share_stays_whole_below_the_limit(full_rise):
    scale, rise = controlled(full_rise)
    assert scale > 0.98 and rise == pytest.approx(full_rise, abs=5e-4)


def test_the_averages_are_of_pairs_and_begin_without_bias():
    guard = MainLossGuard(limit=0.1, decay=0.5)
    guard.update(3.0, 2.0)
    assert (guard.main, guard.start, guard.rise) == (3.0, 2.0, 0.5)
    guard.update(1.0, 1.0)
    assert (guard.main, guard.start) == (2.0, 1.5)
    guard.update(math.nan, 1.0)
    assert (guard.main, guard.start) == (2.0, 1.5)
    with pytest.raises(InvalidInput, match="limit on the rise of the main loss is 0"):
        MainLossGuard(limit=0.0)


def test_the_scale_is_a_factor_of_the_strength():
    balance = GradientBalance(share=0.5)
    balance.update(2.0, 0.1)
    whole, balance.scale = balance.strength, 0.25
    assert balance.strength == pytest.approx(whole / 4)
