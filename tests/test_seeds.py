"""Seeds of named streams: distinct, and such as torch takes."""

import torch

from undrift.seeds import stream_seed


def test_no_two_streams_of_neighboring_seeds_are_the_same():
    names = [("prior",), ("forward",), ("permutations",), *(("noise", i) for i in range(50))]
    names += [("noise", i, 1) for i in range(50)]
    seeds = [stream_seed(seed, *name) for seed in range(-3, 50) for name in names]
    assert len(set(seeds)) == len(seeds) and min(seeds) >= 0 and max(seeds) < 2**63
    torch.Generator().manual_seed(max(seeds))


def test_a_stream_is_the_same_on_every_machine():
    assert stream_seed(0, "noise", 1) == 4331743028374165210
