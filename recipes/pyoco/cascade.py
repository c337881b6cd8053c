"""Each stage of a cascade against what costs nothing: `python recipes/pyoco/cascade.py MODEL --out FILE`.

Over held-out clips of the shapes world, interpolation against linear interpolation of frames,
super-resolution against bicubic enlargement, as in seedbed.training.stages.against_twin. The plan is in
README.md.
"""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np

from seedbed.files import write_bytes_atomically
from seedbed.pipelines.call import settings_beside
from seedbed.pipelines.cascade import STAGES
from seedbed.pipelines.loading import load
from seedbed.training.stages import against_twin, wins
from seedbed.worlds import shapes
from seedbed.worlds.verifier import attributes


def clips(count: int, seed: int, frames: int, side: int) -> tuple[np.ndarray, list[str]]:
    """Held-out clips and their captions."""
    found = [*itertools.islice(shapes.scenes(seed, held=True), count)]
    return np.stack([shapes.render(scene, side)[:frames] for scene in found]), [*map(shapes.caption, found)]


def compare(model: Path, count: int, seed: int, steps: int) -> dict[str, Any]:
    """What `against_twin` finds for every stage of the model in a folder, and whether it wins."""
    pipe = load(model)
    pipe.set_progress_bar_config(disable=True)
    call = settings_beside(pipe)["call"]
    made = pipe.sizes(call["num_frames"], call["height"], call["width"])
    stages = {}
    for name in (name for name in STAGES if name in made):
        frames, side, _ = made[name]
        videos, captions = clips(count, seed, frames, side)
        found = against_twin(
            pipe, name, videos, captions, lambda v, p: attributes(v, p)["score"], steps=steps, seed=seed
        )
        stages[name] = {
            "size": made[name],
            **{measure: {k: [*each] for k, each in both.items()} for measure, both in found.items()},
            "wins": wins(found),
        }
    return {"clips": count, "seed": seed, "steps": steps, "stages": stages}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=256)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=20)
    given = parser.parse_args(arguments)
    found = compare(given.model, given.count, given.seed, given.steps)
    write_bytes_atomically(given.out, (json.dumps(found, indent=1) + "\n").encode())
    for name, stage in found["stages"].items():
        error, score = (stage[measure]["difference"] for measure in ("error", "score"))
        what = "wins" if stage["wins"] else "does not win: report it, do not ship it"
        print(f"{name}: error {error[0]:+.2e} [{error[1]:+.2e}, {error[2]:+.2e}], ", end="")
        print(f"score {score[0]:+.3f} [{score[1]:+.3f}, {score[2]:+.3f}] against its twin: {what}")


if __name__ == "__main__":
    main()
