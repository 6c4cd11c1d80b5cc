"""Estimates of remedies in files: a chain has its remedy again, without the data.

A file says which remedy, which chain and which weights its estimate belongs to, and is refused for
any others. Strengths may differ: an estimate serves them all.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch

from undrift.diffusion.network import device_of
from undrift.diffusion.pipelines import weights_digest
from undrift.exceptions import InvalidInput
from undrift.remedies.sampler import RemediedSampler, without_remedy
from undrift.storage.writing import written

ENDING = ".pt"


def save_estimate(
    sampler: RemediedSampler, path: str | os.PathLike[str], source: str = "unknown data"
) -> None:
    """Write what the remedy of a chain has estimated from data.

    Arguments:
        sampler: The chain with its remedy.
        path: The file; what was there is replaced.
        source: Name of the data, for messages.

    Raises:
        InvalidInput: If nothing was estimated, or the chain cannot be told from others.
        OSError: If the file cannot be written.
    """
    estimate = sampler.remedy.needed(sampler.estimate)
    values = [*estimate] if isinstance(estimate, tuple) else [estimate]
    values = [value.cpu() if isinstance(value, torch.Tensor) else value for value in values]
    about = {"of": of(sampler), "source": source}
    with written(path) as part:
        torch.save({"estimate": values, **about}, part)


def load_estimate(sampler: RemediedSampler, path: str | os.PathLike[str]) -> RemediedSampler:
    """The chain with the estimate that a file keeps.

    Arguments:
        sampler: The chain with its remedy.
        path: A file of :func:`save_estimate`.

    Raises:
        InvalidInput: If it cannot be read, or is of another remedy, chain or network.
    """
    kept = _read(Path(path), sampler)
    if kept["of"] != of(sampler):
        raise InvalidInput(
            f"{path} was estimated for another remedy, chain or network: estimate it from data"
        )
    try:
        estimate = sampler.remedy.estimate_type(*kept["estimate"])
    except (TypeError, ValueError):
        raise _damaged(Path(path)) from None
    return RemediedSampler(sampler.base, sampler.remedy, estimate)


def source_of(path: str | os.PathLike[str], sampler: RemediedSampler) -> str:
    """Name of the data that the estimate in a file stems from.

    Raises:
        InvalidInput: If the file cannot be read.
    """
    return str(_read(Path(path), sampler)["source"])


def of(sampler: RemediedSampler) -> str:
    """What an estimate depends on besides the data: the remedy, the chain and all weights.

    Raises:
        InvalidInput: If a part of the chain has no weights that it could be told by.
    """
    base, network = sampler.base, weights_digest(sampler.network)
    conditions = getattr(getattr(without_remedy(base), "denoiser", None), "conditioning", None)
    if network is None or conditions:
        raise InvalidInput(
            "an estimate is kept for a network that is a torch module and takes no further "
            "arguments; other functions cannot be told apart: estimate it from data each time"
        )
    options = {name: getattr(sampler.remedy, name) for name in sampler.remedy.options()}
    del options["strength"]
    coder = None if sampler.space is None else weights_digest(sampler.space.autoencoder)
    about = {
        "remedy": sampler.remedy.remedy,
        "options": options,
        "chain": base.describe(),
        "steps": [(t, *base.scale(t)) for t in base.grid],
        "timesteps": base.timesteps,
        "weights": [network, coder],
    }
    return json.dumps(about, sort_keys=True, default=str)


def file_name(sampler: RemediedSampler, fingerprint: str) -> str:
    """A name that no other remedy, chain, network or data share."""
    texts = (of(sampler), fingerprint)
    digests = [hashlib.sha256(text.encode()).hexdigest()[:8] for text in texts]
    return "-".join([sampler.remedy.remedy, *digests]) + ENDING


def files_of(sampler: RemediedSampler, folder: Path) -> list[Path]:
    """The files of a folder that hold an estimate for a chain with its remedy, of any data."""
    return sorted(folder.glob(file_name(sampler, "").rpartition("-")[0] + "-*" + ENDING))


def _read(path: Path, sampler: RemediedSampler) -> dict[str, Any]:
    if not path.is_file():
        raise InvalidInput(f"{path}: there is no such file of an estimate")
    try:
        kept = torch.load(path, weights_only=True, map_location=device_of(sampler.network))
    except Exception:  # torch raises many kinds for a file that it cannot read
        raise _damaged(path) from None
    if not isinstance(kept, dict) or {*kept} != {"of", "estimate", "source"}:
        raise _damaged(path)
    return kept


def _damaged(path: Path) -> InvalidInput:
    return InvalidInput(f"{path} is damaged, or no estimate of a remedy: delete it")
