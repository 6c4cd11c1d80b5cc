"""Which kinds of models work: builds each with diffusers, runs every command on it, writes a table.

For each kind a tiny pipeline with random weights is saved by diffusers. It is measured, sampled,
sampled with UniPC, evaluated, tuned, fine-tuned plainly and with the regularizer, and what training
wrote is loaded by diffusers again. A cell holds "yes", or why not. The commands run on pipelines as
they are: no option names the kind. Tests run the same (tests/test_kinds.py), and check that an
exact denoiser of each kind has no error (tests/test_exact_kinds.py).

    python studies/kinds.py --output docs/data/kinds.md
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import diffusers
import torch

import undrift
from undrift.data.images import ImageData
from undrift.diffusion.condition import Conditions
from undrift.diffusion.pipelines import as_sampler, load_pipeline, network_in, weights_digest

STEPS = 4
COLUMNS = (
    *("measure", "sample", "another sampler", "evaluate", "tune"),
    *("fine-tune", "regularized", "out again"),
)
Build = Callable[[], Any]


def unet(channels: int = 1, **options: Any) -> Any:
    """A U-Net of 8x8 states."""
    plain = {"in_channels": channels, "out_channels": channels, "sample_size": 8}
    return diffusers.UNet2DModel(
        block_out_channels=(8, 8),
        layers_per_block=1,
        norm_num_groups=4,
        add_attention=False,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        **plain | options,
    )


def text_unet(**options: Any) -> Any:
    """A U-Net of 8x8 states that attends to embeddings of prompts."""
    return diffusers.UNet2DConditionModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(8, 8),
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=6,
        attention_head_dim=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        **options,
    )


def transformer(kind: str, **options: Any) -> Any:
    """A transformer of 4x4 codes with two channels."""
    sizes = {"sample_size": 4, "patch_size": 2, "in_channels": 2, "num_layers": 1}
    heads = {"num_attention_heads": 2, "attention_head_dim": 4}
    return getattr(diffusers, f"{kind}Transformer2DModel")(**sizes | heads | options)


def autoencoder() -> Any:
    """A VAE from 8x8 images to 4x4 codes with two channels."""
    return diffusers.AutoencoderKL(
        in_channels=1,
        out_channels=1,
        block_out_channels=(4, 4),
        latent_channels=2,
        norm_num_groups=2,
        sample_size=8,
        scaling_factor=0.5,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
    )


def codebook() -> Any:
    """A VQ model from 16x16 images to 8x8 codes."""
    return diffusers.VQModel(
        in_channels=1,
        out_channels=1,
        latent_channels=1,
        block_out_channels=(4, 4),
        num_vq_embeddings=16,
        norm_num_groups=2,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
    )


def pixels(scheduler: Any, network: Any = None) -> Any:
    """A pipeline of a network and a scheduler."""
    return diffusers.DDPMPipeline(network or unet(), scheduler)


def latent(network: Any, scheduler: Any) -> Any:
    """A pipeline of a transformer, a VAE and a scheduler."""
    return diffusers.DiTPipeline(network, autoencoder(), scheduler)


def kinds() -> dict[str, Build]:
    """How each kind is built."""
    ddpm, ddim = diffusers.DDPMScheduler, diffusers.DDIMScheduler
    flow, euler = diffusers.FlowMatchEulerDiscreteScheduler, diffusers.EulerDiscreteScheduler
    zero = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    no_clip = {"clip_sample": False}
    dit = {"num_embeds_ada_norm": 3, "out_channels": 4, "norm_num_groups": 2}
    pixart = {"out_channels": 4, "caption_channels": 6, "cross_attention_dim": 8}
    pixart |= {"norm_num_groups": 2, "use_additional_conditions": False}
    sd3 = {"out_channels": 2, "joint_attention_dim": 6, "caption_projection_dim": 8}
    sd3 |= {"pooled_projection_dim": 5, "pos_embed_max_size": 4}
    return {
        "unconditional, DDPM": lambda: pixels(ddpm()),
        "unconditional, PNDM at its defaults": lambda: pixels(diffusers.PNDMScheduler()),
        "unconditional, DPM-Solver++": lambda: pixels(diffusers.DPMSolverMultistepScheduler()),
        "zero terminal SNR, v-prediction": lambda: pixels(
            ddim(prediction_type="v_prediction", **zero)
        ),
        "learned variance": lambda: pixels(
            ddpm(variance_type="learned_range"), unet(out_channels=2)
        ),
        "class-conditional U-Net": lambda: pixels(ddpm(), unet(num_class_embeds=3)),
        "DiT (latent, classes)": lambda: latent(transformer("DiT", **dit), ddim(**no_clip)),
        "LDM (VQ codes)": lambda: diffusers.LDMPipeline(codebook(), unet(), ddim(**no_clip)),
        "UNet2DConditionModel, bare": lambda: pixels(ddpm(), text_unet()),
        "SD3-like (latent, prompts, flow)": lambda: latent(transformer("SD3", **sd3), flow()),
        "PixArt-like (latent, prompts)": lambda: latent(
            transformer("PixArt", **pixart), diffusers.DPMSolverMultistepScheduler()
        ),
        "flow matching": lambda: pixels(flow()),
        "EDM": lambda: pixels(diffusers.EDMEulerScheduler()),
        "Euler, continuous times": lambda: pixels(
            euler(timestep_type="continuous", prediction_type="v_prediction")
        ),
        "consistency model": lambda: diffusers.ConsistencyModelPipeline(
            unet(), diffusers.CMStochasticIterativeScheduler()
        ),
        "LCM": lambda: pixels(diffusers.LCMScheduler(), text_unet(time_cond_proj_dim=8)),
    }


def embeddings() -> dict[str, torch.Tensor]:
    """Embeddings of three prompts, as a pipeline's encode_prompt returns them."""
    generator = torch.Generator().manual_seed(5)
    return {"prompt_embeds": torch.randn(3, 4, 6, generator=generator)}


