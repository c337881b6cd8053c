"""A feature network for the shapes world: which things a video shows, learned from rendered videos.

    python recipes/metrics/features.py --out runs/metrics/shapes.safetensors

Its hidden layer gives features for the Fréchet video distance, its output logits for the Inception Score,
both of `seedbed.lab.metrics`. It learns from captions of both parts of the world, since it judges and is not
judged.
"""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn import functional as F

from seedbed.files import write_bytes_atomically
from seedbed.worlds import shapes

THINGS = {str(thing): number for number, thing in enumerate(shapes.all_things())}
WIDTH = 64  # of the features: few, so that a few hundred videos give their covariance


class Network(nn.Module):
    """Three strided 3D convolutions, a mean over space and time, a hidden layer, a logit for each thing."""

    def __init__(self) -> None:
        super().__init__()
        sizes = ((3, 24, (1, 2, 2)), (24, 48, 2), (48, 96, 2))
        layers = [
            nn.Sequential(nn.Conv3d(a, b, (3, 5, 5), stride, (1, 2, 2)), nn.GroupNorm(8, b), nn.SiLU())
            for a, b, stride in sizes
        ]
        self.body = nn.Sequential(*layers, nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(96, WIDTH))
        self.head = nn.Linear(WIDTH, len(THINGS))

    @torch.no_grad()
    def features(self, videos: NDArray[np.uint8]) -> Tensor:
        """Of videos uint8 (n, frames, height, width, 3), (n, 64)."""
        return self.body(pixels(videos))

    @torch.no_grad()
    def logits(self, videos: NDArray[np.uint8]) -> Tensor:
        """Of the 60 things, (n, 60); a video of two things is near half of each."""
        return self(pixels(videos))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.silu(self.body(x)))


def pixels(videos: NDArray[np.uint8]) -> Tensor:
    """In [-1, 1], (n, 3, frames, height, width)."""
    return torch.from_numpy(np.ascontiguousarray(videos)).permute(0, 4, 1, 2, 3).float() / 127.5 - 1


def rendered(seed: int, count: int, held: bool) -> tuple[NDArray[np.uint8], Tensor]:
    """Videos, and their things as shares that add up to 1, (count, 60)."""
    scenes = list(itertools.islice(shapes.scenes(seed, pairs=0.5, held=held), count))
    shares = torch.zeros(count, len(THINGS))
    for row, scene in enumerate(scenes):
        for body in scene:
            shares[row, THINGS[f"a {body.colour} {body.shape} {body.motion}"]] += 1 / len(scene)
    return np.stack([shapes.render(scene) for scene in scenes]), shares


def train(steps: int, batch: int, seed: int) -> Network:
    """A network of so many steps, each on videos of its own; an eighth of them have held-out captions."""
    torch.manual_seed(seed)
    network = Network()
    optimiser = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=steps + 1)
    for step in range(steps):
        videos, shares = rendered((seed << 32) + step, batch, step % shapes.HELD_OUT == 0)
        loss = F.cross_entropy(network(pixels(videos)), shares)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if step % 100 == 0:
            print(f"step {step}: cross entropy {loss.item():.3f}", flush=True)
    return network.eval()


def accuracy(network: Network, count: int, seed: int) -> float:
    """Share of new videos whose things are exactly those of the highest logits."""
    videos, shares = rendered(seed, count, False)
    logits = network.logits(videos)
    right = []
    for row, share in zip(logits, shares, strict=True):
        present = set(share.nonzero().flatten().tolist())
        right.append(set(row.topk(len(present)).indices.tolist()) == present)
    return float(np.mean(right))


def load(path: str | Path) -> Network:
    """A network that was saved here, ready for `network.features` and `network.logits`."""
    network = Network()
    network.load_state_dict(load_file(path))
    return network.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the feature network of the shapes world.")
    parser.add_argument("--out", type=Path, default=Path("runs/metrics/shapes.safetensors"))
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    network = train(given.steps, given.batch, given.seed)
    found = {"accuracy": accuracy(network, 1000, (1 << 40) + given.seed), "steps": given.steps}
    given.out.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"seedbed": json.dumps({**found, "batch": given.batch, "seed": given.seed})}
    write_bytes_atomically(given.out, save(network.state_dict(), metadata))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
