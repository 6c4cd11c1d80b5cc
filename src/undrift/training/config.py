"""What can be chosen about a run: plain dataclasses, for YAML, flags and Python alike.

Nothing here imports torch, so that a command line can show its options at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Literal

from undrift.objectives.published import LENGTH, ON_SAMPLES, OPTIONS, PublishedMethod
from undrift.regularizer.options import UNUSED, RegularizerConfig, Variant

Method = Literal["plain", "regularized", Variant, PublishedMethod]
BEST_VARIANT: Variant = "persistent"
"""The variant that ``regularized`` stands for: the best one in our studies."""

IN_MEMORY = "(in memory)"
"""What stands for the data of a run that was given images instead of a name."""


@dataclass
class DataConfig:
    """Which images.

    Arguments:
        data: digits, fashion-mnist, patches, an image folder, an array file, or a Hugging Face
            dataset (name or local path).
        split: Part of the data set.
        image_size: Images are resized and cropped to squares of this size (default: unchanged).
        channels: 1 for grayscale, 3 for RGB (default: those of the images).
        skip_bad_images: Leave out images that cannot be read instead of stopping.
        streaming: Read a Hugging Face dataset as a stream, so many images at a time, instead of
            loading it: training takes block after block, in random order within each; what measures
            or judges takes the first block (default: load all).
    """

    data: str = "digits"
    split: str = "train"
    image_size: int | None = None
    channels: Literal[1, 3] | None = None
    skip_bad_images: bool = False
    streaming: int | None = None


@dataclass
class ModelConfig:
    """The network, a UNet2DModel of diffusers.

    Arguments:
        block_out_channels: Channels of each resolution (default: chosen by image size).
        layers_per_block: Residual layers of each block.
        attention: Whether the coarsest blocks have attention.
        attention_sizes: Sizes of the feature maps whose blocks have attention; the middle block has
            it too (default: see attention).
        attention_head_dim: Channels of an attention head (null: one head for all channels).
        norm_num_groups: Groups of the group normalization.
        dropout: Dropout of the residual layers.
        num_class_embeds: Classes that the network is conditioned on, those of the labels of the
            data; one more where the last stands for no class (null: none).
    """

    block_out_channels: list[int] | None = None
    layers_per_block: int = 1
    attention: bool = False
    attention_sizes: list[int] | None = None
    attention_head_dim: int | None = 8
    norm_num_groups: int = 8
    dropout: float = 0.0
    num_class_embeds: int | None = None


@dataclass
class ChainConfig:
    """The chain that is trained.

    Arguments:
        schedule: Noise schedule.
        num_steps: T, the number of steps.
        prediction_type: What the network predicts.
        variance_type: Reverse variance of the sampler.
        clip: Bound on the estimate of the data (null: none).
        sampler: The sampler whose chain a regularizer follows: ancestral, ddim, dpm-solver++,
            unipc, heun, euler, or a scheduler class of diffusers (default: ancestral). Choose the
            one that the model will be sampled with, and as many steps
            (regularizer.num_inference_steps).
    """

    schedule: Literal["linear", "cosine", "sigmoid"] = "cosine"
    num_steps: int = 1000
    prediction_type: Literal["epsilon", "sample", "v_prediction"] = "v_prediction"
    variance_type: Literal["fixed_small", "fixed_large"] = "fixed_small"
    clip: float | None = 1.0
    sampler: str | None = None


@dataclass
class OptimizerConfig:
    """The optimizer and its learning rate.

    Arguments:
        optimizer: Which one.
        learning_rate: Learning rate after warm-up (default: 1e-3; that of the run that it starts
            from; 1e-4 from a pipeline, whose optimizer starts anew).
        lr_schedule: The schedule after warm-up, by diffusers' names.
        warmup_steps: Steps in which it rises from 0; none if a run is continued.
        weight_decay: Decoupled weight decay (of adamw).
        beta1: Decay of the first moment.
        beta2: Decay of the second moment.
        max_grad_norm: Gradients are clipped to this norm.
    """

    optimizer: Literal["adamw", "adam"] = "adamw"
    learning_rate: float | None = None
    lr_schedule: Literal["constant", "constant_with_warmup", "cosine", "linear"] = "cosine"
    warmup_steps: int = 100
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    max_grad_norm: float = 1.0


@dataclass
class LoraConfig:
    """Low-rank adapters, which are trained instead of the network.

    Arguments:
        rank: Their rank (0: none).
        target_modules: Ends of the names of the layers that get one.
    """

    rank: int = 0
    target_modules: list[str] = field(default_factory=lambda: ["to_q", "to_k", "to_v", "to_out.0"])


@dataclass
class ObjectiveConfig:
    """Options of the published baselines.

    Arguments:
        strength: γ of input_perturbation (0.1) and of mixflow (0.8), λ of consistent (10), the
            weight of fokker_planck (0.15), the exponent p of dream (1), the factor of the learning
            rate of mmd_ddm (0.025) and of fd_loss (0.01) (default: the published value, in
            brackets).
        length: Denoising steps that scheduled_sampling rolls out at most.
        seed: Seed of the method's random stream, combined with that of the run.
    """

    strength: float | None = None
    length: int = LENGTH
    seed: int = 0


@dataclass
class MethodConfig:
    """A training method.

    Arguments:
        method: plain; regularized (the best variant in our studies, persistent);
            a variant by its name; or a published baseline.
        regularizer: Options of the regularizer.
        objective: Options of the published baselines.
    """

    method: Method = "plain"
    regularizer: RegularizerConfig = field(default_factory=RegularizerConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)

    @property
    def variant(self) -> Variant | None:
        """The regularizer's variant, or None for a method without one."""
        if self.method == "regularized":
            return BEST_VARIANT
        return self.method if self.method in UNUSED else None

    @property
    def in_use(self) -> dict[str, set[str]]:
        """The options of each section that the method uses.

        Example:
            >>> sorted(MethodConfig("dream").in_use["objective"])
            ['seed', 'strength']
        """
        known = {f.name for f in fields(RegularizerConfig)}
        return {
            "regularizer": known - UNUSED[self.variant]
            if self.variant
            else set(ON_SAMPLES.get(self.method, ())),
            "objective": {*OPTIONS[self.method], "seed"} if self.method in OPTIONS else set(),
        }

    def chosen(self, batch_size: int) -> RegularizerConfig:
        """The regularizer's options, with the defaults of the variant where they are null.

        Arguments:
            batch_size: Images per step, over all processes.

        Example:
            >>> MethodConfig("persistent").chosen(batch_size=64).num_states
            32
        """
        if self.variant is None:
            return self.regularizer
        return self.regularizer.chosen(self.variant, batch_size)


