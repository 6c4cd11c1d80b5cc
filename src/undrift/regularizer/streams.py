"""The random streams of a rollout."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from undrift.seeds import stream_seed


@dataclass
class Streams:
    """Two random streams: choices are shared by all processes of a run, noise is not."""

    choice: torch.Generator
    noise: torch.Generator

    @classmethod
    def seeded(cls, seed: int, rank: int = 0) -> Streams:
        """Streams of one process of a run."""
        choice, noise = torch.Generator(), torch.Generator()
        choice.manual_seed(stream_seed(seed, "choice"))
        return cls(choice, noise.manual_seed(stream_seed(seed, "noise", rank)))

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
