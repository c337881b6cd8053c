# ruff: noqa: E501 - the card is prose
"""The model that stays: models/shapes-animatediff, by `python recipes/pyoco/keep.py runs/pyoco-shifted/model`.

Keeps the trained pipeline in half precision, measures what it gets right on captions of one object (those of the training part,
4 noises each, and the held-out ones, 16 each), draws a contact sheet of the first noise of each held-out
caption and of the first ten others, and writes the card, here and in docs/.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "recipes/shapes")]
from evaluate import generate, measure, sheet  # noqa: E402
from export import edit  # noqa: E402

from recipes.tables import rounded, share, table  # noqa: E402
from seedbed.files import write_bytes_atomically  # noqa: E402
from seedbed.pipelines.loading import load  # noqa: E402
from seedbed.statistics import Interval, bootstrap  # noqa: E402
from seedbed.training.config import Config  # noqa: E402
from seedbed.training.diffusion import forget_places  # noqa: E402
from seedbed.worlds import shapes, verifier  # noqa: E402

NAME = "shapes-animatediff"
TRAININGS = ("final", "more", "shifted")  # one after the other, after the arm
FOLDER, CARD = ROOT / "models" / NAME, ROOT / f"docs/model-card-{NAME}.md"
FIGURE = ROOT / f"docs/figures/contact-sheet-{NAME}.png"
PARTS = {"held out": (True, 16), "training part": (False, 4)}
ATTRIBUTES = {
    "colour": "colour",
    "shape": "shape",
    "count": "number of objects",
    "motion": "motion",
    "axis": "its axis, where it moves",
}


def axis(videos: np.ndarray, captions: list[str]) -> Interval:
    """Of captions whose object moves, the share of (captions, noises) videos that move along its axis."""
    found = []
    for group, caption in zip(videos, captions, strict=True):
        (thing,) = shapes.parse(caption)
        said = np.abs(shapes.MOTIONS[thing.motion])
        if said.any():
            shown = [[each.motion for each in reading.objects] for reading in verifier.read(group)]
            along = [
                len(some) == 1 and (np.abs(shapes.MOTIONS.get(some[0], (0, 0))) == said).all()
                for some in shown
            ]
            found.append(np.mean(along))
    return bootstrap(np.array(found))


def evaluate(folder: Path) -> tuple[dict[str, Any], np.ndarray]:
    """Shares right on both parts of the captions, and videos of the first noise."""
    pipe = load(str(folder))
    pipe.set_progress_bar_config(disable=True)
    call = json.loads((folder / "seedbed.json").read_text())["call"]
    found: dict[str, Any] = {"call": call, "parameters": {}}
    for name in ("unet", "vae", "text_encoder"):
        found["parameters"][name] = sum(each.numel() for each in getattr(pipe, name).parameters())
    shown = []
    for part, (held, noises) in PARTS.items():
        captions = shapes.captions(100, objects=1, seed=0, held=held)
        videos = generate(pipe, call, captions, noises)
        found[part] = {**measure(videos, captions), "axis": axis(videos, captions)}
        found[part] |= {"noises": noises, "shown": captions[:10]}
        shown.append(videos[:10, 0])
    return rounded(found), np.concatenate(shown)


def card(found: dict[str, Any], configs: list[Config]) -> str:
    trained, steps = configs[-1], sum(each.steps for each in configs)
    trainings = ", then ".join(f"`{name}.json`" for name in found["trainings"])
    counts = {name: f"{count / 1e6:.1f} M" for name, count in found["parameters"].items()}
    rows = [
        [what, *(share(found[part][key]) for part in PARTS)]
        for key, what in {**ATTRIBUTES, "all_right": "**everything right**"}.items()
    ]
    sizes = [f"{part}: {found[part]['captions']} × {found[part]['noises']}" for part in PARTS]
    listed = [caption for part in PARTS for caption in found[part]["shown"]]
    shown = "\n".join(f"{number}. {caption}" for number, caption in enumerate(listed, 1))
    call = ", ".join(f"{name}={value}" for name, value in found["call"].items())
    return f"""# {NAME}

A text-to-video diffusion model of separate spatial and temporal layers: diffusers' own `AnimateDiffPipeline` with
{counts["unet"]} (U-Net), {counts["vae"]} (autoencoder of frames) and {counts["text_encoder"]} (text encoder) parameters, made from an image model as PYoCo
does (2305.10474) and trained under the prior `{trained.prior}`, from which `seedbed` draws its noise by itself. Its schedule begins
without signal. It knows sentences of one object of the shapes world alone, and lies in a checkout, not in the package.

![videos](contact-sheet.png)

Every other frame of one video per caption, each from its first noise (seed 0, candidate 0): the held-out captions, then the first ten
of the training part. None was picked. Left column from top to bottom, then right:

{shown}

## Accuracy

Called with {call}. Share right, with 95 % bootstrap intervals over captions; captions × noises, {"; ".join(sizes)}:

{table(["attribute", *PARTS], rows)}

An interval without width says that none of the videos failed, not that none would.

## Training

`recipes/pyoco`: an image model on single frames; the arm of `{trained.prior}` of [the comparison of priors](pyoco.md); then {steps:,} more steps
({trainings}). `python recipes/pyoco/keep.py runs/pyoco-{found["trainings"][-1]}/model` measures all of this again.
"""


def pages(found: dict[str, Any]) -> dict[Path, str]:
    """The card beside the model, and in the documentation."""
    configs = [Config.load(Path(__file__).with_name(f"{name}.json")) for name in found["trainings"]]
    text = card(found, configs)
    beside = text.replace("](pyoco.md)", "](../../docs/pyoco.md)")
    return {FOLDER / "README.md": beside, CARD: text.replace("contact-sheet.png", f"figures/{FIGURE.name}")}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", type=Path)
    given = parser.parse_args(argv)
    if not (given.model / "model_index.json").is_file():
        raise SystemExit(f"{given.model} is not the folder of a model")
    if given.model.resolve() == FOLDER:
        trainings = json.loads((FOLDER / "evaluation.json").read_text())["trainings"]
    else:
        last = given.model.resolve().parent.name.removeprefix("pyoco-")
        if last not in TRAININGS:
            raise SystemExit(f"{given.model} is of none of the trainings {', '.join(TRAININGS)}")
        trainings = TRAININGS[: TRAININGS.index(last) + 1]
        shutil.rmtree(FOLDER, ignore_errors=True)
        pipe = load(str(given.model))
        pipe.to(torch.float16)
        pipe.save_pretrained(FOLDER)
        forget_places(FOLDER)
        shutil.copyfile(given.model / "seedbed.json", FOLDER / "seedbed.json")
        for file in FOLDER.rglob("*.safetensors"):
            file.chmod(0o644)
        # transformers 5 writes a tokenizer class that 4.x does not know; both know this one.
        edit(FOLDER / "model_index.json", tokenizer=["transformers", "PreTrainedTokenizerFast"])
        edit(FOLDER / "tokenizer/tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")
        # It loads the text encoder in the precision that its file names, diffusers all else in float32.
        edit(FOLDER / "text_encoder/config.json", dtype="float32", torch_dtype="float32")
    found, videos = evaluate(FOLDER)
    found["trainings"] = trainings
    write_bytes_atomically(FOLDER / "evaluation.json", (json.dumps(found, indent=1) + "\n").encode())
    sheet(videos, FOLDER / "contact-sheet.png")
    shutil.copyfile(FOLDER / "contact-sheet.png", FIGURE)
    for path, text in pages(found).items():
        path.write_text(text)
    print(found)


if __name__ == "__main__":
    main()
