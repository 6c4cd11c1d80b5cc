"""State that a resumed run restores: random streams, and attributes of objects."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from undrift.seeds import stream_seed


class Resumable:
    """An object whose state is that of some of its attributes: values, or objects with a state."""

    saved: tuple[str, ...] = ()

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run needs."""
        parts = {name: getattr(self, name) for name in self.saved}
        return {k: p.state_dict() if hasattr(p, "state_dict") else p for k, p in parts.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a saved state."""
        for name in self.saved:
            part = getattr(self, name)
            if hasattr(part, "load_state_dict"):
                part.load_state_dict(state[name])
            else:
                setattr(self, name, state[name])


class Streams(dict[str, torch.Generator]):
    """Random streams by name, the same in all processes of a run.

    Arguments:
        seed: Seed of all of them.
        names: Their names.
    """

    def __init__(self, seed: int, names: Sequence[str]) -> None:
        super().__init__(
            (name, torch.Generator().manual_seed(stream_seed(seed, name, 0))) for name in names
        )

    def state_dict(self) -> dict[str, Any]:
        """The position of every stream."""
        return {name: stream.get_state() for name, stream in self.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the positions of all streams."""
        for name, stream in self.items():
            stream.set_state(state[name].cpu())


@contextmanager
def seeded(seed: int, device: torch.device | str = "cpu") -> Iterator[None]:
    """Seed the global random streams of torch, and restore them afterwards."""
    is_cuda = torch.device(device).type == "cuda"
    with torch.random.fork_rng(devices=[device] if is_cuda else []):
        torch.manual_seed(seed)
        yield
