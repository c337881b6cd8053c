"""Does a model know which attribute belongs to which object?

`python recipes/shapes/binding.py`: for held-out clips of two objects that differ in shape and motion, how
much worse every embedded model denoises (mean squared error of v, as a share of itself) when its caption
gives each object the other's motion, or the other's shape: 0 if the model cannot tell the captions apart.
The same noise for all captions of a clip; 95 % bootstrap intervals over clips. Writes
recipes/shapes/binding.json.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import exchanged

from seedbed import zoo
from seedbed.lab.statistics import bootstrap
from seedbed.worlds import shapes

TIMES = (980, 900, 700, 500, 300)


def clips(count: int) -> list[shapes.Scene]:
    found: list[shapes.Scene] = []
    for scene in shapes.scenes(seed=7, held=True):
        if len(scene) == 2 and all(
            len({getattr(body, a) for body in scene}) == 2 for a in ("shape", "motion")
        ):
            found.append(scene)
        if len(found) == count:
            break
    return found


def digits(*values: float) -> list[float]:
    return [float(f"{value:.4g}") for value in values]


@torch.no_grad()
def measured(pipe: Any, scenes: list[shapes.Scene]) -> dict[str, Any]:
    frames = np.stack([shapes.render(scene) for scene in scenes])
    x0 = pipe.vae.encode(torch.from_numpy(frames).permute(0, 4, 1, 2, 3).float() / 127.5 - 1)
    clean = x0.latent_dist.mode().permute(0, 2, 1, 3, 4)
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))

    def errors(captions: list[str], time: int) -> np.ndarray:
        t = torch.full((len(scenes),), time)
        ids = pipe.tokenizer(captions, padding="max_length", max_length=12, return_tensors="pt").input_ids
        noisy, target = (f(clean, noise, t) for f in (pipe.scheduler.add_noise, pipe.scheduler.get_velocity))
        velocity = pipe.transformer(noisy, pipe.text_encoder(ids)[0], t, return_dict=False)[0]
        return (velocity - target).square().mean((1, 2, 3, 4)).numpy()

    right = [shapes.caption(scene) for scene in scenes]
    rows = []
    for time in TIMES:
        base = errors(right, time)
        worse = {a: errors([exchanged(c, a) for c in right], time) - base for a in ("motion", "shape")}
        shares = {a: digits(*bootstrap(w / base.mean())) for a, w in worse.items()}
        rows.append({"t": time, "error": digits(base.mean())[0], **shares})
    return {"clips": len(scenes), "rows": rows}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=200)
    scenes = clips(parser.parse_args().clips)
    result = {name: measured(zoo.load(name), scenes) for name in zoo.names()}
    Path(__file__).with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    for name, found in result.items():
        for row in found["rows"]:
            print(name, row, flush=True)
