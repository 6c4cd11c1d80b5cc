"""The advice as a folder: a pipeline that plain diffusers loads, and lines to paste.

A scheduler's configuration says solver and time grid, but a class of pipelines may not run every
scheduler (``DDPMPipeline`` gives a generator to ``step``, which some do not take, and does not
scale the input as others need). So each pipeline is tried with the scheduler, on the same noise:
only one that gives the same images has the advice in its configuration. For anything else there
is ``sample.py``.
"""

from __future__ import annotations

import copy
import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch

from undrift.advice.candidates import Candidate
from undrift.advice.record import FILE, AdviceRecord, is_refuted
from undrift.diffusion.network import device_of, evaluating
from undrift.diffusion.pipelines import quiet_diffusers, state_shape
from undrift.remedies.estimates import save_estimate
from undrift.remedies.registry import parse
from undrift.remedies.sampler import RemediedSampler
from undrift.storage.writing import written

SCHEDULER = "best_scheduler"
SCRIPT = "sample.py"
ESTIMATE = "estimate.pt"
TUNED = "fine-tuned"


@dataclass(frozen=True)
class Found:
    """What a search found.

    Arguments:
        record: The advice.
        present: The scheduler that the model has.
        best: The best candidate of the search half.
        fitting: The best that the class of the pipeline runs by its configuration; None if it runs
            none.
        tuned: The best candidate's chain over the fine-tuned network; None without a fine-tune.
    """

    record: AdviceRecord
    present: Candidate
    best: Candidate
    fitting: Candidate | None
    tuned: Candidate | None = None

    def is_refuted(self, candidate: Candidate) -> bool:
        """Whether the held-out half found a candidate worse than what the model has."""
        return is_refuted(self.record.finalists, candidate.label, self.record.metric)

    @property
    def in_config(self) -> Candidate:
        """The candidate whose scheduler the pipeline of the folder has."""
        fits = self.fitting is not None and not self.is_refuted(self.fitting)
        return cast(Candidate, self.fitting) if fits else self.present

    @property
    def in_script(self) -> Candidate:
        """The candidate whose lines the folder has."""
        return self.in_config if self.is_refuted(self.best) else self.best


def with_scheduler(pipeline: Any, scheduler: Any, network: Any = None) -> Any:  # noqa: ANN401
    """A pipeline of the same class with another scheduler, as loading makes it.

    Arguments:
        pipeline: The pipeline.
        scheduler: The scheduler.
        network: Another network; its own when None.
    """
    parts = pipeline.components | {"scheduler": copy.deepcopy(scheduler)}
    if network is not None:
        parts["unet" if getattr(pipeline, "unet", None) is not None else "transformer"] = network
    with quiet_diffusers():
        return type(pipeline)(**parts)


@torch.no_grad()
def runs_in_pipeline(pipeline: Any, candidate: Candidate) -> bool:  # noqa: ANN401
    """Whether a class of pipelines gives a candidate's samples with its scheduler alone."""
    network, shape = candidate.sampler.network, state_shape(candidate.sampler.network)
    if not candidate.is_in_config or shape is None or not hasattr(pipeline, "components"):
        return False
    device = device_of(network)
    with evaluating(network):
        samples = candidate.sampler.sample(
            (2, *shape), generator=torch.Generator().manual_seed(0), device=device
        )
        try:
            other = with_scheduler(pipeline, candidate.scheduler)
            other.set_progress_bar_config(disable=True)
            with quiet_diffusers():
                images = other(
                    batch_size=2,
                    num_inference_steps=candidate.num_inference_steps,
                    generator=torch.Generator().manual_seed(0),
                    output_type="np",
                ).images
        except Exception:  # whatever a class of pipelines raises: it does not run this scheduler
            return False
    expected = (samples / 2 + 0.5).clamp(0, 1).movedim(1, -1).cpu()
    found = torch.as_tensor(images)
    return found.shape == expected.shape and bool(torch.allclose(found, expected, atol=1e-4))


def write_folder(folder: Path, pipeline: Any, found: Found) -> None:  # noqa: ANN401
    """Write the pipeline with the advised scheduler, and the lines for the best candidate.

    Arguments:
        folder: Where to.
        pipeline: The pipeline of the model.
        found: What the search found. The fine-tuned model gets a folder of its own in this one,
            with all that its number was measured on.
    """
    _write_model(folder, pipeline, found.in_config, found.in_script)
    if found.tuned is not None:
        fits = found.best is found.fitting
        in_config = found.tuned if fits else found.present
        _write_model(folder / TUNED, pipeline, in_config, found.tuned)
    with written(folder / "README.md") as part:
        part.write_text(_readme(found), "utf-8")


def _write_model(
    folder: Path,
    pipeline: Any,  # noqa: ANN401
    in_config: Candidate,
    in_script: Candidate,
) -> None:
    """A pipeline with the network of a candidate, and the lines that sample as it does."""
    with quiet_diffusers():
        model = with_scheduler(pipeline, in_config.scheduler, in_script.sampler.network)
        model.save_pretrained(folder, safe_serialization=True)
        in_script.scheduler.save_pretrained(folder / SCHEDULER)
    if _needs_data(in_script.remedy):
        save_estimate(cast(RemediedSampler, in_script.sampler), folder / ESTIMATE)
    with written(folder / SCRIPT) as part:
        part.write_text(script(in_script), "utf-8")


