"""How much of a prediction depends on the noise at all, step by step.

`python recipes/selection/first_step.py MODEL ...`: for 40 held-out captions with two objects × 16 noises, the
standard deviation over noises of the predicted clean latents (x0-hat), as a share of their overall deviation:
0 if every noise leads to the same prediction, near 1 if the noise decides everything. After s steps, s = 0 is
t = T. 95 % bootstrap intervals over captions. Writes recipes/selection/results/first-step.json.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from summarise import RESULTS, rounded

from seedbed import statistics
from seedbed.noise import NoiseRecipe
from seedbed.pipelines.loading import load
from seedbed.pipelines.rollout import Rollout
from seedbed.pipelines.session import Session
from seedbed.worlds import shapes

STEPS = (0, 1, 3, 6)
NOISES = 16


def shares(pipe: object, caption: str, seed: int) -> list[float]:
    """One number for each of STEPS."""
    session = Session(pipe, caption)
    pool = [NoiseRecipe(seed, i, tuple(session.spec.shape)).draw() for i in range(NOISES)]
    clean: dict[int, torch.Tensor] = {}
    rollout = Rollout(session, torch.stack(pool), batch_size=NOISES)
    rollout.advance(STEPS[-1] + 1, outputs=lambda step, *rest: clean.update({step: rest[-1]}))
    return [float(clean[s].std(0).square().mean().sqrt() / clean[s].std()) for s in STEPS]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+", help="names of embedded models, or folders")
    arguments = parser.parse_args()
    captions = shapes.captions(40, objects=2, seed=0, held=True)
    found = {}
    for model in arguments.models:
        pipe = load(model, dtype="float32", device="cpu")
        table = np.array([shares(pipe, caption, seed) for seed, caption in enumerate(captions)])
        found[Path(model).name] = {s: statistics.bootstrap(table[:, i]) for i, s in enumerate(STEPS)}
        print(model, rounded(found[Path(model).name]), flush=True)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "first-step.json").write_text(json.dumps(rounded(found), indent=1) + "\n")
