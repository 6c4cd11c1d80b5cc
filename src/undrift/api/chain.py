"""The chain that options name, with its remedy.

What a remedy estimates from data is kept in the model's folder, so that the next command neither
estimates it again nor needs the data.
"""

from __future__ import annotations

import logging
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from undrift.api.inputs import ChainChoice, Choice, DataChoice, bare_chain, data, trained_on
from undrift.exceptions import InvalidInput
from undrift.remedies.registry import apply_remedy, parse

if TYPE_CHECKING:
    from undrift.data.images import ImageData
    from undrift.diffusion.sampler import Sampler
    from undrift.remedies.sampler import RemediedSampler

KEPT = "remedies"
"""Folder in that of a model."""
logger = logging.getLogger("undrift")


def opened(choice: Choice) -> tuple[Sampler, ImageData]:
    """The chain with its remedy, and the data, of the size and the channels that the model makes.

    Raises:
        InvalidInput: If one of them cannot be had, or they do not fit.
    """
    bare = bare_chain(choice)
    images = data(choice, choice.run, bare)
    sampler = _with_remedy(choice, bare, images)
    if choice.labels is not None and images.labels is not None:  # the data of these classes
        images = images.of_classes(choice.labels)
    return sampler.over(images.labels), images


def chain(config: ChainChoice) -> Sampler:
    """The chain that was chosen, on its device, with weights that are finite and its remedy.

    Raises:
        InvalidInput: If there is no such model, sampler or remedy, or the weights are damaged.
    """
    return _with_remedy(config, bare_chain(config))


def _with_remedy(config: ChainChoice, bare: Sampler, images: ImageData | None = None) -> Sampler:
    """A chain with the remedy that was chosen, estimated from data where it has to be.

    Arguments:
        config: The choice.
        bare: The chain without the remedy.
        images: The data that were chosen; None where a command takes none.
    """
    from undrift.remedies.sampler import RemediedSampler

    remedy = parse(config.remedy or "none")
    if remedy is None or not remedy.needs_data:
        return apply_remedy(bare, remedy)
    sampler, folder = RemediedSampler(bare, remedy), _folder_of(config.run)
    if images is None and folder is not None:
        found = _kept_without_data(sampler, folder, config.run)
        if found is not None:
            return found
    if images is None:
        if trained_on(config.run) is None:
            raise InvalidInput(
                f"{remedy.remedy} is estimated from data, and none are given: sample a run of "
                "undrift train, or evaluate the model with --data first, which keeps the estimate"
            )
        images = data(DataChoice(), config.run, bare)
    is_own = all(getattr(config, f.name, None) is None for f in fields(DataChoice))
    return _estimated(sampler, images, folder, is_own=is_own)


def _estimated(
    sampler: RemediedSampler, images: ImageData, folder: Path | None, *, is_own: bool
) -> Sampler:
    """The estimate of these data that a folder keeps, or else a new one, which it then keeps."""
    from undrift.remedies.estimates import Source, file_name, load_estimate, save_estimate

    name, source = sampler.remedy.remedy, Source(images.name, images.fingerprint, is_own)
    file = folder / file_name(sampler, images.fingerprint) if folder else None
    if file is not None and file.is_file():
        logger.info("%s: estimated before, %s", name, file)
        return load_estimate(sampler, file)
    logger.info("%s: estimated from the data", name)
    sampler = sampler.estimated(images.images)
    if file is not None:
        try:
            save_estimate(sampler, file, source)
        except OSError as error:  # perhaps a folder that others own
            logger.warning("%s: the estimate is not kept (%s)", name, error)
    return sampler


def _kept_without_data(sampler: RemediedSampler, folder: Path, run: Any) -> Sampler | None:  # noqa: ANN401
    """The estimate that a folder keeps, of the data that the run was trained on if it knows them.

    Raises:
        InvalidInput: If the run knows none, and there are estimates of several.
    """
    from undrift.remedies.estimates import files_of, load_estimate, source_of

    name, knows_own = sampler.remedy.remedy, trained_on(run) is not None
    kept = {file: source_of(file, sampler) for file in files_of(sampler, folder)}
    kept = {file: source for file, source in kept.items() if source.is_own or not knows_own}
    if len(kept) > 1 and not knows_own:
        names = ", ".join(f"{file.name} ({source.name})" for file, source in kept.items())
        raise InvalidInput(
            f"{folder} has estimates of {name} from several data: keep one of {names}"
        )
    for file, source in kept.items():
        logger.info("%s: estimated before from %s, %s", name, source.name, file)
        return load_estimate(sampler, file)
    return None


def _folder_of(run: Any) -> Path | None:  # noqa: ANN401
    """Where a model's estimates are kept: in its folder, beside the pipeline of a run."""
    path = Path(run) if isinstance(run, (str, Path)) else None
    if path is None or not path.is_dir():
        return None
    is_of_run = path.name == "pipeline" and (path.parent / "config.yaml").is_file()
    return (path.parent if is_of_run else path) / KEPT
