"""Two processes train the model that one trains with the joined batch."""

from dataclasses import dataclass, replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from tiny import noise_source
from undrift.data.images import Batches, ImageData
from undrift.data.load import load_data
from undrift.exceptions import InvalidInput
from undrift.processes import Processes
from undrift.regularizer.options import RegularizerConfig
from undrift.training.config import ChainConfig, ModelConfig, OptimizerConfig, TrainConfig
from undrift.training.devices import check_processes
from undrift.training.trainer import Trainer

SHORT = RegularizerConfig(num_cohorts=2, num_forward=16, every=1)
CHAIN = RegularizerConfig(num_inference_steps=3)
METHODS = {
    "plain": SHORT,
    "full": SHORT,
    "persistent": SHORT,
    "consistent": SHORT,
    "fokker_planck": SHORT,
    "scheduled_sampling": SHORT,
    "mixflow": SHORT,
    "mmd_ddm": CHAIN,
    "fd_loss": CHAIN,
}


@pytest.fixture(autouse=True)
def double():
    """Rounding is amplified by Adam where a gradient is nothing else: it is to be negligible."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def noise():
    return ImageData(torch.rand(20, 1, 8, 8, generator=noise_source()) * 2 - 1, "noise")


def trained(method, accelerator=None, images=None, **options):
    """The weights and the logged rows of a few steps."""
    small = {"block_out_channels": [4, 4], "norm_num_groups": 2, "layers_per_block": 1}
    config = TrainConfig(
        steps=3,
        batch_size=8,
        model=ModelConfig(**small, num_class_embeds=4 if options else None),
        chain=ChainConfig(num_steps=10 if method != "fokker_planck" else 40),
        optimizer=OptimizerConfig(warmup_steps=0),
        method=method,
        regularizer=METHODS[method],
        **options,
    )
    trainer, rows = Trainer(config, images or noise(), accelerator), []
    trainer.run(rows.append)
    return [*trainer.bare_network.state_dict().values(), *trainer.ema.shadow_params], rows


def in_each_process(file):
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(cpu=True)
    assert accelerator.num_processes == 2
    found = {method: trained(method, accelerator) for method in METHODS}
    found["streamed"] = trained("persistent", accelerator, streamed())
    found["conditional"] = conditional(accelerator)
    torch.save(found, f"{file}-{accelerator.process_index}")


def conditional(accelerator=None):
    """A network of three classes, some of whose images have none, along a chain with guidance."""
    images = replace(noise(), labels=torch.arange(20) % 3)
    options = {"conditioning_dropout_prob": 0.3, "null_label": 3, "guidance": 2.0}
    return trained("persistent", accelerator, images, **options)


def streamed(size=4):
    """A stream of 20 images in two shards, in blocks."""
    datasets = pytest.importorskip("datasets")
    pixels = (255 * torch.rand(20, 8, 8, generator=noise_source(3))).byte().numpy()
    features = datasets.Features({"image": datasets.Image()})
    content = {"image": list(map(Image.fromarray, pixels))}
    rows = datasets.Dataset.from_dict(content, features=features)
    return load_data(rows.to_iterable_dataset(num_shards=2), streaming=size)


@dataclass
class Joined:
    """Batches that two processes read from their parts of a stream, for one process."""

    data: ImageData

    def batches(self, first, batch_size, generator, flip, processes):
        parts = [
            self.data.batches(batch_size, generator, flip, Processes(rank, 2)) for rank in (0, 1)
        ]
        return Both(parts)


@dataclass
class Both(Batches):
    parts: list
    labels = None

    def __next__(self):
        return torch.cat([next(part) for part in self.parts])

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        """Nothing to restore."""


def test_weights_and_logs_are_those_of_one_process(tmp_path):
    from accelerate import debug_launcher

    debug_launcher(in_each_process, (tmp_path / "found",), num_processes=2)
    both = [torch.load(tmp_path / f"found-{rank}") for rank in (0, 1)]
    joined = replace(streamed(), source=Joined(streamed()))
    alone = {
        **{method: partial(trained, method) for method in METHODS},
        "streamed": partial(trained, "persistent", None, joined),
        "conditional": conditional,
    }
    for method, run in alone.items():
        weights, rows = run()
        for found in both:
            assert len(rows) == len(found[method][1]) == 3
            for mine, theirs in zip(rows, found[method][1], strict=True):
                assert theirs == pytest.approx(mine, rel=1e-5, abs=1e-9), method
            for mine, theirs in zip(weights, found[method][0], strict=True):
                torch.testing.assert_close(theirs, mine, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kind", ["FSDP", "DEEPSPEED"])
def test_weights_that_are_divided_are_refused(kind):
    accelerator = SimpleNamespace(distributed_type=SimpleNamespace(value=kind), num_processes=2)
    with pytest.raises(InvalidInput, match=f"keeps whole weights in each process, which {kind}"):
        check_processes(TrainConfig(), accelerator)
