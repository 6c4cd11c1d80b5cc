"""Conversion from and to pipelines of diffusers."""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import os
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import Tensor, nn

from undrift.diffusion.condition import ConditionalNetwork, Conditions
from undrift.diffusion.conversion import has_table, other_chain
from undrift.diffusion.denoiser import Denoiser
from undrift.diffusion.gaussian import AncestralSampler
from undrift.diffusion.kinds import with_conditions
from undrift.diffusion.latents import LatentSpace
from undrift.diffusion.own import is_beyond_ours, is_ours, our_sampler
from undrift.diffusion.prompts import encoded, is_text
from undrift.diffusion.sampler import Sampler
from undrift.diffusion.schedule import Schedule
from undrift.diffusion.scheduler import DiffusersSampler
from undrift.diffusion.solvers import SOLVERS, solver_named
from undrift.diffusion.training_view import DISTILLED
from undrift.exceptions import InvalidInput, reason_of
from undrift.storage.manifest import check_if_sealed

logger = logging.getLogger("undrift")
PIPELINE_INDEX = "model_index.json"


def as_sampler(
    model: Any,  # noqa: ANN401
    num_inference_steps: int | None = None,
    schedule: Any = None,  # noqa: ANN401
    conditions: Conditions | None = None,
) -> Sampler:
    """A model as a sampler.

    Arguments:
        model: A sampler, which is returned; a denoiser, which is sampled ancestrally; a pipeline of
            diffusers with a ``unet`` (or ``transformer``) and a ``scheduler``, or a path or
            name for :func:`load_pipeline`. DDPM and DDIM schedulers become our own samplers
            where these do the same, all others are called as they are.
        num_inference_steps: Number of denoising steps; all training steps when None.
        schedule: For a bare network, its noise schedule (it predicts the noise), or a scheduler of
            diffusers.
        conditions: What a conditional network is sampled under.

    Raises:
        InvalidInput: If it is none of these, or a pipeline that needs what is not given.
    """
    if schedule is not None:
        model = _with_schedule(model, schedule)
    if isinstance(model, (str, os.PathLike)):
        model = load_pipeline(model)
    if conditions and conditions.is_given and isinstance(model, (Sampler, Denoiser)):
        raise InvalidInput("conditions are chosen when a sampler is built: leave them out")
    if isinstance(model, Sampler):
        steps = len(model.grid) - 1
        if num_inference_steps not in (None, steps):
            raise InvalidInput(
                f"the sampler has {steps} steps, not {num_inference_steps}: build it with that "
                "number, or give its denoiser"
            )
        return model
    if isinstance(model, Denoiser):
        return AncestralSampler(model, num_inference_steps)
    network, scheduler, space = _parts(model, conditions)
    if not is_ours(scheduler, num_inference_steps):
        return _announced(DiffusersSampler(network, scheduler, num_inference_steps), space)
    name = "ddim" if type(scheduler).__name__ == "DDIMScheduler" else "ancestral"
    return _announced(our_sampler(name, network, scheduler, num_inference_steps), space)


def sampler_by_name(
    pipeline: Any,  # noqa: ANN401
    name: str | None = None,
    num_inference_steps: int | None = None,
    eta: float | None = None,
    conditions: Conditions | None = None,
) -> Sampler:
    """Another sampler over the network of a pipeline.

    Arguments:
        pipeline: A pipeline of diffusers.
        name: A solver of :data:`~undrift.diffusion.solvers.SOLVERS`, such as ``"unipc"``, or the
            name of any scheduler class of diffusers; the pipeline's own scheduler when None.
        num_inference_steps: Number of denoising steps; all training steps when None.
        eta: The share of the reverse standard deviation that ``"ddim"`` draws; 0 when None.
        conditions: What a conditional network is sampled under.

    Raises:
        InvalidInput: If there is no such sampler, or it does not serve this pipeline.
    """
    if eta is not None and name != "ddim":
        raise InvalidInput("eta belongs to the sampler ddim: choose that one too")
    if name is None:
        return as_sampler(pipeline, num_inference_steps, conditions=conditions)
    network, scheduler, space = _parts(pipeline, conditions)
    is_plain = has_table(scheduler) and type(scheduler).__name__ not in DISTILLED
    if name in ("ancestral", "ddim") and is_plain and not is_beyond_ours(scheduler):
        ours = our_sampler(name, network, scheduler, num_inference_steps, eta or 0.0)
        return _announced(ours, space)
    import diffusers

    class_name, solver = solver_named(name)
    scheduler_class: Any = getattr(diffusers, class_name, None)
    if scheduler_class is None or not class_name.endswith("Scheduler"):
        known = ", ".join(SOLVERS)
        raise InvalidInput(
            f"unknown sampler {name!r}: choose {known}, or a scheduler class of diffusers"
        )
    options = {} if eta is None else {"eta": eta}
    with quiet_diffusers():
        sampler = other_chain(
            name,
            network,
            scheduler,
            scheduler_class,
            num_inference_steps,
            solver,
            step_options=options,
        )
    return _announced(sampler, space)


