"""What a linear map of the finished samples repairs, and whether quality sees it.

Without any training, samples of a run are moved until their mean is that of the data and their
covariance is, in the span of the data's first k principal components, by the map of the remedy
``moments`` (:mod:`undrift.remedies.moments`). It is estimated from other samples of the same run
than those that are judged. What is left of :math:`D_0^2` and of the Fréchet distance says how much
of either is in these moments.

    python benchmarks/repaired_moments.py RUN ... --data digits --features classifier
"""

from __future__ import annotations

import argparse
import warnings

from undrift import load_data
from undrift.diffusion.pipelines import as_sampler, load_pipeline
from undrift.quality.feature_choice import choose_features
from undrift.quality.scorer import Scorer
from undrift.remedies.moments import moment_map

OTHER_NOISE = 777


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
    columns = ["D₀² to the data set (1e-4)", "Fréchet", "kernel distance", "precision", "recall"]
    print("| " + " | ".join(["run", "repaired components", *columns, "pixel variance"]) + " |")
    print("|---" * (len(columns) + 3) + "|")
    for run in options.runs:
        sampler = as_sampler(load_pipeline(f"{run}/pipeline"))
        x = scorer.draw(sampler, options.seed)
        other = scorer.draw(sampler, options.seed + OTHER_NOISE)
        for count in (0, *options.components):
            moved = moment_map(other, scorer.reference, count)(x) if count else x
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
