"""``undrift.sample``: images from a model."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from undrift.api.inputs import ChainChoice, chain
from undrift.diffusion.pipelines import image_shape
from undrift.exceptions import InvalidInput
from undrift.measurement.cumulative import check_states
from undrift.measurement.population import draw_samples
from undrift.progress import progress_bar


def sample(
    model: Any,  # noqa: ANN401
    num_images: int = 64,
    *,
    sampler: str | None = None,
    num_inference_steps: int | None = None,
    eta: float | None = None,
    remedy: str | None = None,
    batch_size: int = 250,
    device: str | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Tensor:
    """Images of a model, with shape (N, C, H, W), in [-1, 1] for a model of images, on the CPU.

    Arguments:
        model: A run, a pipeline of diffusers (or its folder or name), a sampler or a denoiser.
        num_images: How many.
        sampler: As in ``undrift sample``, like the next five.
        num_inference_steps: Number of denoising steps.
        eta: Share of the reverse standard deviation that the sampler ddim draws.
        remedy: A remedy at sampling time, as text.
        batch_size: Images that go through the network at once.
        device: Where to run.
        seed: Seed of all noise; the same as in :func:`undrift.measure` gives the same images.
        progress: Whether to draw a progress bar on stderr.

    Raises:
        InvalidInput: If an option cannot be used, the model does not say what images it makes, or
            the samples are not finite.
    """
    if num_images < 1:
        raise InvalidInput(f"--num-images is {num_images}: at least 1")
    choice = ChainChoice(model, sampler, num_inference_steps, eta, remedy, batch_size, device)
    chosen = chain(choice)
    shape = image_shape(chosen.network)
    if shape is None:
        raise InvalidInput("the model does not say what size of images it makes")
    passes = num_images * (len(chosen.grid) - 1)
    with progress_bar("sampling", passes, show=progress) as tick:
        x = draw_samples(chosen, (num_images, *shape), seed, batch_size=batch_size, tick=tick)
    check_states(x, 0, "the sampler's images")
    return x
