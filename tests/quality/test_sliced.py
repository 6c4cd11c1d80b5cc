"""The sliced Wasserstein distance: closed forms, sizes that differ, its error, what it sees."""

import pytest
import torch

from undrift.exceptions import InvalidInput
from undrift.quality.frechet import frechet_distance
from undrift.quality.sliced import sliced_distance


def normal(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def test_in_one_dimension_it_is_three_times_the_squared_wasserstein_distance():
    x, y = normal(200, 1).exp(), normal(200, 1, seed=1)
    exact = 3 * float((x.sort(0).values - y.sort(0).values).square().mean())
    assert sliced_distance(x, y, num_projections=3).value == pytest.approx(exact, rel=1e-12)


def test_gaussians_have_their_closed_form():
    """E over directions of the squared gaps of means and of standard deviations."""
    spread = torch.tensor([1.0, 2.0, 0.5, 1.0], dtype=torch.float64)
    shift = torch.tensor([0.3, 0.0, -0.2, 0.1], dtype=torch.float64)
    x, y = normal(4000, 4), normal(4000, 4, seed=1) * spread + shift
    theta = normal(20_000, 4, seed=2)
    theta /= theta.norm(dim=1, keepdim=True)
    gap = (theta @ shift).square() + ((theta * spread).norm(dim=1) - 1).square()
    exact = 3 * 4 * float(gap.mean())
    assert sliced_distance(x, y, num_projections=200).value == pytest.approx(exact, rel=0.12)


def test_repeated_samples_change_nothing_and_sizes_may_differ():
    x, y = normal(60, 3), normal(45, 3, seed=1) + 0.5
    twice = sliced_distance(x.repeat(3, 1), y.repeat(2, 1), num_projections=50).value
    assert twice == pytest.approx(sliced_distance(x, y, num_projections=50).value, rel=1e-9)


@pytest.mark.parametrize(("shift", "too_large"), [(0.0, 1.3), (0.5, 1.0)])
def test_its_standard_error_is_the_spread_between_experiments(shift, too_large):
    """A third too large where the distributions are equal, for a statistic without first order."""
    found = [
        sliced_distance(
            normal(300, 3, seed=2 * k) + shift, normal(500, 3, seed=2 * k + 1), num_projections=20
        )
        for k in range(120)
    ]
    spread = float(torch.tensor([each.value for each in found]).std())
    told = float(torch.tensor([each.standard_error for each in found]).mean())
    assert told == pytest.approx(too_large * spread, rel=0.25)


def test_it_sees_what_two_moments_do_not():
    """Two peaks with the moments of a Gaussian: no Fréchet distance, but a sliced one."""
    x = normal(4000, 2)
    y = 0.95 * normal(4000, 2, seed=1).sign() + (1 - 0.95**2) ** 0.5 * normal(4000, 2, seed=2)
    null = sliced_distance(x, normal(4000, 2, seed=3), num_projections=100)
    seen = sliced_distance(x, y, num_projections=100)
    assert frechet_distance(x, y) < 0.01
    assert seen.value > null.value + 10 * seen.standard_error


@pytest.mark.parametrize("shapes", [((19, 3), (50, 3)), ((50, 3), (50, 4)), ((50,), (50,))])
def test_samples_that_cannot_be_compared_are_refused_in_one_line(shapes):
    with pytest.raises(InvalidInput, match="features must have shapes"):
        sliced_distance(*(torch.zeros(shape) for shape in shapes))
