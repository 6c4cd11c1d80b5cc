"""Measure a pipeline of diffusers; without a folder, a tiny one is trained first."""

import argparse
import tempfile

from diffusers import DDPMPipeline

import undrift
from undrift.training.config import ChainConfig, TrainConfig
from undrift.training.runs import train

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("folder", nargs="?", help="a pipeline with unet and scheduler")
parser.add_argument("--data", default="digits", help="what its samples should be like")
parser.add_argument("--num-samples", type=int, default=250)
parser.add_argument("--states", type=int, default=6)
parser.add_argument("--seed", type=int, default=0)
args = parser.parse_args()

with tempfile.TemporaryDirectory() as place:
    if args.folder is None:
        tiny = TrainConfig(output=place, steps=60, batch_size=32, seed=args.seed, sample_every=0)
        tiny.chain = ChainConfig(num_steps=25)
        args.folder = train(tiny)["pipeline"]  # a folder as diffusers writes it
    pipeline = DDPMPipeline.from_pretrained(args.folder)

channels, size = pipeline.unet.config.in_channels, pipeline.unet.config.sample_size
data = undrift.load_data(args.data, channels=channels, image_size=size)
profile = undrift.measure(
    pipeline, data, num_samples=args.num_samples, states=args.states, seed=args.seed
)

print(f"{'t':>4} {'D²':>9} ± {'se':<8} {'p':>6} {'fresh':>7} {'inherited':>9} {'λ':>6}")
for state in profile.states:
    terms = (state.fresh, state.inherited, state.amplification)
    shown = " ".join(f"{'–' if x is None else f'{x:.3f}':>8}" for x in terms)
    print(f"{state.t:>4} {state.mmd_sq:9.5f} ± {state.mmd_sq_se:.5f}  {state.p_value:6.3f} {shown}")
