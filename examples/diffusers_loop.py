"""The parts of diffusers' unconditional training, with the regularizer and the error's curve."""

import argparse

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import set_seed
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel

import undrift

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("output", help="folder of the pipeline and of the log")
parser.add_argument("--log-with", default="tensorboard", help="tensorboard, or wandb, ...")
parser.add_argument("--seed", type=int, default=0)
args = parser.parse_args()

set_seed(args.seed)
accelerator = Accelerator(log_with=args.log_with, project_dir=args.output)
accelerator.init_trackers("log")
digits = undrift.load_data("digits")
unet = UNet2DModel(
    sample_size=8, in_channels=1, out_channels=1, layers_per_block=1, norm_num_groups=8,
    block_out_channels=(16, 32), down_block_types=("DownBlock2D", "AttnDownBlock2D"),
    up_block_types=("AttnUpBlock2D", "UpBlock2D"),
)  # fmt: skip
scheduler = DDPMScheduler(num_train_timesteps=1000, beta_schedule="squaredcos_cap_v2")
ema = EMAModel(unet.parameters(), decay=0.9)
optimizer = torch.optim.AdamW(unet.parameters(), lr=2e-3)
lr_schedule = get_scheduler("constant_with_warmup", optimizer, num_warmup_steps=10)
batches = torch.utils.data.DataLoader(digits.images, batch_size=32, shuffle=True, drop_last=True)
unet, optimizer, batches, lr_schedule = accelerator.prepare(unet, optimizer, batches, lr_schedule)

chain = undrift.DiffusersSampler(unet, scheduler, 10)
regularizer = undrift.CumulativeErrorRegularizer(chain, seed=args.seed)
curve = undrift.MeasurementCallback(chain, digits, every=28, ema=ema, log=accelerator.log)
curve(0)

for step, x_0 in enumerate(batches, start=1):  # one epoch
    noise = torch.randn_like(x_0)
    timesteps = torch.randint(1000, (len(x_0),), device=x_0.device)
    noisy_images = scheduler.add_noise(x_0, noise, timesteps)
    loss = F.mse_loss(unet(noisy_images, timesteps).sample, noise)
    accelerator.backward(loss + regularizer(unet, x_0, main_loss=loss))
    accelerator.clip_grad_norm_(unet.parameters(), 1.0)
    optimizer.step()
    lr_schedule.step()
    optimizer.zero_grad()
    ema.step(unet.parameters())
    accelerator.log({"loss": loss.item()} | regularizer.log, step=step)
    curve(step)

for row in curve.curve:
    accelerator.print(row)
ema.copy_to((unet := accelerator.unwrap_model(unet)).parameters())
DDPMPipeline(unet, scheduler).save_pretrained(args.output)
accelerator.end_training()
