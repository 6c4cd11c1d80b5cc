"""What a conditional network is trained under."""

from __future__ import annotations

from undrift.diffusion.condition import Conditions
from undrift.diffusion.prompts import encoded, is_text
from undrift.training.checkpoint import StartingPoint
from undrift.training.config import TrainConfig


def conditions_of(config: TrainConfig, start: StartingPoint | None) -> Conditions:
    """The conditions that were chosen; prompts of text are encoded once, by the starting pipeline.

    Raises:
        InvalidInput: If prompts are text, and there is no text encoder.
    """
    prompts = config.prompts
    if prompts is not None and is_text(prompts) and start is not None:
        if start.embeddings is None:
            start.embeddings = encoded(start.pipeline, prompts)
        return Conditions(None, config.guidance, config.null_label, start.embeddings)
    return Conditions(None, config.guidance, config.null_label, prompts)
