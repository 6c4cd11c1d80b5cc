"""The options of a command line that choose a chain and data, for a command that follows it.

A measured number belongs to a chain and data: a command that is proposed after it has to name the
same ones. Options that change no number beyond rounding (``--batch-size``, ``--device``) are not
among them.
"""

from __future__ import annotations

import shlex
from collections.abc import Container
from itertools import pairwise

FILE = "--config"
"""The YAML of options, in which some of the others may be."""
SWITCHES = ("--allow-pickle", "--skip-bad-images")
CHAIN_OPTIONS = (
    "--sampler",
    "--num-inference-steps",
    "--eta",
    "--remedy",
    "--labels",
    "--guidance",
    "--null-label",
    "--prompts",
    "--precision",
    "--allow-pickle",
)
DATA_OPTIONS = (
    "--data",
    "--split",
    "--image-size",
    "--channels",
    "--skip-bad-images",
    "--streaming",
)


def repeated(command: str, names: Container[str]) -> list[str]:
    """Those options of a command line that have one of the names, with their values, and its YAML.

    Example:
        >>> repeated("undrift tune run --eta=1 --seed 3 --data digits", ("--eta", "--data"))
        ['--eta', '1', '--data', 'digits']
        >>> repeated("undrift tune run --allow_pickle --seed 3", ("--allow-pickle",))
        ['--allow-pickle']
    """
    try:
        words = shlex.split(command)
    except ValueError:
        return []
    found: list[str] = []
    for word, value in pairwise([*words, ""]):
        option, equals, own = word.partition("=")
        option = option.replace("_", "-")
        name = option.replace("--no-", "--", 1)
        if name in SWITCHES:
            found += [option] if name in names else []
        elif option in names or option == FILE:
            found += [option, own if equals else value]
    return found
