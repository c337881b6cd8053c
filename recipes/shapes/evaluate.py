"""Measure an exported shapes model on held-out captions and write its card and contact sheet.

`python recipes/shapes/evaluate.py runs/shapes/shapes-cogvideox --noises 16`: every held-out single caption
and a fixed draw of held-out pairs, each from the same numbered noises that `seedbed.select` would draw.
Intervals are 95 % bootstrap intervals over captions, since the noises of one caption are not independent.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import CogVideoXPipeline
from PIL import Image

from seedbed.noise import NoiseRecipe
from seedbed.worlds import shapes, verifier


def generate(pipe: CogVideoXPipeline, call: dict[str, Any], captions: list[str], noises: int) -> np.ndarray:
    """Videos from noises 0 .. n-1 of seed 0: uint8 `(captions, noises, frames, side, side, 3)`."""
    config = pipe.transformer.config
    shape = (3, config.in_channels, config.sample_height, config.sample_width)
    latents = torch.stack(
        [NoiseRecipe(seed=0, candidate=i, shape=shape, frame_axis=0).draw() for i in range(noises)]
    )
    videos = []
    for n, caption in enumerate(captions):
        frames = pipe(prompt=[caption] * noises, latents=latents.clone(), output_type="np", **call).frames
        videos.append(np.rint(frames * 255).astype(np.uint8))
        if n % 20 == 0:
            print(f"{n} of {len(captions)} captions", flush=True)
    return np.stack(videos)


def interval(values: np.ndarray, seed: int = 0, draws: int = 4000) -> list[float]:
    """Mean of per-caption means and its 95 % percentile bootstrap interval over captions."""
    rng = np.random.default_rng(seed)
    per = values.reshape(len(values), -1).mean(axis=1)
    means = per[rng.integers(len(per), size=(draws, len(per)))].mean(axis=1)
    return [float(per.mean()), *map(float, np.quantile(means, [0.025, 0.975]))]


def measure(videos: np.ndarray, captions: list[str]) -> dict[str, Any]:
    found = [
        verifier.attributes(group, [caption] * len(group))
        for group, caption in zip(videos, captions, strict=True)
    ]
    table = {key: np.stack([each[key].numpy() for each in found]) for key in found[0]}
    score = table["score"]
    result = {
        "captions": len(captions),
        "videos": score.size,
        "colour": interval(table["colour"]),
        "shape": interval(table["shape"]),
        "motion": interval(table["motion"]),
        "count": interval(table["count"]),
        "all right": interval(table["all_right"]),
        "score": interval(score),
        "best of all noises": interval(score.max(axis=1, keepdims=True)),
        "best minus random": interval(score.max(axis=1, keepdims=True) - score.mean(axis=1, keepdims=True)),
    }
    return result


def reconstruction(pipe: CogVideoXPipeline, count: int, seed: int) -> dict[str, Any]:
    """The verifier on rendered held-out videos and on their reconstructions."""
    scenes = list(itertools.islice(shapes.scenes(seed, held=True), count))
    frames = np.stack([shapes.render(scene) for scene in scenes])
    x = torch.from_numpy(frames).permute(0, 4, 1, 2, 3).float() / 127.5 - 1
    with torch.no_grad():
        y = torch.cat([pipe.vae.decode(pipe.vae.encode(b).latent_dist.mode()).sample for b in x.split(32)])
    again = ((y.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 4, 1).numpy()
    right = {}
    for name, group in {"rendered": frames, "reconstructed": again}.items():
        found = verifier.attributes(group, [shapes.caption(scene) for scene in scenes])
        right[name] = {
            "all right": float(found["all_right"].mean()),
            "attributes right": float(found["score"].mean()),
        }
    mse = ((again.astype(float) - frames.astype(float)) / 255) ** 2
    return {"videos": count, "psnr": float(-10 * np.log10(mse.mean())), **right}


def sheet(videos: np.ndarray, path: Path, scale: int = 3) -> None:
    """One row a video, every other frame, enlarged without smoothing: `(rows, frames, side, side, 3)`."""
    frames = np.pad(videos[:, ::2], ((0, 0), (0, 0), (1, 1), (1, 1), (0, 0)), constant_values=60)
    strips = [np.concatenate(list(video), axis=1) for video in frames]
    strips += [np.zeros_like(strips[0])] * (len(strips) % 2)
    half = len(strips) // 2
    columns = [np.concatenate(strips[:half], axis=0), np.concatenate(strips[half:], axis=0)]
    gap = np.full((columns[0].shape[0], 12, 3), 255, np.uint8)
    page = np.concatenate([columns[0], gap, columns[1]], axis=1)
    Image.fromarray(page.repeat(scale, axis=0).repeat(scale, axis=1)).save(path, optimize=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="the exported model")
    parser.add_argument("--config", type=Path, default=Path(__file__).with_name("config.json"))
    parser.add_argument("--noises", type=int, default=16)
    parser.add_argument("--pairs", type=int, default=120)
    parser.add_argument("--guidance-scale", type=float)
    parser.add_argument("--steps", type=int)
    arguments = parser.parse_args()
    config = json.loads(arguments.config.read_text())
    folder = arguments.folder
    pipe = CogVideoXPipeline.from_pretrained(folder, torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    call = json.loads((folder / "seedbed.json").read_text())["call"]
    call |= {"guidance_scale": arguments.guidance_scale} if arguments.guidance_scale else {}
    call |= {"num_inference_steps": arguments.steps} if arguments.steps else {}
    began = time.monotonic()
    result: dict[str, Any] = {"call": call, "noises": arguments.noises}
    result["reconstruction"] = reconstruction(pipe, 500, config["seed"] + 9)
    groups = {
        "single": shapes.captions(100, objects=1, seed=0, held=True),
        "pairs": shapes.captions(arguments.pairs, objects=2, seed=0, held=True),
    }
    shown = []
    for name, captions in groups.items():
        videos = generate(pipe, call, captions, arguments.noises)
        result[name] = measure(videos, captions)
        print(name, json.dumps(result[name]), flush=True)
        # The first noise of each caption, never a chosen one.
        rows = {"single": 6, "pairs": 10}[name]
        result[name]["shown"] = captions[:rows]
        shown.append(videos[:rows, 0])
    sheet(np.concatenate(shown), folder / "contact-sheet.png")
    result["seconds"] = round(time.monotonic() - began)
    (folder / "evaluation.json").write_text(json.dumps(result, indent=2) + "\n")
