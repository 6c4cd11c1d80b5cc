"""``undrift.sample``: images from a model."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from undrift.api.chain import chain
from undrift.api.inputs import ChainChoice
from undrift.diffusion.pipelines import image_shape
from undrift.exceptions import InvalidInput, Limits
from undrift.measurement.cumulative import check_states
from undrift.measurement.parallel_chains import draw_images
from undrift.progress import progress_bar


def sample(
    model: Any,  # noqa: ANN401
    num_images: int = 64,
    *,
    seed: int = 0,
    progress: bool = True,
    **choice: Any,  # noqa: ANN401
) -> Tensor:
    """Images of a model, with shape (N, C, H, W), in [-1, 1] for a model of images, on the CPU.

    Arguments:
        model: A run, a pipeline of diffusers (or its folder or name), a sampler or a denoiser.
        num_images: Number of images; more of them leave the first as they are.
        seed: Seed of all noise; the same as in :func:`undrift.measure` gives the same images.
        progress: Whether to draw a progress bar on stderr.
        **choice: Further options of ``undrift sample``, which choose the chain, the fields of
            :class:`undrift.api.inputs.ChainChoice`: ``sampler``, ``num_inference_steps``, ``eta``,
            ``remedy``, ``batch_size``, ``device``, ``labels``, ``guidance``, ....

    Raises:
        InvalidInput: If an option cannot be used, the model does not say what images it makes, or
            the samples are not finite.
    """
    chosen = ChainChoice(model, **choice)
    sampler = chain(chosen)
    shape = image_shape(sampler)
    Limits(1).check("num_images", num_images)
    if shape is None:
        raise InvalidInput("the model does not say what size of images it makes")
    with progress_bar("sampling", num_images * (len(sampler.grid) - 1), show=progress) as tick:
        x = draw_images(sampler, num_images, shape, seed, batch_size=chosen.batch_size, tick=tick)
    check_states(x, 0, "the sampler's images")
    return x
