"""False alarms of artifacts on previews, as README.md beside this file plans it: `results/previews.json`."""

from __future__ import annotations

import json
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
import torch

from recipes.verifiers.artifacts import share
from seedbed.files import write_bytes_atomically
from seedbed.pipelines.loading import EMBEDDED, load
from seedbed.pipelines.rollout import Rollout
from seedbed.pipelines.session import Session
from seedbed.selection.pools import draw_pool
from seedbed.verifiers.artifacts import LIMITS, marks
from seedbed.worlds.shapes import captions

RESULTS = Path(__file__).with_name("results") / "previews.json"
CAPTIONS, NOISES, SEED, SHARES = 12, 2, 29, (0.25, 0.5, 0.75)


def seen(model: str) -> list[dict[str, dict[str, float]]]:
    """What `marks` says of each video of a model after each share of its steps, and when "finished"."""
    pipe, videos = load(model, device="cpu"), []
    for number, prompt in enumerate(captions(CAPTIONS, objects=2, seed=SEED, held=True)):
        session = Session(pipe, prompt)
        rollout = Rollout(session, draw_pool(session, NOISES, SEED + number).noises)
        shown = {f"{at:.0%}": rollout.advance(round(at * session.facts.steps)) for at in SHARES}
        shown["finished"] = rollout.finish()
        found = {at: marks(np.stack(frames), [prompt] * NOISES) for at, frames in shown.items()}
        videos += [
            {at: {key: float(values[each]) for key, values in said.items()} for at, said in found.items()}
            for each in range(NOISES)
        ]
        print(f"{model}: {number + 1} of {CAPTIONS} captions", flush=True)
    return videos


def alarms(videos: list[dict[str, dict[str, float]]]) -> dict[str, Any]:
    """By fault and share of the steps: on how many previews of videos that end sound its mark fails."""
    sound = [video for video in videos if video["finished"]["score"] == 1]
    found = {
        fault: {
            at: share([{"sound": [video[at] for video in sound]}], "sound", fault, limit)
            for at in (f"{part:.0%}" for part in SHARES)
        }
        for fault, limit in LIMITS.items()
    }
    return {"videos": len(videos), "sound": len(sound), "alarms": found}


def main() -> None:
    torch.set_num_threads(1)
    started = process_time()
    content = {
        "command": "python -m recipes.verifiers.previews",
        "captions": CAPTIONS,
        "noises": NOISES,
        "seed": SEED,
        "models": {model: alarms(seen(model)) for model in EMBEDDED},
    }
    content["cpu_seconds"] = round(process_time() - started)
    print(write_bytes_atomically(RESULTS, (json.dumps(content, indent=1) + "\n").encode()))


if __name__ == "__main__":
    main()
