r"""How much of an error is in the pixels' mean and covariance, and does quality see it?

Samples of a run are moved, linearly and no farther than needed, until their mean is that of the
data and their covariance is, in the span of the data's first k principal components. What is left
of :math:`D_0^2` and of the Fréchet distance then tells what a perfect repair of these moments could
bring. The map is the optimal transport between Gaussians,

.. math:: A = \Sigma_y^{1/2} (\Sigma_y^{1/2} \Sigma_x \Sigma_y^{1/2})^{-1/2} \Sigma_y^{1/2}.

    python benchmarks/repaired_moments.py RUN --data patches --features efficientnet-lite0
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

from undrift import load_data
from undrift.features import choose_features, extract_features
from undrift.interop import as_sampler, load_pipeline
from undrift.quality.frechet import frechet_distance
from undrift.quality.kernel import kernel_distance
from undrift.study.judgment import Judge
from undrift.two_sample import mmd_estimate


def repaired(x: Tensor, y: Tensor, count: int) -> Tensor:
    """Samples with the mean of the data, and its covariance in their first components.

    Arguments:
        x: Samples, with shape :math:`(N, *)`.
        y: Data, with shape :math:`(M, *)`.
        count: k, the number of principal components.
    """
    flat, data = x.flatten(1).double(), y.flatten(1).double()
    centered = flat - flat.mean(0)
    _, values, directions = torch.linalg.svd(data - data.mean(0), full_matrices=False)
    root = values[:count] / (len(data) - 1) ** 0.5
    inside = centered @ directions[:count].T
    between = root[:, None] * (inside.T @ inside / (len(x) - 1)) * root
    squares, axes = torch.linalg.eigh(between)
    inverse = axes @ (squares.clamp(min=1e-12).rsqrt()[:, None] * axes.T)
    moved = inside @ (root[:, None] * inverse * root)
    return (centered + (moved - inside) @ directions[:count] + data.mean(0)).view_as(x).to(x)


def main() -> None:
    """Print what is left of each number, one row for each number of components."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("run")
    parser.add_argument("--data", default="patches")
    parser.add_argument("--features", default="efficientnet-lite0")
    parser.add_argument("--num-samples", type=int, default=800)
    parser.add_argument("--components", type=int, nargs="+", default=[3, 30, 300])
    options = parser.parse_args()
    data = load_data(options.data)
    judge = Judge(data, options.num_samples, features=choose_features(options.features, data))
    drawn, _ = judge.draw(as_sampler(load_pipeline(f"{options.run}/pipeline")), 0)
    reference, variance = judge.reference, data.images.var(0).sum()
    print("| repaired components | D₀² (1e-4) | Fréchet | kernel distance | pixel variance |")
    print("|---|---|---|---|---|")
    for count in (0, *options.components):
        x = repaired(drawn, reference, count).clamp(-1, 1) if count else drawn
        error = mmd_estimate(x, reference, kernel=judge.kernel, num_permutations=0).mmd_sq
        features = extract_features(x, judge.features)
        frechet = frechet_distance(features, judge.reference_features)
        kernel = kernel_distance(features, judge.reference_features).value
        ratio = float(x.var(0).sum() / variance)
        print(f"| {count} | {1e4 * error:.1f} | {frechet:.1f} | {kernel:.3f} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
