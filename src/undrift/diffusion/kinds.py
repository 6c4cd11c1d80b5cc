"""What the networks of diffusers need besides a state and a time: labels, embeddings, nothing."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from undrift.diffusion.condition import ConditionalNetwork, Conditions
from undrift.exceptions import InvalidInput, reason_of

ARGUMENTS = {
    "prompt_embeds": "encoder_hidden_states",
    "pooled_prompt_embeds": "pooled_projections",
    "prompt_attention_mask": "encoder_attention_mask",
    "add_text_embeds": "added_cond_kwargs.text_embeds",
    "add_time_ids": "added_cond_kwargs.time_ids",
}
"""How the networks call what the pipelines of diffusers call otherwise."""
NEGATIVE = "negative_"
SIZES = {"added_cond_kwargs.text_embeds", "added_cond_kwargs.time_ids"}
"""What the networks of SDXL need besides prompts: their pooled embeddings, and sizes."""


def with_conditions(network: Any, chosen: Conditions) -> Any:  # noqa: ANN401
    """A network with its conditions, or itself where it has none.

    Arguments:
        network: A network of diffusers, or any other, which has none.
        chosen: What was chosen.

    Raises:
        InvalidInput: If it needs something that was not given, or cannot take what was.
    """
    needed = _arguments(network)
    if "img_ids" in needed:
        raise InvalidInput(
            f"a {type(network).__name__} takes sequences of packed codes and their positions "
            "(img_ids), not images: such models are not supported"
        )
    table, null, constant = _classes(network, chosen)
    if "encoder_hidden_states" in needed and _takes_embeddings(network):
        if chosen.prompts is None:
            raise InvalidInput(
                f"a {type(network).__name__} is conditioned on embeddings: give prompts, a file of "
                "their embeddings"
            )
        table, null = _embeddings(chosen.prompts, needed, network)
        constant = _without_sizes(network) if table else constant
    elif chosen.prompts is not None:
        raise InvalidInput(f"a {type(network).__name__} takes no prompts: leave them out")
    if not table:
        if chosen.is_given:
            raise InvalidInput(
                f"a {type(network).__name__} has no conditions: leave labels and guidance out"
            )
        return network
    found = ConditionalNetwork(
        network,
        table,
        null=null,
        guidance=1.0 if chosen.guidance is None else chosen.guidance,
        constant=constant,
    )
    return found if chosen.labels is None else found.over(chosen.labels)


def takes_sizes(network: Any) -> bool:  # noqa: ANN401
    """Whether a network is told the sizes of its images, as those of SDXL are."""
    config: Any = getattr(network, "config", None)
    return config is not None and config.get("addition_embed_type") == "text_time"


def _arguments(network: Any) -> set[str]:  # noqa: ANN401
    """Names of the arguments of a network of diffusers; none for others."""
    if getattr(network, "config", None) is None:
        return set()
    return set(inspect.signature(network.forward).parameters)


def _takes_embeddings(network: Any) -> bool:  # noqa: ANN401
    """Whether a network attends to embeddings: a UNet2DConditionModel does, a DiT does not."""
    config = network.config
    names = ("cross_attention_dim", "joint_attention_dim", "caption_channels", "text_embed_dim")
    return any(config.get(name) for name in names)


def _classes(
    network: Any,  # noqa: ANN401
    chosen: Conditions,
) -> tuple[dict[str, Tensor], dict[str, Tensor] | None, dict[str, Any]]:
    """The table of class labels of a network that has some, and its label for no class."""
    config: Any = getattr(network, "config", None)
    if config is None:
        return {}, None, {}
    kind = config.get("class_embed_type")
    if kind is not None and "class_labels" in _arguments(network):
        raise InvalidInput(
            f"class_embed_type {kind!r} takes labels that are no numbers of classes: wrap the "
            "network in undrift.diffusion.condition.ConditionalNetwork with their table"
        )
    is_dit = "class_labels" in _arguments(network) and config.get("norm_type") == "ada_norm_zero"
    count = config.get("num_embeds_ada_norm") if is_dit else config.get("num_class_embeds")
    if not count:
        return {}, None, {}
    label = chosen.null_label
    if is_dit:  # it has one more embedding, for no class
        label = count if label is None else label
    elif label is not None and not 0 <= label < count:
        raise InvalidInput(f"null_label is {label}: choose a class from 0 to {count - 1}")
    null = None if label is None else {"class_labels": torch.tensor([label])}
    classes = torch.arange(count)
    if label is not None and label == count - 1:  # no class of its own
        classes = classes[:-1]
    return {"class_labels": classes}, null, {}


def _embeddings(
    prompts: Any,  # noqa: ANN401
    needed: set[str],
    network: Any,  # noqa: ANN401
) -> tuple[dict[str, Tensor], dict[str, Tensor] | None]:
    """The table of embeddings, and the row without a prompt if there is one."""
    stored = prompts if isinstance(prompts, Mapping) else _read(Path(prompts))
    rows: dict[str, dict[str, Tensor]] = {"": {}, NEGATIVE: {}}
    for name, values in stored.items():
        prefix = NEGATIVE if name.startswith(NEGATIVE) else ""
        argument = name.removeprefix(prefix)
        if takes_sizes(network) and argument == "pooled_prompt_embeds":
            argument = "add_text_embeds"
        argument = ARGUMENTS.get(argument, argument)
        if argument.partition(".")[0] not in needed:
            raise InvalidInput(f"the network takes no {argument}: leave {name} out of the prompts")
        rows[prefix][argument] = torch.as_tensor(values)
    table, null = rows[""], rows[NEGATIVE]
    if "encoder_hidden_states" not in table:
        raise InvalidInput(
            "the prompts hold no encoder_hidden_states (or prompt_embeds) with shape (K, L, D)"
        )
    if takes_sizes(network) and not table.keys() >= SIZES:
        raise InvalidInput(
            f"a {type(network).__name__} as SDXL's also needs add_text_embeds and add_time_ids: "
            "save them beside prompt_embeds, or give a file of text (.txt)"
        )
    count = len(table["encoder_hidden_states"])
    for name, values in table.items():
        if len(values) != count:
            raise InvalidInput(f"the prompts hold {count} embeddings, but {len(values)} of {name}")
    if null and null.keys() != table.keys():
        missing = sorted(table.keys() ^ null.keys())[0]
        raise InvalidInput(f"the prompts need {missing} with and without {NEGATIVE}")
    return table, {n: v[:1] for n, v in null.items()} or None


def _without_sizes(network: Any) -> dict[str, Any]:  # noqa: ANN401
    """What a PixArt transformer wants to be told: that it gets no sizes."""
    if network.config.get("use_additional_conditions") is None:
        return {}
    return {"added_cond_kwargs": {"resolution": None, "aspect_ratio": None}}


def _read(path: Path) -> dict[str, Tensor]:
    """The arrays of a file of embeddings; nothing in it is executed."""
    if not path.is_file():
        raise InvalidInput(f"no such file of embeddings: {os.fspath(path)}")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as content:
                return {name: torch.from_numpy(content[name]) for name in content.files}
        if path.suffix in (".pt", ".pth"):
            return dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # whatever a damaged file raises: one line of it
        raise InvalidInput(f"{path} does not hold embeddings: {reason_of(error)}") from error
    raise InvalidInput(
        f"{path} is no file of embeddings: encode the prompts with the pipeline's encode_prompt "
        "and save prompt_embeds as .safetensors, .npz or .pt"
    )
