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
from pathlib import Path
from typing import Any, cast

import torch

from undrift.advice.candidates import Candidate
from undrift.advice.record import FILE, AdviceRecord
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


def with_scheduler(pipeline: Any, scheduler: Any) -> Any:  # noqa: ANN401
    """A pipeline of the same class and network with another scheduler, as loading makes it."""
    parts = pipeline.components | {"scheduler": copy.deepcopy(scheduler)}
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


def write_folder(
    folder: Path,
    pipeline: Any,  # noqa: ANN401
    advice: AdviceRecord,
    advised: Candidate | None,
    best: Candidate,
    tuned: Any = None,  # noqa: ANN401
) -> None:
    """Write the pipeline with the advised scheduler, and the lines for the best candidate.

    Arguments:
        folder: Where to.
        pipeline: The pipeline of the model.
        advice: The advice.
        advised: The candidate whose scheduler the pipeline gets; its own when None.
        best: The best candidate.
        tuned: The pipeline of the fine-tuned model, if there is one.
    """
    scheduler = pipeline.scheduler if advised is None else advised.scheduler
    with quiet_diffusers():
        with_scheduler(pipeline, scheduler).save_pretrained(folder, safe_serialization=True)
        if tuned is not None:
            with_scheduler(tuned, scheduler).save_pretrained(folder / TUNED)
        best.scheduler.save_pretrained(folder / SCHEDULER)
    if _needs_data(best.remedy):
        save_estimate(cast(RemediedSampler, best.sampler), folder / ESTIMATE)
    texts = {SCRIPT: script(best), "README.md": _readme(advice, advised, best)}
    for name, text in texts.items():
        with written(folder / name) as part:
            part.write_text(text, "utf-8")


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


def _readme(advice: AdviceRecord, advised: Candidate | None, best: Candidate) -> str:
    """What the folder holds, and how it is sampled."""
    calls, name = advice.network_calls, advice.metric
    lines = [f"# {advice.model} at {calls} network calls", "", advice.verdict, ""]
    if advised is None:
        lines += ["The pipeline here has the scheduler of the model: its class runs no other."]
    else:
        lines += [
            f"The pipeline here has the scheduler {advised.label}:",
            "",
            "```python",
            "pipeline = DiffusionPipeline.from_pretrained(FOLDER)",
            f"images = pipeline(num_inference_steps={advised.num_inference_steps}).images",
            "```",
        ]
    if advised is not best:
        lines += ["", f"`{SCRIPT}` has the lines for the best, {best.label}, whose scheduler is in"]
        lines += [
            f"`{SCHEDULER}`: a configuration that this class of pipelines reads cannot say it."
        ]
    for each in advice.finalists:
        if each.label.startswith(TUNED):
            lines += ["", advice.compared(each), f"The fine-tuned model is in `{TUNED}`."]
    return "\n".join([*lines, "", f"`{FILE}` has all that was tried, compared by {name}.", ""])


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
