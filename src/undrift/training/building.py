"""From a configuration to what is trained: network, chain, regularizer, optimizer."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import nn

from undrift.data.images import ImageData
from undrift.diffusion.gaussian import DenoiserSampler
from undrift.diffusion.pipelines import as_sampler, ddpm_scheduler, sampler_by_name
from undrift.diffusion.sampler import Sampler
from undrift.diffusion.schedule import SCHEDULES
from undrift.exceptions import InvalidInput
from undrift.measurement.profile import ErrorProfile
from undrift.mmd.kernels import EnergyKernel, RBFMixture
from undrift.objectives.consistent import ConsistentDiffusion
from undrift.objectives.dream import Dream
from undrift.objectives.fokker_planck import ScoreFokkerPlanck
from undrift.objectives.input_perturbation import InputPerturbation
from undrift.objectives.mixflow import MixFlow
from undrift.objectives.objective import Objective, Plain
from undrift.objectives.published import OPTIONS
from undrift.objectives.scheduled_sampling import ScheduledSampling
from undrift.regularizer.balance import GradientBalance
from undrift.regularizer.cumulative import CumulativeErrorRegularizer
from undrift.regularizer.options import RegularizerConfig
from undrift.regularizer.spaces import JointSpace, NetworkSpace, PixelSpace, Pyramid
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

METHODS: dict[str, type[Objective]] = {
    "input_perturbation": InputPerturbation,
    "mixflow": MixFlow,
    "consistent": ConsistentDiffusion,
    "fokker_planck": ScoreFokkerPlanck,
    "dream": Dream,
    "scheduled_sampling": ScheduledSampling,
}
"""The published methods by name; the loss of all others is plain."""
SHARED = (
    *("num_inference_steps", "length", "num_states", "num_forward", "num_cohorts"),
    *("every", "window", "stride", "rho"),
)
"""Options of the regularizer that its constructor takes as they are."""


def build_network(config: ModelConfig, image_shape: tuple[int, int, int]) -> nn.Module:
    """The U-Net of diffusers that a configuration describes.

    Arguments:
        config: Its configuration; channels that it leaves open follow from the image size.
        image_shape: Channels, height and width.

    Raises:
        InvalidInput: If the image cannot be halved as often as the network wants, or the options
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
        add_attention=any(attends),
        attention_head_dim=config.attention_head_dim,
        down_block_types=tuple("AttnDownBlock2D" if a else "DownBlock2D" for a in attends),
        up_block_types=tuple("AttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attends)),
    )


def check_halvings(image_shape: tuple[int, int, int], halvings: int) -> None:
    """Stop if images cannot be halved so often.

    Raises:
        InvalidInput: If a side is not divisible.
    """
    _, height, width = image_shape
    if height % 2**halvings or width % 2**halvings:
        raise InvalidInput(
            f"images of size {height}x{width} cannot be halved {halvings} times: choose another "
            "--image-size or fewer --model.block-out-channels"
        )


def build_scheduler(config: ChainConfig) -> Any:  # noqa: ANN401
    """The DDPMScheduler of diffusers for the chain that a configuration describes."""
    schedule = SCHEDULES[config.schedule](config.num_steps)
    return ddpm_scheduler(schedule, config.prediction_type, config.variance_type, config.clip)


def build_sampler(
    network: nn.Module,
    scheduler: Any,  # noqa: ANN401
    num_inference_steps: int | None = None,
) -> DenoiserSampler:
    """The chain of a network that is trained.

    Arguments:
        network: The network.
        scheduler: Its scheduler of diffusers.
        num_inference_steps: Number of denoising steps; all training steps when None.

    Raises:
        InvalidInput: If the scheduler is none that can be trained with.
    """
    sampler = as_sampler(network, num_inference_steps, schedule=scheduler)
    if not isinstance(sampler, DenoiserSampler):
        raise InvalidInput(
            f"a pipeline with {type(scheduler).__name__} cannot be trained: save it with a "
            "DDPMScheduler or a DDIMScheduler"
        )
    return sampler


def build_chain(
    network: nn.Module,
    scheduler: Any,  # noqa: ANN401
    name: str | None,
    num_inference_steps: int | None,
) -> Sampler:
    """The chain that a regularizer follows, by the name of its sampler; ancestral when None.

    Raises:
        InvalidInput: If there is no such sampler, or it does not run with this number of steps.
    """
    if name is None:
        return build_sampler(network, scheduler)
    if name not in ("ancestral", "ddim") and num_inference_steps is None:
        raise InvalidInput(
            f"the chain of {name} needs its number of steps: give "
            "--regularizer.num-inference-steps, as many as the model will be sampled with"
        )
    pipeline = SimpleNamespace(unet=network, scheduler=scheduler)
    return sampler_by_name(pipeline, name, num_inference_steps)