def image_shape(sampler: Sampler) -> tuple[int, int, int] | None:
    """Channels, height and width of the images that a chain makes, or None if not known."""
    shape = state_shape(sampler.network)
    return shape if shape is None or sampler.space is None else sampler.space.image_shape(shape)


def state_shape(network: Any) -> tuple[int, int, int] | None:  # noqa: ANN401
    """Channels, height and width of the states of a network of diffusers, or None if not known."""
    config = getattr(network, "config", None)
    channels, size = getattr(config, "in_channels", None), getattr(config, "sample_size", None)
    if channels is None or size is None:
        return None
    height, width = (size, size) if isinstance(size, int) else size
    return int(channels), int(height), int(width)


def check_image_shape(sampler: Sampler, shape: tuple[int, ...]) -> None:
    """Check that a chain makes images, or has states, of the shape of the data.

    Raises:
        InvalidInput: If it makes others.
    """
    made = image_shape(sampler)
    if made is not None and shape not in (made, state_shape(sampler.network)):
        raise InvalidInput(
            f"the model makes images of shape {made}, the data have {shape}: choose the size and "
            "the channels of the data, or other data"
        )


def check_weights(network: Any) -> None:  # noqa: ANN401
    """Check that all weights are finite.

    Raises:
        InvalidInput: Names the first tensor that is not.
    """
    for name, value in _weights(network).items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise InvalidInput(f"the model's weights hold NaN or infinity in {name}")


def weights_digest(network: Any) -> str | None:  # noqa: ANN401
    """SHA-256 of all weights with their names, or None for a network without."""
    weights = _weights(network)
    digest = hashlib.sha256()
    for name, value in sorted(weights.items()):
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}\n".encode())
        content = value.detach().cpu().contiguous().reshape(-1)
        digest.update(content.view(torch.uint8).numpy().tobytes())
    return f"sha256:{digest.hexdigest()}" if weights else None


def load_pipeline(
    path: str | os.PathLike[str],
    *,
    allow_pickle: bool = False,
    dtype: torch.dtype | None = None,
) -> Any:  # noqa: ANN401
    """A pipeline of diffusers: that of a run of ``undrift train``, a folder, a name on the hub.

    Arguments:
        path: Where it is.
        allow_pickle: Whether weights may be read from pickled files (``.bin``), which can execute
            code, where there is no safetensors file.
        dtype: Precision of the weights; that of diffusers, float32, when None.

    Raises:
        InvalidInput: If there is none, the run is not complete, or the weights are damaged.
    """
    folder = Path(path)
    if (folder / "pipeline" / PIPELINE_INDEX).is_file():
        return load_pipeline(folder / "pipeline", allow_pickle=allow_pickle, dtype=dtype)
    if (folder / "config.yaml").is_file():
        raise InvalidInput(
            f"the run {path} is not complete: continue it with undrift train --config "
            f"{folder / 'config.yaml'} --output {path} --resume"
        )
    if folder.exists() and not (folder / PIPELINE_INDEX).is_file():
        raise InvalidInput(
            f"{path} is no model folder (no {PIPELINE_INDEX}): give a run of undrift train or a "
            "pipeline folder of diffusers"
        )
    is_name = re.fullmatch(r"[^./~][^/]*/[^/]+", str(path)) and not folder.parent.exists()
    if not folder.exists() and not is_name:  # owner/name on the hub, if the owner is no folder
        raise InvalidInput(f"no such folder: {path}")
    from diffusers import DiffusionPipeline

    if folder.exists():
        _check_index(folder / PIPELINE_INDEX)
        check_if_sealed(folder)
    options = {"use_safetensors": None if allow_pickle else True, "torch_dtype": dtype}
    try:
        if folder.exists() and not allow_pickle:
            _check_safetensors(folder)
        with quiet_diffusers():
            return DiffusionPipeline.from_pretrained(str(path), **options)
    except InvalidInput:
        raise
    except Exception as error:  # whatever diffusers, safetensors or the hub raise: one line of it
        if not folder.exists():
            raise InvalidInput(
                f"there is no folder {path}, and the Hugging Face hub does not give a pipeline of "
                f"that name ({reason_of(_first_cause(error), 200)}): give a folder, or a name on "
                "the hub where there is a network"
            ) from error
        raise InvalidInput(
            f"{path} does not load as a pipeline of diffusers: {reason_of(error, 300)}"
        ) from error


def _first_cause(error: BaseException) -> BaseException:
    """What made the first of the errors that led to this one."""
    while cause := error.__cause__ or error.__context__:
        error = cause
    return error