@dataclass
class TrainConfig(MethodConfig, DataConfig):
    """Train a diffusion model, plainly, with the regularizer, or by a published baseline.

    Arguments:
        horizontal_flip: Mirror half of the images, drawn anew each time.
        output: Folder of the run (default: a new numbered one under runs).
        start_from: A run or a pipeline folder of diffusers whose weights it starts from; of a run,
            the average and the optimizer too.
        prompts: Prompts for a model that is conditioned on text: a file of text (.txt), one a line,
            or of their embeddings (.safetensors, .npz, .pt); the label of an image is the number of
            its prompt.
        null_label: Class that stands for no class, of a model that does not say it.
        conditioning_dropout_prob: Share of the images that are trained without their class or
            prompt, for classifier-free guidance.
        guidance: Scale of classifier-free guidance of the chain that a regularizer follows, and of
            the sample grids (default: none).
        trainable: Regular expression: only the parameters in whose name it is found are trained,
            such as attentions or ``^up_blocks`` (default: all).
        resume: Resume the run in the output folder from its last checkpoint.
        steps: Number of training steps.
        batch_size: Images per step, over all processes.
        seed: Seed of the weights, the order of the data and the noise.
        ema_decay: Decay of the averaged weights (EMA weights), which are saved as a pipeline.
        mixed_precision: Precision of the network's passes.
        checkpoint_every: Steps between checkpoints (default: a tenth of the run).
        sample_every: Steps between sample grids (default: a quarter of the run; 0 for none).
        log_every: Steps between rows of the log; the first step has one too.
        tensorboard: Also log to TensorBoard.
        model: The network.
        chain: The chain.
        optimizer: The optimizer.
        lora: Low-rank adapters.
    """

    horizontal_flip: bool = False
    output: str | None = None
    start_from: str | None = None
    prompts: str | None = None
    null_label: int | None = None
    conditioning_dropout_prob: float = 0.0
    guidance: float | None = None
    trainable: str | None = None
    resume: bool = False
    steps: int = 2000
    batch_size: int = 64
    seed: int = 0
    ema_decay: float = 0.995
    mixed_precision: Literal["no", "fp16", "bf16"] = "no"
    checkpoint_every: int | None = None
    sample_every: int | None = None
    log_every: int = 10
    tensorboard: bool = False
    model: ModelConfig = field(default_factory=ModelConfig)
    chain: ChainConfig = field(default_factory=ChainConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
