"""How linear previews rank the noises of a caption, as README.md beside this file plans it; resumable."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np

from seedbed.files import write_bytes_atomically
from seedbed.pipelines.decoding import decoder_of
from seedbed.pipelines.loading import load
from seedbed.pipelines.rollout import Rollout
from seedbed.pipelines.session import Session
from seedbed.selection.pools import draw_pool
from seedbed.statistics import best_of, bootstrap, gain, oracle, random, within
from seedbed.verifiers.appearance import look
from seedbed.worlds.shapes import captions
from seedbed.worlds.verifier import attributes

CAPTIONS, NOISES, SEED, STEPS = 12, 8, 23, (7, 10)
MEASURES = ("score", "sharpness", "movement", "flicker")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--captions", type=int, default=CAPTIONS)
    parser.add_argument("--noises", type=int, default=NOISES)
    parser.add_argument("--kept", type=Path, default=Path("runs/previews"), help="a file for each caption")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("agreement.json"))
    asked = parser.parse_args()
    asked.kept.mkdir(parents=True, exist_ok=True)
    pipe, rows = load("shapes-cogvideox"), []
    for number, prompt in enumerate(captions(asked.captions, objects=2, seed=SEED, held=True)):
        path = asked.kept / f"{number:02}-{asked.noises}.json"
        if not path.is_file():
            started = process_time()
            row = measure(pipe, prompt, number, asked.noises)
            content = json.dumps({**row, "cpu_seconds": process_time() - started})
            write_bytes_atomically(path, content.encode())
        rows.append(json.loads(path.read_text()))
        print(f"{number + 1} of {asked.captions} captions", flush=True)
    found = {
        "model": "shapes-cogvideox",
        "captions": asked.captions,
        "noises": asked.noises,
        **summary(rows),
        "cpu_seconds": round(sum(row["cpu_seconds"] for row in rows)),
    }
    print(write_bytes_atomically(asked.out, (json.dumps(found, indent=1) + "\n").encode()))


def measure(pipe: Any, prompt: str, seed: int, noises: int) -> dict[str, Any]:
    """The measures of each noise of a caption, by "exact 7", "linear 10", ..., "finished"."""
    session = Session(pipe, prompt)
    rollout = Rollout(session, draw_pool(session, noises, seed).noises)
    videos: dict[str, list[np.ndarray]] = {}
    linear = decoder_of(session, "linear")
    for steps in STEPS:
        for name, rollout.decoder in (("exact", None), ("linear", linear)):
            videos[f"{name} {steps}"] = rollout.advance(steps)
    videos["finished"] = rollout.finish()
    row: dict[str, Any] = {
        name: {
            "score": attributes(np.stack(each), [prompt] * noises)["score"].tolist(),
            **{key: values.tolist() for key, values in look(each).items()},
        }
        for name, each in videos.items()
    }
    for steps in STEPS:
        one, other = (np.stack(videos[f"{name} {steps}"]).astype(float) for name in ("exact", "linear"))
        row[f"pixels {steps}"] = float(np.abs(one - other).mean())
    return row


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The four comparisons of the plan; an interval is [mean, low, high] over captions."""

    def of(name: str, measure: str = "score") -> np.ndarray:
        return np.array([row[name][measure] for row in rows])

    found: dict[str, Any] = {}
    for steps in STEPS:
        exact, linear = f"exact {steps}", f"linear {steps}"
        agreed = {measure: within(of(linear, measure), of(exact, measure)) for measure in MEASURES}
        found[f"after {steps}"] = {
            "spearman": {measure: bootstrap(each) for measure, each in agreed.items()},
            "without": {measure: int(np.isnan(each).sum()) for measure, each in agreed.items()},
            "lost": bootstrap(best_of(of(exact), of(exact)) - best_of(of(linear), of(exact))),
            "score": {name: bootstrap(of(name).mean(1)) for name in (exact, linear)},
            "pixels": bootstrap([row[f"pixels {steps}"] for row in rows]),
        }
    last, outcome = STEPS[-1], of("finished")
    gains = {name: gain(of(f"{name} {last}"), outcome) for name in ("exact", "linear")}
    found["finished"] = {
        "gap": bootstrap(oracle(outcome) - random(outcome)),
        **{name: bootstrap(each) for name, each in gains.items()},
        "difference": bootstrap(gains["linear"] - gains["exact"]),
    }
    return found


if __name__ == "__main__":
    main()
