"""Stage 1: the video autoencoder, and the latents of the training set."""

from __future__ import annotations

import itertools
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import Run, mixed, shape_of
from families import CogVideoX, Wan
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from seedbed.worlds import shapes


def videos(seed: int, count: int) -> torch.Tensor:
    """Rendered training videos in [-1, 1], shape `(count, 3, frames, side, side)`."""
    frames = np.stack([shapes.render(scene) for scene in itertools.islice(shapes.scenes(seed), count)])
    return torch.from_numpy(frames).permute(0, 4, 1, 2, 3).float() / 127.5 - 1


def edges(x: torch.Tensor) -> list[torch.Tensor]:
    return [x.diff(dim=axis) for axis in (2, 3, 4)]


def errors(y: torch.Tensor, x: torch.Tensor, config: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Absolute error, weighted towards objects, and absolute error of the edges.

    Nine tenths of every frame is black; what the verifier reads is the objects and their outlines.
    """
    near = F.max_pool3d((x.amax(dim=1, keepdim=True) > -0.9).float(), (1, 5, 5), 1, (0, 2, 2))
    weight = 1 + config["object_weight"] * near
    l1 = ((y - x).abs() * weight).mean() / weight.mean()
    edge = sum((a - b).abs().mean() for a, b in zip(edges(y), edges(x), strict=True)) / 3
    return l1, edge


Family = type[CogVideoX] | type[Wan]


def train(family: Family, config: dict[str, Any], seed: int, folder: Path) -> nn.Module:
    torch.manual_seed(seed)
    vae = family.autoencoder(config["model"])
    optimiser = torch.optim.AdamW(vae.parameters(), lr=config["lr"], betas=(0.9, 0.99), weight_decay=0.01)
    optimiser.param_groups[0]["base_lr"] = config["lr"]
    run = Run(folder, "vae", vae, [optimiser], config["ema"])
    while run.step < config["steps"]:
        x = videos(seed * 1000 + run.step, config["batch"])
        torch.manual_seed(seed + run.step)
        with mixed():
            posterior = vae.encode(x).latent_dist
            y = family.decode(vae, posterior.sample())
        y = y.float()
        l1, edge = errors(y, x, config)
        mean, logvar = posterior.mean.float(), posterior.logvar.float()
        kl = 0.5 * (mean**2 + logvar.exp() - 1 - logvar).mean()
        centre = mean.mean(dim=(0, 2, 3, 4)).square().mean()
        loss = l1 + config["edge_weight"] * edge + config["kl_weight"] * kl + config["mean_weight"] * centre
        psnr = -10 * torch.log10(((y - x) / 2).square().mean())
        facts = {"l1": l1.item(), "edge": edge.item(), "kl": kl.item(), "psnr": psnr.item()}
        run.advance(loss, shape_of(run.step, config["steps"], config["warmup"], config["cooldown"]), facts)
    run.save()
    vae.load_state_dict(run.average)
    return vae.eval()


@torch.no_grad()
def whiten(family: Family, vae: nn.Module, seed: int) -> None:
    """Give every latent channel zero mean and unit variance, as the denoiser sees it."""
    mean = vae.encode(videos(seed, 512)).latent_dist.mean
    family.whiten(vae, mean.mean(dim=(0, 2, 3, 4)), mean.std(dim=(0, 2, 3, 4)))


def settle(family: Family, vae: nn.Module, config: dict[str, Any], seed: int) -> None:
    """Fit the decoder to the whitened latents, with the small errors a denoiser will make added to them."""
    optimiser = torch.optim.AdamW(vae.decoder.parameters(), lr=config["settle_lr"], betas=(0.9, 0.99))
    for step in range(config["settle_steps"]):
        x = videos(seed * 1000 + step, config["batch"])
        torch.manual_seed(seed + step)
        with mixed():
            with torch.no_grad():
                z = vae.encode(x).latent_dist.sample()
            spread = z.float().std(dim=(0, 2, 3, 4), keepdim=True)
            y = family.decode(vae, z + config["settle_noise"] * spread * torch.randn_like(z))
        l1, edge = errors(y.float(), x, config)
        (l1 + config["edge_weight"] * edge).backward()
        optimiser.param_groups[0]["lr"] = config["settle_lr"] * (1 - step / config["settle_steps"])
        optimiser.step()
        optimiser.zero_grad()
        if step % 50 == 0:
            print({"settle": step, "l1": l1.item(), "edge": edge.item()}, flush=True)


def keep(vae: nn.Module, folder: Path) -> None:
    """Save under another name first: a folder with a configuration and no weights would count as trained."""
    partial = folder.with_suffix(".tmp")
    shutil.rmtree(partial, ignore_errors=True)
    vae.save_pretrained(partial)
    os.replace(partial, folder)


@torch.no_grad()
def encode_set(family: Family, vae: nn.Module, config: dict[str, Any], seed: int, path: Path) -> None:
    """Latents of the training videos, as the denoiser reads them; captions beside them."""
    scenes = list(itertools.islice(shapes.scenes(seed, pairs=config["pairs"]), config["count"]))
    latents = []
    for at in range(0, len(scenes), 64):
        x = torch.from_numpy(np.stack([shapes.render(scene) for scene in scenes[at : at + 64]]))
        x = x.permute(0, 4, 1, 2, 3).float() / 127.5 - 1
        with mixed():
            latents.append(family.encoded(vae, x).half().contiguous())
        if at % 6400 == 0:
            print(f"encoded {at} of {len(scenes)}", flush=True)
    save_file({"latents": torch.cat(latents)}, path.with_suffix(".tmp"))
    path.with_suffix(".captions.json").write_text(json.dumps([shapes.caption(scene) for scene in scenes]))
    os.replace(path.with_suffix(".tmp"), path)
