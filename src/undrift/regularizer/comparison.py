r"""The comparison of the model's states with forward draws, by :math:`\mathrm{MMD}^2`.

The kernel block of the forward draws alone has no gradient and is left out of the loss; it is there
in the value that is logged, beside the same estimator on forward draws alone, its null floor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from undrift.exceptions import InvalidInput
from undrift.mmd.estimate import mmd_sq
from undrift.mmd.kernels import Kernel, RadialKernel
from undrift.regularizer.population import Population
from undrift.regularizer.processes import gather
from undrift.regularizer.spaces import Space


class Comparison(Protocol):
    """Compares states with forward draws."""

    def num_forward(self, t: float, num_states: int, num_forward: int) -> int:
        """How many forward draws the term at a time needs, of those that there are."""

    def loss(self, states: Tensor, forward: Tensor, t: float) -> Tensor:
        """The discrepancy, without the part that has no gradient.

        Arguments:
            states: States of this process, with their graph, with shape :math:`(B, *)`.
            forward: Forward draws of this process.
            t: Their time.

        Raises:
            InvalidInput: If the states are not finite.
        """

    def logged(self, loss: Tensor, null: Tensor, forward: Tensor, t: float) -> dict[str, float]:
        """The discrepancy with all its parts, and that of forward draws alone, its null floor.

        Arguments:
            loss: What :meth:`loss` returned, without its graph.
            null: Other forward draws of this process, as many as there were states.
            forward: Forward draws of this process.
            t: Their time.
        """

    def fill(self, times: Sequence[float], draw: Callable[[int], Tensor], num_forward: int) -> None:
        """Hold at each time what it holds in the middle of a run, made of noise.

        Arguments:
            times: Times of the terms.
            draw: Makes as many states of noise as it is told.
            num_forward: Number of forward draws.
        """

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run needs."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a saved state."""


@dataclass
class BatchComparison:
    r""":math:`\mathrm{MMD}^2` between the states and the forward draws of all processes.

    Arguments:
        kernel: The kernel.
        feature_map: Map from states to what the kernel compares; the states themselves when None.
        estimator: ``"u"``, without the block of the forward draws in the loss; or ``"v"``, with it.
    """

    kernel: Kernel
    feature_map: Callable[[Tensor], Tensor] | None
    estimator: Literal["u", "v"]

    def num_forward(self, t: float, num_states: int, num_forward: int) -> int:
        """All of them."""
        del t, num_states
        return num_forward

    def loss(self, states: Tensor, forward: Tensor, t: float) -> Tensor:
        """The discrepancy, without the part that has no gradient."""
        with torch.no_grad():
            y = self._features(forward)
        with named_if_not_finite(states, t):
            return self._mmd_sq(self._features(states), y, "omit")

    @torch.no_grad()
    def logged(self, loss: Tensor, null: Tensor, forward: Tensor, t: float) -> dict[str, float]:
        """The discrepancy with all its parts, and that of forward draws alone, its null floor."""
        del t
        null, y = self._features(null), self._features(forward)
        floor = self._mmd_sq(null, y, "include")
        omitted = floor - self._mmd_sq(null, y, "omit")
        return {"regularizer": float(loss + omitted), "regularizer_null": float(floor)}

    def fill(self, times: Sequence[float], draw: Callable[[int], Tensor], num_forward: int) -> None:
        """Hold nothing: each batch is compared by itself."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing: each batch is compared by itself."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore nothing."""

    def _features(self, samples: Tensor) -> Tensor:
        """What the kernel compares, of the samples of all processes."""
        x = gather(samples)
        return x if self.feature_map is None else self.feature_map(x)

    def _mmd_sq(self, x: Tensor, y: Tensor, block: Literal["include", "omit"]) -> Tensor:
        with full_precision(x):
            if self.estimator == "v":
                return mmd_sq(x, y, kernel=self.kernel, estimator="v")
            return mmd_sq(x, y, kernel=self.kernel, estimator="u", reference_block=block)


@dataclass
class PopulationComparison:
    """States as a part of a population of generated states, in a space of features.

    Each time of the chain has a population of its own (:mod:`undrift.regularizer.population`). Its
    first term takes all forward draws, the others as many as there are states.

    Arguments:
        space: What is compared.
        size: Length of the queue of generated states.
        kernel: The kernel; its bandwidth is fixed by the first forward draws of a time.
        populations: By time.
    """

    space: Space
    size: int
    kernel: RadialKernel
    populations: dict[float, Population] = field(default_factory=dict)

    def num_forward(self, t: float, num_states: int, num_forward: int) -> int:
        """All of them at the first term of a time, then as many as there are states."""
        return min(num_states, num_forward) if t in self.populations else num_forward

    def loss(self, states: Tensor, forward: Tensor, t: float) -> Tensor:
        """The loss of the states as a part of their population, which they join."""
        population = self.populations.setdefault(t, Population(self.size, self.kernel))
        with full_precision(states), named_if_not_finite(states, t):
            with torch.no_grad():
                population.renew(self.space(gather(forward), t))
            return population.compare(self.space(gather(states), t))

    def logged(self, loss: Tensor, null: Tensor, forward: Tensor, t: float) -> dict[str, float]:
        """The discrepancy of the whole population, and that of forward draws alone."""
        del loss, null, forward
        value, floor = self.populations[t].discrepancy()
        return {"regularizer": value, "regularizer_null": floor}

    @torch.no_grad()
    def fill(self, times: Sequence[float], draw: Callable[[int], Tensor], num_forward: int) -> None:
        """Hold full populations of noise."""
        for t in times:
            self.loss(draw(self.size), draw(num_forward), t)

    def state_dict(self) -> dict[str, Any]:
        """The populations, and what the space needs."""
        populations = {t: population.state_dict() for t, population in self.populations.items()}
        return {"populations": populations, "space": self.space.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the populations and the space."""
        self.populations = {}
        for t, saved in state["populations"].items():
            self.populations[t] = Population(self.size, self.kernel)
            self.populations[t].load_state_dict(saved)
        self.space.load_state_dict(state["space"])


def full_precision(x: Tensor) -> AbstractContextManager[Any]:
    """No autocast: squared distances from a product in half precision would be noise."""
    return torch.autocast(x.device.type, enabled=False)


@contextmanager
def named_if_not_finite(states: Tensor, t: float) -> Iterator[None]:
    """Name the time where states are not finite, instead of what fails because of it.

    Raises:
        InvalidInput: If they are not.
    """
    try:
        yield
    except InvalidInput:
        if bool(states.isfinite().all()):
            raise
        raise InvalidInput(
            f"the regularizer's states at t = {t:g} hold NaN or infinity: lower the learning "
            "rate, clip the estimate of the data, or let the network predict v or the data"
        ) from None
