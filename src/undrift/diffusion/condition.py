r"""Networks under a condition: a class, a prompt, each row of a batch with its own.

Conditions are numbered, :math:`c = 0, \dots, K - 1`, and row :math:`c` of a table holds what the
network is called with: the label itself, or the embedding of a prompt. So a chain carries one
number, and a datum too, its label. With the conditions of its rows a network is a network of
:math:`(x_t, t)`: nothing else of a chain knows of them.

Guidance is a part of the denoising step: the output is

.. math:: F_\varnothing + w \, (F_c - F_\varnothing),

with :math:`F_\varnothing` the output without a condition. With :math:`w \ne 1` the chain does not
sample the data, whatever the network: its cumulative error then contains what guidance changes.

References:
    | Classifier-Free Diffusion Guidance (Ho & Salimans, 2022)
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from undrift.diffusion.call import returned, unwrapped, with_timestep
from undrift.exceptions import FINITE, InvalidInput
from undrift.seeds import stream_seed

Table = Mapping[str, Tensor]
NO_NULL = (
    "this model does not name one: give null_label for the class that stands for none, or "
    "negative_... embeddings"
)


class ConditionalNetwork(nn.Module):
    r"""A network whose rows have conditions of their own; called as ``network(x_t, timestep)``.

    Arguments:
        network: The network, called as diffusers' pipelines do.
        table: Keyword arguments of its call by name, each with K rows. A name with a dot,
            ``added_cond_kwargs.time_ids``, is an entry of a dictionary.
        null: The same with one row each, for no condition; None if the network knows none.
        guidance: w; 1 for none.
        constant: More keyword arguments, the same for all rows.

    Attributes:
        population: Conditions that those of chains are drawn from, with equal probability: all,
            until :meth:`over` takes others.
        labels: The condition of each row, once they are given.

    Raises:
        InvalidInput: If guidance is asked for where there is no call without a condition.

    Example:
        >>> def network(x, timestep, class_labels):
        ...     return x + class_labels[:, None]
        >>> classes = ConditionalNetwork(network, {"class_labels": torch.arange(3)})
        >>> classes.given(torch.tensor([0, 2]))(torch.zeros(2, 1), torch.zeros(2)).tolist()
        [[0.0], [2.0]]
    """

    def __init__(
        self,
        network: Callable[..., Any],
        table: Table,
        *,
        null: Table | None = None,
        guidance: float = 1.0,
        constant: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        FINITE.check("guidance", guidance)
        if guidance != 1 and null is None:
            raise InvalidInput(f"guidance needs a call without a condition: {NO_NULL}")
        self.network = network
        self.table, self.null = dict(table), None if null is None else dict(null)
        self.guidance = guidance
        self.constant = dict(constant or {})
        self.population = torch.arange(self.num_conditions)
        self.labels: Tensor | None = None

    @property
    def config(self) -> Any:  # noqa: ANN401
        """The configuration of the network."""
        return getattr(self.network, "config", None)

    @property
    def num_conditions(self) -> int:
        """K, the number of conditions."""
        return len(next(iter(self.table.values())))

    def state_dict(self, *args: Any, **options: Any) -> Any:  # noqa: ANN401
        """The weights of the network, by its own names."""
        inner = self.network
        return inner.state_dict(*args, **options) if isinstance(inner, nn.Module) else {}

    def around(self, network: Callable[..., Any]) -> Self:
        """The same conditions around another network."""
        other = self._copy()
        for place in (other._modules, vars(other)):
            place.pop("network", None)
        other.network = network
        return other

    def over(self, labels: Tensor | Sequence[int]) -> Self:
        """The same network, with these conditions for its chains to draw from.

        Raises:
            InvalidInput: If one of them is out of range.
        """
        other = self._copy()
        other.population = self.checked(labels)
        return other

    def given(self, labels: Tensor) -> Self:
        """The same network under these conditions, one for each row; -1 stands for none.

        Raises:
            InvalidInput: If a row has none, and the network knows no call without.
        """
        if self.null is None and bool((labels < 0).any()):
            raise InvalidInput(f"rows without a condition: {NO_NULL}")
        other = self._copy()
        other.labels = labels
        return other

    def guided(self, scale: float) -> Self:
        """The same network with another scale of guidance."""
        other = self._copy()
        other.guidance = scale
        return other

    def checked(self, labels: Tensor | Sequence[int]) -> Tensor:
        """Conditions as whole numbers on the CPU.

        Raises:
            InvalidInput: If there are none, or one is out of range.
        """
        found = torch.as_tensor(labels).cpu()
        if found.ndim != 1 or not len(found) or found.is_floating_point():
            raise InvalidInput("labels are whole numbers, one for each image: give at least one")
        outside = found[(found < 0) | (found >= self.num_conditions)]
        if len(outside):
            raise InvalidInput(
                f"label {int(outside[0])} is out of range: the model has {self.num_conditions} "
                f"conditions, 0 to {self.num_conditions - 1}"
            )
        return found.long()

    def forward(self, x_t: Tensor, timestep: Tensor) -> Tensor:
        """The output under the conditions of the rows, with guidance."""
        if self.labels is None:
            raise InvalidInput(
                "the network is conditional, and its rows have no conditions: use "
                "sampler.given(labels)"
            )
        if len(self.labels) != len(x_t):
            raise InvalidInput(f"{len(self.labels)} conditions for {len(x_t)} states: give as many")
        conditional = self._call(x_t, timestep, self._rows(self.labels))
        if self.null is None or self.guidance == 1:
            return conditional
        none = {n: v.expand(len(x_t), *v.shape[1:]) for n, v in self.null.items()}
        unconditional = self._call(x_t, timestep, none)
        guided = torch.lerp(unconditional, conditional, self.guidance)
        channels = x_t.shape[1]  # a learned variance, behind them, is not guided
        return torch.cat([guided[:, :channels], conditional[:, channels:]], 1)

    def _rows(self, labels: Tensor) -> Table:
        """What the network is called with under these conditions; the last row is that of none."""
        null = self.null or {name: values[:0] for name, values in self.table.items()}
        return {
            name: torch.cat([values, null[name].to(values)])[labels.to(values.device)]
            for name, values in self.table.items()
        }

    def _call(self, x_t: Tensor, timestep: Tensor, rows: Table) -> Tensor:
        arguments = dict(self.constant)
        for name, values in rows.items():
            values = values.to(x_t.device)
            values = values.to(x_t.dtype) if values.is_floating_point() else values
            outer, _, inner = name.partition(".")
            if inner:
                arguments[outer] = {**arguments.get(outer, {}), inner: values}
            else:
                arguments[name] = values
        return returned(with_timestep(self.network)(x_t, timestep, **arguments))

    def _copy(self) -> Self:
        other = copy.copy(self)
        other._modules = dict(self._modules)  # of its own: it may get another network
        return other


def bare(network: Any) -> Any:  # noqa: ANN401
    """A network without its conditions."""
    return network.network if isinstance(network, ConditionalNetwork) else network


def in_place_of(old: Any, network: Any) -> Any:  # noqa: ANN401
    """A network that replaces another, under the same conditions if it takes them and has none.

    Arguments:
        old: The network that is replaced.
        network: The new one, wrapped by torch.compile, DistributedDataParallel and the like or not.

    Example:
        >>> def network(x, timestep, class_labels):
        ...     return x + class_labels[:, None]
        >>> old = ConditionalNetwork(network, {"class_labels": torch.arange(3)})
        >>> type(in_place_of(old, network)).__name__, type(in_place_of(old, old)).__name__
        ('ConditionalNetwork', 'ConditionalNetwork')
        >>> in_place_of(old, lambda x, timestep: x)(1, 2)
        1
    """
    if not isinstance(old, ConditionalNetwork):
        return network
    inner = unwrapped(network)
    called = type(inner).forward if isinstance(inner, nn.Module) else inner
    try:
        taken = set(inspect.signature(called).parameters)
    except (TypeError, ValueError):  # a callable that does not say what it takes
        return network
    takes_all = taken.issuperset(name.partition(".")[0] for name in old.table)
    return old.around(network) if takes_all else network


def draw_labels(network: Any, count: int, seed: int) -> Tensor | None:  # noqa: ANN401
    """The conditions of chains, with shape (N,); None for a network without.

    Arguments:
        network: The network.
        count: N, the number of chains; more of them do not change the first.
        seed: Seed of the draw.

    Example:
        >>> classes = ConditionalNetwork(lambda x, t: x, {"class_labels": torch.arange(3)})
        >>> draw_labels(classes.over([1, 1, 2]), 6, seed=0).tolist()
        [1, 2, 1, 1, 1, 1]
    """
    if not isinstance(network, ConditionalNetwork):
        return None
    generator = torch.Generator().manual_seed(stream_seed(seed, "labels"))
    share = torch.rand(count, generator=generator, dtype=torch.float64)
    return network.population[(share * len(network.population)).long()]


@dataclass(frozen=True)
class Conditions:
    """Which conditions a model is sampled and measured under.

    Arguments:
        labels: Numbers of the conditions, classes or prompts: each as often as its share; all
            evenly, or those of the data where there are data with labels, when None.
        guidance: w, the scale of classifier-free guidance; None or 1 for none.
        null_label: The class that stands for no condition, of a network that does not say it.
        prompts: A file of text (.txt) with one prompt a line, which the pipeline's text encoders
            encode; or embeddings of prompts: a file (.safetensors, .npz, .pt) or a mapping, with
            one row for each prompt, by the names of the network's arguments
            (``encoder_hidden_states``) or of diffusers' pipelines (``prompt_embeds``); with
            ``negative_`` before a name, the row for no prompt.
    """

    labels: Sequence[int] | None = None
    guidance: float | None = None
    null_label: int | None = None
    prompts: Any = None

    @property
    def is_given(self) -> bool:
        """Whether anything was chosen."""
        return self != Conditions()
