"""A trained network on a mixture: its error budget closes."""

from __future__ import annotations

from undrift.theory.trained_mixture import trained_budget


def test_the_budget_of_a_trained_network_closes() -> None:
    """Reduced: T = 12, 1,200 updates, 800 particles; within 3 standard errors at every step."""
    steps = trained_budget(num_steps=12, num_updates=1200, num_particles=800, seed=1)
    assert [step.t for step in steps] == list(range(12, 1, -1))
    assert max(abs(step.gap_in_errors) for step in steps) < 3
    # It has learned: an untrained network errs by tens of nats in the mean.
    assert sum(step.fresh.mean.value for step in steps) < 1.0
