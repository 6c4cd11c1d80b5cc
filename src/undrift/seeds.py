r"""Seeds of named random streams.

Everything random in a run has a stream of its own with a name, such as ("noise", 3): the seed of a
stream is a hash of the seed of the run and of the name. What one part of a run draws then changes
no other part, and runs with neighboring seeds have no stream in common.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_ODD = 0x9E3779B1
_RANGE = 2**32


def stream_seed(seed: int, *path: str | int) -> int:
    """The seed of one of the random streams of a run, a number below 2⁶³.

    Neighboring seeds of runs have streams without anything in common, which ``seed + i`` for the
    i-th stream would not give.

    Arguments:
        seed: Seed of the run.
        path: What the stream is for.

    Example:
        >>> stream_seed(0, "noise", 1) == stream_seed(1, "noise", 0)
        False
    """
    text = "/".join(map(str, (seed, *path))).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1


def chain_seed(seed: int, chain: int) -> int:
    """The seed of the noise of one of many chains, a number below 2³²; all chains differ.

    Generators of torch use 32 bits of their seed on the CPU, in which hashes of 50,000 chains would
    have pairs that are equal: the first seed is a hash, the others follow at odd distances.

    Arguments:
        seed: Seed of all chains.
        chain: Which one, counted from 0: its noise depends on nothing else.

    Example:
        >>> len({chain_seed(0, chain) for chain in range(1000)})
        1000
    """
    return (stream_seed(seed, "chain") + chain * _ODD) % _RANGE


def drawn_seed(generator: torch.Generator) -> int:
    """A seed drawn from a generator, which has moved on by one number."""
    import torch

    return int(torch.randint(2**62, (), generator=generator))
