"""Every command and snippet of the pages runs, in the order of its page, with small numbers.

A page gets a folder with what it takes for granted: models, pictures, records of the names that it
uses. Snippets of a page share their names, and find there what a reader has at hand. What cannot
run here is listed with the reason; nothing else is left out.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import re
import runpy
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import undrift
from pages import PAGES, ROOT, bare, blocks, lines
from undrift import cli

SHOWN = ("text", "json")
"""Blocks that show an output or a file."""
NOT_RUN = {
    "make ": "CI runs the targets",
    "bash .ci/run": "it is CI",
    "pip install ": "make release-check installs",
    ".venv/bin/pip ": "it lists what is installed",
    "accelerate launch ": "tests of processes start them",
    "torchrun ": "tests of processes start them",
    "undrift compare studies/": "hours",
    "undrift train --config studies/": "hours",
    "python benchmarks/memory.py": "a minute; tests/measurement/test_memory.py measures memory",
    "python studies/repair.py": "minutes; tests/test_repair.py checks its losses and its record",
    "undrift demo": "minutes; tests/study/test_demo.py runs it with fewer steps",
    "undrift train --config cifar10 --output ": "days, and a download of 170 MB",
    "undrift train --data owner/name ": "tests/data/test_blocks.py streams a data set of its own",
    "undrift measure runs/streamed ": "it measures the run before",
    "python benchmarks/repaired_moments.py RUN --data patches": "needs a run on photographs",
}
"""Commands that are not run, by their beginnings. All options are checked in tests/test_docs.py."""
NEEDED = {"--lora.rank": "peft"}
"""Packages of extras that some commands need; they run where these are installed."""
FEWER = {
    "steps": 2,
    "num_steps": 10,
    "num_inference_steps": 5,
    "num_samples": 40,
    "states": 3,
    "num_images": 4,
    "components": 3,
}
"""Smaller numbers in the place of those of a page."""
NETWORK = {"block_out_channels": [8, 8], "norm_num_groups": 4}
DEFAULTS = {
    "measure": {"num_samples": 40, "states": 3},
    "evaluate": {"num_samples": 40},
    "tune": {"num_samples": 128, "refine": 0},
    "advise": {"num_samples": 40, "solvers": ["ddim"], "remedies": ["epsilon_scaling"]},
    "train": {"steps": 2, "batch_size": 8, "chain": {"num_steps": 10}, "model": NETWORK},
}
"""Smaller numbers where a page leaves the default."""


def flags(options: dict[str, Any], prefix: str = "--") -> list[str]:
    """Options of a command, each in one word."""
    found = []
    for name, value in options.items():
        if isinstance(value, dict):
            found += flags(value, f"{prefix}{name}.")
        else:
            text = ",".join(map(str, value)) if isinstance(value, list) else value
            found.append(f"{prefix}{name}={text}".replace("_", "-", name.count("_")))
    return found


def found(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def is_run(line: str) -> bool:
    missing = [name for name, package in NEEDED.items() if name in line and not found(package)]
    return not bare(line).startswith(tuple(NOT_RUN)) and not missing


COMMANDS = {
    page: [line for language, text in blocks(page) if language == "console" for line in lines(text)]
    for page in PAGES
}
TO_RUN = [
    page for page in PAGES if any(map(is_run, COMMANDS[page])) or "python" in dict(blocks(page))
]


def test_every_block_is_known():
    """Each is run or shown, and each reason why one is not run is needed."""
    languages = {language for page in PAGES for language, _ in blocks(page)}
    assert languages == {"console", "python", "yaml", *SHOWN}
    left_out = [bare(line) for page in PAGES for line in COMMANDS[page] if not is_run(line)]
    for start in NOT_RUN:
        assert any(line.startswith(start) for line in left_out), start
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert {line.split()[1] for line in left_out if line.startswith("make ")} <= {*targets}
    extras = {word for line in left_out for word in re.findall(r"\.\[(\w+)\]", line)}
    assert extras and all(
        f"\n{word} = [" in (ROOT / "pyproject.toml").read_text() for word in extras
    )


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """What the pages take for granted, once for all of them."""
    folder = tmp_path_factory.mktemp("given")
    run = folder / "run"
    train = ["train", "--data=digits", f"--output={run}", *flags(DEFAULTS["train"]), "--quiet"]
    assert cli.main(train) == 0
    for name in ("runs/digits", "runs/plain", "runs/regularized", "digits-3000", "RUN_OR_PIPELINE"):
        shutil.copytree(run, folder / name)
    for name in ("RUN", "PIPELINE", "my-pipeline", "google/ddpm-cifar10-32"):
        shutil.copytree(run if name == "RUN" else run / "pipeline", folder / name)
    write_pictures(folder)
    write_pipelines(folder)
    for name in ("plain", "regularized"):
        measure = ["measure", str(run), f"--label={name}", f"--output={folder / name}.json"]
        assert cli.main([*measure, *flags(DEFAULTS["measure"]), "--quiet"]) == 0
    return folder


def write_pictures(folder: Path) -> None:
    """Pictures of 8 by 8, in one folder and in a folder for each class."""
    from PIL import Image

    digits = undrift.load_data("digits", limit=60)
    pixels = digits.images[:, 0].add(1).mul(127.5).byte().numpy()
    for k, (image, label) in enumerate(zip(pixels, digits.labels, strict=True)):
        for place in (folder / "my-images", folder / "photos" / f"{label}"):
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(place / f"{k}.png")


def write_pipelines(folder: Path) -> None:
    """A DiT of ten classes and an SD3, tiny and untrained, and embeddings of prompts."""
    import diffusers
    import torch
    from safetensors.torch import save_file

    sizes = {"sample_size": 4, "patch_size": 2, "in_channels": 2, "num_layers": 1}
    sizes |= {"num_attention_heads": 2, "attention_head_dim": 4}
    dit = diffusers.DiTTransformer2DModel(
        num_embeds_ada_norm=10, out_channels=4, norm_num_groups=2, **sizes
    )
    joint = {"joint_attention_dim": 6, "caption_projection_dim": 8, "pooled_projection_dim": 5}
    sd3 = diffusers.SD3Transformer2DModel(out_channels=2, pos_embed_max_size=4, **joint, **sizes)
    vae = diffusers.AutoencoderKL(
        in_channels=1,
        out_channels=1,
        block_out_channels=(4, 4),
        latent_channels=2,
        norm_num_groups=2,
        sample_size=8,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
    )
    ddim = diffusers.DDIMScheduler(clip_sample=False)
    diffusers.DiTPipeline(dit, vae, ddim).save_pretrained(folder / "my-dit")
    flow = diffusers.FlowMatchEulerDiscreteScheduler()
    diffusers.DiTPipeline(sd3, vae, flow).save_pretrained(folder / "my-sd3")
    unet = diffusers.UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=4,
        **NETWORK,
    )
    ddpm = diffusers.DDPMScheduler(num_train_timesteps=10)
    diffusers.DDPMPipeline(unet, ddpm).save_pretrained(folder / "my-model")
    prompts = {"prompt_embeds": torch.randn(10, 4, 6), "pooled_prompt_embeds": torch.ones(10, 5)}
    save_file(prompts, folder / "prompts.safetensors")


def at_hand() -> dict[str, Any]:
    """What the snippets take for granted."""
    import torch
    from accelerate import Accelerator

    from undrift.diffusion.pipelines import as_sampler, load_pipeline

    pipeline = load_pipeline("RUN/pipeline")
    sampler, data = as_sampler(pipeline), undrift.load_data("digits")
    network = pipeline.unet
    x_0 = data.images[:8]

    def nll(network: Any, x: Any, **options: Any) -> Any:
        return (network(x, 1, **options).sample - x).square().mean()

    return {
        "undrift": undrift,
        "pipeline": pipeline,
        "sampler": sampler,
        "chain": sampler,
        "denoiser": sampler.denoiser,
        **dict.fromkeys(("network", "unet", "model"), network),
        "data": data,
        "images": data,
        "x_0": x_0,
        "batches": [x_0, x_0],
        "samples": x_0,
        "nll": nll,
        "loss": nll(network, x_0),
        "optimizer": torch.optim.SGD(network.parameters(), 1e-3),
        "accelerator": Accelerator(cpu=True),
        "features": lambda x: x.flatten(1),
        "device": "cpu",
        "denoise": lambda x, t: x / (1 + t**2),
    }


def small(words: list[str]) -> list[str]:
    """A command with small numbers."""
    names = [before.rpartition(".")[2].strip("-").replace("-", "_") for before in ["", *words]]
    if "--dry-run" in words:
        return words
    line = [str(FEWER.get(name, word)) for name, word in zip(names, words, strict=False)]
    options = DEFAULTS.get(words[0], {})
    if "--start-from" in words:  # which has a network and a chain
        options = {name: options[name] for name in ("steps", "batch_size")}
    return line + [flag for flag in flags(options) if flag.partition("=")[0] not in line]


def small_code(text: str) -> str:
    """A snippet with small numbers."""
    return re.sub(
        rf"\b({'|'.join(FEWER)})=\d+", lambda found: f"{found[1]}={FEWER[found[1]]}", text
    )


def small_plan(text: str) -> str:
    """The study of a page with small numbers, one seed, and no processes of its own."""
    plan = yaml.safe_load(text) or {}
    base = plan.get("base", {}) | {"steps": 2, "model": NETWORK, "batch_size": 8}
    methods = {name: plan["methods"][name] for name in ("plain", "persistent")} if plan else {}
    fewer = {"base": base, "methods": methods, "steps": 2, "num_samples": 40}
    fewer |= {"seeds": [0], "workers": 1, "samplers": ["ancestral"], "num_inference_steps": [5]}
    fewer |= {"protocols": ["branched"]}
    kept = {name: fewer.get(name, plan[name]) for name in plan if name != "scratch_steps"}
    return yaml.safe_dump(kept)


def run(line: str) -> None:
    """A command of a page; what it prints goes where the page sends it."""
    command, _, target = bare(line).partition(" '>' ")
    program, *words = (word for word in shlex.split(command) if word != "...")
    with contextlib.ExitStack() as stack:
        if target:
            stack.enter_context(contextlib.redirect_stdout(stack.enter_context(open(target, "w"))))
        if program == "python":
            stack.enter_context(pytest.MonkeyPatch.context()).setattr(sys, "argv", small(words))
            runpy.run_path(str(ROOT / words[0]), run_name="__main__")
        else:
            assert program == "undrift"
            stack.enter_context(contextlib.suppress(SystemExit))  # of --help
            assert cli.main(small(words)) == 0, line


@pytest.fixture
def folder(given, tmp_path, monkeypatch):
    """Start of a page: what it takes for granted, and public functions with smaller defaults."""
    shutil.copytree(given, tmp_path, dirs_exist_ok=True)
    for name in ("docs", "studies"):
        (tmp_path / name).symlink_to(ROOT / name)
    for name, options in DEFAULTS.items():
        monkeypatch.setattr(undrift, name, functools.partial(getattr(undrift, name), **options))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", TO_RUN)
def test_a_page_runs_from_top_to_bottom(page, folder):
    for made in re.findall(r"--output (\S+)", "\n".join(COMMANDS[page])):
        shutil.rmtree(made) if Path(made).is_dir() else Path(made).unlink(missing_ok=True)
    plan = "".join(text for language, text in blocks(page) if language == "yaml")
    Path("study.yaml").write_text(small_plan(plan))
    scope = at_hand()
    for language, text in blocks(page):
        if language == "python":
            exec(small_code(text), scope)
        elif language == "console":
            for line in filter(is_run, lines(text)):
                run(line)
