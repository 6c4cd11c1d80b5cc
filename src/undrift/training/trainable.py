"""Which parameters of a network are trained."""

from __future__ import annotations

import re

from torch import nn

from undrift.exceptions import InvalidInput


def select(network: nn.Module, pattern: str | None) -> None:
    """Train only the parameters in whose name a regular expression is found; all if it is None.

    Arguments:
        network: The network; the other parameters get no gradient and keep their values.
        pattern: The expression.

    Raises:
        InvalidInput: If it is no regular expression, or is found in no name.

    Example:
        >>> network = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
        >>> select(network, "^1")
        >>> [name for name, p in network.named_parameters() if p.requires_grad]
        ['1.weight', '1.bias']
    """
    if pattern is None:
        return
    try:
        found = re.compile(pattern)
    except re.error as error:
        raise InvalidInput(f"--trainable {pattern}: no regular expression ({error})") from None
    names = [name for name, _ in network.named_parameters()]
    if not any(map(found.search, names)):
        raise InvalidInput(
            f"--trainable {pattern}: no parameter has such a name; they start with "
            f"{', '.join(dict(network.named_children()))}, the first is {names[0]}"
        )
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(found.search(name) is not None)
