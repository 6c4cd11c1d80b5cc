r"""Low-rank adapters: a layer W is trained as :math:`W + B A`, with A and B of rank r alone.

Only A and B have gradients, moments and an average. They are those of peft, which diffusers loads:
the weights are written in diffusers' own format, with the scale :math:`\alpha / r = 1`, and merged
into the pipeline of the run, which loads without peft.

References:
    | LoRA: Low-Rank Adaptation of Large Language Models (Hu et al., 2021)
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import nn

from undrift.exceptions import InvalidInput, reason_of

FILE = "pytorch_lora_weights.safetensors"
"""As diffusers calls it."""


def check_installed() -> None:
    """Check that peft is there.

    Raises:
        InvalidInput: If it is not.
    """
    if find_spec("peft") is None:
        raise InvalidInput("--lora.rank needs the package: pip install 'undrift[lora]'")


def add_adapters(network: nn.Module, rank: int, target_modules: Sequence[str]) -> None:
    """Put adapters into a network, which alone are trained from now on.

    Arguments:
        network: The network.
        rank: r.
        target_modules: Ends of the names of the layers that get one.

    Raises:
        InvalidInput: If there are no such layers, or a layer takes none.
    """
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(
        r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=list(target_modules)
    )
    network.requires_grad_(False)
    try:
        inject_adapter_in_model(config, network)
    except ValueError as error:
        raise InvalidInput(
            f"--lora.target-modules {','.join(target_modules)}: {reason_of(error)}"
        ) from error
    for name, parameter in network.named_parameters():
        parameter.requires_grad_("lora_" in name)


def save(network: nn.Module, part: str, folder: Path) -> None:
    """Write the adapters of a network in diffusers' format.

    Arguments:
        network: The network.
        part: What its pipeline calls it, ``"unet"`` or ``"transformer"``.
        folder: Where to, a folder that is there.
    """
    from diffusers.utils.state_dict_utils import convert_state_dict_to_diffusers
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    own: Any = convert_state_dict_to_diffusers(get_peft_model_state_dict(network))
    weights = {f"{part}.{name}": value.contiguous() for name, value in own.items()}
    save_file(weights, folder / FILE, metadata={"format": "pt"})


def merge(network: nn.Module) -> None:
    """Add the adapters to the weights of their layers, and take them out of a network."""
    from diffusers.utils.peft_utils import recurse_remove_peft_layers
    from peft.tuners.tuners_utils import BaseTunerLayer

    for layer in network.modules():
        if isinstance(layer, BaseTunerLayer):
            layer.merge()
    recurse_remove_peft_layers(network)
    for name in ("peft_config", "_hf_peft_config_loaded"):
        vars(network).pop(name, None)
