"""A run of undrift in its essentials, and commands called as a person calls them."""

import json

import torch
import yaml

from undrift import cli
from undrift.data.grids import image_grid
from undrift.diffusion.pipelines import ddpm_scheduler, save_pipeline
from undrift.diffusion.schedule import CosineSchedule

FEW = ["--num-samples", "24", "--states", "3", "--quiet"]


def network(channels=1, size=8):
    from diffusers import UNet2DModel

    torch.manual_seed(0)
    return UNet2DModel(
        sample_size=size,
        in_channels=channels,
        out_channels=channels,
        block_out_channels=(8, 8),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        add_attention=False,
        norm_num_groups=4,
    )


def write_run(folder, net=None, **data):
    """A run as undrift train leaves it behind, in its essentials."""
    scheduler = ddpm_scheduler(CosineSchedule(5), "sample", "fixed_small", 1.0)
    save_pipeline(net or network(), scheduler, folder / "pipeline")
    known = {"data": "digits", "split": "train", "image_size": None, "channels": None, "steps": 9}
    (folder / "config.yaml").write_text(yaml.safe_dump(known | data))
    rows = [{"step": step, "loss": 1 / step, "lr": 1e-3} for step in (1, 5, 9)]
    (folder / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    image_grid(torch.ones(4, 1, 8, 8)).save(folder / "data.png")
    (folder / "samples").mkdir()
    for step in (5, 9):
        image_grid(torch.zeros(4, 1, 8, 8)).save(folder / "samples" / f"step-{step:08d}.png")
    return folder


def files(place):
    """Everything that is there, with its content."""
    return {p: p.read_bytes() if p.is_file() else None for p in place.rglob("*")}


def result(capsys, *argv):
    """What a command prints for machines."""
    assert cli.main([*map(str, argv), "--json"]) == 0
    out, _ = capsys.readouterr()
    assert out.count("\n") == 1
    return json.loads(out)


def complaint(capfd, place, *argv):
    """The one line with which a command is refused; nothing is written."""
    before = files(place)
    capfd.readouterr()
    code = cli.main([*map(str, argv)])
    out, err = capfd.readouterr()
    assert code == 2 and out == "", err
    assert err.startswith("undrift: error: ") and err.count("\n") == 1, err
    assert "Traceback" not in err and files(place) == before
    return err
