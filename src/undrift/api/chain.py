"""The chain that options name, with its remedy.

What a remedy estimates from data is kept in the model's folder, so that the next command neither
estimates it again nor needs the data.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from undrift.api.inputs import (
    ChainChoice,
    Choice,
    DataChoice,
    bare_chain,
    data,
    over_data,
    trained_on,
)
from undrift.exceptions import InvalidInput
from undrift.remedies.registry import apply_remedy, parse
from undrift.training.records import made_with

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
    return over_data(choice, sampler, images)


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
    return _estimated(sampler, images, folder)


def _estimated(sampler: RemediedSampler, images: ImageData, folder: Path | None) -> Sampler:
    """The estimate of these data that a folder keeps, or else a new one, which it then keeps."""
    from undrift.remedies.estimates import file_name, save_estimate

    name, file = sampler.remedy.remedy, None
    if folder is not None:
        file = folder / file_name(sampler, images.fingerprint)
        if file.is_file():
            return _loaded(sampler, file)
    logger.info("%s: estimated from the data", name)
    sampler = sampler.estimated(images.images, check_range=False)
    if file is not None:
        try:
            save_estimate(sampler, file, images.name)
        except OSError as error:  # perhaps a folder that others own
            logger.warning("%s: the estimate is not kept (%s)", name, error)
    return sampler


def _loaded(sampler: RemediedSampler, file: Path) -> Sampler:
    from undrift.remedies.estimates import load_estimate, source_of

    source = source_of(file, sampler)
    logger.info("%s: estimated before from %s, %s", sampler.remedy.remedy, source, file)
    return load_estimate(sampler, file)


def _kept_without_data(sampler: RemediedSampler, folder: Path, run: Any) -> Sampler | None:  # noqa: ANN401
    """The estimate that a folder keeps: of the training data of a run, else the only one.

    Raises:
        InvalidInput: If the run does not know its data, and there are estimates of several.
    """
    from undrift.remedies.estimates import file_name, files_of, source_of

    name = sampler.remedy.remedy
    if trained_on(run) is not None:
        trained = (made_with(folder.parent).get("data") or {}).get("fingerprint", "")
        file = folder / file_name(sampler, trained)
        return _loaded(sampler, file) if file.is_file() else None
    files = files_of(sampler, folder)
    if len(files) > 1:
        names = ", ".join(f"{file.name} ({source_of(file, sampler)})" for file in files)
        raise InvalidInput(
            f"{folder} has estimates of {name} from several data: keep one of {names}"
        )
    return _loaded(sampler, files[0]) if files else None


def _folder_of(run: Any) -> Path | None:  # noqa: ANN401
    """Where a model's estimates are kept: in its folder, beside the pipeline of a run."""
    path = Path(run) if isinstance(run, (str, Path)) else None
    if path is None or not path.is_dir():
        return None
    is_of_run = path.name == "pipeline" and (path.parent / "config.yaml").is_file()
    return (path.parent if is_of_run else path) / KEPT
