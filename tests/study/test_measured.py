"""A study that measures its runs judges the samples of the measurement."""

from commands import result
from undrift.measurement.profile import ErrorProfile
from undrift.quality.scorer import Scorer
from undrift.study.config import StudyConfig
from undrift.study.run import run_study
from undrift.training.config import ChainConfig, MethodConfig, ModelConfig, TrainConfig

SAMPLES, STEPS = 24, 3
MODEL = ModelConfig(block_out_channels=[8], num_class_embeds=10)
BASE = TrainConfig(
    steps=2, batch_size=8, sample_every=0, model=MODEL, chain=ChainConfig(num_steps=6)
)
PLAN = StudyConfig(
    BASE, {"plain": MethodConfig()}, steps=2, num_samples=SAMPLES, num_inference_steps=STEPS,
    samplers=["ancestral", "unipc"], features="pixels", measure=True,
)  # fmt: skip


def test_the_samples_of_the_measurement_are_judged(tmp_path, capsys, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Scorer, "draw", None)  # no other sample is drawn
        study = run_study(PLAN, tmp_path, progress=False)
    assert [row.chain for row in study.rows] == [("ancestral", STEPS), ("unipc", STEPS)]
    for row in study.rows:
        profile = ErrorProfile.load(tmp_path / row.profile)
        assert len(profile) == STEPS + 1 and row.sampler in profile.label
        options = ["--sampler", row.sampler, "--num-inference-steps", STEPS, "--features", "pixels"]
        directly = result(
            capsys, "evaluate", tmp_path / row.run, *options, "--num-samples", SAMPLES, "--quiet"
        )
        for name in ("mmd_sq", "mmd_sq_se", "p_value"):
            assert getattr(profile.final.error, name) == getattr(row, name) == directly[name], name
        own, scores = row.quality["pixels"], directly["quality"]["pixels"]
        assert scores and all(getattr(own, name) == scores[name] for name in scores)
    # the command of a profile makes it again; so does the study, where it is gone
    command = profile.how["command"].split()[1:]
    result(capsys, *command, "--quiet", "--output", tmp_path / "again.json")
    assert ErrorProfile.load(tmp_path / "again.json").states == profile.states
    (tmp_path / row.profile).unlink()
    assert run_study(PLAN, tmp_path, progress=False).rows == study.rows
    assert ErrorProfile.load(tmp_path / row.profile).states == profile.states
