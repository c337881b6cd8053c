"""Measure an exported shapes model on held-out captions.

`python recipes/shapes/evaluate.py src/seedbed/zoo/models/shapes-wan` writes `evaluation.json` and
`contact-sheet.png` beside the model. Every held-out caption with one object and a fixed draw of held-out
pairs, each from the same numbered noises that `seedbed.select` would draw. Also whether the model knows what
belongs to which object: how much worse it denoises where a caption gives each of two objects the other's
motion, or shape.
Intervals are 95 % bootstrap intervals over captions (over clips, for the denoising), since the noises of one
caption are not independent.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import exchanged
from diffusers import DiffusionPipeline
from families import FAMILIES, TOKENS
from PIL import Image

from seedbed.pipelines.session import Session
from seedbed.selection.pools import draw_pool
from seedbed.statistics import bootstrap
from seedbed.worlds import shapes, verifier

SHARES = (0.98, 0.9, 0.7, 0.5, 0.3)  # of the training times at which a clip is noised


def generate(pipe: DiffusionPipeline, call: dict[str, Any], captions: list[str], noises: int) -> np.ndarray:
    """Videos from noises 0 .. n-1 of seed 0: uint8 `(captions, noises, frames, side, side, 3)`."""
    latents = draw_pool(Session(pipe, captions[0], **call), noises, seed=0).noises
    videos = []
    for n, caption in enumerate(captions):
        frames = pipe(prompt=[caption] * noises, latents=latents.clone(), output_type="np", **call).frames
        videos.append(np.rint(frames * 255).astype(np.uint8))
        if n % 20 == 0:
            print(f"{n} of {len(captions)} captions", flush=True)
    return np.stack(videos)


def measure(videos: np.ndarray, captions: list[str]) -> dict[str, Any]:
    found = [
        verifier.attributes(group, [caption] * len(group))
        for group, caption in zip(videos, captions, strict=True)
    ]
    table = {key: np.stack([each[key].numpy() for each in found]) for key in found[0]}
    score = table["score"]
    means = {key: bootstrap(values.mean(1)) for key, values in table.items()}
    best = score.max(axis=1)
    return {
        "captions": len(captions),
        "videos": score.size,
        **means,
        "best": bootstrap(best),
        "gap": bootstrap(best - score.mean(axis=1)),
    }


def clips(count: int, *, seed: int, objects: int | None = None) -> tuple[np.ndarray, list[str]]:
    """Held-out clips and their captions; with two objects, those that differ in shape and motion."""
    found: list[shapes.Scene] = []
    for scene in shapes.scenes(seed, held=True):
        differ = all(len({getattr(body, a) for body in scene}) == 2 for a in ("shape", "motion"))
        if objects is None or (len(scene) == objects and differ):
            found.append(scene)
        if len(found) == count:
            break
    return np.stack([shapes.render(scene) for scene in found]), [shapes.caption(scene) for scene in found]


def tensor_of(frames: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(frames).permute(0, 4, 1, 2, 3).float() / 127.5 - 1


@torch.no_grad()
def reconstruction(pipe: DiffusionPipeline, count: int) -> dict[str, Any]:
    """The verifier on rendered held-out videos and on their reconstructions."""
    frames, captions = clips(count, seed=9)
    batches = tensor_of(frames).split(32)
    y = torch.cat([pipe.vae.decode(pipe.vae.encode(batch).latent_dist.mode()).sample for batch in batches])
    again = ((y.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 4, 1).numpy()
    right = {
        name: float(verifier.attributes(group, captions)["all_right"].mean())
        for name, group in (("rendered", frames), ("reconstructed", again))
    }
    mse = ((again.astype(float) - frames.astype(float)) / 255) ** 2
    return {"videos": count, "psnr": float(-10 * np.log10(mse.mean())), **right}


@torch.no_grad()
def reading(pipe: DiffusionPipeline, count: int) -> list[dict[str, Any]]:
    """By share of the times: the denoiser's error, and by how much of it an exchanged attribute raises it."""
    (family,) = (kind for kind in FAMILIES.values() if isinstance(pipe, kind.pipeline))
    frames, captions = clips(count, seed=7, objects=2)
    x0 = family.encoded(pipe.vae, tensor_of(frames))
    noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(0))

    def errors(said: list[str], share: float) -> np.ndarray:
        noisy, target, t = family.noised(pipe.scheduler, x0, noise, torch.full((count,), share))
        ids = pipe.tokenizer(said, padding="max_length", max_length=TOKENS, return_tensors="pt").input_ids
        output = family.predict(pipe.transformer, noisy, family.embedded(pipe.text_encoder, ids), t)
        return (output - target).square().mean((1, 2, 3, 4)).numpy()

    rows = []
    for share in SHARES:
        base = errors(captions, share)
        row: dict[str, Any] = {"share": share, "error": float(base.mean())}
        for attribute in ("motion", "shape"):
            worse = errors([exchanged(caption, attribute) for caption in captions], share) - base
            row[attribute] = bootstrap(worse / base.mean())
        rows.append(row)
    return rows


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
    parser.add_argument("--noises", type=int, default=16)
    parser.add_argument("--pairs", type=int, default=120)
    arguments = parser.parse_args()
    folder = arguments.folder
    pipe = DiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    call = json.loads((folder / "seedbed.json").read_text())["call"]
    result: dict[str, Any] = {"call": call, "noises": arguments.noises}
    result["reconstruction"] = reconstruction(pipe, 500)
    # A student's output has guidance in it, and few times are known to it: its error tells nothing.
    if call["guidance_scale"] > 1:
        result["reading"] = {"clips": 200, "rows": reading(pipe, 200)}
    print(json.dumps(result), flush=True)
    shown = []
    for objects, count, rows in ((1, 100, 6), (2, arguments.pairs, 10)):
        captions = shapes.captions(count, objects=objects, seed=0, held=True)
        videos = generate(pipe, call, captions, arguments.noises)
        name = "single" if objects == 1 else "pairs"
        # The first noise of each caption is shown, never a chosen one.
        result[name] = {**measure(videos, captions), "shown": captions[:rows]}
        print(name, json.dumps(result[name]), flush=True)
        shown.append(videos[:rows, 0])
    sheet(np.concatenate(shown), folder / "contact-sheet.png")
    rounded = json.loads(json.dumps(result), parse_float=lambda text: float(f"{float(text):.6g}"))
    (folder / "evaluation.json").write_text(json.dumps(rounded, indent=1) + "\n")
