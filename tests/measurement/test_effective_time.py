"""Effective time against the closed form of Gaussian chains."""

import numpy as np
import pytest
import torch

from affine import AffineSampler, gaussian_chain, gaussian_data
from undrift.measurement.effective_time import EnergyTable
from undrift.measurement.forward_draws import ForwardDraws
from undrift.measurement.parallel_chains import ParallelChains
from undrift.measurement.scalar_budget import ScalarBudget
from undrift.theory.scalar_budget import energy_budget

CHAIN = gaussian_chain(variance="large", slope_error=-0.15)
TIMES = (20, 12, 7, 4, 2, 0)


def measured(seed, count=500, chain=CHAIN):
    """Scalar errors and effective time of each state, and the principal components."""
    data, sampler = gaussian_data(600, seed=seed), AffineSampler(chain)
    generator = torch.Generator().manual_seed(10**6 + seed)
    draws = ForwardDraws(data, sampler, count, "population", generator).paired(count)
    budget, found = ScalarBudget(draws, sampler), {}
    chains = ParallelChains.from_prior(sampler, (count, 2), count, seed)
    for t in TIMES:
        found[t] = budget.at(t, chains.advance(t)), budget.effective_time()
    return found, budget.statistics.bases[0].double()


def closed_form(vectors, weights, chain=CHAIN):
    """Effective times by scanning a fine grid, of each component and of both, by time."""
    variances = ((vectors @ chain.cov) * vectors).sum(1)
    grid, fine = np.arange(21), np.linspace(0, 20, 40_001)
    forward = (chain.alpha.square()[:, None] * variances + chain.sigma_sq[:, None]).log().numpy()
    curves = np.stack([np.interp(fine, grid, forward[:, k]) for k in range(2)], 1)
    errors = energy_budget(chain, TIMES[::-1], [vectors[:1], vectors[1:]]).error.flip(0).numpy()
    found = {}
    for t, error in zip(TIMES, errors, strict=True):
        gap = forward[t] + error - curves
        both = fine[(gap**2 * weights[t]).sum(1).argmin()]
        found[t] = [*fine[np.abs(gap).argmin(0)], both]
    return found


def test_effective_times_are_those_of_the_closed_form_within_their_error_bars():
    squares = []
    for seed in range(80):
        found, vectors = measured(seed)
        weights = {t: [1 / e.error_se**2 for e in errors[:2]] for t, (errors, _) in found.items()}
        truth = closed_form(vectors, weights)
        for t in (7, 4, 2):
            errors, both = found[t]
            for k, own in enumerate(errors[:2]):
                if own.effective_time is not None:
                    gap = own.effective_time - truth[t][k]
                    squares.append((gap / own.effective_time_se) ** 2)
            if both is not None:
                squares.append(((both.time - truth[t][2]) / both.time_se) ** 2)
                assert both.time_data_se < both.time_se
    covered = np.mean(np.array(squares) < 1.96**2)
    assert len(squares) > 400 and 0.92 < covered < 0.98


def test_a_shrinking_denoiser_makes_states_look_later_than_they_are():
    """Energies that are too small are those of less noise where the data vary less than noise."""
    found, _ = measured(0, count=3000, chain=gaussian_chain(slope_error=-0.1))
    errors, both = found[7]
    assert max(errors[0].error, errors[1].error) < 0 and both.time + 2 * both.time_se < 7
    assert found[0][1] is None  # less energy than the data have: beyond the end of the schedule
    assert all(error.effective_time is None for error in errors[2:])  # means have none


def test_the_table_inverts_its_own_values_and_knows_where_there_is_none():
    table = EnergyTable.of(AffineSampler(CHAIN), torch.tensor([0.5, 0.1], dtype=torch.float64))
    for t in (0.25, 3.5, 11.0):
        values, slopes = table.at(torch.tensor([t], dtype=torch.float64))
        assert table.nearest(values[0], t).tolist() == pytest.approx([t, t])
        assert float(table.best(values[0], torch.ones(2))) == pytest.approx(t, abs=1e-9)
        step = values - table.at(torch.tensor([t - 1e-6], dtype=torch.float64))[0]
        assert torch.allclose(step / 1e-6, slopes, rtol=1e-4)
    assert table.nearest(table.logs[0] - 0.1, 0).isnan().all()
