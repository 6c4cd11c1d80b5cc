r"""The comparison of the model's states with forward draws, by :math:`\mathrm{MMD}^2`.

The kernel block of the forward draws alone has no gradient and is left out of the loss. The value
that is logged contains it, and is logged together with its null floor: the same estimator on
forward draws alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from undrift.exceptions import InvalidInput
from undrift.mmd.estimate import mmd_sq
from undrift.mmd.kernel import Kernel
from undrift.processes import gather
from undrift.regularizer.options import LEAST_OF_POPULATION, Averaging
from undrift.regularizer.population import Population
from undrift.regularizer.resumable import Resumable
from undrift.regularizer.spaces import Space

PART = 64
"""Forward draws that pass a space at once: more would take more memory than a training step."""


@dataclass
class Comparison(Resumable, ABC):
    """Compares states with forward draws.

    Arguments:
        space: What is compared.
        kernel: The kernel.
    """

    space: Space
    kernel: Kernel

    saved = ("space",)
    least: ClassVar[int] = 2
    """Fewest forward draws that it takes."""

    def num_forward(self, t: float, num_states: int, num_forward: int) -> int:
        """How many forward draws the term at a time needs, of those that there are: all."""
        return num_forward

    @abstractmethod
    def loss(self, states: Tensor, forward: Tensor, t: float) -> Tensor:
        """The discrepancy, without the part that has no gradient.

        Arguments:
            states: States of this process, with their graph, with shape :math:`(B, *)`.
            forward: Forward draws, the same in all processes.
            t: Their time.

        Raises:
            InvalidInput: If the states are not finite.
        """

    @abstractmethod
    def logged(self, loss: Tensor, null: Tensor, forward: Tensor, t: float) -> dict[str, float]:
        """The discrepancy with all its parts, and that of forward draws alone, its null floor.

        Arguments:
            loss: What :meth:`loss` returned, without its graph.
            null: Other forward draws, as many as there were states in all processes.
            forward: Forward draws.
            t: Their time.
        """

    def fill(self, times: Sequence[float], draw: Callable[[int], Tensor], num_forward: int) -> None:
        """Hold at each time, made of noise, what it holds in the middle of a run: nothing.

        Arguments:
            times: Times of the terms.
            draw: Makes a number of states of noise.
            num_forward: Number of forward draws.
        """

    def features(self, samples: Tensor, t: float) -> list[Tensor]:
        """Blocks of features of the samples of all processes."""
        return self.space(gather(samples), t)


@dataclass
class BatchComparison(Comparison):
    r""":math:`\mathrm{MMD}^2` between the states and the forward draws of all processes.

    Arguments:
        estimator: ``"u"``, without the block of the forward draws in the loss; or ``"v"``, with it.
    """

    estimator: Literal["u", "v"] = "u"

    def loss(self, states: Tensor, forward: Tensor, t: float) -> Tensor:
        """The discrepancy, without the part that has no gradient."""
        with torch.no_grad():
            y = self.space(forward, t)
        return self._mmd_sq(self.features(states, t), y, "omit")

    @torch.no_grad()
    def logged(self, loss: Tensor, null: Tensor, forward: Tensor, t: float) -> dict[str, float]:
        """The discrepancy with all its parts, and that of forward draws alone, its null floor."""
        x, y = self.space(null, t), self.space(forward, t)
        floor = self._mmd_sq(x, y, "include")
        omitted = floor - self._mmd_sq(x, y, "omit")
        return {"regularizer": float(loss + omitted), "regularizer_null": float(floor)}

    def _mmd_sq(
        self, x: list[Tensor], y: list[Tensor], block: Literal["include", "omit"]
    ) -> Tensor:
        """The mean over blocks of features."""
        options: Any = {"kernel": self.kernel, "estimator": self.estimator}
        if self.estimator == "u":
            options["reference_block"] = block
        return torch.stack([mmd_sq(a, b, **options) for a, b in zip(x, y, strict=True)]).mean()


@dataclass
class PopulationComparison(Comparison):
    """States as a part of a population of generated states, in a space of features.

    Each time of the chain has its own population (:mod:`undrift.regularizer.population`), and its
    bandwidths are fixed by the first forward draws. The first term of a time takes all forward
    draws, the others a quarter as many as there are states: each costs a pass of the space.

    Arguments:
        size: Number of generated states.
        averaging: Whether these are kept in a queue, or as a moving average.
        populations: By time.
    """

    size: int = 2048
    averaging: Averaging = "queue"
    populations: dict[float, Population] = field(default_factory=dict)

    least = LEAST_OF_POPULATION

    def __post_init__(self) -> None:
        """Check that there can be such a population."""
        self._empty()

    def num_forward(self, t: float, num_states: int, num_forward: int) -> int:
        """All of them at the first term of a time, then a quarter as many as there are states."""
        return min(max(2, num_states // 4), num_forward) if t in self.populations else num_forward

    def loss(self, states: Tensor, forward: Tensor, t: float) -> Tensor:
        """The loss of the states as a part of their population, which they join."""
        population = self.populations.setdefault(t, self._empty())
        with torch.no_grad():
            parts = [self.space(rows, t) for rows in forward.split(PART)]
            population.renew([torch.cat(block) for block in zip(*parts, strict=True)])
        return population.compare(self.features(states, t))

    def logged(self, loss: Tensor, null: Tensor, forward: Tensor, t: float) -> dict[str, float]:
        """The discrepancy of the whole population, and that of forward draws alone."""
        value, floor = self.populations[t].discrepancy()
        return {"regularizer": value, "regularizer_null": floor}

    @torch.no_grad()
    def fill(self, times: Sequence[float], draw: Callable[[int], Tensor], num_forward: int) -> None:
        """Hold full populations of noise."""
        for t in times:
            self.loss(draw(2), draw(num_forward), t)
            for _ in range(0, self.size, PART):
                self.loss(draw(PART), draw(2), t)

    def _empty(self) -> Population:
        return Population(self.size, self.kernel, self.averaging)

    def state_dict(self) -> dict[str, Any]:
        """The populations, and what the space needs."""
        populations = {t: population.state_dict() for t, population in self.populations.items()}
        return super().state_dict() | {"populations": populations}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the populations and the space."""
        super().load_state_dict(state)
        for t, saved in state["populations"].items():
            self.populations[t] = self._empty()
            self.populations[t].load_state_dict(saved)


@contextmanager
def comparing(states: Tensor, t: float) -> Iterator[None]:
    """Compute without autocast, and name the time of states that are not finite.

    In half precision squared distances, which are differences of products, would be noise.

    Raises:
        InvalidInput: If the states are not finite.
    """
    try:
        with torch.autocast(states.device.type, enabled=False):
            yield
    except InvalidInput:
        if bool(states.isfinite().all()):
            raise
        raise InvalidInput(
            f"the regularizer's states at t = {t:g} hold NaN or infinity: lower the learning "
            "rate, clip the estimate of the data, or let the network predict v or the data"
        ) from None
