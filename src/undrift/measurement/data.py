r"""The data that a chain is compared with: one tensor, in the range of the model's samples.

Two errors of scale would be measured as a large error of the model:

- *The sampler clips the data.* Samplers of images clip :math:`\hat x_0` to a bound, ±1. Where data
  :math:`x_0` lie outside, as latents do, no model can reach them. Refused if clipping removes more
  than a thousandth of their variance.
- *The data are in [0, 1] or 0..255, the model in [-1, 1].* Data that have no negative value are
  compared with the samples of a few chains. They are refused if more than a twentieth of the
  sampled values lie below -0.1 and mean and standard deviation of the samples are closer to those
  of the data scaled to [-1, 1] than to those of the data as they are. So no chain is run for data
  with negative values, and bright data are accepted for a model that makes bright samples.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from undrift.data.arrays import stored_range
from undrift.data.hub import is_dataset
from undrift.data.images import ImageData
from undrift.data.load import load_data, load_tensor
from undrift.diffusion.network import device_of
from undrift.diffusion.pipelines import check_image_shape, image_shape
from undrift.diffusion.sampler import Sampler
from undrift.exceptions import InvalidInput
from undrift.measurement.parallel_chains import draw_samples
from undrift.seeds import stream_seed

_LEAST_CLIPPED = 1e-3
_LEAST_BELOW, _BELOW = 0.05, -0.1
_CHAINS = 32


def data_for(
    sampler: Sampler,
    source: Any,  # noqa: ANN401
    device: torch.device | str | None = None,
) -> tuple[Tensor, Tensor | None, dict[str, Any]]:
    """Data in the space of a chain on the model's device, their labels, and their description.

    Arguments:
        sampler: The chain; images that are read get its size and channels, and are encoded where
            its states are codes.
        source: The data: see :func:`undrift.data.load.load_tensor`.
        device: Where the data go; the device of the network when None.

    Raises:
        InvalidInput: If they cannot be used, are not finite, or have another shape than the model.
    """
    made = image_shape(sampler) or (0, 0, 1)
    is_readable = made[0] in (1, 3) and made[1] == made[2]
    channels, size = made[:2] if is_readable else (None, None)
    if isinstance(source, (str, Path)) or is_dataset(source):
        source = load_data(source, image_size=size, channels=channels)
    x, how = load_tensor(source, image_size=size, channels=channels)
    bad = (~torch.isfinite(x.flatten(1)).all(1)).nonzero()
    if len(bad):
        raise InvalidInput(f"the data hold NaN or infinity ({len(bad)}, first: {int(bad[0])})")
    check_image_shape(sampler, tuple(x.shape[1:]))
    if sampler.space is not None and tuple(x.shape[1:]) == image_shape(sampler):
        x, how = sampler.space.encode(x), how | {"encoded": sampler.space.describe()}
    device = device_of(sampler.network) if device is None else device
    labels = source.labels if isinstance(source, ImageData) else None
    return x if device is None else x.to(device), labels, how


def conditioned(
    sampler: Sampler,
    data: Tensor,
    labels: Any,  # noqa: ANN401
) -> tuple[Sampler, Tensor, Tensor | None]:
    """A chain under the conditions of data, and those of the data whose conditions it has.

    Arguments:
        sampler: The chain.
        data: The data, with shape :math:`(n, *)`.
        labels: Their conditions, with shape :math:`(n,)`, or None.

    Returns:
        All three as they are for a model without conditions, and labels of None.

    Raises:
        InvalidInput: If a label is out of range, or there are not as many as data.
    """
    if labels is None or not sampler.is_conditional:
        return sampler, data, None
    found = sampler.network.checked(labels)
    if len(found) != len(data):
        raise InvalidInput(f"{len(data)} data but {len(found)} labels: give as many")
    kept = torch.isin(found, sampler.network.population)
    if not bool(kept.any()):
        raise InvalidInput("no data have the labels that the model draws: choose others")
    return sampler.over(found[kept]), data[kept.to(data.device)], found[kept]


def check_data_range(sampler: Sampler, data: Tensor, *, is_scaled: bool, seed: int) -> None:
    """Check that the data are scaled as the samples of a chain.

    Arguments:
        sampler: The chain.
        data: The data, with shape :math:`(n, *)`.
        is_scaled: Whether the data were read, and scaled to [-1, 1], by undrift.
        seed: Seed of the few chains that are run if the data may be in [0, 1] or 0..255.

    Raises:
        InvalidInput: If the sampler clips the data, or the data have another scale.
    """
    low, high = map(float, data.aminmax())
    top = None if is_scaled else _top(data)
    span = f"the data ({low:g} to {high:g})"
    escape = "(check_range=False takes them as they are)"
    formula = {1: "2 * x - 1", 255: "x / 127.5 - 1"}.get(top or 0)
    clip = _clip(sampler)
    if clip is not None and _share_clipped(data, clip) > _LEAST_CLIPPED:
        what = (
            "use clip=None, or clip_sample=False in the scheduler, for data like latents"
            if formula is None
            else f"scale them to [-1, 1], {formula}"
        )
        raise InvalidInput(f"the sampler clips to ±{clip:g}, which cuts {span}: {what} {escape}")
    if top is None:
        return
    shape, start = (_CHAINS, *data.shape[1:]), stream_seed(seed, "range")
    samples = draw_samples(sampler, shape, start, batch_size=_CHAINS).to(data.device)
    below = float((samples < _BELOW).float().mean())
    is_far = _distance(samples, 2 * data / top - 1) < _distance(samples, data)
    if below > _LEAST_BELOW and is_far:
        raise InvalidInput(
            f"{span} have no negative values, but {below:.0%} of the model's values are negative: "
            f"scale them to [-1, 1], {formula} {escape}"
        )


def _top(data: Tensor) -> int | None:
    """1 or 255 where the data look like stored pixels, else None."""
    try:
        low, high = stored_range(data, "the data")
    except InvalidInput:
        return None
    return high if low == 0 else None


def _clip(sampler: Sampler) -> float | None:
    """The fixed bound on the estimate of the data, if the chain has one."""
    described = sampler.describe()
    config = described.get("scheduler")
    if not isinstance(config, dict):
        return described.get("clip")
    is_clipped = config.get("clip_sample") and not config.get("thresholding")
    return float(config.get("clip_sample_range", 1.0)) if is_clipped else None


def _share_clipped(data: Tensor, clip: float) -> float:
    """Mean square of the part that clipping removes, over the variance of the data."""
    cut = float((data - data.clamp(-clip, clip)).square().mean())
    return cut / max(float(data.var(correction=0)), 1e-12)


def _distance(x: Tensor, y: Tensor) -> float:
    """Distance of the means and of the standard deviations of all values."""
    return float((x.mean() - y.mean()).abs() + (x.std() - y.std()).abs())
