"""What the models of arms.py make:

    python recipes/pyoco/measure.py runs/pyoco/mixed-1-2/model --out recipes/pyoco/results/mixed-1-2.json

53 captions of one object, 4 noises each, from the model's own prior (`--prior` for another, `--frames` for
longer videos). Kept for each video: the verifier's shares, movement, flicker, whether it stands still where
it should move, and the share of colour, shape and number that is right in its single frames; for each caption
the mean distance of its videos in the features of `models/shapes-features`; of all videos the Fréchet video
distance to as many rendered ones, what two sets of rendered ones are apart, and the Inception Score.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AnimateDiffVideoToVideoPipeline
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2]))
from recipes.metrics.features import load as network_of
from recipes.pyoco.arms import CONVOLUTIONS, IMAGES, JUDGES, captions_of, make, pipeline
from recipes.tables import rounded
from seedbed.files import write_bytes_atomically
from seedbed.lab.metrics import features_of, frechet, frechet_bias, inception_score
from seedbed.noise import prior_named
from seedbed.verifiers import Frames
from seedbed.verifiers.appearance import look
from seedbed.worlds import digits, shapes, verifier

FEATURES = Path(__file__).parents[2] / "models/shapes-features/network.safetensors"
START = json.loads((Path(__file__).parent / "image.json").read_text())["model"]
CAPTIONS, NOISES, REAL, FRAMES = 53, 4, 1000, 8
READERS: dict[str, Any] = {"shapes": verifier.read, "digits": digits.read}


def rows_of(videos: list[Frames], caption: str, world: str) -> dict[str, list[float]]:
    """What is said of each of a caption's videos."""
    judge, stack = JUDGES[world], np.stack(videos)
    found = {key: value.tolist() for key, value in judge(stack, [caption] * len(videos)).items()}
    seen = look(videos)
    found |= {key: seen[key].tolist() for key in ("movement", "flicker")}
    if "moving" in caption:
        readings = READERS[world](stack)
        things = [getattr(each, "objects", (each,)) for each in readings]
        still = [{one.motion for one in some} == {"staying still"} for some in things]
        found["frozen"] = [float(each) for each in still]
    if world == "shapes":
        single = [judge(video[:, None], [caption] * len(video)) for video in videos]
        keys = ("colour", "shape", "count")
        found["frames"] = [float(torch.stack([each[key] for key in keys]).mean()) for each in single]
    return found


def who(folder: Path) -> dict[str, Any]:
    """What was trained, under which prior, on how many frames, and its seed; an image model is of no arm."""
    path = folder.parent / "arm.json"
    if not path.is_file():
        index = json.loads((folder / "model_index.json").read_text())
        if index["_class_name"] == "AnimateDiffPipeline":  # the one that stays
            prior = json.loads((folder / "seedbed.json").read_text())["prior"]
            return {"arm": folder.name, "seed": 0, "prior": prior, "trained": FRAMES}
        if not index["_class_name"].startswith("StableDiffusion"):
            raise SystemExit(
                f"{folder} is neither an image model nor of arms.py: it has no {path.name} above it"
            )
        return {"arm": "no temporal layer", "seed": 0, "prior": "gaussian", "trained": FRAMES}
    config = json.loads(path.read_text())
    arm = config["prior"] + ", convolutions" * (folder / CONVOLUTIONS).is_file()
    arm += f", shift {config['shift']:g}" if "shift" in config else ""
    if config["model"] not in IMAGES.values():
        arm += ", from random weights" if config["model"] == START else f", from {config['model']}"
    return {"arm": arm, "seed": config["seed"], "prior": config["prior"], "trained": config["frames"]}