def build_regularizer(
    method: MethodConfig, sampler: Sampler, seed: int = 0
) -> CumulativeErrorRegularizer | None:
    """The regularizer that a method describes, or None for one without.

    Arguments:
        method: The method, with the regularizer's options.
        sampler: The chain whose error is regularized, over the network as training starts.
        seed: Seed of the run, which its own seed is mixed with.

    Raises:
        InvalidInput: If an option has no meaning, or the profile is missing or has no gains.
    """
    variant, config = method.variant, method.regularizer
    if variant is None:
        return None
    options: dict[str, Any] = {name: getattr(config, name) for name in SHARED}
    if variant != "official":
        balance = GradientBalance(share=config.gradient_share)
        options |= {"strength": balance} | _comparison(config, sampler)
    if config.strength is not None:
        options["strength"] = config.strength
    seed = stream_seed(seed, "regularizer", config.seed)
    weighting = _weighting(config)
    return CumulativeErrorRegularizer(
        sampler, variant=variant, weighting=weighting, seed=seed, **options
    )


def build_objective(method: MethodConfig, sampler: DenoiserSampler, seed: int = 0) -> Objective:
    """The loss that a method describes: plain beside a regularizer, else that of the method.

    Arguments:
        method: The method, with the options of the baselines.
        sampler: The chain that is trained.
        seed: Seed of the run, which the method's own seed is mixed with.

    Raises:
        InvalidInput: If an option has no meaning.
    """
    config = method.objective
    seed = stream_seed(seed, "objective", config.seed)
    options = {name: getattr(config, name) for name in OPTIONS.get(method.method, ())}
    return METHODS.get(method.method, Plain)(sampler, seed=seed, **options)


def build_optimizer(
    options: OptimizerConfig, network: nn.Module, steps: int, *, warm: bool
) -> tuple[torch.optim.Optimizer, Any]:
    """The optimizer, and its learning-rate schedule.

    Arguments:
        options: What was chosen.
        network: The network that is trained.
        steps: Number of training steps, over which the schedule runs.
        warm: Whether training goes on from another run, and needs no warm-up.
    """
    from diffusers.optimization import get_scheduler

    kind = torch.optim.AdamW if options.optimizer == "adamw" else torch.optim.Adam
    optimizer = kind(
        network.parameters(),
        lr=options.learning_rate,
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
    if start and start.pipeline is not None:
        return _network_of(start, data), start.pipeline.scheduler
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed(config.seed, "weights"))
        network = build_network(config.model, data.image_shape)
    if start and start.state:
        try:
            network.load_state_dict(start.state["network"])
        except RuntimeError:
            raise InvalidInput(
                f"the weights of {start.path} do not fit images of shape {data.image_shape}: give "
                "the data, --image-size and --channels that it was trained with"
            ) from None
    return network, build_scheduler(config.chain)


def continue_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Take over the moments, not the learning rate and the other options.

    Raises:
        InvalidInput: If they belong to other parameters.
    """
    moments = {**optimizer.state_dict(), "state": state["state"]}
    try:
        optimizer.load_state_dict(moments)
    except (ValueError, KeyError) as error:
        raise InvalidInput(f"the starting optimizer does not fit: {error}") from None


def _network_of(start: StartingPoint, data: ImageData) -> nn.Module:
    """The network of a pipeline, if it is one that can be trained on the data."""
    network: Any = getattr(start.pipeline, "unet", None)
    options: Any = getattr(network, "config", None)
    if options is None or options.get("num_class_embeds") or options.get("class_embed_type"):
        raise InvalidInput(
            f"{start.path}: only pipelines with an unconditional unet can be trained"
        )
    channels, height, width = data.image_shape
    if options.in_channels != channels:
        raise InvalidInput(
            f"{start.path} was trained on {options.in_channels} channels, the data have "
            f"{channels}: give --channels {options.in_channels}"
        )
    if options.out_channels != options.in_channels:
        raise InvalidInput(f"{start.path}: a network that learns its variance cannot be trained")
    check_halvings(data.image_shape, len(options.block_out_channels) - 1)
    network.register_to_config(sample_size=height if height == width else (height, width))
    return cast(nn.Module, network)


def _comparison(config: RegularizerConfig, sampler: Sampler) -> dict[str, Any]:
    """What states are compared with forward draws by, where it is not the released algorithm's."""
    multipliers = tuple(config.bandwidth * m for m in RBFMixture.multipliers)
    kernel = EnergyKernel() if config.kernel == "energy" else RBFMixture("mean", multipliers)
    options: dict[str, Any] = {"kernel": kernel, "population": config.population}
    if config.features == "pyramid":
        options["space"] = Pyramid()
    if config.features in ("network", "both"):
        if not config.population:
            raise InvalidInput(
                f"--regularizer.features {config.features} compares a population: give "
                "--regularizer.population, such as 2048"
            )
        own = NetworkSpace(sampler)
        options["space"] = own if config.features == "network" else JointSpace((PixelSpace(), own))
    return options


def _weighting(config: RegularizerConfig) -> Weighting:
    if config.weighting != "measured":
        return config.weighting
    if config.profile is None:
        raise InvalidInput("measured weights need a profile: give --regularizer.profile")
    gains = ErrorProfile.load(config.profile).gains()
    if not gains:
        raise InvalidInput(
            f"{config.profile} holds no downstream gains, the weights: measure it with the budget"
        )
    return gains


def _attending(config: ModelConfig, size: int, blocks: int) -> list[bool]:
    """Which blocks attend, from the finest to the coarsest."""
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
    for limit, widths in ((8, [16, 32]), (16, [32, 64]), (32, [64, 128, 128])):
        if size <= limit:
            return widths
    return [64, 128, 256, 256]
