"""Two processes train the model that one trains with the joined batch."""

from types import SimpleNamespace

import pytest
import torch

from tiny import noise_source
from undrift.data.images import ImageData
from undrift.exceptions import InvalidInput
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


def trained(method, accelerator=None):
    """The weights and the logged rows of a few steps."""
    images = ImageData(torch.rand(20, 1, 8, 8, generator=noise_source()) * 2 - 1, "noise")
    config = TrainConfig(
        steps=3,
        batch_size=8,
        model=ModelConfig(block_out_channels=[4, 4], norm_num_groups=2, layers_per_block=1),
        chain=ChainConfig(num_steps=10 if method != "fokker_planck" else 40),
        optimizer=OptimizerConfig(warmup_steps=0),
        method=method,
        regularizer=METHODS[method],
    )
    trainer, rows = Trainer(config, images, accelerator), []
    trainer.run(rows.append)
    return [*trainer.bare_network.state_dict().values(), *trainer.ema.shadow_params], rows


def in_each_process(file):
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(cpu=True)
    assert accelerator.num_processes == 2
    found = {method: trained(method, accelerator) for method in METHODS}
    torch.save(found, f"{file}-{accelerator.process_index}")


def test_weights_and_logs_are_those_of_one_process(tmp_path):
    from accelerate import debug_launcher

    debug_launcher(in_each_process, (tmp_path / "found",), num_processes=2)
    both = [torch.load(tmp_path / f"found-{rank}") for rank in (0, 1)]
    for method in METHODS:
        weights, rows = trained(method)
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
