"""What seedbed's trainer costs beside a plain loop of diffusers on the same model and clips.

`python benchmarks/training_throughput.py` (four minutes): a U-Net with motion modules and an autoencoder of
single frames, 8 clips of 8 frames a step, in processor time of one thread, blocks of steps alternating. Both
encode clips and captions, add noise, predict, step AdamW, clip gradients and average weights. The plain loop
has its clips in memory and draws independent noise with torch; ours renders clips, draws correlated noise, a
function of its row, and writes metrics and a checkpoint. The ratio is of rows per second, ours to plain, in
the same round. Writes benchmarks/results/training_throughput.json.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from accelerate import Accelerator
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.training_utils import EMAModel
from running import clock, machine, spread, write
from torch.nn import functional as F

from seedbed.noise import Progressive
from seedbed.training.config import Plan, World
from seedbed.training.data import Rows, WorldClips
from seedbed.training.denoisers import Model, inflated
from seedbed.training.diffusion import Diffusion
from seedbed.training.trainer import fit
from tests.pipelines.parts import clip, tokenizer

BATCH, FRAMES, SKIPPED = 8, 8, 2


def model() -> Any:
    """The size of recipes/pyoco."""
    torch.manual_seed(0)
    pipe = StableDiffusionPipeline(
        tokenizer=tokenizer(12),
        text_encoder=clip(),
        vae=AutoencoderKL(
            block_out_channels=(16, 32, 64),
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            norm_num_groups=4,
        ),
        unet=UNet2DConditionModel(
            sample_size=8,
            cross_attention_dim=16,
            block_out_channels=(64, 128),
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D",) * 2,
            up_block_types=("CrossAttnUpBlock2D",) * 2,
            attention_head_dim=4,
            norm_num_groups=8,
        ),
        scheduler=DDIMScheduler(clip_sample=False, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    return Model(inflated(pipe), {})


def blocks(clips: Any) -> Iterator[tuple[torch.Tensor, list[str]]]:
    """Clips in memory and captions, batch by batch, over and over."""
    held = [
        (
            torch.stack([torch.from_numpy(clips.read(n, FRAMES, 0.0)) for n in some]),
            [*map(clips.caption, some)],
        )
        for some in (range(at, at + BATCH) for at in range(0, len(clips), BATCH))
    ]
    while True:
        yield from held


def plain(subject: Any, batches: Iterator[Any], steps: int, device: str) -> float:
    """Seconds of a step of the loop that diffusers' own training scripts have."""
    accelerator = Accelerator(cpu=device == "cpu")
    subject.to(accelerator.device)
    pipe, unet = subject.pipe, subject.pipe.unet
    average = EMAModel(unet.parameters(), decay=0.999, foreach=True)
    optimiser = torch.optim.AdamW(unet.parameters(), 1e-4)
    unet, optimiser = accelerator.prepare(unet, optimiser)
    unet.train()
    for step in range(steps):
        if step == SKIPPED:
            started = clock(device)
        pixels, captions = next(batches)
        with torch.no_grad():
            frames = pixels.to(accelerator.device).flatten(0, 1).permute(0, 3, 1, 2) / 127.5 - 1
            latents = pipe.vae.encode(frames).latent_dist.sample() * pipe.vae.config.scaling_factor
            latents = latents.unflatten(0, (-1, FRAMES)).transpose(1, 2)
            said = pipe.encode_prompt(captions, accelerator.device, 1, False)[0]
        noise = torch.randn_like(latents)
        t = torch.randint(0, 1000, (len(latents),), device=latents.device)
        noisy = pipe.scheduler.add_noise(latents, noise, t)
        prediction = unet(noisy, t, said.repeat_interleave(FRAMES, 0)).sample
        loss = F.mse_loss(prediction.float(), noise.float())
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(unet.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        average.step(unet.parameters())
        loss.item()  # those scripts show it in every step
    return (clock(device) - started) / (steps - SKIPPED)


def ours(subject: Any, clips: Any, steps: int, device: str) -> float:
    """Seconds of a step of `fit`, the checkpoint at the end included."""
    accelerator = Accelerator(cpu=device == "cpu")
    subject.to(accelerator.device)
    rows = Rows(clips, FRAMES, 0, BATCH, (4, FRAMES, 8, 8), 1, Progressive(2.0), dropout=0.1)
    config: Any = SimpleNamespace(lr=1e-4, weight_decay=0.01, min_snr=None, precision="float32")
    task = Diffusion(subject, config, rows)
    moments: list[float] = []

    def show(what: str, done: float, total: float) -> None:
        if done == SKIPPED:
            moments.append(clock(device))

    with tempfile.TemporaryDirectory() as folder:
        fit(accelerator, task, Plan(steps=steps, batch=BATCH), Path(folder), {}, show)
        moments.append(clock(device))
    return (moments[1] - moments[0]) / (steps - SKIPPED)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    clips = WorldClips(World(world="shapes", count=64), FRAMES)
    subject = model()
    batches, seconds = blocks(clips), {"ours": [], "plain": []}
    for _ in range(arguments.rounds):
        seconds["plain"].append(plain(subject, batches, arguments.steps, arguments.device))
        seconds["ours"].append(ours(subject, clips, arguments.steps, arguments.device))
    ratios = [p / o for p, o in zip(seconds["plain"], seconds["ours"], strict=True)]
    result = {
        "machine": machine(arguments.device),
        "rounds": arguments.rounds,
        "steps": arguments.steps - SKIPPED,
        "seconds_per_step": {name: spread(each) for name, each in seconds.items()},
        "throughput_ratio": spread(ratios),
    }
    write("training_throughput" + "_cuda" * (arguments.device == "cuda"), result)
    print(json.dumps(result, indent=1))
