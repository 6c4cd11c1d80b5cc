"""The training loop: exact repetition, exact resume, where it starts, what diffusers reads."""

import math
import shutil
from collections import Counter
from dataclasses import replace

import pytest
import torch
from PIL import Image

from tiny import noise_source
from undrift.data.images import ImageData
from undrift.data.load import load_data
from undrift.exceptions import InvalidInput
from undrift.regularizer.options import RegularizerConfig
from undrift.regularizer.spaces import PixelSpace
from undrift.storage.manifest import MANIFEST, Damaged, seal
from undrift.storage.writing import appearing
from undrift.training.building import LEARNING_RATE, build_network, build_regularizer
from undrift.training.checkpoint import KEPT_CHECKPOINTS, STATE_FILE, last_checkpoint
from undrift.training.config import (
    ChainConfig,
    ModelConfig,
    ObjectiveConfig,
    OptimizerConfig,
    TrainConfig,
)
from undrift.training.trainer import Trainer

IMAGES = ImageData(torch.rand(20, 1, 8, 8, generator=noise_source()) * 2 - 1, "noise")
MODEL = ModelConfig(block_out_channels=[8, 8], norm_num_groups=4)
REGULARIZED = ("official", "full", "truncated", "persistent")
BASELINES = (
    *("input_perturbation", "mixflow", "consistent", "fokker_planck", "dream"),
    "scheduled_sampling",
)
ON_SAMPLES = ("mmd_ddm", "fd_loss")
METHODS = ("plain", *REGULARIZED, *BASELINES)
NEGATIVE = ObjectiveConfig(strength=-0.1)
CHANGED = (
    "input_perturbation",
    "mixflow",
    "dream",
    "scheduled_sampling",
)  # another pair in the main term


def config(method="plain", **options):
    regularizer = RegularizerConfig(num_cohorts=3, num_forward=16, every=1)
    if method in ON_SAMPLES:
        regularizer = RegularizerConfig(num_inference_steps=3)
    known = {
        "steps": 6,
        "batch_size": 8,
        "model": MODEL,
        "chain": ChainConfig(num_steps=10),
        "optimizer": OptimizerConfig(warmup_steps=2),
        "method": method,
        "regularizer": regularizer,
    }
    return TrainConfig(**(known | options))


def train(configuration, data=IMAGES, until=None):
    trainer, rows = Trainer(configuration, data), []
    trainer.run(rows.append, until)
    return trainer, rows


def weights(trainer):
    return [*trainer.bare_network.state_dict().values(), *trainer.ema.shadow_params]