def needs(network: Any, folder: Path) -> dict[str, Any]:
    """The file of prompts of a model that needs one."""
    config = network.config
    if not any(config.get(n) for n in ("cross_attention_dim", "joint_attention_dim")):
        return {}
    found = embeddings()
    if config.get("pooled_projection_dim"):
        found["pooled_prompt_embeds"] = torch.ones(3, 5)
    torch.save(found, folder / "prompts.pt")
    return {"prompts": str(folder / "prompts.pt")}


@lru_cache
def images(size: int) -> ImageData:
    """Digits of three classes."""
    digits = undrift.load_data("digits", image_size=None if size == 8 else size, limit=300)
    return digits.of_classes([0, 1, 2])


def cells(build: Build, folder: Path) -> dict[str, str]:
    """What each command does with a kind: "yes", or why not."""
    torch.manual_seed(0)
    build().save_pretrained(folder / "model")
    loaded = load_pipeline(folder / "model")
    chosen, few = needs(network_in(loaded), folder), {"num_inference_steps": STEPS}
    size = 16 if hasattr(loaded, "vqvae") else 8
    data, model, quiet = images(size), str(folder / "model"), {"progress": False}
    run = str(folder / "run")
    scored = {"num_samples": 40, "features": "pixels", **few, **chosen, **quiet}

    def measured() -> None:
        sampler = as_sampler(model, STEPS, conditions=Conditions(**chosen))
        undrift.measure(sampler, data, num_samples=24, states=3, **quiet)

    def tuned() -> None:
        undrift.tune(model, "epsilon_scaling", data, values=[1.0, 1.01], refine=0, **scored)

    def trained(**options: Any) -> None:
        common = {"steps": 2, "batch_size": 8, "start_from": model, "sample_every": 0, **chosen}
        undrift.train(data, **common, **options, **quiet)

    def regularized() -> None:
        own = {"num_inference_steps": STEPS, "window": 1.0, "every": 1, "num_forward": 8}
        trained(method="regularized", regularizer=own, output=f"{run}-regularized")

    def returned() -> None:
        from diffusers.utils import logging

        logging.disable_progress_bar()
        again = diffusers.DiffusionPipeline.from_pretrained(f"{run}/pipeline")
        if type(again) is not type(loaded) or type(again.scheduler) is not type(loaded.scheduler):
            raise undrift.InvalidInput("another pipeline came back")
        if weights_digest(network_in(again)) == weights_digest(network_in(loaded)):
            raise undrift.InvalidInput("its weights are those of the start")

    steps: dict[str, Callable[[], Any]] = {
        "measure": measured,
        "sample": lambda: undrift.sample(model, 5, **few, **chosen, **quiet),
        "another sampler": lambda: undrift.sample(
            model, 5, sampler="unipc", **few, **chosen, **quiet
        ),
        "evaluate": lambda: undrift.evaluate(model, data, **scored),
        "tune": tuned,
        "fine-tune": lambda: trained(output=run),
        "regularized": regularized,
        "out again": returned,
    }
    return {name: _tried(step) for name, step in steps.items()}


def _tried(step: Callable[[], Any]) -> str:
    try:
        step()
    except undrift.InvalidInput as error:
        return str(error)
    except ValueError:  # of diffusers: nothing was trained
        return "–"
    return "yes"


def table(rows: dict[str, dict[str, str]]) -> str:
    """A table in Markdown, with the reasons in notes below."""
    notes: list[str] = []

    def shown(cell: str) -> str:
        if len(cell) <= 3:
            return cell
        if cell not in notes:
            notes.append(cell)
        return f"no ({notes.index(cell) + 1})"

    lines = [" | ".join(["| kind", *COLUMNS]) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    for kind, row in rows.items():
        lines.append(" | ".join([f"| {kind}", *(shown(row[name]) for name in COLUMNS)]) + " |")
    below = [f"({i}) {note}." for i, note in enumerate(notes, 1)]
    return "\n".join([*lines, "", *(line + "\n" for line in below)]).rstrip() + "\n"


def main() -> None:
    """Run all kinds and write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path)
    parser.add_argument("--kind", action="append", help="only these kinds")
    options = parser.parse_args()
    rows = {}
    for kind, build in kinds().items():
        if options.kind and kind not in options.kind:
            continue
        folder = Path(tempfile.mkdtemp())
        try:
            rows[kind] = cells(build, folder)
        finally:
            shutil.rmtree(folder)
        print(kind, rows[kind], flush=True)
    if options.output:
        options.output.write_text(table(rows))
    else:
        print(table(rows))


if __name__ == "__main__":
    main()
