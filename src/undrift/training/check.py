"""Ranges of the options of a run, and options that exclude each other."""

from __future__ import annotations

from importlib.util import find_spec
from operator import attrgetter
from pathlib import Path

from undrift.data.images import ImageData
from undrift.diffusion.condition import NO_NULL
from undrift.diffusion.sampler import Sampler
from undrift.exceptions import FINITE, InvalidInput, Limits
from undrift.objectives.published import ON_SAMPLES
from undrift.regularizer.options import LIMITS as REGULARIZER_LIMITS
from undrift.regularizer.options import RegularizerConfig
from undrift.training.config import TrainConfig
from undrift.training.lora import check_installed

COUNTS = ("steps", "batch_size", "log_every", "checkpoint_every", "chain.num_steps")
WIDTHS = (
    *("model.layers_per_block", "model.norm_num_groups", "model.attention_head_dim"),
    "model.num_class_embeds",
)
AMOUNTS = (
    "lora.rank",
    "sample_every",
    "objective.strength",
    "objective.length",
    "optimizer.warmup_steps",
)
SHARES = (
    *("ema_decay", "model.dropout", "optimizer.beta1", "optimizer.beta2"),
    "conditioning_dropout_prob",
)
POSITIVE = ("optimizer.learning_rate", "optimizer.max_grad_norm")
LIMITS = {
    **dict.fromkeys(COUNTS + WIDTHS, Limits(1)),
    **dict.fromkeys((*AMOUNTS, "optimizer.weight_decay"), Limits(0)),
    **dict.fromkeys(SHARES, Limits(0, 1)),
    **dict.fromkeys(POSITIVE, Limits(0, ends="()")),
    "guidance": FINITE,
    **{f"regularizer.{name}": limits for name, limits in REGULARIZER_LIMITS.items()},
}
"""Ranges of the options of a run."""


def check(config: TrainConfig) -> None:
    """Check all options of a run, before anything is built.

    Raises:
        InvalidInput: Names the first that is invalid.
    """
    for path, limits in LIMITS.items():
        limits.check(f"--{path.replace('_', '-')}", attrgetter(path)(config))
    if config.method == "scheduled_sampling" and config.objective.strength is not None:
        raise InvalidInput(
            "--objective.strength has no effect with scheduled_sampling: give --objective.length"
        )
    if config.method == "fokker_planck" and config.mixed_precision != "no":
        raise InvalidInput(
            "--method fokker_planck needs full precision (it takes differences of outputs): use "
            "--mixed-precision no"
        )
    if config.method in ON_SAMPLES and config.regularizer.num_inference_steps is None:
        raise InvalidInput(
            f"--method {config.method} needs the number of steps of its chain, all of which are "
            "kept for the gradient: give --regularizer.num-inference-steps, such as 10"
        )
    if "features" in config.in_use["regularizer"]:
        config.regularizer.spaces  # noqa: B018 - refuses unknown names
    if "averaging" in config.in_use["regularizer"]:
        _check_averaging(config.regularizer)
    if config.lora.rank:
        _check_lora(config)
    if config.tensorboard and find_spec("tensorboard") is None:
        raise InvalidInput("--tensorboard needs the package: pip install tensorboard")


def _check_lora(config: TrainConfig) -> None:
    """Check that adapters can be trained.

    Raises:
        InvalidInput: If they cannot.
    """
    check_installed()
    if config.trainable is not None:
        raise InvalidInput("--trainable and --lora.rank exclude each other: give one of them")
    if config.start_from is None:
        raise InvalidInput("--lora.rank adapts a trained model: give --start-from")
    if (Path(config.start_from) / "checkpoints").is_dir():
        raise InvalidInput(
            "--lora.rank adapts the averaged weights of a run: give its pipeline, --start-from "
            f"{Path(config.start_from) / 'pipeline'}"
        )


def _check_averaging(options: RegularizerConfig) -> None:
    """Check that a moving average has a population and a kernel that it can be of.

    Raises:
        InvalidInput: If one is missing.
    """
    if options.averaging == "queue":
        return
    if not options.population:
        raise InvalidInput(
            "--regularizer.averaging moving averages a population: give --regularizer.population, "
            "such as 2048"
        )
    if options.kernel not in ("rbf", "laplace"):
        raise InvalidInput(
            f"--regularizer.averaging moving needs the kernel rbf or laplace, not {options.kernel}"
        )


def check_conditions(config: TrainConfig, sampler: Sampler, data: ImageData) -> None:
    """Check that a method and the data serve a conditional or a latent model.

    Raises:
        InvalidInput: If they do not.
    """
    if sampler.space is not None and config.horizontal_flip:
        raise InvalidInput("--horizontal-flip mirrors images, but this model is trained on codes")
    dropout = config.conditioning_dropout_prob
    if not sampler.is_conditional:
        if dropout:
            raise InvalidInput("the model has no conditions: leave conditioning_dropout_prob out")
        return
    if data.labels is None:
        raise InvalidInput("a conditional model is trained on data with labels: give such data")
    sampler.network.checked(data.labels)
    if dropout and sampler.network.null is None:
        raise InvalidInput(
            f"--conditioning-dropout-prob needs a call without a condition: {NO_NULL}"
        )
