"""From a configuration to what is trained: network, chain, regularizer, optimizer."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import nn

from undrift.data.images import ImageData
from undrift.diffusion.condition import Conditions
from undrift.diffusion.pipelines import (
    ddpm_scheduler,
    network_in,
    sampler_by_name,
    state_shape,
)
from undrift.diffusion.sampler import Sampler
from undrift.diffusion.schedule import SCHEDULES
from undrift.exceptions import InvalidInput
from undrift.measurement.profile import ErrorProfile
from undrift.mmd.kernel import Kernel
from undrift.mmd.kernels import (
    EnergyKernel,
    LaplaceKernel,
    PolynomialKernel,
    RBFMixture,
)
from undrift.objectives.consistent import ConsistentDiffusion
from undrift.objectives.dream import Dream
from undrift.objectives.fd_loss import FrechetLoss
from undrift.objectives.fokker_planck import ScoreFokkerPlanck
from undrift.objectives.input_perturbation import InputPerturbation
from undrift.objectives.mixflow import MixFlow
from undrift.objectives.mmd_ddm import KernelDistanceLoss
from undrift.objectives.objective import DenoisingObjective, Objective, Plain
from undrift.objectives.published import MAX_GRAD_NORM, ON_SAMPLES, OPTIONS, STRENGTHS
from undrift.objectives.samples import SampleObjective
from undrift.objectives.scheduled_sampling import ScheduledSampling
from undrift.regularizer.balance import GradientBalance
from undrift.regularizer.cumulative import CumulativeErrorRegularizer
from undrift.regularizer.options import OF_TERM, UNUSED, RegularizerConfig
from undrift.regularizer.resumable import seeded
from undrift.regularizer.spaces import space_named
from undrift.regularizer.weighting import Weighting
from undrift.seeds import stream_seed
from undrift.training.checkpoint import StartingPoint
from undrift.training.config import (
    ChainConfig,
    MethodConfig,
    ModelConfig,
    OptimizerConfig,
    TrainConfig,
)

METHODS: dict[str, type[DenoisingObjective]] = {
    "input_perturbation": InputPerturbation,
    "mixflow": MixFlow,
    "consistent": ConsistentDiffusion,
    "fokker_planck": ScoreFokkerPlanck,
    "dream": Dream,
    "scheduled_sampling": ScheduledSampling,
}
"""The published methods with a main term by name; the loss of all others is plain."""
LEARNING_RATE, FINE_TUNING_RATE = 1e-3, 1e-4
"""Where none is given: of a new network, and of one from a pipeline."""
OPTIMIZERS = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}


def build_network(config: ModelConfig, image_shape: tuple[int, int, int]) -> nn.Module:
    """The U-Net of diffusers that a configuration describes.

    Arguments:
        config: Its configuration; channels that it leaves open follow from the image size.
        image_shape: Channels, height and width.

    Raises:
        InvalidInput: If the image cannot be halved as often as the network needs, or the options
            do not fit together.
    """
    from diffusers import UNet2DModel

    channels, height, width = image_shape
    widths = config.block_out_channels or _default_widths(max(height, width))
    attends = _attending(config, max(height, width), len(widths))
    _check_widths(config, widths, attends)
    check_halvings(image_shape, len(widths) - 1)
    return UNet2DModel(  # type: ignore[return-value]
        sample_size=height if height == width else (height, width),
        in_channels=channels,
        out_channels=channels,
        layers_per_block=config.layers_per_block,
        block_out_channels=tuple(widths),
        norm_num_groups=config.norm_num_groups,
        dropout=config.dropout,
        num_class_embeds=config.num_class_embeds,
        add_attention=any(attends),
        attention_head_dim=config.attention_head_dim,
        down_block_types=tuple("AttnDownBlock2D" if a else "DownBlock2D" for a in attends),
        up_block_types=tuple("AttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attends)),
    )


def check_halvings(image_shape: tuple[int, int, int], halvings: int) -> None:
    """Check that images can be halved so often.

    Raises:
        InvalidInput: If a side is not divisible.
    """
    _, height, width = image_shape
    if height % 2**halvings or width % 2**halvings:
        raise InvalidInput(
            f"images of size {height}x{width} cannot be halved {halvings} times: choose another "
            "--image-size or fewer --model.block-out-channels"
        )


def build_scheduler(config: ChainConfig) -> Any:
    """The DDPMScheduler of diffusers for the chain that a configuration describes."""
    schedule = SCHEDULES[config.schedule](config.num_steps)
    return ddpm_scheduler(schedule, config.prediction_type, config.variance_type, config.clip)


def build_sampler(
    network: nn.Module,
    scheduler: Any,
    num_inference_steps: int | None = None,
    name: str | None = None,
    start: StartingPoint | None = None,
    conditions: Conditions | None = None,
) -> Sampler:
    """The sampler over a network that is trained.

    Arguments:
        network: The network.
        scheduler: Its scheduler of diffusers.
        num_inference_steps: Number of denoising steps; all training steps when None.
        name: The sampler; that of the scheduler when None.
        start: Where training started, whose autoencoder it has.
        conditions: What a conditional network is trained under.

    Raises:
        InvalidInput: If there is no such sampler, or it does not run with this number of steps.
    """
    if name not in (None, "ancestral", "ddim") and num_inference_steps is None:
        raise InvalidInput(
            f"the chain of {name} needs its number of steps: give "
            "--regularizer.num-inference-steps, as many as the model will be sampled with"
        )
    coder = {n: getattr(start and start.pipeline, n, None) for n in ("vae", "vqvae")}
    pipeline = SimpleNamespace(unet=network, scheduler=scheduler, **coder)
    return sampler_by_name(pipeline, name, num_inference_steps, conditions=conditions)


def build_regularizer(
    method: MethodConfig, sampler: Sampler, seed: int = 0
) -> CumulativeErrorRegularizer | None:
    """The regularizer that a method describes, or None for one without.

    Arguments:
        method: The method, with the regularizer's options.
        sampler: The chain whose error is regularized, over the network as training starts.
        seed: Seed of the run, which its own seed is mixed with.

    Raises:
        InvalidInput: If an option is invalid, or the profile is missing or has no gains.
    """
    variant, config = method.variant, method.regularizer
    if variant is None:
        return None
    used = [name for name in OF_TERM if name not in UNUSED[variant]]
    options = {name: getattr(config, name) for name in used}
    options["seed"] = stream_seed(seed, "regularizer", config.seed)
    strength: float | GradientBalance | None = config.strength
    if variant != "official":
        options |= _comparison(config, sampler)
        strength = GradientBalance(config.gradient_share) if strength is None else strength
    return CumulativeErrorRegularizer(
        sampler, variant=variant, strength=strength, weighting=_weighting(config), **options
    )


def build_objective(method: MethodConfig, sampler: Sampler, seed: int = 0) -> Objective:
    """The loss that a method describes: the plain one with a regularizer, else its own.

    Arguments:
        method: The method, with the options of the baselines.
        sampler: The sampler over the network that is trained.
        seed: Seed of the run, which the seed of the method is mixed with.

    Raises:
        InvalidInput: If an option is invalid.
    """
    config = method.objective
    options = {name: getattr(config, name) for name in OPTIONS.get(method.method, ())}
    options["seed"] = stream_seed(seed, "objective", config.seed)
    return METHODS.get(method.method, Plain)(sampler, **options)


def build_sample_objective(
    method: MethodConfig, sampler: Sampler, data: ImageData, seed: int = 0
) -> SampleObjective:
    """The loss of finished samples that a method describes.

    Arguments:
        method: The method, with the options that it takes.
        sampler: The chain, over the network as training starts.
        data: The data.
        seed: Seed of the run, which the seed of the method is mixed with.

    Raises:
        InvalidInput: If an option is invalid.
    """
    own, options = method.regularizer, method.objective
    space = space_named(own.spaces, sampler, only_samples=True)
    mixed = stream_seed(seed, "objective", options.seed)
    if method.method == "mmd_ddm":
        return KernelDistanceLoss(sampler, space=space, seed=mixed)
    return FrechetLoss(sampler, data.images, queue=own.population, space=space, seed=mixed)


def learning_rate(config: TrainConfig, start: StartingPoint | None) -> float:
    """The learning rate that was chosen, else that of the run that it starts from.

    Arguments:
        config: The configuration.
        start: Where the run starts, if not anew.
    """
    if (chosen := config.optimizer.learning_rate) is not None:
        return chosen
    if start is None:
        return LEARNING_RATE
    if start.state is None:
        return FINE_TUNING_RATE
    return float(start.state["config"]["optimizer"]["learning_rate"])


def optimizer_options(config: TrainConfig) -> OptimizerConfig:
    """The optimizer's options, with what a loss of finished samples changes about them.

    Its strength is a factor of the learning rate, and its gradients are clipped as published.

    Example:
        >>> found = optimizer_options(TrainConfig(method="mmd_ddm"))
        >>> found.learning_rate, found.max_grad_norm
        (2.5e-05, 0.5)
    """
    method, options = config.method, config.optimizer
    rate = options.learning_rate or LEARNING_RATE
    if method not in ON_SAMPLES:
        return options
    given = config.objective.strength
    factor = STRENGTHS[method] if given is None else given
    bound = min(options.max_grad_norm, MAX_GRAD_NORM.get(method, math.inf))
    return replace(options, learning_rate=factor * rate, max_grad_norm=bound)


def build_optimizer(
    options: OptimizerConfig, network: nn.Module, steps: int, *, warm: bool
) -> tuple[torch.optim.Optimizer, Any]:
    """The optimizer, and its learning-rate schedule.

    Arguments:
        options: What was chosen.
        network: The network that is trained.
        steps: Number of training steps, over which the schedule runs.
        warm: Whether training continues another run, and needs no warm-up.
    """
    from diffusers.optimization import get_scheduler

    optimizer = OPTIMIZERS[options.optimizer](
        [parameter for parameter in network.parameters() if parameter.requires_grad],
        lr=options.learning_rate or LEARNING_RATE,
        betas=(options.beta1, options.beta2),
        weight_decay=options.weight_decay,
    )
    schedule = get_scheduler(
        options.lr_schedule,
        optimizer,
        num_warmup_steps=0 if warm else options.warmup_steps,
        num_training_steps=steps,
    )
    return optimizer, schedule


def starting_network(
    config: TrainConfig, data: ImageData, start: StartingPoint | None
) -> tuple[nn.Module, Any]:
    """The network where it starts, and the scheduler of diffusers that belongs to it.

    Raises:
        InvalidInput: If the network does not fit the data.
    """
    if start and start.state:
        _check_shape(start, start.state["image_shape"], data)
    if start and start.pipeline is not None:
        network, scheduler = _network_of(start, data), start.pipeline.scheduler
    else:
        with seeded(stream_seed(config.seed, "weights")):
            network = build_network(config.model, data.image_shape)
        scheduler = build_scheduler(config.chain)
    if start and start.state:
        network.load_state_dict(start.state["network"])
    return network, scheduler


def continue_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Restore the moments, but not the learning rate and the other options.

    Raises:
        InvalidInput: If they belong to other parameters.
    """
    moments = {**optimizer.state_dict(), "state": state["state"]}
    try:
        optimizer.load_state_dict(moments)
    except (ValueError, KeyError) as error:
        raise InvalidInput(f"the starting optimizer does not fit: {error}") from None