def assert_same(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A run of six plain steps on disk, and its trainer."""
    folder = tmp_path_factory.mktemp("base")
    trainer, _ = train(config())
    trainer.save_checkpoint(folder / "checkpoints")
    trainer.save_pipeline(folder / "pipeline")
    return folder, trainer


@pytest.mark.parametrize("method", ["plain", "persistent"])
def test_a_seed_is_a_run(method):
    first, second, other = (train(config(method, seed=seed))[0] for seed in (3, 3, 4))
    assert_same(weights(first), weights(second))
    assert not torch.equal(weights(first)[0], weights(other)[0])


def test_a_run_does_not_depend_on_the_global_stream_nor_moves_it():
    model = replace(MODEL, dropout=0.3)
    torch.manual_seed(1)
    first, _ = train(config("truncated", model=model))
    torch.manual_seed(2)
    before = torch.get_rng_state()
    second, _ = train(config("truncated", model=model))
    assert_same(weights(first), weights(second))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("method", [*METHODS, *ON_SAMPLES])
def test_resume_is_exact(method, tmp_path):
    step = 2
    options = config(
        method, steps=4, horizontal_flip=True, model=replace(MODEL, dropout=0.2), ema_decay=0.9
    )
    whole, rows = train(options)
    part, _ = train(options, until=step)
    part.save_checkpoint(tmp_path)
    resumed, rest = Trainer(options, IMAGES), []
    resumed.load_checkpoint(last_checkpoint(tmp_path))
    assert resumed.step == step and resumed.cpu_seconds == part.cpu_seconds > 0
    resumed.run(rest.append)
    assert_same(weights(whole), weights(resumed))
    assert rows[step:] == rest
    moments = [t.optimizer.state_dict()["state"] for t in (whole, resumed)]
    assert_same(*([m for s in part.values() for m in s.values()] for part in moments))


def test_all_methods_see_the_same_data_and_noise():
    losses, drawn, steps, indices = {}, set(), set(), set()
    for method in METHODS:
        trainer = Trainer(config(method, model=replace(MODEL, dropout=0.2)), IMAGES)
        rows, pair = [], trainer.objective.pair

        def seen(denoiser, x_0, t, epsilon, pair=pair, method=method):
            drawn.add((float(x_0.sum()), float(epsilon.sum())))
            if method != "mixflow":  # which moves the steps to where it wants more of them
                steps.add(tuple(t.tolist()))
            return pair(denoiser, x_0, t, epsilon)

        trainer.objective.pair = seen
        trainer.run(rows.append, until=1)
        losses[method] = rows[0]["loss"]
        trainer.run(until=3)
        indices.add(tuple(trainer.stream.indices.tolist()))
    assert len(drawn) == len(steps) == 3 and len(indices) == 1
    assert len({losses[method] for method in METHODS if method not in CHANGED}) == 1
    assert len({losses[method] for method in METHODS}) == 1 + len(CHANGED)


def test_the_regularizer_changes_the_weights_and_tells_its_strength():
    plain, _ = train(config(optimizer=OptimizerConfig(warmup_steps=0)))
    for method in REGULARIZED:
        trainer, rows = train(config(method, optimizer=OptimizerConfig(warmup_steps=0)))
        assert not torch.equal(weights(plain)[0], weights(trainer)[0])
        active = [row for row in rows if "lambda" in row]
        assert {"regularizer", "regularizer_null", "grad_norm_main"} <= {*active[0]}
        assert all(row["lambda"] > 0 and row["grad_norm_regularizer"] > 0 for row in active)


def test_steps_are_uniform_and_the_target_is_that_of_the_network():
    trainer, seen = Trainer(config(batch_size=500), IMAGES), Counter()

    class Oracle(torch.nn.Module):
        def forward(self, x_t, timestep):
            seen.update(timestep.tolist())
            alpha_t, sigma_t = trainer.sampler.schedule.alpha_sigma(timestep + 1, x_t)
            epsilon = (x_t - alpha_t * x_0) / sigma_t
            return alpha_t * epsilon - sigma_t * x_0

    trainer.network = Oracle()
    x_0 = trainer._batch()
    for trainer.step in range(8):
        assert float(trainer._main_term(x_0)) < 1e-6
    assert set(seen) == set(range(10))
    assert sum((n - 400) ** 2 / 400 for n in seen.values()) < 27.9  # 9 df, p = 0.001


def test_the_average_follows_its_recursion():
    trainer, average = Trainer(config(ema_decay=0.5), IMAGES), None
    for step in range(1, 7):
        trainer.run(until=step)
        now = torch.cat([p.detach().flatten() for p in trainer.bare_network.parameters()])
        decay = 0 if step == 1 else min(0.5, step / (9 + step))
        average = now if average is None else decay * average + (1 - decay) * now
    found = torch.cat([p.flatten() for p in trainer.ema.shadow_params])
    torch.testing.assert_close(found, average)
    averaged = trainer.averaged_network()
    assert not averaged.training
    assert_same(averaged.parameters(), trainer.ema.shadow_params)


def test_a_run_on_a_stream_resumes_exactly_with_its_labels(tmp_path):
    """Saved within a block, of a network that is told the classes."""
    datasets = pytest.importorskip("datasets")
    pixels = (255 * torch.rand(20, 8, 8, generator=noise_source())).byte().numpy()
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    content = {"image": list(map(Image.fromarray, pixels)), "label": [i % 3 for i in range(20)]}
    rows = datasets.Dataset.from_dict(content, features=features)
    stream = load_data(rows.to_iterable_dataset(num_shards=2), streaming=7)
    options = config("persistent", model=replace(MODEL, num_class_embeds=3))
    whole, _ = train(options, stream)
    part, _ = train(options, stream, until=4)
    assert torch.equal(part._labels(), part.stream.labels) and part.stream.epoch == 1
    part.save_checkpoint(tmp_path)
    resumed = Trainer(options, stream)
    resumed.load_checkpoint(last_checkpoint(tmp_path))
    resumed.run()
    assert_same(weights(whole), weights(resumed))


@pytest.mark.parametrize("variance_type", ["fixed_small", "fixed_large"])
def test_diffusers_loads_the_pipeline_and_samples_what_we_sample(variance_type, tmp_path):
    from diffusers import DDPMPipeline

    chain = ChainConfig(num_steps=10, variance_type=variance_type)
    trainer, _ = train(config(chain=chain))
    trainer.save_pipeline(tmp_path / "pipeline")
    pipeline = DDPMPipeline.from_pretrained(tmp_path / "pipeline")
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(4, noise_source(5), num_inference_steps=10, output_type="np").images
    x = trainer.averaged_sampler().sample((4, 1, 8, 8), generator=noise_source(5))
    ours = (x / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)
    torch.testing.assert_close(torch.tensor(theirs), ours, rtol=0, atol=1e-5)


def test_half_precision_trains_and_saves_the_average_in_full(tmp_path):
    from diffusers import DDPMPipeline

    options = config(
        "persistent", mixed_precision="bf16", optimizer=OptimizerConfig(warmup_steps=0)
    )
    trainer, rows = train(options)
    full, _ = train(replace(options, mixed_precision="no"))
    assert all(p.dtype == torch.float32 for p in trainer.bare_network.parameters())
    gaps = [(a - b).abs().max() for a, b in zip(weights(trainer), weights(full), strict=True)]
    assert 0 < float(max(gaps)) < 0.05
    assert all(math.isfinite(row["loss"]) for row in rows)
    trainer.save_pipeline(tmp_path / "pipeline")
    network = DDPMPipeline.from_pretrained(tmp_path / "pipeline").unet
    x, t = torch.randn(3, 1, 8, 8, generator=noise_source()), torch.tensor([1, 5, 9])
    with torch.no_grad():
        ours = trainer.averaged_network()(x, t).sample
        assert_same([ours], [network(x, t).sample])


def test_half_precision_on_a_processor_that_has_none_is_one_line():
    if torch.cuda.is_available():
        pytest.skip("this machine has it")
    with pytest.raises(InvalidInput, match="--mixed-precision fp16: not on cpu"):
        Trainer(config(mixed_precision="fp16"), IMAGES)


def test_a_run_continues_another_with_all_its_state(base):
    folder, before = base
    trainer = Trainer(config("persistent", start_from=str(folder), seed=9), IMAGES)
    assert_same(weights(trainer), weights(before))
    for a, b in zip(
        trainer.optimizer.state_dict()["state"].values(),
        before.optimizer.state_dict()["state"].values(),
        strict=True,
    ):
        assert_same(a.values(), b.values())
    assert trainer.ema.optimization_step == 6
    rows = []
    trainer.run(rows.append, until=1)
    assert rows[0]["lr"] == LEARNING_RATE  # no warm-up
    assert trainer.step == 1


def test_the_network_and_chain_of_the_other_run_are_taken_over(base):
    folder, before = base
    trainer = Trainer(TrainConfig(start_from=str(folder), steps=1, batch_size=4), IMAGES)
    assert trainer.config.model == before.config.model
    assert trainer.config.chain == before.config.chain
    for wrong, message in (
        ({"chain": ChainConfig(num_steps=20)}, "does not fit --chain.num-steps 20"),
        ({"model": replace(MODEL, layers_per_block=2)}, "does not fit --model.layers-per-block 2"),
    ):
        with pytest.raises(InvalidInput, match=message):
            Trainer(config(start_from=str(folder), **wrong), IMAGES)
    rgb = ImageData(IMAGES.images.expand(-1, 3, -1, -1), "rgb")
    small = ImageData(IMAGES.images[..., :4], "narrow")
    for data, shape in ((rgb, r"\(3, 8, 8\)"), (small, r"\(1, 8, 4\)")):
        with pytest.raises(InvalidInput, match=rf"of shape \(1, 8, 8\), the data have {shape}"):
            Trainer(config(start_from=str(folder)), data)


def save_pipeline(path, scheduler=None, **options):
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    known = {
        "sample_size": 8,
        "in_channels": 1,
        "out_channels": 1,
        "layers_per_block": 1,
        "block_out_channels": (8, 8),
        "norm_num_groups": 4,
        "down_block_types": ("DownBlock2D",) * 2,
        "up_block_types": ("UpBlock2D",) * 2,
        "add_attention": False,
    }
    network = UNet2DModel(**(known | options))
    scheduler = scheduler or DDPMScheduler(
        30, beta_schedule="linear", prediction_type="sample", clip_sample_range=2.0
    )
    DDPMPipeline(network, scheduler).save_pretrained(path)
    return network


def bare_config(path, **options):
    return TrainConfig(start_from=str(path), steps=3, batch_size=4, **options)


def test_fine_tuning_keeps_the_network_and_the_scheduler(tmp_path):
    from diffusers import DDPMPipeline

    network = save_pipeline(tmp_path / "theirs", sample_size=None)  # which the data then set
    wide = ImageData(torch.zeros(6, 1, 16, 16).uniform_(generator=noise_source()), "wide")
    trainer = Trainer(bare_config(tmp_path / "theirs"), wide)
    assert_same(trainer.bare_network.state_dict().values(), network.state_dict().values())
    assert trainer.sampler.denoiser.prediction_type == "sample"
    assert trainer.sampler.clip == 2.0 and len(trainer.sampler.grid) == 31
    trainer.run()
    trainer.save_pipeline(tmp_path / "ours")
    theirs, ours = (DDPMPipeline.from_pretrained(tmp_path / name) for name in ("theirs", "ours"))
    assert dict(ours.scheduler.config) == dict(theirs.scheduler.config)
    assert ours.unet.config.sample_size == 16
    assert not torch.equal(next(ours.unet.parameters()), next(theirs.unet.parameters()))


def test_a_learning_rate_is_handed_on_and_a_pipeline_gets_a_small_one(tmp_path):
    save_pipeline(tmp_path / "theirs")
    rates = [Trainer(config(), IMAGES).config.optimizer.learning_rate]
    first = Trainer(bare_config(tmp_path / "theirs"), IMAGES)
    first.save_checkpoint(tmp_path / "first" / "checkpoints")
    second = Trainer(bare_config(tmp_path / "first"), IMAGES)
    second.save_checkpoint(tmp_path / "second" / "checkpoints")
    own = OptimizerConfig(learning_rate=0.3, warmup_steps=0)
    for start, options in (("second", {}), ("second", {"optimizer": own})):
        rates.append(
            Trainer(bare_config(tmp_path / start, **options), IMAGES).config.optimizer.learning_rate
        )
    assert rates == [1e-3, 1e-4, 0.3]
    assert first.lr_schedule.base_lrs == second.lr_schedule.base_lrs == [1e-4]


@pytest.mark.parametrize("is_complete", [True, False])
def test_a_run_that_started_from_a_pipeline_hands_on_its_network_and_chain(tmp_path, is_complete):
    save_pipeline(tmp_path / "theirs", layers_per_block=1)
    first = Trainer(bare_config(tmp_path / "theirs"), IMAGES)
    first.run()
    first.save_checkpoint(tmp_path / "run" / "checkpoints")
    if is_complete:
        first.save_pipeline(tmp_path / "run" / "pipeline")
    second = Trainer(bare_config(tmp_path / "run"), IMAGES)
    assert_same(weights(second), weights(first))
    assert second.ema.optimization_step == 3
    assert dict(second.scheduler.config) == dict(first.scheduler.config)
    assert second.sampler.denoiser.prediction_type == "sample"
    assert second.sampler.clip == 2.0 and len(second.sampler.grid) == 31


def test_pipelines_that_cannot_be_trained_are_refused_in_one_line(tmp_path):
    from diffusers import LCMScheduler

    for name, options, message in (
        ("rgb", {"in_channels": 3, "out_channels": 3}, r"\(3, 8, 8\), the data have \(1, 8, 8\)"),
        ("any size", {"in_channels": 3, "sample_size": None}, r"\(3, 8, 8\), the data have"),
        ("wide", {"sample_size": (8, 16)}, r"\(1, 8, 16\), the data have \(1, 8, 8\)"),
        ("channels", {"out_channels": 3}, "predicts no states"),
        ("classes", {"num_class_embeds": 4}, "trained on data with labels"),
        ("distilled", {"scheduler": LCMScheduler()}, "was distilled: a denoising loss would undo"),
    ):
        save_pipeline(tmp_path / name, **options)
        with pytest.raises(InvalidInput, match=message):
            Trainer(bare_config(tmp_path / name), IMAGES)
    save_pipeline(tmp_path / "good", sample_size=None)
    with pytest.raises(InvalidInput, match="does not fit --chain.prediction-type epsilon"):
        chain = ChainConfig(prediction_type="epsilon")
        Trainer(bare_config(tmp_path / "good", chain=chain), IMAGES)
    odd = ImageData(torch.zeros(6, 1, 9, 9).uniform_(generator=noise_source()), "odd")
    with pytest.raises(InvalidInput, match="9x9 cannot be halved 1 times"):
        Trainer(bare_config(tmp_path / "good"), odd)


def test_weights_that_are_not_finite_are_named(base, tmp_path):
    folder, _ = base
    shutil.copytree(folder, tmp_path / "bad")
    file = last_checkpoint(tmp_path / "bad" / "checkpoints") / STATE_FILE
    state = torch.load(file, weights_only=True)
    state["network"]["conv_in.weight"][0, 0, 0, 0] = math.nan
    torch.save(state, file)
    seal(file.parent)
    with pytest.raises(InvalidInput, match=r"network\.conv_in\.weight holds NaN or infinity"):
        Trainer(config(start_from=str(tmp_path / "bad")), IMAGES)


@pytest.mark.parametrize("method", ["plain", "persistent"])
def test_a_loss_that_is_not_finite_stops_the_run(method):
    optimizer = OptimizerConfig(learning_rate=1e25, warmup_steps=0)
    with pytest.raises(InvalidInput, match=r"the loss is (nan|inf) at step \d|NaN or infinity"):
        train(config(method, optimizer=optimizer))


def test_batches_may_be_larger_than_the_data_and_images_may_have_colors():
    rgb = ImageData(torch.rand(5, 3, 8, 8, generator=noise_source()), "rgb")
    trainer, rows = train(config("persistent", batch_size=12), rgb)
    assert len(rows) == 6
    assert trainer.averaged_sampler(2).sample((2, 3, 8, 8)).shape == (2, 3, 8, 8)


def test_images_need_not_be_square(tmp_path):
    wide = ImageData(torch.rand(6, 1, 4, 8, generator=noise_source()), "wide")
    trainer, _ = train(config(), wide)
    assert tuple(trainer.bare_network.config.sample_size) == (4, 8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "--steps is 0: choose at least 1"),
        ({"batch_size": 0}, "--batch-size is 0"),
        ({"log_every": 0}, "--log-every is 0"),
        ({"checkpoint_every": 0}, "--checkpoint-every is 0"),
        ({"sample_every": -1}, "--sample-every is -1"),
        ({"ema_decay": 1.0}, "--ema-decay is 1.0: choose at least 0 and less than 1"),
        ({"chain": ChainConfig(num_steps=0)}, "--chain.num-steps is 0"),
        ({"chain": ChainConfig(clip=-1.0)}, "bound is -1.0"),
        ({"model": replace(MODEL, layers_per_block=0)}, "--model.layers-per-block is 0"),
        ({"model": replace(MODEL, norm_num_groups=0)}, "--model.norm-num-groups is 0"),
        ({"model": replace(MODEL, norm_num_groups=3)}, "8 channels do not split into 3 groups"),
        ({"model": replace(MODEL, dropout=1.0)}, "--model.dropout is 1.0"),
        ({"model": replace(MODEL, block_out_channels=[8] * 5)}, "cannot be halved 4 times"),
        (
            {"model": ModelConfig(block_out_channels=[4, 4], norm_num_groups=4, attention=True)},
            "attention heads of 8",
        ),
        ({"method": "input_perturbation", "objective": NEGATIVE}, "--objective.strength is -0.1"),
        ({"method": "fokker_planck", "objective": ObjectiveConfig(math.nan)}, "strength is nan"),
        ({"objective": ObjectiveConfig(length=-1)}, "--objective.length is -1: choose at least 0"),
        (
            {"method": "scheduled_sampling", "objective": ObjectiveConfig(1.0)},
            "has no effect with scheduled_sampling: give --objective.length",
        ),
        (
            {"method": "fokker_planck", "mixed_precision": "bf16"},
            "--method fokker_planck needs full precision .* use --mixed-precision no",
        ),
        ({"optimizer": OptimizerConfig(learning_rate=0.0)}, "--optimizer.learning-rate is 0.0"),
        ({"optimizer": OptimizerConfig(learning_rate=math.nan)}, "--optimizer.learning-rate is n"),
        ({"optimizer": OptimizerConfig(beta2=1.0)}, "--optimizer.beta2 is 1.0"),
        ({"optimizer": OptimizerConfig(max_grad_norm=0.0)}, "--optimizer.max-grad-norm is 0.0"),
        (
            {"method": "full", "regularizer": RegularizerConfig(gradient_share=0.0)},
            "--regularizer.gradient-share is 0.0",
        ),
        (
            {"method": "full", "regularizer": RegularizerConfig(weighting="measured")},
            "give --regularizer.profile",
        ),
        ({"start_from": "nowhere"}, "no such folder: nowhere"),
    ],
)
def test_options_without_meaning_are_refused(options, message):
    with pytest.raises(InvalidInput, match=message):
        Trainer(config(**options), IMAGES)


def test_attention_and_default_widths_make_a_network_that_runs():
    for size in (8, 16, 32, 64):
        network = build_network(ModelConfig(attention=True), (1, size, size))
        assert network.config.sample_size == size
    small = build_network(replace(MODEL, attention=True), (1, 8, 8))
    assert small(torch.zeros(1, 1, 8, 8), torch.tensor([3])).sample.shape == (1, 1, 8, 8)


def test_old_checkpoints_and_what_was_half_written_are_forgotten(tmp_path):
    trainer = Trainer(config("persistent"), IMAGES)
    (tmp_path / ".step-00000001.part").mkdir()
    for step in range(1, 6):
        trainer.run(until=step)
        trainer.save_checkpoint(tmp_path)
    kept = sorted(path.name for path in tmp_path.iterdir())
    assert kept == [f"step-{step:08d}" for step in range(6 - KEPT_CHECKPOINTS, 6)]


def test_a_save_that_is_killed_leaves_the_last_one(tmp_path, monkeypatch):
    trainer, _ = train(config("persistent"), until=2)
    trainer.save_checkpoint(tmp_path)
    before = {file.name: file.read_bytes() for file in last_checkpoint(tmp_path).iterdir()}
    trainer.run(until=3)
    real = torch.save

    def killed(state, path):
        real(state, path)
        if "regularizer" in path.name:
            raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", killed)
    for step in (3, 2):  # another checkpoint, and the same one again
        trainer.step = step
        with pytest.raises(KeyboardInterrupt):
            trainer.save_checkpoint(tmp_path)
        checkpoint = last_checkpoint(tmp_path)
        assert {file.name: file.read_bytes() for file in checkpoint.iterdir()} == before
    resumed = Trainer(config("persistent"), IMAGES)
    resumed.load_checkpoint(last_checkpoint(tmp_path))
    assert resumed.step == 2


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "it"
    for content in ("old", "new"):
        with appearing(path) as part:
            (part / "file").write_text(content)
            assert not path.exists() or (path / "file").read_text() == "old"
        assert (path / "file").read_text() == content
    with pytest.raises(RuntimeError), appearing(path) as part:
        (part / "file").write_text("broken")
        raise RuntimeError
    assert (path / "file").read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["it"]


def test_a_checkpoint_that_does_not_fit_or_cannot_be_read_is_one_line(tmp_path):
    trainer, _ = train(config("persistent"), until=1)
    path = trainer.save_checkpoint(tmp_path)
    other = Trainer(config("persistent", chain=ChainConfig(num_steps=11)), IMAGES)
    with pytest.raises(InvalidInput, match=r"chain\.num_steps: 10 there, 11 now\): resume with"):
        other.load_checkpoint(path)
    changed = ImageData(IMAGES.images.flip(0), "noise")
    with pytest.raises(InvalidInput, match="has changed since the run was saved"):
        Trainer(config("persistent"), changed).load_checkpoint(path)
    (path / "regularizer-0.pt").unlink()
    with pytest.raises(Damaged, match="regularizer-0.pt is missing"):
        Trainer(config("persistent"), IMAGES).load_checkpoint(path)
    (path / STATE_FILE).write_bytes((path / STATE_FILE).read_bytes()[:1000])
    with pytest.raises(Damaged, match="training_state.pt is damaged"):
        Trainer(config("persistent"), IMAGES).load_checkpoint(path)
    seal(path)
    with pytest.raises(InvalidInput, match="is no checkpoint that can be read"):
        Trainer(config("persistent"), IMAGES).load_checkpoint(path)
    torch.save({"epoch": 3}, path / STATE_FILE)
    seal(path)
    with pytest.raises(InvalidInput, match="no checkpoint of undrift train: it contains no config"):
        Trainer(config("persistent"), IMAGES).load_checkpoint(path)


def test_options_that_change_no_number_may_differ_on_resume(tmp_path):
    trainer, _ = train(config(), until=1)
    path = trainer.save_checkpoint(tmp_path)
    free = {"checkpoint_every": 2, "sample_every": 0, "log_every": 3, "output": "x", "resume": True}
    Trainer(config(**free), IMAGES).load_checkpoint(path)


def in_each_process(folder):
    """Run in two processes: one model, two streams of noise, checkpoints of both."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState
    from accelerate.utils import gather

    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(cpu=True)
    assert accelerator.num_processes == 2
    options = config("persistent", steps=4)
    whole = Trainer(options, IMAGES, accelerator)
    whole.run(until=2)
    path = whole.save_checkpoint(folder)
    whole.run()
    resumed = Trainer(options, IMAGES, accelerator)
    resumed.load_checkpoint(path)
    resumed.run()
    assert_same(weights(whole), weights(resumed))
    for value in weights(whole):
        both = gather(value.flatten())
        assert torch.equal(*both.chunk(2))
    for method in ("consistent", "fokker_planck"):  # several passes with one backward pass
        trainer = Trainer(
            config(method, steps=2, chain=ChainConfig(num_steps=40)), IMAGES, accelerator
        )
        trainer.run()
        for value in weights(trainer):
            assert torch.equal(*gather(value.flatten()).chunk(2))
    cohorts = gather(whole.regularizer.rollout.states[0].x)
    assert not torch.equal(*cohorts.chunk(2))
    with pytest.raises(InvalidInput, match="--batch-size 7 does not split over 2 processes"):
        Trainer(config(batch_size=7), IMAGES, accelerator)


def test_two_processes_train_one_model(tmp_path):
    from accelerate import debug_launcher

    debug_launcher(in_each_process, (tmp_path,), num_processes=2)
    files = sorted(file.name for file in last_checkpoint(tmp_path).iterdir())
    names = ("objective", "regularizer", "stream")
    own = [f"{name}-{rank}.pt" for name in names for rank in (0, 1)]
    assert files == [MANIFEST, *own, STATE_FILE]
    with pytest.raises(InvalidInput, match="was made by 2 processes: use as many"):
        Trainer(config("persistent", steps=4), IMAGES).load_checkpoint(last_checkpoint(tmp_path))


def test_a_term_that_starts_late_leaves_the_steps_before_it_plain():
    late = replace(config("persistent").regularizer, start=0.5)
    plain, regularized = train(config())[1], train(config("persistent", regularizer=late))[1]
    assert [row["loss"] for row in plain[:4]] == [row["loss"] for row in regularized[:4]]
    assert [row["loss"] for row in plain[4:]] != [row["loss"] for row in regularized[4:]]
    assert ["regularizer" in row for row in regularized] == [False] * 3 + [True] + [False] * 2


@pytest.mark.parametrize(
    "options",
    [{"kernel": "energy"}, {"kernel": "laplace"}, {"bandwidth": 4.0}, {"features": "pyramid"}],
)
def test_what_compares_the_states_can_be_chosen(options):
    chosen = replace(config("persistent").regularizer, **options)
    _, usual = train(config("persistent"), until=1)
    trainer, rows = train(config("persistent", regularizer=chosen), until=1)
    assert rows[0]["regularizer"] != usual[0]["regularizer"]
    assert rows[0]["loss"] == usual[0]["loss"]
    network = Trainer(config(), IMAGES).bare_network
    released = build_regularizer(
        config("official", regularizer=chosen), trainer.sampler.with_network(network)
    )
    compared = released.comparison
    assert compared.kernel.bandwidth == "pooled" and isinstance(compared.space, PixelSpace)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"features": "network+inception"}, "space of --regularizer.features.*inception"),
        ({"features": "pixels+pixels"}, "has a space twice"),
        ({"features": "network", "population": 64}, "nothing yet: give --start-from"),
        ({"kernel": "cubic"}, "compares a population: give population"),
        ({"averaging": "moving"}, "moving averages a population: give --regularizer.population"),
        (
            {"averaging": "moving", "population": 9, "kernel": "energy"},
            "rbf or laplace, not energy",
        ),
    ],
)
def test_comparisons_that_cannot_be_made_are_refused(options, message):
    chosen = replace(config("persistent").regularizer, **options)
    with pytest.raises(InvalidInput, match=message):
        Trainer(config("persistent", regularizer=chosen), IMAGES)


