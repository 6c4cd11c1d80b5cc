"""What a remedy has estimated is kept with the model: found again without the data."""

import json
import shutil

import pytest
import torch

import undrift
from commands import network, write_run
from undrift.api.chain import KEPT
from undrift.data.load import load_data
from undrift.diffusion.pipelines import load_pipeline, sampler_by_name
from undrift.exceptions import InvalidInput
from undrift.remedies.sampler import RemediedSampler

DIGITS = load_data("digits")
CHAIN = {"num_inference_steps": 3, "remedy": "moments"}


@pytest.fixture
def made(monkeypatch):
    """The estimates that were made from data."""
    found, estimated = [], RemediedSampler.estimated

    def counting(self, *given, **options):
        found.append(self.remedy.text)
        return estimated(self, *given, **options)

    monkeypatch.setattr(RemediedSampler, "estimated", counting)
    return found


@pytest.fixture
def run(tmp_path):
    write_run(tmp_path / "run")
    (tmp_path / "run" / "versions.json").write_text(json.dumps({"data": dict(DIGITS.how)}))
    return tmp_path / "run"


@pytest.fixture
def foreign(run, tmp_path):
    """A pipeline that does not know its data."""
    return shutil.copytree(run / "pipeline", tmp_path / "foreign")


def drawn(model, **options):
    return undrift.sample(model, 4, seed=1, progress=False, **CHAIN | options)


def judged(model, data=None):
    options = {"num_samples": 20, "num_resamples": 2, "features": "pixels", "progress": False}
    return undrift.evaluate(model, data, **options, **CHAIN)


def kept(folder):
    return sorted((folder / KEPT).glob("*.pt"))


def test_the_next_command_finds_the_estimate_of_the_run(run, made):
    first = drawn(run)
    assert torch.equal(drawn(run), first) and torch.equal(drawn(run / "pipeline"), first)
    judged(run)
    assert made == ["moments"] and len(kept(run)) == 1
    bare = sampler_by_name(load_pipeline(run), None, 3)
    expected = undrift.apply_remedy(bare, "moments", DIGITS.images)
    assert torch.equal(undrift.sample(expected, 4, seed=1, progress=False), first)


def test_another_chain_and_other_data_have_their_own(run, made):
    drawn(run)
    drawn(run, num_inference_steps=4)
    drawn(run, remedy="moments:0.5")  # an estimate serves all strengths
    assert len(made) == len(kept(run)) == 2
    judged(run, load_data("digits", limit=100))
    assert len(made) == len(kept(run)) == 3
    first = drawn(run)  # of the training data still
    assert len(made) == 3
    shutil.rmtree(run / KEPT)
    assert torch.equal(drawn(run), first)


def test_other_weights_have_their_own(run, made, tmp_path):
    drawn(run)
    write_run(tmp_path / "other", network().to(torch.bfloat16).float())
    shutil.copytree(run / KEPT, tmp_path / "other" / KEPT)
    drawn(tmp_path / "other")
    assert len(made) == len(kept(tmp_path / "other")) == 2


def test_a_model_without_its_data_takes_the_estimate_of_an_evaluation(foreign, made):
    with pytest.raises(InvalidInput, match="evaluate the model with --data first"):
        drawn(foreign)
    assert not kept(foreign)
    judged(foreign, load_data("digits"))
    first = drawn(foreign)
    assert len(made) == 1
    judged(foreign, load_data("digits", limit=100))
    with pytest.raises(InvalidInput, match="from several data: keep one") as caught:
        drawn(foreign)
    assert "\n" not in str(caught.value)
    newest = max(kept(foreign), key=lambda file: file.stat().st_mtime_ns)
    newest.unlink()
    assert torch.equal(drawn(foreign), first)


def test_a_folder_that_cannot_be_written_costs_the_estimate_only(run, made, caplog):
    (run / KEPT).write_text("a file of others")
    first = drawn(run)
    assert "the estimate is not kept" in caplog.text
    assert (run / KEPT).read_text() == "a file of others"
    (run / KEPT).unlink()
    assert torch.equal(drawn(run), first) and len(made) == 2
