r"""Rollouts: states that the model itself made, for a regularizer to compare with forward draws.

A bootstrap rollout starts from true forward draws :math:`x_s \sim q_s` and runs L modules: it shows
the error of L modules. A persistent cohort started from the prior and lives on, one module a call,
as persistent contrastive divergence moves its chains: it shows all the error since T.

Modules are those of the grid that a sampler has. A chain of T = 1000 steps is hardly ever sampled
with all of them, and :func:`strided` gives the chain that is: with times
:math:`\tau_n > \dots > \tau_0 = 0` its modules are :math:`K_{\tau_i}`, which jump from
:math:`\tau_i` to :math:`\tau_{i-1}`, its marginals :math:`p_{\tau_{i-1}} = K_{\tau_i} p_{\tau_i}`,
to be compared with :math:`q_{\tau_{i-1}}`, which knows of no grid.
"""

from undrift.rollout.bootstrap import BootstrapRollout, Gradient, Rollout
from undrift.rollout.cohort import PersistentCohorts
from undrift.rollout.grid import strided, window_start
from undrift.rollout.pool import ForwardPool
from undrift.rollout.stream import Streams, seed_of

__all__ = [
    "BootstrapRollout",
    "ForwardPool",
    "Gradient",
    "PersistentCohorts",
    "Rollout",
    "Streams",
    "seed_of",
    "strided",
    "window_start",
]