def test_losses_of_samples_start_with_an_optimizer_of_their_own(base):
    folder, before = base
    for method, rate, bound in (("mmd_ddm", 0.025, 0.5), ("fd_loss", 0.01, 1.0)):
        trainer = Trainer(config(method, start_from=str(folder)), IMAGES)
        assert_same(weights(trainer), weights(before))
        assert not trainer.optimizer.state_dict()["state"] and trainer.max_grad_norm == bound
        rows = []
        trainer.run(rows.append, until=1)
        assert rows[0]["lr"] == pytest.approx(rate * LEARNING_RATE)
        assert len(trainer.objective.sampler.grid) == 4
        assert type(trainer.objective.sampler).__name__ == "DDIMSampler"
    with pytest.raises(InvalidInput, match="mmd_ddm needs the number of steps of its chain"):
        Trainer(config("mmd_ddm", regularizer=RegularizerConfig()), IMAGES)
    own = RegularizerConfig(num_inference_steps=3, features="network")
    with pytest.raises(InvalidInput, match="nothing yet: give --start-from"):
        Trainer(config("fd_loss", regularizer=own), IMAGES)


def test_losses_of_samples_follow_the_solver_that_is_chosen(base):
    folder, _ = base
    for population in (0, 12):
        own = RegularizerConfig(3, features="network+pixels", population=population)
        own = replace(own, strength=None, num_inference_steps=3)
        chain = ChainConfig(num_steps=10, sampler="unipc")
        chosen = config("fd_loss", regularizer=own, chain=chain, start_from=str(folder), steps=2)
        trainer, rows = train(chosen)
        assert "UniPC" in trainer.objective.sampler.describe()["sampler"]
        assert all(row["loss"] == pytest.approx(6) and row["frechet"] > 0 for row in rows)


