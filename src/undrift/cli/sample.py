"""``undrift sample``: images from a model, as a grid, as single files or as one array."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from undrift.api import files
from undrift.api.inputs import ChainChoice
from undrift.cli.command import session
from undrift.cli.console import say

if TYPE_CHECKING:
    from torch import Tensor

GRID_IMAGES = 256


@dataclass
class Config(ChainChoice):
    """Draw images from a model; a grid of the first 256 is always written.

    Arguments:
        num_images: Number of images; more of them leave the first as they are.
        save: Only the grid; also png, one file per image; or npz, one array of 8-bit images with
            shape (N, H, W, C).
        seed: Seed of all noise; the same as in undrift measure gives the same images.
        output: Folder to write (default: a new one in the folder images of the run).
    """

    num_images: int = 64
    save: Literal["grid", "png", "npz"] = "grid"
    seed: int = 0
    output: str | None = None


POSITIONALS = ("run",)


def run(config: Config) -> dict[str, Any]:
    """Draw images and write them; never over others."""
    with files.reserved(config.output, folder=True):
        record = _sampled(config)
    say(f"images  {record['images']}")
    return record


def _sampled(config: Config) -> dict[str, Any]:
    """Draw images and write a folder of them, which appears complete or not at all."""
    from undrift.api.chain import chain
    from undrift.api.sample import sample
    from undrift.measurement.reading import write_json
    from undrift.storage.writing import appearing
    from undrift.training.run_folder import new_folder

    sampler = chain(config)
    options: dict[str, Any] = {"seed": config.seed, "batch_size": config.batch_size}
    images = sample(sampler, config.num_images, progress=not session().quiet, **options)
    names = filter(None, [config.sampler or "own", config.remedy])
    stem = "-".join([*map(files.slug, names), str(config.seed)])
    folder = Path(config.output or new_folder(files.place_for(config.run, "images"), stem))
    record = {
        "images": str(folder),
        "num_images": len(images),
        "shape": list(images.shape[1:]),
        "seed": config.seed,
        "model": config.run,
        "sampler": sampler.describe(),
        "command": session().command,
    }
    with appearing(folder) as part:
        record["files"] = _write(images, part, config.save)
        write_json(part / "samples.json", record | {"config": asdict(config)})
    return record


def _write(images: Tensor, folder: Path, save: str) -> list[str]:
    """Write the grid and what else was chosen; return the names of the files."""
    import numpy as np

    from undrift.data.grids import as_bytes, image_grid, picture

    image_grid(images[:GRID_IMAGES]).save(folder / "grid.png")
    names = []
    if save == "npz":
        pixels = as_bytes(images).permute(0, 2, 3, 1).numpy()
        np.savez_compressed(folder / "images.npz", images=pixels)
        names = ["images.npz"]
    if save == "png":
        digits = len(str(len(images) - 1))
        names = [f"{i:0{digits}}.png" for i in range(len(images))]
        for name, image in zip(names, images, strict=True):
            picture(image).save(folder / name)
    return ["grid.png", *names]
