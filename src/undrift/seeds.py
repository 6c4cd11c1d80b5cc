r"""Seeds of named random streams.

Everything random in a run has a stream of its own with a name, such as ("noise", 3): the seed of a
stream is a hash of the seed of the run and of the name. What one part of a run draws then changes
no other part, and runs with neighboring seeds have no stream in common.
"""

from __future__ import annotations

import hashlib


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