def _check_safetensors(folder: Path) -> None:
    """Check that no part of a pipeline has its weights in a pickled file alone.

    Raises:
        InvalidInput: Names the first file.
    """
    for file in sorted(folder.glob("*/*.bin")):
        if not list(file.parent.glob("*.safetensors")):
            raise InvalidInput(
                f"{file} is pickled, and a pickled file can execute code when it is read: give "
                "--allow-pickle (allow_pickle=True) if you trust it, or save it as safetensors"
            )


def save_pipeline(network: Any, scheduler: Any, path: Path, like: Any = None) -> None:  # noqa: ANN401
    """Write a network and a scheduler as a pipeline that diffusers loads (safetensors).

    Arguments:
        network: The network.
        scheduler: Its scheduler.
        path: The folder.
        like: The pipeline whose class and other parts it gets; a DDPMPipeline when None.
    """
    from diffusers import DDPMPipeline

    pipeline: Any = copy.copy(like) if like else DDPMPipeline(unet=network, scheduler=scheduler)
    if like:
        part = "unet" if getattr(like, "unet", None) is not None else "transformer"
        setattr(pipeline, part, network)
    pipeline.save_pretrained(path, safe_serialization=True)


def ddpm_scheduler(
    schedule: Schedule, prediction_type: str, variance_type: str, clip: float | None
) -> Any:  # noqa: ANN401
    """The DDPMScheduler of diffusers with our schedule."""
    from diffusers import DDPMScheduler

    build = cast(Callable[..., Any], DDPMScheduler)
    return build(
        num_train_timesteps=schedule.num_steps,
        prediction_type=prediction_type,
        variance_type=variance_type,
        clip_sample=clip is not None,
        clip_sample_range=clip or 1.0,
        timestep_spacing="trailing",
        **schedule.options,
    )


@contextmanager
def quiet_diffusers() -> Iterator[None]:
    """Suppress the messages and progress bars of diffusers."""
    from diffusers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(50)  # critical
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _with_schedule(network: Any, schedule: Any) -> Any:  # noqa: ANN401
    """A bare network and its schedule as a denoiser, or with a scheduler as a pipeline has them."""
    kind = type(network).__name__
    if (
        isinstance(network, (Sampler, Denoiser))
        or not callable(network)
        or hasattr(network, "scheduler")
    ):
        raise InvalidInput(f"a schedule belongs to a bare network, not to a {kind}: leave it out")
    if isinstance(schedule, Schedule):
        return Denoiser(network, schedule)
    return SimpleNamespace(unet=network, scheduler=schedule)


def _parts(
    pipeline: Any,  # noqa: ANN401
    conditions: Conditions | None = None,
) -> tuple[Any, Any, LatentSpace | None]:
    """Network with its conditions, scheduler, and latent space of a pipeline."""
    kind = type(pipeline).__name__
    network = network_in(pipeline)
    scheduler = getattr(pipeline, "scheduler", None)
    if network is None or scheduler is None:
        raise InvalidInput(
            f"cannot sample from a {kind}: give a Sampler, a Denoiser, a network with its "
            "schedule, or a pipeline of diffusers with unet and scheduler (or its folder or name)"
        )
    if not isinstance(network, ConditionalNetwork):
        chosen = conditions or Conditions()
        if is_text(chosen.prompts):
            chosen = replace(chosen, prompts=encoded(pipeline, chosen.prompts))
        network = with_conditions(network, chosen)
    return network, scheduler, space_of(pipeline)


def network_in(pipeline: Any) -> Any:  # noqa: ANN401
    """The network of a pipeline, its ``unet`` or its ``transformer``; None if it has none."""
    return getattr(pipeline, "unet", None) or getattr(pipeline, "transformer", None)


def space_of(pipeline: Any) -> LatentSpace | None:  # noqa: ANN401
    """The latent space of a pipeline; None if its states are images."""
    coder = getattr(pipeline, "vae", None) or getattr(pipeline, "vqvae", None)
    return None if coder is None else LatentSpace(coder)


def _announced(sampler: Sampler, space: LatentSpace | None) -> Sampler:
    """The sampler in its space, after the log has said where it starts if not at the last step."""
    sampler.space = space
    table, start = sampler.alphas_cumprod, sampler.grid[0]
    if table is not None and start < len(table):
        logger.info(
            "the chain starts from noise alone at step %g of %d, where the data still have a "
            "weight of %.2g (a scheduler with timestep_spacing='trailing' starts at the last step)",
            start,
            len(table),
            float(table[round(start) - 1]) ** 0.5,
        )
    return sampler


def _weights(network: Any) -> dict[str, Tensor]:  # noqa: ANN401
    return network.state_dict() if isinstance(network, nn.Module) else {}


def _check_index(path: Path) -> None:
    """Check that the index of a pipeline names its class, before diffusers reads it."""
    try:
        json.loads(path.read_text())["_class_name"]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise InvalidInput(f"{path} is damaged: it is not JSON that names a pipeline") from None
