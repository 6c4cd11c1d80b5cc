"""``undrift sample``: images from a model, as a grid, as single files or as one array."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from undrift.api import files, inputs
from undrift.api.inputs import ChainChoice
from undrift.cli.command import session
from undrift.exceptions import InvalidInput

if TYPE_CHECKING:
    from torch import Tensor

GRID_IMAGES = 256


@dataclass
class Config(ChainChoice):
    """Draw images from a model; a grid of the first 256 is always written.

    Arguments:
        num_images: How many.
        save: Only the grid; also png, one file an image; or npz, one array of 8-bit images with
            shape (N, H, W, C).
        seed: Seed of all noise; the same as in undrift measure gives the same images.
        output: Folder to write (a new one in the folder images of the run if null).
    """

    num_images: int = 64
    save: Literal["grid", "png", "npz"] = "grid"
    seed: int = 0
    output: str | None = None


POSITIONALS = ("run",)


def run(config: Config) -> dict[str, Any]:
    """Draw images and write them; never over others."""
    from undrift.api.sample import sample
    from undrift.training.runs import new_folder, write_json

    if config.num_images < 1:
        raise InvalidInput(f"--num-images is {config.num_images}: at least 1")
    if config.output is not None:
        files.check_free(Path(config.output), folder=True)
    sampler = inputs.chain(config)
    images = sample(
        sampler,
        config.num_images,
        batch_size=config.batch_size,
        seed=config.seed,
        progress=not session().quiet,
    )
    if config.output is not None:
        folder = Path(config.output)
        folder.mkdir(parents=True, exist_ok=True)
    else:
        remedy = [files.slug(config.remedy)] if config.remedy else []
        name = "-".join([files.slug(config.sampler or "own"), *remedy, str(config.seed)])
        folder = new_folder(files.place_for(config.run, "images"), name)
    written = _write(images, folder, config)
    record = {
        "images": str(folder),
        "files": written,
        "num_images": len(images),
        "shape": list(images.shape[1:]),
        "seed": config.seed,
        "model": config.run,
        "sampler": sampler.describe(),
        "command": session().command,
    }
    write_json(folder / "samples.json", record | {"config": asdict(config)})
    print(f"images  {folder}")
    return record


def _write(images: Tensor, folder: Path, config: Config) -> list[str]:
    """Write what was asked for and return the names of the files."""
    import numpy as np

    from undrift.data.grids import as_bytes, image_grid, picture

    image_grid(images[:GRID_IMAGES]).save(folder / "grid.png")
    names = ["grid.png"]
    if config.save == "npz":
        pixels = as_bytes(images).permute(0, 2, 3, 1).numpy()
        np.savez_compressed(folder / "images.npz", images=pixels)
        names.append("images.npz")
    if config.save == "png":
        digits = len(str(len(images) - 1))
        for i, image in enumerate(images):
            names.append(f"{i:0{digits}}.png")
            picture(image).save(folder / names[-1])
    return names
