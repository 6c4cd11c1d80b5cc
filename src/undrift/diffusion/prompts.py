"""Prompts as embeddings, made by the text encoders of their pipeline."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from undrift.diffusion.kinds import takes_sizes
from undrift.exceptions import InvalidInput, reason_of

RESULTS = {
    1: ("prompt_embeds",),
    2: ("prompt_embeds", "negative_prompt_embeds"),
    4: (
        *("prompt_embeds", "negative_prompt_embeds"),
        *("pooled_prompt_embeds", "negative_pooled_prompt_embeds"),
    ),
}
"""What encode_prompt of diffusers' pipelines returns, by how much it is."""
WITH_MASKS = (
    *("prompt_embeds", "prompt_attention_mask"),
    *("negative_prompt_embeds", "negative_prompt_attention_mask"),
)
BATCH = 16


def is_text(prompts: Any) -> bool:  # noqa: ANN401
    """Whether prompts are a file of text, one prompt a line, instead of embeddings."""
    return isinstance(prompts, (str, Path)) and Path(prompts).suffix == ".txt"


def encoded(pipeline: Any, file: str | Path) -> dict[str, Tensor]:  # noqa: ANN401
    """The embeddings of the prompts of a file, and of the empty prompt, by the pipeline's names.

    Arguments:
        pipeline: A pipeline of diffusers with text encoders.
        file: A file of text with one prompt a line; empty lines are left out.

    Raises:
        InvalidInput: If there is no such file, or no prompt in it, or the pipeline encodes none.
    """
    try:
        lines = Path(file).read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{file} is no file of prompts: {reason_of(error)}") from None
    prompts = [line.strip() for line in lines if line.strip()]
    if not prompts:
        raise InvalidInput(f"{file} holds no prompt: write one a line")
    if not hasattr(pipeline, "encode_prompt"):
        raise InvalidInput(
            f"a {type(pipeline).__name__} has no text encoder for the prompts of {file}: give a "
            "file of their embeddings (.safetensors, .npz, .pt)"
        )
    parts = [_encoded(pipeline, prompts[i : i + BATCH]) for i in range(0, len(prompts), BATCH)]
    return _sizes(pipeline, len(prompts)) | {
        name: parts[0][name][:1]
        if name.startswith("negative_")
        else torch.cat([part[name] for part in parts])
        for name in parts[0]
    }


def _sizes(pipeline: Any, count: int) -> dict[str, Tensor]:  # noqa: ANN401
    """The sizes that SDXL's network is told: whole images, as large as it makes them."""
    network: Any = getattr(pipeline, "unet", None)
    if not takes_sizes(network):
        return {}
    side = float(network.config.sample_size * pipeline.vae_scale_factor)
    sizes = torch.tensor([[side, side, 0, 0, side, side]])
    return {"add_time_ids": sizes.expand(count, -1), "negative_add_time_ids": sizes}


@torch.no_grad()
def _encoded(pipeline: Any, prompts: list[str]) -> dict[str, Tensor]:  # noqa: ANN401
    """The embeddings of some prompts, and as often that of the empty one."""
    count, taken = len(prompts), inspect.signature(pipeline.encode_prompt).parameters
    options: dict[str, Any] = {name: prompts for name in ("prompt", "prompt_2", "prompt_3")}
    options |= {f"negative_{name}": [""] * count for name in ("prompt", "prompt_2", "prompt_3")}
    options |= {"device": pipeline.device, "num_images_per_prompt": 1}
    options |= {"do_classifier_free_guidance": True}
    try:
        made = pipeline.encode_prompt(**{k: v for k, v in options.items() if k in taken})
    except Exception as error:  # whatever a pipeline raises: one line of it
        kind = type(pipeline).__name__
        raise InvalidInput(f"{kind} does not encode the prompts: {reason_of(error)}") from error
    found = list(made) if isinstance(made, tuple) else [made]
    names = WITH_MASKS if "prompt_attention_mask" in taken else RESULTS.get(len(found))
    if names is None or len(names) != len(found):
        raise InvalidInput(
            f"what {type(pipeline).__name__}.encode_prompt returns is not known: save the "
            "embeddings by the names of the network's arguments (.safetensors, .npz, .pt)"
        )
    return {name: value for name, value in zip(names, found, strict=True) if value is not None}
