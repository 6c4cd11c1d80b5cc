"""The model, its chain and the data that the options name."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from undrift.diffusion.solvers import SOLVERS
from undrift.exceptions import InvalidInput, Limits
from undrift.remedies.registry import REMEDIES, help_text
from undrift.training.config import IN_MEMORY, DataConfig

if TYPE_CHECKING:
    import torch

    from undrift.data.images import ImageData
    from undrift.diffusion.sampler import Sampler

logger = logging.getLogger("undrift")
SOLVERS_HELP = f"Solvers: {', '.join(SOLVERS)}."


@dataclass
class ChainChoice:
    """Which model, and how it is sampled.

    Arguments:
        run: A run of undrift train, or a pipeline of diffusers (a folder, or a name on the hub).
        sampler: A solver, or a class of schedulers of diffusers (default: the sampler of the
            model).
        num_inference_steps: Number of denoising steps of the sampler (default: all training steps,
            which are 1000 in most pipelines: give the number that you sample with).
        eta: Share of the reverse standard deviation that the sampler ddim draws (default: 0).
        remedy: A remedy at sampling time, ``NAME[:STRENGTH][,OPTION=VALUE...]`` (default: none).
        batch_size: Images that go through the network at once, which changes numbers by rounding
            only (default: as many as keep the activations of its first layer within 8 MiB on a
            processor, 8 to 250).
        device: Where to run (default: cuda where there is one, else cpu).
        labels: Of a conditional model: numbers of the classes or prompts to draw, each as often as
            its share (default: those of the data; without data all, evenly).
        guidance: Scale of classifier-free guidance (default: none).
        null_label: Class that stands for no class, of a model that does not say it.
        prompts: Prompts for a model that is conditioned on text: a file of text (.txt), one a line,
            or of their embeddings (.safetensors, .npz, .pt).
        precision: Precision of the weights of a pipeline (default: float32).
        allow_pickle: Also read weights from pickled files, which can execute code.
    """

    run: str
    sampler: str | None = field(default=None, metadata={"help": SOLVERS_HELP})
    num_inference_steps: int | None = None
    eta: float | None = None
    remedy: str | None = field(default=None, metadata={"help": help_text()})
    batch_size: int | None = None
    device: str | None = None
    labels: list[int] | None = None
    guidance: float | None = None
    null_label: int | None = None
    prompts: str | None = None
    precision: Literal["float16", "bfloat16", "float32"] | None = None
    allow_pickle: bool = False


@dataclass
class DataChoice:
    """Which data; the default of each option is that of the run's training data.

    Arguments:
        data: digits, fashion-mnist, patches, an image folder, an array file, or a Hugging Face
            dataset (default: the training data of the run).
        split: Part of the data set.
        image_size: Size of the images (default: as the model makes them).
        channels: 1 for grayscale, 3 for RGB (default: as the model makes them).
        skip_bad_images: Whether to skip images that cannot be read.
        streaming: Read a Hugging Face dataset as a stream, and only so many images of it.
    """

    data: str | None = None
    split: str | None = None
    image_size: int | None = None
    channels: Literal[1, 3] | None = None
    skip_bad_images: bool | None = None
    streaming: int | None = None


@dataclass
class Choice(DataChoice, ChainChoice):
    """Which model, how it is sampled, and which data."""


@dataclass
class EvaluateChoice(Choice):
    """How samples are evaluated against data.

    Arguments:
        num_samples: Images to draw.
        features: Networks that judge, one or several: classifier (trained only on the labels of the
            data), efficientnet-lite0 (or -lite1, -lite2), pixels, or a TorchScript file (default:
            classifier where the data have labels, else efficientnet-lite0).
        num_resamples: Bootstrap resamples for the error of the Fréchet distance (default: 100, or
            none where they would take minutes).
        seed: Seed of all noise; the same as in undrift measure evaluates the same images.
        label: Name of the model in reports (default: the name of the run, and the remedy).
    """

    num_samples: int = 2000
    features: list[str] | str | None = None
    num_resamples: int | None = None
    seed: int = 0
    label: str | None = None


@dataclass
class TuneChoice(Choice):
    """How the strength of a remedy is searched.

    Arguments:
        remedy: A remedy without a strength, ``NAME[,OPTION=VALUE...]``.
        values: Strengths to try first (default: a grid for each remedy).
        range: Lowest and highest strength to try first, instead of values.
        num_values: Strengths of such a range, evenly spaced.
        refine: Strengths to try around the best one, by golden sections.
        metric: What is minimized.
        num_samples: Images to draw for each strength.
        features: classifier (trained only on the labels of the data), efficientnet-lite0 (or
            -lite1, -lite2), pixels, or a TorchScript file (default: classifier where the data have
            labels, else pixels).
        seed: Seed of the split and of all noise; every strength gets the same noise.
    """

    values: list[float] | None = None
    range: list[float] | None = None
    num_values: int = 7
    refine: int = 4
    metric: Literal["mmd_sq", "frechet"] = "mmd_sq"
    num_samples: int = 1000
    features: str | None = None
    seed: int = 0


@dataclass
class AdviseModel:
    """Which model, and how many network calls.

    Arguments:
        run: A run of undrift train, or a pipeline of diffusers (a folder, or a name on the hub).
        num_inference_steps: Network calls for one image, at most; a solver that calls the network
            twice in a step takes half the steps.
        batch_size: Images that go through the network at once (default: as many as keep the
            activations of its first layer within 8 MiB on a processor, 8 to 250).
        device: Where to run (default: cuda where there is one, else cpu).
    """

    run: str
    num_inference_steps: int = 10
    batch_size: int | None = None
    device: str | None = None


@dataclass
class AdviseChoice(DataChoice, AdviseModel):
    """How solvers, time grids and remedies are searched.

    Arguments:
        solvers: Solvers to try (default: all that serve the model).
        remedies: Remedies to try on the best solver (default: all; none for no remedy).
        metric: What candidates are compared by: frechet (of the features), feature_mmd_sq (D₀² in
            the features) or mmd_sq (D₀² in pixels; default: frechet where there are two samples and
            two held-out images for each feature, else feature_mmd_sq).
        num_samples: Images to draw for each candidate that is judged on the held-out half.
        features: classifier (trained only on the labels of the data), efficientnet-lite0 (or
            -lite1, -lite2), pixels, or a TorchScript file (default: classifier where the data have
            labels, else efficientnet-lite0, or pixels where it is not installed).
        fine_tune: Training steps of a fine-tune by the regularizer on the chain of the best solver,
            which is judged too (0 for none).
        seed: Seed of the split and of all noise; every candidate gets the same noise.
    """

    solvers: list[str] | None = field(default=None, metadata={"help": SOLVERS_HELP})
    remedies: list[str] | None = field(
        default=None, metadata={"help": f"Remedies: {', '.join(REMEDIES)}."}
    )
    metric: Literal["mmd_sq", "feature_mmd_sq", "frechet"] | None = None
    num_samples: int = 2000
    features: str | None = None
    fine_tune: int = 0
    seed: int = 0


def bare_chain(config: ChainChoice) -> Sampler:
    """The chain without its remedy, on its device.

    Raises:
        InvalidInput: If there is no such model or sampler, or the weights are damaged.
    """
    import torch

    from undrift.diffusion.condition import Conditions
    from undrift.diffusion.pipelines import check_weights, load_pipeline, sampler_by_name

    Limits(1).check("batch_size", config.batch_size)
    by_name = isinstance(config.run, (str, Path))
    device = _device(config.device) if by_name or config.device else None
    dtype = getattr(torch, config.precision) if config.precision else None
    model = config.run
    if by_name:
        model = load_pipeline(model, allow_pickle=config.allow_pickle, dtype=dtype)
    conditions = Conditions(**{f.name: getattr(config, f.name) for f in fields(Conditions)})
    sampler = sampler_by_name(
        model, config.sampler, config.num_inference_steps, config.eta, conditions
    )
    check_weights(sampler.network)
    if device is not None:
        sampler.network.to(device)
        if sampler.space is not None:
            sampler.space.autoencoder.to(device)
    return sampler


def data(config: DataChoice, run: Any, sampler: Sampler) -> ImageData:  # noqa: ANN401
    """The data that were chosen, of the size and the channels that the model makes.

    Raises:
        InvalidInput: If they cannot be had, or do not fit the model.
    """
    from undrift.diffusion.pipelines import image_shape
    from undrift.diffusion.trial import try_first_step
    from undrift.training.runs import load

    chosen = chosen_data(config, run)
    made = image_shape(sampler)
    if made is not None:
        channels, height, width = made
        for name, wanted in (("image_size", height), ("channels", channels)):
            value = getattr(config, name)
            if value not in (None, wanted):
                raise InvalidInput(
                    f"{name} is {value}, but the model {_called(run)} makes images of shape "
                    f"{made}: leave it out, or give {wanted}"
                )
        if channels not in (1, 3) or height != width:
            raise InvalidInput(
                f"the model {_called(run)} makes images of shape {made}, which no data are read as"
            )
        chosen = replace(chosen, image_size=height, channels=1 if channels == 1 else 3)
    found = load(chosen)
    if made is None:
        try_first_step(sampler, found.image_shape)
    if "resized" in found.how:
        logger.info("the data are resized to what the model makes: %s", found.how["resized"])
    return found


def over_data(
    config: ChainChoice, sampler: Sampler, images: ImageData
) -> tuple[Sampler, ImageData]:
    """A chain with the conditions of data, and the data, both of the classes that were chosen."""
    if config.labels is not None and images.labels is not None:
        images = images.of_classes(config.labels)
    return sampler.over(images.labels), images


def chosen_data(config: DataChoice, run: Any) -> DataConfig:
    """The data that were chosen, else those that the run was trained on.

    Raises:
        InvalidInput: If there are neither.
    """
    known = trained_on(run)
    if config.data is not None:
        known = DataConfig(data=config.data)
    if known is None:
        raise InvalidInput(
            f"which data? {_called(run)} is not a run of undrift train that knows its data: give "
            "--data"
        )
    given = {f.name: getattr(config, f.name) for f in fields(DataChoice)}
    return replace(known, **{name: value for name, value in given.items() if value is not None})


def trained_on(run: Any) -> DataConfig | None:
    """The data of a run's configuration, or None for a model without one.

    Raises:
        InvalidInput: If the configuration cannot be read.
    """
    from undrift.storage.reading import read_yaml

    file = Path(run) / "config.yaml" if isinstance(run, (str, Path)) else None
    if file is None or not file.is_file():
        return None
    try:
        values = read_yaml(file)
        names = {f.name for f in fields(DataConfig)}
        if values["data"] == IN_MEMORY:
            return None
        return DataConfig(**{name: values[name] for name in names & values.keys()})
    except (InvalidInput, KeyError, TypeError):
        raise InvalidInput(f"{file} is damaged: give --data") from None


def name_of(run: Any) -> str:
    """Name of a model without a label.

    Example:
        >>> name_of("runs/digits-1/"), name_of("runs/digits-1/pipeline"), name_of("owner/model")
        ('digits-1', 'digits-1', 'model')
    """
    if not isinstance(run, (str, Path)):
        return "model"
    path = Path(run)
    if path.name == "pipeline" or not path.name:
        path = path.resolve()
    return path.parent.name if path.name == "pipeline" else path.name


def _called(run: Any) -> str:  # noqa: ANN401
    """A model as messages name it."""
    return str(run) if isinstance(run, (str, Path)) else f"of this {type(run).__name__}"


def _device(name: str | None) -> torch.device:
    import torch

    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):
        raise InvalidInput(f"no device {name!r} here: choose cpu, or one that is there") from None
    return device
