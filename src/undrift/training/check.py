"""What a configuration must keep to, told in the words of the command line."""

from __future__ import annotations

import math
from collections.abc import Iterator
from importlib.util import find_spec

from undrift.exceptions import InvalidInput
from undrift.training.config import TrainConfig

INFINITY = math.inf


def check(config: TrainConfig) -> None:
    """Stop at numbers that have no meaning, before anything is made.

    Raises:
        InvalidInput: Names the first of them.
    """
    for option, value, low, high in _bounds(config):
        if value is not None and not low <= value < high:
            limit = "" if high == INFINITY else f" and less than {high:g}"
            raise InvalidInput(f"--{option} is {value}: choose at least {low:g}{limit}")
    positive = {
        "optimizer.learning-rate": config.optimizer.learning_rate,
        "optimizer.max-grad-norm": config.optimizer.max_grad_norm,
        "regularizer.gradient-share": config.regularizer.gradient_share,
        "regularizer.bandwidth": config.regularizer.bandwidth,
    }
    for option, value in positive.items():
        if not 0 < value < INFINITY:
            raise InvalidInput(f"--{option} is {value}: choose a number above 0")
    if config.method == "scheduled_sampling" and config.objective.strength is not None:
        raise InvalidInput(
            "--objective.strength means nothing to scheduled_sampling: give --objective.length"
        )
    if config.method == "fokker_planck" and config.mixed_precision != "no":
        raise InvalidInput(
            "--method fokker_planck takes differences of outputs, which are noise in half "
            "precision: leave --mixed-precision at no"
        )
    if config.tensorboard and find_spec("tensorboard") is None:
        raise InvalidInput("--tensorboard needs the package: pip install tensorboard")


def _bounds(config: TrainConfig) -> Iterator[tuple[str, float | None, float, float]]:
    """Options with their values, the least that they may be, and what they must stay below."""
    model, optimizer = config.model, config.optimizer
    for option, count in (
        ("steps", config.steps),
        ("batch-size", config.batch_size),
        ("log-every", config.log_every),
        ("checkpoint-every", config.checkpoint_every),
        ("chain.num-steps", config.chain.num_steps),
        ("model.layers-per-block", model.layers_per_block),
        ("model.norm-num-groups", model.norm_num_groups),
        ("model.attention-head-dim", model.attention_head_dim),
    ):
        yield option, count, 1, INFINITY
    yield "sample-every", config.sample_every, 0, INFINITY
    yield "objective.strength", config.objective.strength, 0, INFINITY
    yield "objective.length", config.objective.length, 0, INFINITY
    yield "optimizer.warmup-steps", optimizer.warmup_steps, 0, INFINITY
    yield "optimizer.weight-decay", optimizer.weight_decay, 0, INFINITY
    for option, share in (
        ("ema-decay", config.ema_decay),
        ("model.dropout", model.dropout),
        ("optimizer.beta1", optimizer.beta1),
        ("optimizer.beta2", optimizer.beta2),
        ("regularizer.start", config.regularizer.start),
    ):
        yield option, share, 0, 1
