"""Seeds, and the random streams of a rollout."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


def seed_of(*numbers: int) -> int:
    """A seed made of several numbers; neighbors get streams that have nothing in common.

    Example:
        >>> seed_of(0, 1) == seed_of(0, 1), seed_of(0, 1) == seed_of(1, 0)
        (True, False)
    """
    entropy = [number % 2**64 for number in numbers]
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0])


@dataclass
class Streams:
    """Two random streams: choices are shared by all processes of a run, noise is not."""

    choice: torch.Generator
    noise: torch.Generator

    @classmethod
    def seeded(cls, seed: int, rank: int = 0) -> Streams:
        """Streams of one process of a run."""
        choice, noise = torch.Generator(), torch.Generator()
        return cls(choice.manual_seed(seed_of(seed, 0)), noise.manual_seed(seed_of(seed, 1, rank)))

    def integer(self, low: int, high: int) -> int:
        """A shared choice from low to high, both included."""
        return int(torch.randint(low, high + 1, (), generator=self.choice))

    def state_dict(self) -> dict[str, Tensor]:
        """Where both streams are."""
        return {"choice": self.choice.get_state(), "noise": self.noise.get_state()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from there."""
        self.choice.set_state(state["choice"].cpu())
        self.noise.set_state(state["noise"].cpu())