def script(best: Candidate) -> str:
    """Lines that sample as the best candidate does: of diffusers alone, unless it has a remedy."""
    kind = type(best.scheduler).__name__
    takes_generator = "generator" in inspect.signature(best.scheduler.step).parameters
    steps, listed = best.num_inference_steps, list(best.timesteps)
    start = _START.format(
        what=f"{best.label}: {best.network_calls} network calls",
        kind=kind,
        folder=SCHEDULER,
        shape=(16, *(state_shape(best.sampler.network) or ())),
    )
    if best.remedy == "none":
        return start + _LOOP.format(
            steps=f"timesteps={listed}" if listed else steps,
            options=", generator=generator" if takes_generator else "",
        )
    return start + _REMEDIED.format(
        options=f'timestep_options={{"timesteps": {listed}}}' if listed else steps,
        remedy=best.remedy,
        estimate=f', estimate=f"{{folder}}/{ESTIMATE}"' if _needs_data(best.remedy) else "",
    )


def _needs_data(text: str) -> bool:
    remedy = parse(text)
    return remedy is not None and remedy.needs_data


def _readme(found: Found) -> str:
    """What the folder holds, and how it is sampled."""
    record = found.record
    paragraphs = [
        f"# {record.model} at {record.network_calls} network calls",
        record.verdict,
        _about_pipeline(found),
        _about_script(found),
        *([] if found.tuned is None else [_about_tuned(found, found.tuned)]),
        f"`{FILE}` has all that was tried, compared by {record.metric}.",
    ]
    return "\n\n".join(paragraphs) + "\n"


def _about_pipeline(found: Found) -> str:
    advised, fitting = found.in_config, found.fitting
    text = f"The pipeline here has the scheduler {advised.label}:"
    if advised is found.present:
        reason = "none of the others that were tried runs in its class of pipelines"
        if fitting is not None:
            ending = "is worse" if found.record.has_finalist(fitting.label) else "diverges"
            reason = (
                f"{fitting.label}, the best of those that run in its class of pipelines, {ending} "
                "on the held-out half"
            )
        text = f"The pipeline here keeps the model's own scheduler, {advised.grid}: {reason}."
    return text + _CALL.format(folder="FOLDER", steps=advised.num_inference_steps)


def _about_script(found: Found) -> str:
    """What the lines are for, and why the configuration does not say it."""
    if found.in_script is found.in_config:
        text = f"`{SCRIPT}` has the loop of the same chain, its scheduler is in `{SCHEDULER}`."
        if found.best not in (found.in_script, found.fitting):
            text += (
                f" {found.best.label}, the best of the search half, is worse than the model's own "
                "scheduler on the held-out half and is left out."
            )
        return text
    return (
        f"`{SCRIPT}` has the lines for the best, {found.best.label}, whose scheduler is in "
        f"`{SCHEDULER}`: a configuration that this class of pipelines reads cannot say it."
    )


def _about_tuned(found: Found, tuned: Candidate) -> str:
    """On which chain the fine-tuned model was judged, and how it is sampled so."""
    record = found.record
    told = f"{tuned.label} diverges on the held-out half."
    if record.has_finalist(tuned.label):
        told = record.compared(record.finalist(tuned.label))
    text = f"{told} The fine-tuned model is in `{TUNED}`; `{TUNED}/{SCRIPT}` samples it so"
    if found.best is found.fitting:
        call = _CALL.format(folder=f"FOLDER/{TUNED}", steps=tuned.num_inference_steps)
        return f"{text}, and so does its pipeline:{call}"
    return f"{text}. Its pipeline has the model's own scheduler, on which it was not judged."


_CALL = """

```python
pipeline = DiffusionPipeline.from_pretrained("{folder}")
images = pipeline(num_inference_steps={steps}).images
```"""
_START = """\
# {what}
import os

import torch
from diffusers import DiffusionPipeline, {kind}

folder = os.path.dirname(os.path.abspath(__file__))
pipeline = DiffusionPipeline.from_pretrained(folder)
network = (getattr(pipeline, "unet", None) or pipeline.transformer).eval()
scheduler = {kind}.from_pretrained(folder, subfolder="{folder}")
shape, generator = {shape}, torch.Generator().manual_seed(0)
"""
_LOOP = """\
scheduler.set_timesteps({steps})
x = torch.randn(shape, generator=generator) * getattr(scheduler, "init_noise_sigma", 1.0)
with torch.no_grad():
    for t in scheduler.timesteps:
        x_in = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        x = scheduler.step(network(x_in, t).sample, t, x{options}).prev_sample
images = (x / 2 + 0.5).clamp(0, 1)
"""
_REMEDIED = """\
from undrift import DiffusersSampler, apply_remedy

chain = DiffusersSampler(network, scheduler, {options})
chain = apply_remedy(chain, "{remedy}"{estimate})
images = (chain.sample(shape, generator=generator) / 2 + 0.5).clamp(0, 1)
"""
