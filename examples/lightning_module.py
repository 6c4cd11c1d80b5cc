"""A module of Lightning with the regularizer as one more term, and the error's curve."""

import argparse

import pytorch_lightning as lightning
import torch
from diffusers import DDPMScheduler, UNet2DModel

import undrift

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--seed", type=int, default=0)
seed = parser.parse_args().seed
digits = undrift.load_data("digits")


class Diffusion(lightning.LightningModule):
    """The loss of diffusers' training, plus the regularizer."""

    def __init__(self) -> None:
        super().__init__()
        kinds = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
        small = {"block_out_channels": (16, 32), "layers_per_block": 1, "norm_num_groups": 8}
        self.unet = UNet2DModel(8, 1, 1, **kinds, **small)
        self.scheduler = DDPMScheduler(beta_schedule="squaredcos_cap_v2")
        self.chain = undrift.DiffusersSampler(self.unet, self.scheduler, 10)
        self.regularizer = undrift.CumulativeErrorRegularizer(self.chain, seed=seed)
        self.curve = undrift.MeasurementCallback(self.chain, digits, every=28)

    def training_step(self, x_0: torch.Tensor, index: int) -> torch.Tensor:
        noise = torch.randn_like(x_0)
        t = torch.randint(self.scheduler.config.num_train_timesteps, (len(x_0),), device=x_0.device)
        output = self.unet(self.scheduler.add_noise(x_0, noise, t), t).sample
        loss = (output - noise).square().mean()
        return loss + self.regularizer(self.unet, x_0, main_loss=loss)

    def on_train_batch_start(self, x_0: torch.Tensor, index: int) -> None:
        self.curve(self.global_step)

    def on_train_end(self) -> None:
        self.curve.measure(self.global_step)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.unet.parameters(), lr=2e-3)

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        checkpoint["regularizer"] = self.regularizer.state_dict()

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        self.regularizer.load_state_dict(checkpoint["regularizer"])


lightning.seed_everything(seed, verbose=False)
batches = torch.utils.data.DataLoader(digits.images, batch_size=32, shuffle=True, drop_last=True)
quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
module = Diffusion()
lightning.Trainer(max_epochs=1, enable_model_summary=False, **quiet).fit(module, batches)
for row in module.curve.curve:
    print(row | {"lambda": module.regularizer.strength.strength})
