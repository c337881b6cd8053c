"""What temporal layers cost in training: `python recipes/pyoco/layers.py`.

One training step of `video.json` without a temporal layer, with temporal attention and with temporal
convolutions, in turn in one process on one thread, and the ratios of their times; the parameters of each.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import default_collate

sys.path.insert(0, str(Path(__file__).parents[2]))
from recipes.pyoco.arms import VIDEO, prepared
from recipes.tables import rounded
from seedbed import statistics
from seedbed.files import write_bytes_atomically
from seedbed.training.config import Config
from seedbed.training.denoisers import motion_modules
from seedbed.training.diffusion import Diffusion

ROUNDS = 30


class Nothing(nn.Module):
    """In place of a temporal layer."""

    def forward(self, hidden_states: torch.Tensor, *given: Any, **named: Any) -> torch.Tensor:
        return hidden_states


def tasks(config: Config) -> dict[str, Diffusion]:
    made = {name: prepared(config, name == "convolutions") for name in ("none", "attention", "convolutions")}
    bare, _ = made["none"]
    for name, module in [*bare.unet.named_modules()]:
        if module in motion_modules(bare.unet):
            bare.unet.set_submodule(name, Nothing())
    return {name: task for name, (_, task) in made.items()}


def measure(config: Config, rounds: int) -> dict[str, Any]:
    found, times = tasks(config), list[list[float]]()
    for number in range(rounds + 1):  # the first is not counted
        took = []
        for task in found.values():
            batch = default_collate([task.rows[number * config.batch + i] for i in range(config.batch)])
            start = perf_counter()
            task.loss(task.module, batch).backward()  # type: ignore[no-untyped-call]
            task.optimiser.step()
            task.optimiser.zero_grad()
            took.append(perf_counter() - start)
        times.append(took)
    ratios = np.array(times[1:])
    ratios /= ratios[:, :1]
    return {
        "kind": "layers",
        "rounds": rounds,
        "layers": {
            name: {
                "parameters": sum(each.numel() for each in task.module.parameters()),
                "time": statistics.bootstrap(ratios[:, place]),
            }
            for place, (name, task) in enumerate(found.items())
        },
    }


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", help="the image model, instead of that of video.json")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("results") / "layers.json")
    given = parser.parse_args(argv)
    torch.set_num_threads(1)
    content = json.loads(VIDEO.read_text())
    config = Config.model_validate({**content, "model": given.model or content["model"]})
    found = rounded(measure(config, given.rounds))
    write_bytes_atomically(given.out, (json.dumps(found) + "\n").encode())


if __name__ == "__main__":
    main()
