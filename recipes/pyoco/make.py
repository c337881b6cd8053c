"""The model that image training starts from: `python recipes/pyoco/make.py --out runs/pyoco-start`.

An autoencoder of single frames, trained here; a text encoder that has learnt from captions alone who does
what, as in recipes/shapes; and a U-Net with random weights. Then `seedbed train recipes/pyoco/image.json`,
and `video.json` on what that leaves. Run again, the autoencoder's training goes on.
`--config` of another world or of a folder of videos has no lesson in reading: its text encoder keeps the
random weights that it begins with, which tell words from one another.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from accelerate import Accelerator
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from pydantic import TypeAdapter

from seedbed.noise import Gaussian
from seedbed.progress import reporting
from seedbed.training.config import Data, Plan
from seedbed.training.data import Rows, clips_of
from seedbed.training.stages import stage_scheduler
from seedbed.training.trainer import fit
from seedbed.worlds import digits

sys.path.insert(0, str(Path(__file__).parents[1] / "shapes"))
from denoiser import teach_to_read, tokenizer
from families import TOKENS, CogVideoX
from vae import errors


class Reconstruction:
    """Frames, encoded and decoded; a row's noise is what its latents are sampled with."""

    def __init__(self, vae: AutoencoderKL, config: dict[str, Any], seed: int):
        own = {"seed": seed} if "world" in config["data"] else {}
        data: Any = TypeAdapter(Data).validate_python({**own, **config["data"]})
        clips = clips_of(data, 1)
        shape = (vae.config.latent_channels, 1, 8, 8)
        self.module, self.config = vae, config
        self.rows = Rows(clips, 1, seed, config["batch"], shape, 1, Gaussian())
        self.optimiser = torch.optim.AdamW(vae.parameters(), config["lr"], betas=(0.9, 0.99))

    def loss(self, forward: Any, batch: dict[str, Any]) -> torch.Tensor:
        pixels = batch["clip"].squeeze(1).permute(0, 3, 1, 2) / 127.5 - 1
        posterior = self.module.encode(pixels).latent_dist
        found = self.module.decode(posterior.mean + posterior.std * batch["noise"].squeeze(2)).sample
        # As of a video of two equal frames, which has edges in time too, all of them 0.
        twice = [frames[:, :, None].expand(-1, -1, 2, -1, -1) for frames in (found, pixels)]
        l1, edge = errors(*twice, self.config)
        return l1 + self.config["edge_weight"] * edge + self.config["kl_weight"] * posterior.kl().mean()


def autoencoder(config: dict[str, Any], seed: int, folder: Path) -> AutoencoderKL:
    """Trained, its latents scaled to unit variance."""
    blocks = len(config["model"]["block_out_channels"])
    torch.manual_seed(seed)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * blocks,
        up_block_types=("UpDecoderBlock2D",) * blocks,
        **config["model"],
    )
    task = Reconstruction(vae, config, seed)
    steps, batch = config["steps"], config["batch"]
    plan = Plan(steps=steps, batch=batch, warmup=50, cooldown=steps // 2, ema=0.99, seed=seed)
    folder.mkdir(parents=True, exist_ok=True)
    with reporting(True) as show:
        fit(Accelerator(cpu=True), task, plan, folder, config, show)
    clips = torch.stack([task.rows[i]["clip"][0] for i in range(256)])
    with torch.no_grad():
        latents = vae.encode(clips.permute(0, 3, 1, 2) / 127.5 - 1).latent_dist.mean
    vae.register_to_config(scaling_factor=1 / latents.std().item())
    return vae


def make(config: dict[str, Any], out: Path) -> None:
    seed, world = config["seed"], config["autoencoder"]["data"].get("world")
    tokens = tokenizer(digits.captions(50, seed=0) if world == "digits" else None)
    vae = autoencoder(config["autoencoder"], seed, out.with_name(out.name + "-autoencoder"))
    torch.manual_seed(seed)
    text = CogVideoX.text_encoder({**config["text"], "vocab_size": len(tokens)})
    if "reading" in config:
        read = teach_to_read(SimpleNamespace(text=text, family=CogVideoX), tokens, config["reading"], seed)
        print({"held-out captions read": read}, flush=True)
    unet = UNet2DConditionModel(
        in_channels=vae.config.latent_channels,
        out_channels=vae.config.latent_channels,
        cross_attention_dim=text.config.d_model,
        **config["unet"],
    )
    pipe = StableDiffusionPipeline(
        tokenizer=tokens,
        text_encoder=text,
        vae=vae,
        unet=unet,
        # Without signal at its last timestep, where sampling begins: there the noise alone decides.
        scheduler=stage_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    partial = out.with_suffix(".tmp")
    shutil.rmtree(partial, ignore_errors=True)
    pipe.save_pretrained(partial)
    shutil.rmtree(out, ignore_errors=True)
    os.replace(partial, out)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, default=Path(__file__).with_name("start.json"))
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    make(json.loads(arguments.config.read_text()), arguments.out)
    print(f"{TOKENS} tokens of text; model in {arguments.out}")