def source(caption: str, frames: int, seed: int) -> list[Image.Image]:
    """A clip of what a caption of one object says, but for the colour, which is the next one."""
    (thing,) = shapes.parse(caption)
    colours = [*shapes.COLOURS]
    other = colours[(colours.index(thing.colour) + 1) % len(colours)]
    scene = None
    while scene is None:
        rng = np.random.default_rng(seed)
        scene = shapes.place([dataclasses.replace(thing, colour=other)], rng)
        seed += 1 << 20
    return [Image.fromarray(frame) for frame in shapes.render(scene)[:frames]]


def measure(folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    pipe, world = pipeline(folder), given.world
    arm = who(folder)
    trained = arm.pop("trained")
    prior = given.prior or arm["prior"]
    call = {"guidance_scale": 4.0, "num_inference_steps": 10, "num_frames": given.frames}
    captions = captions_of(world, given.captions)
    videos, rows = list[Frames](), list[dict[str, list[float]]]()
    if given.video is not None:
        pipe = AnimateDiffVideoToVideoPipeline.from_pipe(pipe)
        pipe.set_progress_bar_config(disable=True)
        call = {**call, "strength": given.video}
        del call["num_frames"]
    for number, caption in enumerate(captions):
        if given.video is not None:
            call["video"] = source(caption, given.frames, number)
        made = make(pipe, caption, prior, number, NOISES, call)
        videos += made
        rows.append(rows_of(made, caption, world))
    values = {key: [row.get(key, []) for row in rows] for key in dict.fromkeys(itertools.chain(*rows))}
    result: dict[str, Any] = {
        **arm,
        "world": world,
        "prior": prior,
        "frames": given.frames,
        "captions": captions,
    }
    result["values"] = values
    curve = folder.parent / "curve.jsonl"
    if curve.is_file():
        result["curve"] = [json.loads(line) for line in curve.read_text().splitlines()]
    own = prior_named(prior) == prior_named(arm["prior"])
    more = given.frames - trained
    result["kind"] = ("own" if own else "other") if not more else "longer" if own and more > 0 else ""
    if given.video is not None:
        result |= {"kind": "from video", "strength": given.video}
    if world == "digits":
        # Of as many videos of real handwriting, too, that nothing here was fitted to.
        scenes = itertools.islice(digits.scenes(1 << 50, held=True), len(videos))
        real = np.stack([digits.render(scene) for scene in scenes])
        result["inception"] = inception_score(digits.logits(np.stack(videos)), splits=4)
        result["inception of real ones"] = inception_score(digits.logits(real), splits=4)
    if world == "shapes":
        network = network_of(FEATURES)
        features = features_of(videos, network.features)
        values["diversity"] = [[torch.pdist(some).mean().item()] for some in features.split(NOISES)]
        result["inception"] = inception_score(features_of(videos, network.logits), splits=4)
        if 1 < given.frames <= shapes.FRAMES:
            scenes = itertools.islice(shapes.scenes(1 << 50, pairs=0), REAL)
            real = features_of([shapes.render(scene)[: given.frames] for scene in scenes], network.features)
            # Of as many real videos as were made, as it is with what two sets of real ones are apart.
            result["fvd"] = frechet(real[: len(features)], features)
            result["fvd of real ones"] = frechet_bias(real, [len(features)])[0]
    return result


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--prior", help="another one than the model's own")
    parser.add_argument("--frames", type=int, default=FRAMES)
    parser.add_argument("--captions", type=int, default=CAPTIONS)
    parser.add_argument("--world", choices=[*JUDGES], default="shapes")
    parser.add_argument("--video", type=float, metavar="STRENGTH", help="begin with a clip of another colour")
    given = parser.parse_args(argv)
    if given.video is not None and given.world != "shapes":
        parser.error("--video begins with clips of the shapes world")
    found = rounded(measure(given.model, given))
    given.out.parent.mkdir(parents=True, exist_ok=True)
    write_bytes_atomically(given.out, (json.dumps(found) + "\n").encode())
    print({key: float(np.mean(np.concatenate(value))) for key, value in found["values"].items()})


if __name__ == "__main__":
    main()