def _check_shape(start: StartingPoint, made: tuple[int, ...], data: ImageData) -> None:
    """Check that the data have the shape that a network was trained on."""
    if tuple(made) != data.image_shape:
        raise InvalidInput(
            f"{start.path} was trained on images of shape {tuple(made)}, the data have "
            f"{data.image_shape}: give --image-size and --channels that fit, or other data"
        )


def _network_of(start: StartingPoint, data: ImageData) -> nn.Module:
    """The network of a pipeline, if it is one that can be trained on the data."""
    network: Any = network_in(start.pipeline)
    options: Any = getattr(network, "config", None)
    if options is None:
        raise InvalidInput(f"{start.path}: a pipeline without unet or transformer has no network")
    _, height, width = data.image_shape
    _check_shape(start, state_shape(network) or (options.in_channels, height, width), data)
    if options.get("out_channels") not in (None, options.in_channels, 2 * options.in_channels):
        raise InvalidInput(
            f"{start.path}: a network with {options.in_channels} channels in and "
            f"{options.out_channels} out predicts no states: it cannot be trained"
        )
    if options.get("block_out_channels"):  # a U-Net, which takes other sizes too
        check_halvings(data.image_shape, len(options.block_out_channels) - 1)
        network.register_to_config(sample_size=height if height == width else (height, width))
    return cast(nn.Module, network)


