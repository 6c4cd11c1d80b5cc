r"""A remedy at sampling time: its options in plain data, and what it changes in a chain.

A remedy changes how a trained chain runs, and nothing else. Each one is a file of this package: a
dataclass derived from :class:`Remedy`, whose fields are its options, with

- the first line of its docstring, which the documentation shows;
- ``remedy``, its name, ``strengths``, what they mean, and ``limits``, which ones it can have;
- the methods that it needs: ``wrapped`` changes the output or the time of the network, ``kernel``
  and ``advance`` change the denoising step, ``estimate`` is computed from data, once for all
  strengths.

The command line reads these descriptions for its help, so a remedy imports torch in its functions
only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, get_args, get_origin, get_type_hints

from undrift.exceptions import FINITE, InvalidInput, Limits, check_choice

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from undrift.diffusion.sampler import GaussianKernel, RandomSource, Sampler, State


class UnfitChain(InvalidInput):
    """A remedy that does not serve a kind of chain, whatever its options: a study leaves it out."""


@dataclass(frozen=True)
class Strengths:
    """The strengths of a remedy.

    Arguments:
        meaning: What the strength is.
        default: The strength where none is given: of the order that its paper uses, if it has one.
        grid: The strengths that a search tries first.
        neutral: The strength without effect, if there is one.
    """

    meaning: str
    default: float
    grid: tuple[float, ...]
    neutral: float | None = None


@dataclass(frozen=True)
class Remedy:
    """A remedy with its options: the base of all remedies.

    Arguments:
        strength: How strong; the default strength when None.

    Raises:
        InvalidInput: If an option cannot be used.
    """

    remedy: str = field(default="", init=False)
    strength: float | None = None

    strengths: ClassVar[Strengths]
    limits: ClassVar[dict[str, Limits]] = {}
    """The numbers that the strength and the options can have, where not all finite ones."""
    estimate_type: ClassVar[Callable[..., Any]] = float
    """The type of what is estimated from data, called with its parts to build it again."""
    further_strengths: ClassVar[tuple[str, ...]] = ()
    """Options that have an effect unless they are 0, whatever the strength."""

    def __post_init__(self) -> None:
        """Check the options."""
        for name, hint in self.options().items():
            value, choices = getattr(self, name), choices_of(hint)
            if choices:
                check_choice(name, value, choices)
            else:
                self.limits.get(name, FINITE).check(f"{name} of {self.remedy}", value)

    @classmethod
    def options(cls) -> dict[str, Any]:
        """The types of the strength and the other options, by name."""
        hints = get_type_hints(cls)
        return {f.name: hints[f.name] for f in fields(cls) if f.init}

    @classmethod
    def parse(cls, items: list[str]) -> Self:
        """The remedy from the texts of its strength and its options, ``NAME=VALUE``.

        Raises:
            InvalidInput: If an option is unknown or cannot be used.
        """
        types, values = cls.options(), dict[str, Any]()
        for name, equals, text in (item.partition("=") for item in items):
            if name not in types or not equals:
                close = get_close_matches(name, types, n=1)
                hint = f", did you mean {close[0]}=...?" if close else ""
                known = ", ".join(f"{own}=..." for own in types if own != "strength")
                what = f"{name}{equals}{text}"
                raise InvalidInput(
                    f"{cls.remedy} takes {known or 'no options'}, not {what!r}{hint}"
                )
            if name in values:
                raise InvalidInput(f"{name} of {cls.remedy} is given twice: give it once")
            try:
                values[name] = text if choices_of(types[name]) else float(text)
            except ValueError:
                raise InvalidInput(f"{name} of {cls.remedy} is {text!r}: give a number") from None
        return cls(**values)

    @property
    def text(self) -> str:
        """The remedy as it is written on a command line, ``NAME[:STRENGTH][,OPTION=VALUE...]``."""
        head = self.remedy if self.strength is None else f"{self.remedy}:{self.strength:.12g}"
        own = [(f, getattr(self, f.name)) for f in fields(self) if f.name in self.options()]
        return ",".join([head, *(f"{f.name}={v}" for f, v in own[1:] if v != f.default)])

    @property
    def value(self) -> float:
        """The strength that is applied."""
        return self.strengths.default if self.strength is None else self.strength

    @property
    def neutral(self) -> float | None:
        """The strength at which it has no effect with its other options, if there is one."""
        others = [getattr(self, name) for name in self.further_strengths]
        return None if any(others) else self.strengths.neutral

    @property
    def needs_data(self) -> bool:
        """Whether it is estimated from data."""
        return False

    @property
    def changes_steps(self) -> bool:
        """Whether it changes the denoising step itself, besides the network."""
        return type(self).advance is not Remedy.advance

    def estimate(
        self, base: Sampler, data: Tensor, num_data: int, generator: torch.Generator
    ) -> Any:  # noqa: ANN401
        """What the remedy estimates from data, whatever its strength.

        Arguments:
            base: The chain without the remedy.
            data: Images of the training data, with shape :math:`(n, *)`.
            num_data: Draws of the data at each time of the chain, if it needs draws.
            generator: Source of the draws.
        """

    def needed(self, estimate: Any) -> Any:  # noqa: ANN401
        """What was estimated from data.

        Raises:
            InvalidInput: If nothing was.
        """
        if estimate is None:
            raise InvalidInput(f"{self.remedy} is not estimated: use apply_remedy with data")
        return estimate

    def wrapped(self, network: Any, base: Sampler, estimate: Any) -> Any:  # noqa: ANN401
        """The network with the remedy, which is called as the network is.

        Raises:
            InvalidInput: If the remedy cannot be applied to the base.
        """
        return network

    def kernel(
        self, chain: Sampler, x_t: Tensor, t: float, s: float, estimate: Any
    ) -> GaussianKernel | None:
        """The density of one denoising step of the chain of the wrapped network, or None."""
        return chain.kernel(x_t, t, s)

    def advance(
        self,
        chain: Sampler,
        state: State,
        s: float,
        estimate: Any,
        generator: RandomSource | None,
    ) -> State:
        """One denoising step of the chain of the wrapped network to the time s; differentiable."""
        return chain.advance(state, s, generator=generator)

    def record(self, base: Sampler, estimate: Any) -> dict[str, Any]:
        """The strength, the options, and what was estimated, in plain data."""
        return {name: getattr(self, name) for name in self.options()} | {"strength": self.value}


def choices_of(hint: Any) -> tuple[str, ...]:  # noqa: ANN401
    """The values of an option that is chosen by name; none for a number."""
    return get_args(hint) if get_origin(hint) is Literal else ()
