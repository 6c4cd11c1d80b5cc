"""``undrift.advise``: the best solver, time grid and remedy at a number of network calls."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from undrift.advice.candidates import Candidates
from undrift.advice.fine_tune import RUN, START, FineTune
from undrift.advice.folder import write_folder
from undrift.advice.record import FILE, AdviceRecord
from undrift.advice.run import Plan, advice_for
from undrift.advice.trials import FILE as TRIALS
from undrift.advice.trials import Trials
from undrift.api import files, inputs
from undrift.api.inputs import AdviseChoice, ChainChoice
from undrift.diffusion.pipelines import load_pipeline, weights_digest
from undrift.exceptions import InvalidInput, Limits
from undrift.measurement.reading import write_json
from undrift.quality.feature_choice import features_or_pixels
from undrift.remedies.registry import REMEDIES, remedy_named
from undrift.remedies.search import LEAST_DATA
from undrift.training.run_folder import versions

logger = logging.getLogger("undrift")


def advise(
    model: Any,  # noqa: ANN401
    data: Any = None,  # noqa: ANN401
    *,
    output: str | Path | None = None,
    progress: bool = True,
    **options: Any,  # noqa: ANN401
) -> AdviceRecord:
    """Find the best way to sample from a model at a number of network calls.

    Solvers, time grids and remedies are compared on one half of the data; the best of them is
    judged against the scheduler that the model has on the other half.

    Arguments:
        model: A run, or a pipeline of diffusers (or its folder or name).
        data: The images: whatever :func:`undrift.load_data` takes; what the run was trained on when
            None.
        output: Folder for the pipeline with the advised scheduler, and the record; it also keeps
            what was found so far, so that a stopped search continues. Nothing is written when None.
        progress: Whether to draw a progress bar on stderr.
        **options: Further options of ``undrift advise``, the fields of
            :class:`undrift.api.inputs.AdviseChoice`: ``num_inference_steps=10``.

    Raises:
        InvalidInput: If an option cannot be used.
    """
    choice = AdviseChoice(model, data=data, **options)
    Limits(1).check("num_inference_steps", choice.num_inference_steps)
    Limits(LEAST_DATA).check("num_samples", choice.num_samples)
    Limits(0).check("fine_tune", choice.fine_tune)
    for name in ("solvers", "remedies"):
        if isinstance(given := getattr(choice, name), str):
            raise InvalidInput(f"{name} is a text: give a list of names, [{given!r}]")
    kinds = _remedies(choice.remedies)
    folder = None if output is None else Path(output)
    check_folder(folder)
    pipeline = load_pipeline(model) if isinstance(model, (str, Path)) else model
    own = inputs.bare_chain(_chain(choice, pipeline))
    if own.space is not None or own.is_conditional:
        raise InvalidInput("advise serves models of images without conditions: give such a model")
    network = own.network
    candidates = Candidates(network, pipeline.scheduler, choice.num_inference_steps)
    solvers = candidates.solvers(choice.solvers)
    images = inputs.data(choice, model, own)
    plan = Plan(
        images,
        features_or_pixels(choice.features, images),
        choice.metric,
        choice.num_samples,
        choice.batch_size,
        choice.seed,
    )
    fine_tune = _fine_tune(choice, folder, pipeline, plan)
    settings = {
        **plan.how(),
        "network_calls": choice.num_inference_steps,
        "weights": weights_digest(network),
        "scheduler": dict(pipeline.scheduler.config),
        "solvers": choice.solvers,
        "fine_tune": choice.fine_tune,
        "remedies": sorted(kind.remedy for kind in kinds),
        "versions": versions(),
    }
    trials = Trials(folder, settings)
    found = advice_for(
        pipeline,
        candidates,
        solvers,
        kinds,
        plan,
        trials,
        inputs.name_of(model),
        fine_tune=fine_tune,
        progress=progress,
    )
    if folder is not None:
        write_folder(folder, pipeline, found)
        write_json(folder / FILE, found.record.to_dict())
        trials.forget()
    return found.record


def check_folder(folder: Path | None) -> None:
    """Check that a folder is free, or holds nothing but a search that was stopped.

    Raises:
        InvalidInput: If it holds anything else.
    """
    kept = {TRIALS, RUN, START}
    there = {path.name for path in folder.iterdir()} if folder and folder.is_dir() else set()
    if TRIALS not in there or there - kept:
        files.check_free(folder, folder=True)


def _fine_tune(
    choice: AdviseChoice,
    folder: Path | None,
    pipeline: Any,  # noqa: ANN401
    plan: Plan,
) -> FineTune | None:
    """The fine-tune that was asked for, if it can be made."""
    if not choice.fine_tune:
        return None
    if folder is None:
        raise InvalidInput("fine_tune writes a training run: give output")
    found = FineTune(choice.fine_tune, folder, choice.seed)
    found.check(pipeline, plan.search)
    return found


def _chain(choice: AdviseChoice, pipeline: Any) -> ChainChoice:  # noqa: ANN401
    """The chain of the model as it is, on the device that was chosen."""
    import torch

    device = choice.device
    if device is None and isinstance(choice.run, (str, Path)):
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return ChainChoice(pipeline, batch_size=choice.batch_size, device=device)


def _remedies(names: list[str] | None) -> list[Any]:
    """The remedies to try."""
    if names is None:
        return list(REMEDIES.values())
    return [remedy_named(name) for name in names if name != "none"]