def build_kernel(config: RegularizerConfig) -> Kernel:
    """The kernel of the options, its bandwidth a multiple of the mean squared distance."""
    if config.kernel == "energy":
        return EnergyKernel()
    if config.kernel == "laplace":
        return LaplaceKernel("mean", config.bandwidth)
    if config.kernel == "cubic":
        return PolynomialKernel()
    return RBFMixture("mean", tuple(config.bandwidth * m for m in RBFMixture.multipliers))


def _comparison(config: RegularizerConfig, sampler: Sampler) -> dict[str, Any]:
    """How states are compared with forward draws, in all variants but the released one."""
    if not config.population and config.spaces not in (("pixels",), ("pyramid",)):
        raise InvalidInput(
            f"--regularizer.features {config.features} compares a population: give "
            "--regularizer.population, such as 256"
        )
    return {"kernel": build_kernel(config), "space": space_named(config.spaces, sampler)}


def _weighting(config: RegularizerConfig) -> Weighting:
    if config.weighting != "measured":
        return config.weighting
    if config.profile is None:
        raise InvalidInput("measured weights need a profile: give --regularizer.profile")
    gains = ErrorProfile.load(config.profile).gains()
    if not gains:
        raise InvalidInput(
            f"{config.profile} contains no downstream gains: measure it with the budget"
        )
    return gains


