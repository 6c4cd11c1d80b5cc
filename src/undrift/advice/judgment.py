"""The judgment of the best candidates on the half of the data and the noise that no search saw."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from torch import Tensor

from undrift.advice.candidates import Candidate
from undrift.advice.record import Comparison, Finalist
from undrift.advice.search import diverged, draw_images
from undrift.diffusion.sampler import Sampler
from undrift.exceptions import InvalidInput
from undrift.quality.features import extract_features
from undrift.quality.frechet import MOST_RANK
from undrift.quality.scorer import Scorer
from undrift.remedies.difference import SAMPLES_PER_FEATURE, Change, frechet_change, mmd_change
from undrift.seeds import stream_seed


def is_enough(scorer: Scorer) -> bool:
    """Whether there are samples and images enough for Fréchet distances without their bias."""
    return min(scorer.num_samples, len(scorer.reference)) >= SAMPLES_PER_FEATURE * scorer.dim


@dataclass
class Judgment:
    """Compares samples of chains that share their noise with the held-out half.

    Arguments:
        scorer: The scorer of the held-out half.
        metric: What candidates were searched by.
        seed: Seed of the noise.
        tick: Called with the number of samples that were drawn.
    """

    scorer: Scorer
    metric: str
    seed: int
    tick: Callable[[int], None] = lambda amount: None

    def draw(self, sampler: Sampler) -> Tensor:
        """Samples of a chain, from noise that no search used."""
        samples = draw_images(self.scorer, sampler, stream_seed(self.seed, "held out"))
        self.tick(len(samples))
        return samples

    def compare(self, samples: Tensor, others: Tensor) -> dict[str, Comparison]:
        """The metrics of samples less those of others; the Fréchet distance where it is quick."""
        scorer = self.scorer
        found = {"mmd_sq": mmd_change(samples, others, scorer.reference, scorer.kernel)}
        takes_frechet = is_enough(scorer) and (self.metric == "frechet" or scorer.dim <= MOST_RANK)
        if takes_frechet or self.metric == "feature_mmd_sq":
            x, y = (extract_features(each, scorer.features) for each in (samples, others))
            if self.metric == "feature_mmd_sq":
                reference, kernel = scorer.reference_features, scorer.feature_kernel
                found["feature_mmd_sq"] = mmd_change(x, y, reference, kernel)
            if takes_frechet:
                found["frechet"] = frechet_change(x, y, scorer.reference_features)
        return {name: _comparison(change) for name, change in found.items()}

    def finalists(
        self,
        present: Candidate,
        best: Sequence[Candidate],
        in_pipeline: Callable[[Candidate], bool],
    ) -> tuple[Finalist, ...]:
        """The candidates against the present sampler and against the first of them.

        Raises:
            InvalidInput: If the first of them, or the present sampler, diverges.
        """
        now, first = self.draw(present.sampler), self.draw(best[0].sampler)
        for candidate, samples in ((present, now), (best[0], first)):
            if diverged(samples):
                raise InvalidInput(f"{candidate.label} diverges at {present.network_calls} calls")
        found = []
        for candidate in best:
            samples = first if candidate is best[0] else self.draw(candidate.sampler)
            if diverged(samples):
                continue
            found.append(
                Finalist(
                    candidate.label,
                    candidate.num_inference_steps,
                    candidate.network_calls,
                    in_pipeline(candidate),
                    self.compare(samples, now),
                    self.compare(samples, first),
                )
            )
        return tuple(found)


def _comparison(change: Change) -> Comparison:
    values = asdict(change)
    return Comparison(value=values.pop("best"), reference=values.pop("none"), **values)
