r"""What a linear map of the finished samples repairs, and whether quality sees it.

Without any training, samples of a run are moved until their mean is that of the data and their
covariance is, in the span of the data's first k principal components. The map is the optimal
transport between Gaussians,

.. math:: A = \Sigma_y^{1/2} (\Sigma_y^{1/2} \Sigma_x \Sigma_y^{1/2})^{-1/2} \Sigma_y^{1/2},

estimated from other samples of the same run than those that are judged; moved samples are clamped
to the range of the data. What is left of :math:`D_0^2` and of the Fréchet distance says how much of
either is in these moments.

    python benchmarks/repaired_moments.py RUN ... --data digits --features classifier
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from undrift import load_data
from undrift.diffusion.pipelines import as_sampler, load_pipeline
from undrift.quality.feature_choice import choose_features
from undrift.quality.scorer import Scorer

OTHER_NOISE = 777


class Moments(NamedTuple):
    """Mean of data, and their principal components, largest first, with standard deviations."""

    mean: Tensor
    deviations: Tensor
    directions: Tensor

    @classmethod
    def of(cls, y: Tensor) -> Moments:
        """Moments of data with shape :math:`(M, *)`."""
        data = y.flatten(1).double()
        mean = data.mean(0)
        _, values, directions = torch.linalg.svd(data - mean, full_matrices=False)
        return cls(mean, values / (len(data) - 1) ** 0.5, directions)


def repair(x: Tensor, wanted: Moments, count: int) -> Callable[[Tensor], Tensor]:
    """The map that gives samples the data's mean, and its covariance in their first components.

    Arguments:
        x: Samples, with shape :math:`(N, *)`.
        wanted: Moments of the data.
        count: k, the number of principal components; the map of 0 changes nothing.
    """
    if not count:
        return lambda samples: samples
    flat, mean_y = x.flatten(1).double(), wanted.mean
    mean_x, root, span = flat.mean(0), wanted.deviations[:count], wanted.directions[:count]
    inside = (flat - mean_x) @ span.T
    between = root[:, None] * (inside.T @ inside / (len(x) - 1)) * root
    squares, axes = torch.linalg.eigh(between)
    inverse = axes @ (squares.clamp(min=1e-12).rsqrt()[:, None] * axes.T)
    change = root[:, None] * inverse * root - torch.eye(len(root), dtype=torch.float64)

    def mapped(samples: Tensor) -> Tensor:
        rows = samples.flatten(1).double() - mean_x
        return (rows + (rows @ span.T) @ change @ span + mean_y).view_as(samples).to(samples)

    return mapped


def main() -> None:
    """Print what is left of each number, one row for each run and number of components."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("runs", nargs="+")
    parser.add_argument("--data", default="patches")
    parser.add_argument("--image-size", type=int)
    parser.add_argument("--features", default="efficientnet-lite0")
    parser.add_argument("--num-samples", type=int, default=800)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--components", type=int, nargs="+", default=[3, 30, 300])
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    data = load_data(options.data, image_size=options.image_size)
    scorer = Scorer(data, options.num_samples, features=choose_features(options.features, data))
    wanted = Moments.of(scorer.reference)
    columns = ["D₀² to the data set (1e-4)", "Fréchet", "kernel distance", "precision", "recall"]
    print("| " + " | ".join(["run", "repaired components", *columns, "pixel variance"]) + " |")
    print("|---" * (len(columns) + 3) + "|")
    for run in options.runs:
        sampler = as_sampler(load_pipeline(f"{run}/pipeline"))
        x = scorer.draw(sampler, options.seed)
        other = scorer.draw(sampler, options.seed + OTHER_NOISE)
        for count in (0, *options.components):
            moved = repair(other, wanted, count)(x).clamp(-1, 1)
            found = scorer.scores(moved, options.seed)
            numbers = [
                f"{1e4 * found.empirical_mmd_sq:.1f}",
                f"{found.frechet:.2f}",
                f"{found.kernel_distance:.3f}",
                f"{found.precision:.3f}",
                f"{found.recall:.3f}",
                f"{found.pixel_variance_ratio:.3f}",
            ]
            print("| " + " | ".join([run, str(count), *numbers]) + " |", flush=True)


if __name__ == "__main__":
    main()