def _attending(config: ModelConfig, size: int, blocks: int) -> list[bool]:
    """Which blocks have attention, from the finest to the coarsest."""
    if config.attention_sizes is None:
        return [False] * (blocks - 1) + [config.attention]
    sizes = [size // 2**block for block in range(blocks)]
    unknown = [size for size in config.attention_sizes if size not in sizes]
    if unknown:
        raise InvalidInput(
            f"no feature map has size {unknown[0]}: choose --model.attention-sizes from "
            f"{', '.join(map(str, sizes))}"
        )
    return [size in config.attention_sizes for size in sizes]


def _check_widths(config: ModelConfig, widths: list[int], attends: list[bool]) -> None:
    bad = [width for width in widths if width < 1 or width % config.norm_num_groups]
    if bad:
        raise InvalidInput(
            f"{bad[0]} channels do not split into {config.norm_num_groups} groups: change "
            "--model.block-out-channels or --model.norm-num-groups"
        )
    head = config.attention_head_dim
    attending = {width for width, a in zip(widths, attends, strict=True) if a}
    attending |= {widths[-1]} if any(attends) else set()  # the middle block
    unsplit = [width for width in sorted(attending) if head is not None and width % head]
    if unsplit:
        raise InvalidInput(
            f"{unsplit[0]} channels do not split into attention heads of {head}: change "
            "--model.block-out-channels or --model.attention-head-dim"
        )


def _default_widths(size: int) -> list[int]:
    known = {8: [16, 32], 16: [32, 64], 32: [64, 128, 128], math.inf: [64, 128, 256, 256]}
    return next(widths for limit, widths in known.items() if size <= limit)
