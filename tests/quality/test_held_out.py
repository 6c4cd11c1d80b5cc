"""FDr: 1 for samples as good as data, a ratio of equal biases, and its error bar."""

import pytest
import torch

from undrift.data.images import ImageData
from undrift.exceptions import InvalidInput
from undrift.quality.frechet import frechet_distance
from undrift.quality.held_out import HeldOut
from undrift.quality.judges import Judges
from undrift.quality.scorer import Scorer
from undrift.quality.scores import Quality, mean_ratio


def normal(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def ratios(count, **options):
    """Ratios of independent experiments: 400 images, and samples of the same distribution."""
    for k in range(count):
        data = HeldOut.of(normal(400, 3, seed=2 * k), 200, seed=k)
        yield data, normal(options.get("samples", 200), 3, seed=2 * k + 1)


@pytest.mark.parametrize("samples", [200, 650])
def test_samples_as_good_as_data_have_the_distance_of_held_out_data(samples):
    """Also if there are more: parts of equal size are averaged, so the bias stays the same."""
    pairs = [
        (data.ratio(x) * data.distance, data.distance) for data, x in ratios(60, samples=samples)
    ]
    above, below = torch.tensor(pairs).T
    error = ((above - below).var() / len(pairs)).sqrt()
    assert abs(above.mean() - below.mean()) < 3 * error
    assert below.mean() > 10 * error  # a difference of one tenth would be seen


def test_it_is_the_ratio_of_two_distances_and_the_parts_are_disjoint():
    y, x = normal(90, 2), normal(30, 2, seed=1) + 1
    data = HeldOut.of(y, 30)
    assert len(data.held) == 30 and len(data.rest) == 45
    assert not (data.held[:, None] == data.rest[None]).all(-1).any()
    expected = frechet_distance(x, data.rest) / frechet_distance(data.held, data.rest)
    assert data.ratio(x) == pytest.approx(expected, rel=1e-12)
    assert torch.equal(HeldOut.of(y, 30).held, data.held)  # the same for all models


def test_copies_of_the_data_are_nearer_than_other_data():
    data = HeldOut.of(normal(400, 3), 200)
    assert data.ratio(data.rest) < 0.01


def test_the_standard_error_is_the_spread_between_experiments():
    found = [(data.ratio(x + 0.5), data.standard_error(x + 0.5)) for data, x in ratios(60)]
    values, errors = torch.tensor(found).T
    relative = float((errors / values).mean())
    assert relative == pytest.approx(float(values.log().std()), rel=0.4)


def test_too_few_images_for_a_held_out_half_are_told_of_before_any_sample():
    with pytest.raises(InvalidInput, match="^50 samples and 39 images are too few for a held-out"):
        HeldOut.of(normal(39, 2), 50)
    images = torch.rand(39, 1, 4, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1
    scorer = Scorer(ImageData(images, name="few"), 50, features=lambda x: x.flatten(1)[:, :2])
    assert "39 images are too few for a held-out half: FDr needs 20 samples" in scorer.notes[-1]
    found = scorer.scores(images)
    assert found.frechet_ratio is None and found.frechet > -1 and found.sliced is not None


def test_several_networks_judge_the_same_samples_each_as_it_does_alone():
    images = torch.rand(80, 1, 4, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1
    data, samples = ImageData(images, name="noise"), images[:50] * 0.8
    maps = {"pixels": None, "left": lambda x: x[..., :2]}
    judges = Judges(data, 50, maps, num_resamples=3)
    found = judges.scores(samples, seed=4)
    for name, features in maps.items():
        alone = Scorer(data, 50, features=features, num_resamples=3).scores(samples, seed=4)
        both = {**found, **found["quality"][name]}
        assert {key: both[key] for key in alone.to_dict()} == alone.to_dict()
    ratios = [own["frechet_ratio"] for own in found["quality"].values()]
    assert found["frechet_ratio"] == pytest.approx(sum(ratios) / 2)
    assert [note.split(":")[0] for note in judges.notes] == ["pixels", "left"]
    assert list(judges.how()["networks"]) == ["pixels", "left"]


def test_no_mean_of_ratios_where_one_is_missing():
    assert mean_ratio({"a": Quality(frechet_ratio=1.0), "b": Quality()}) is None