def test_the_log_has_the_main_loss_beside_that_of_the_start_and_the_share(base):
    folder, before = base
    own = replace(config("persistent").regularizer, gradient_share=50.0, start=0.2)
    own = replace(own, main_loss_limit=1e-4)
    rate = OptimizerConfig(learning_rate=3e-3)
    options = {"start_from": str(folder), "steps": 40, "regularizer": own, "optimizer": rate}
    trainer, rows = train(config("persistent", **options))
    found = [row for row in rows if "main_average_start" in row]
    assert [row["step"] for row in found] == [9, 11, 21, 31]
    assert found[0]["main_average"] == pytest.approx(found[0]["main_average_start"], rel=1e-5)
    assert found[0]["main_average"] == pytest.approx(rows[8]["loss"], rel=1e-5)
    guard = trainer.guard
    assert guard.rise > guard.limit and guard.scale < 1  # a share of 50 is too much
    assert found[-1]["share"] == pytest.approx(50 * guard.scale)
    assert trainer.regularizer.balance.scale == guard.scale
    free, _ = train(config("persistent", **options | {"regularizer": replace(own, strength=1.0)}))
    assert free.guard is None


def test_several_spaces_are_compared_and_a_run_resumes_with_them(base, tmp_path):
    folder, _ = base
    options = replace(
        config("persistent").regularizer,
        features="efficientnet-lite1+network+pixels",
        population=20,
        kernel="cubic",
    )
    chosen = config("persistent", regularizer=options, start_from=str(folder), steps=4)
    whole, _ = train(chosen)
    part, _ = train(chosen, until=2)
    part.save_checkpoint(tmp_path)
    resumed = Trainer(chosen, IMAGES)
    resumed.load_checkpoint(last_checkpoint(tmp_path))
    resumed.run()
    assert_same(weights(whole), weights(resumed))
    moving = replace(options, kernel="laplace", averaging="moving", features="pixels")
    _, rows = train(config("persistent", regularizer=moving))
    assert all(math.isfinite(row["regularizer_null"]) for row in rows[:1])
    (population, *_) = resumed.regularizer.comparison.populations.values()
    sizes = [block.queue.shape[1] for block in population.blocks]
    assert sizes[0] == 1280 and sizes[-1] == 64 and len(sizes) == 7


def test_the_bandwidth_is_in_units_of_the_mean_squared_distance():
    wide = replace(config("persistent").regularizer, bandwidth=3.0)
    kernel = Trainer(config("persistent", regularizer=wide), IMAGES).regularizer.comparison.kernel
    y = IMAGES.images
    pairs = torch.pdist(y.flatten(1))
    assert kernel.fit(y).scales[0] == pytest.approx(float(4 * 3 * pairs.square().mean()), rel=1e-4)
