"""What choosing by BANSA and injecting the prompt are worth on a model of arms.py, or on the image model:

    python recipes/pyoco/choose.py runs/pyoco-image/model --frames 1 --out recipes/pyoco/results/choose.json

As signals.json and choice.json ask it of the model that stays: 16 captions, 16 noises each to choose from,
the first two of them injected. Of one frame (`--frames 1`) the score is the share of colour, shape and number
that is right, since nothing moves.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))
from recipes.front.summarise import CANDIDATES, signals
from recipes.pyoco.arms import captions_of, pipeline
from recipes.pyoco.measure import who
from recipes.tables import rounded, signs_p
from seedbed import statistics
from seedbed.files import write_bytes_atomically
from seedbed.lab.evidence import OUTCOME, Evidence
from seedbed.lab.measurement import measure_choices, measure_noises
from seedbed.noise import NoiseRecipe
from seedbed.pipelines.session import Session

HERE = Path(__file__).parent
SIGNALS = json.loads((HERE / "signals.json").read_text())["options"]["functions"]
INJECTION = json.loads((HERE / "choice.json").read_text())["methods"]["injection"]["choose"]
CAPTIONS, NOISES, INJECTED = 16, 16, 2
SEEN = ("colour", "shape", "count")  # in a single frame


def measure(folder: Path, frames: int, captions: int, noises: int) -> dict[str, Any]:
    pipe, arm = pipeline(folder), who(folder)
    del arm["trained"]
    call = {"height": 32, "width": 32, "num_frames": frames, "guidance_scale": 4.0, "num_inference_steps": 10}
    options, drawn = {"verifier": "shapes", "call": call}, {"prior": arm["prior"]}
    found: dict[str, list[dict[str, Any]]] = {"pool": [], "first": [], "injected": []}
    # Of an arm with convolutions the pipeline is put together here, and knows nothing of its prior.
    asked = {**options, "steps": [0], "functions": SIGNALS, "prior": arm["prior"]}
    for number, caption in enumerate(captions_of("shapes", captions)):
        session = Session(pipe, caption, **call)
        recipes: list[NoiseRecipe] = [session.recipe(number, candidate) for candidate in range(noises)]
        some = recipes[:INJECTED]
        made = {
            "pool": measure_noises(pipe, caption, recipes, asked),
            "first": measure_choices(pipe, caption, some, {**options, "choose": drawn}),
            "injected": measure_choices(pipe, caption, some, {**options, "choose": {**drawn, **INJECTION}}),
        }
        for name, rows in made.items():
            for recipe, row in zip(recipes, rows, strict=False):
                score = np.mean([row[f"outcome.{key}"] for key in SEEN]) if frames == 1 else row[OUTCOME]
                own = {
                    "prompt": caption,
                    "seed": number,
                    "candidate": recipe.candidate,
                    OUTCOME: float(score),
                }
                found[name].append({**row, **own})
    pool, first, injected = (Evidence.of(rows) for rows in found.values())
    truth, names = pool.outcome(), ["0/bansa-k10", "0/bansa"]
    lowest = [
        statistics.best_of(pool.signal(name), truth, min(CANDIDATES, noises), "low")
        - statistics.random(truth)
        for name in names
    ]
    gains = zip(names, lowest, statistics.holm([*map(signs_p, lowest)]), strict=True)
    return {
        "kind": "choose",
        **arm,
        "frames": frames,
        "captions": captions,
        "noises": noises,
        "random": statistics.bootstrap(statistics.random(truth)),
        "gap": statistics.bootstrap(statistics.oracle(truth) - statistics.random(truth)),
        "signals": signals(pool, names),
        "lowest of ten": {name: {"gain": statistics.bootstrap(gain), "p": p} for name, gain, p in gains},
        "injection": statistics.bootstrap((injected.outcome() - first.outcome()).mean(1)),
    }


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--captions", type=int, default=CAPTIONS)
    parser.add_argument("--noises", type=int, default=NOISES)
    given = parser.parse_args(argv)
    found = rounded(measure(given.model, given.frames, given.captions, given.noises))
    given.out.parent.mkdir(parents=True, exist_ok=True)
    write_bytes_atomically(given.out, (json.dumps(found) + "\n").encode())


if __name__ == "__main__":
    main()
