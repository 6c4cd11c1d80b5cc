"""What a measurement holds: a few times its states, and no matrix of all pairs."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from undrift import AncestralSampler, CosineSchedule, Denoiser, measure
from undrift.mmd import two_sample


class Largest(TorchDispatchMode):
    """The size of the largest tensor that is made, in bytes."""

    bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for x in made if isinstance(made, (tuple, list)) else [made]:
            if isinstance(x, torch.Tensor):
                self.bytes = max(self.bytes, x.untyped_storage().nbytes())
        return made


def largest(count, most_labels, monkeypatch):
    """Of a measurement of so many chains of 64 numbers, with as many data, in tiles of 64."""
    monkeypatch.setattr(two_sample, "MOST_LABELS", most_labels)
    monkeypatch.setattr(two_sample, "tile_size", lambda size, device: 64)
    data = 2 * torch.rand(count, 64, generator=torch.Generator().manual_seed(0)) - 1
    denoiser = Denoiser(lambda x, timestep: torch.zeros_like(x), CosineSchedule(4), "sample")
    options = {"num_permutations": 39, "batch_size": 50, "states": 2, "exposure": False}
    with Largest() as found:
        measure(AncestralSampler(denoiser), data, num_samples=count, progress=False, **options)
    return found.bytes


@pytest.mark.parametrize("most_labels", [6400, 30_000_000])
def test_the_largest_tensor_grows_as_the_states_do(most_labels, monkeypatch):
    """A matrix of pairs would be four times as large for twice the chains, and larger than this."""
    sizes = {count: largest(count, most_labels, monkeypatch) for count in (160, 320)}
    assert sizes[320] <= 2 * sizes[160]
    of_states, of_labels = 320 * 64 * 8, 2 * 320 * (39 + 2) * 8
    assert sizes[320] <= (of_states if most_labels == 6400 else max(of_states, of_labels))
