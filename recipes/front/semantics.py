"""Do prompts that say what a noise makes by itself succeed more often from it? As README.md plans.

`python recipes/front/semantics.py shapes-wan --out runs/semantics-wan` makes a video without a prompt from
each of 200 noises, asks for what the verifier reads in it from its own noise and from another one, and writes
`results/semantics-shapes-wan.json` beside this file. The same command continues an interrupted run.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seedbed.errors import BadInput
from seedbed.files import write_bytes_atomically
from seedbed.lab.work import kept
from seedbed.pipelines.loading import load, locate
from seedbed.pipelines.session import Session
from seedbed.refinement.refiner import model_sha256
from seedbed.selection.pools import draw_pool
from seedbed.statistics import bootstrap
from seedbed.worlds import shapes, verifier

RESULTS = Path(__file__).resolve().parent / "results"
BATCH = 20  # videos at a time; what is finished of them is kept together
MEASURES = ("score", "all_right", "colour", "shape", "motion", "count")
ALONE = "without a prompt"


def caption_of(reading: verifier.Reading) -> tuple[str, str]:
    """The caption of what a video shows, and "" or why there is none.

    Of the objects whose shape and motion are clear; a caption of this world names one or two.
    """
    clear = [thing for thing in reading.objects if verifier.UNCLEAR not in (thing.shape, thing.motion)]
    if not clear:
        return "", "no readable object"
    return ("", "more than two objects") if len(clear) > 2 else (shapes.caption(clear), "")


def exchange(captions: list[str]) -> NDArray[np.int64]:
    """For each noise the number of another one, whose caption it is given: all are moved by one distance.

    Both arms then hold the same captions and noises. It is the least distance of those at which the fewest
    noises are given a caption like their own.
    """
    said, places = np.array(captions), np.arange(len(captions))
    if len(captions) < 2:
        raise BadInput(f"{len(captions)} noises with a caption are too few to exchange: give more noises")
    alike = [int((said == np.roll(said, -by)).sum()) for by in range(1, len(captions))]
    return np.roll(places, -(1 + int(np.argmin(alike))))


def measure(model: str, noises: int, seed: int, folder: Path) -> dict[str, Any]:
    """Make and judge all videos that `folder` does not yet hold, and compare the two arms."""
    pipe = load(model, dtype="float32", device="cpu")
    pipe.set_progress_bar_config(disable=True)
    call = json.loads((Path(locate(model)) / "seedbed.json").read_text())["call"]
    pool = draw_pool(Session(pipe, "", **call), noises, seed)
    # Without a prompt guidance changes nothing: it only pays for the same prediction twice.
    calls = {ALONE: call | {"guidance_scale": 1.0}, "matched": call, "mismatched": call}
    about = {"schema": "seedbed.semantics/1", "model": model_sha256(pipe), "seed": seed, "call": call}
    with kept(folder, about, "study of semantics in noise") as (store, known):

        def judged(arm: str, asked: list[tuple[int, str]]) -> list[dict[str, Any]]:
            """A row for each noise and its prompt, in their order."""
            keys = [f"{arm}/{noise}/{prompt}" for noise, prompt in asked]
            left = [each for key, each in zip(keys, asked, strict=True) if key not in known]
            for at in range(0, len(left), BATCH):
                numbers, prompts = map(list, zip(*left[at : at + BATCH], strict=True))
                latents = pool.noises[numbers].clone()
                frames = pipe(prompt=prompts, latents=latents, output_type="np", **calls[arm]).frames
                rows: list[dict[str, Any]] = []
                for n, prompt, reading in zip(
                    numbers, prompts, verifier.read(np.rint(frames * 255).astype(np.uint8)), strict=True
                ):
                    row: dict[str, Any] = {"key": f"{arm}/{n}/{prompt}", "noise": n}
                    if arm == ALONE:
                        row["caption"], row["skipped"] = caption_of(reading)
                    else:
                        row |= verifier.judge(reading, prompt)
                    rows.append(row)
                store.append(rows)
                known.update((row["key"], row) for row in rows)
                print(f"{arm}: {len(asked) - len(left) + at + len(rows)} of {len(asked)}", flush=True)
            return [known[key] for key in keys]

        alone = judged(ALONE, [(n, "") for n in range(noises)])
        told = [row for row in alone if row["caption"]]
        captions, places = [row["caption"] for row in told], [row["noise"] for row in told]
        others = exchange(captions)
        matched = judged("matched", list(zip(places, captions, strict=True)))
        mismatched = judged("mismatched", [(n, captions[o]) for n, o in zip(places, others, strict=True)])
    found = summary(alone, matched, mismatched, others)
    return found | about | {"model": Path(locate(model)).name, "weights": about["model"], "noises": noises}


def summary(
    alone: list[dict[str, Any]],
    matched: list[dict[str, Any]],
    mismatched: list[dict[str, Any]],
    others: NDArray[np.int64],
) -> dict[str, Any]:
    """Both arms and their paired difference, with 95 % intervals over noises."""
    captions = [row["caption"] for row in alone if row["caption"]]
    skipped = [row["skipped"] for row in alone if row["skipped"]]
    arms = {}
    for name in MEASURES:
        one, two = (np.array([row[name] for row in rows]) for rows in (matched, mismatched))
        parts = {"matched": one, "mismatched": two, "difference": one - two}
        arms[name] = {part: [round(end, 5) for end in bootstrap(values)] for part, values in parts.items()}
    return {
        "captions": {
            "noises": len(captions),
            "different": len(set(captions)),
            "of two objects": sum(" and " in caption for caption in captions),
            "held out": sum(shapes.held_out(shapes.parse(caption)) for caption in captions),
            "skipped": {why: skipped.count(why) for why in sorted(set(skipped))},
            "mismatched with one like their own": sum(
                captions[o] == c for o, c in zip(others, captions, strict=True)
            ),
        },
        "measures": arms,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="an embedded model's name, or its folder")
    parser.add_argument("--noises", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="the folder that keeps what is finished")
    arguments = parser.parse_args()
    found = measure(arguments.model, arguments.noises, arguments.seed, arguments.out)
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"semantics-{found['model']}.json"
    write_bytes_atomically(path, (json.dumps(found, indent=1) + "\n").encode())
    print(json.dumps(found["measures"]["score"]), path)
