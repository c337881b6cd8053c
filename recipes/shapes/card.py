# ruff: noqa: E501 - the card is prose
"""Write the model card beside an exported model from its logs and its evaluation.

`python recipes/shapes/card.py src/seedbed/zoo/models/shapes-wan`, once the trained and evaluated model lies there and the
logs of its training, `*.log.jsonl`, in recipes/shapes/logs/shapes-wan. The documentation gets the same page.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
from pathlib import Path
from typing import Any

from common import FAST, settings
from safetensors import safe_open

from seedbed.worlds import shapes


def rows(path: Path) -> list[dict[str, float]]:
    """A stage's log; a step that an interruption repeated counts once, as it was last done."""
    return list({row["step"]: row for row in map(json.loads, path.read_text().splitlines())}.values())


def smooth(values: list[float], share: float = 0.8) -> list[float]:
    out, average = [], values[0]
    for value in values:
        average = share * average + (1 - share) * value
        out.append(average)
    return out


def curves(logs: Path, name: str, figure: Path) -> None:
    import matplotlib.pyplot as plt

    plots, (left, right) = plt.subplots(1, 2, figsize=(8, 2.6))
    if stages := sorted((logs / name).glob("stage-*.log.jsonl")):
        # Of a model that went on from another one there is no autoencoder to show.
        vae = rows(logs / name / "vae.log.jsonl") if (logs / name / "vae.log.jsonl").exists() else []
        left.plot([r["step"] for r in vae], [r["psnr"] for r in vae], color="#2a6f97", linewidth=1)
        left.set(title="autoencoder", xlabel="step", ylabel="PSNR of a batch, dB")
        if not vae:
            left.remove()
            plots.set_size_inches(4, 2.6)
            right.set_subplotspec(plots.add_gridspec(1, 1)[0])
        losses = {f"stage {n}": (rows(stage), "loss") for n, stage in enumerate(stages, 1)}
        right.set(title="denoiser", xlabel="step", ylabel="loss", yscale="log")
    else:
        log = rows(logs / name / "distillation.log.jsonl")
        left.plot([r["step"] for r in log], smooth([r["end"] for r in log]), color="#2a6f97", linewidth=1)
        left.set(title="last state", xlabel="step", ylabel="squared error", yscale="log")
        losses = {key: (log, key) for key in log[0] if key.startswith("step ")}
        right.set(title="velocity, by step of the student", xlabel="step", ylabel="loss", yscale="log")
    for label, (log, key) in losses.items():
        right.plot([r["step"] for r in log], smooth([r[key] for r in log]), linewidth=1, label=label)
    right.legend(frameon=False)
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
    plots.tight_layout()
    plots.savefig(figure, dpi=110)


def percent(value: list[float]) -> str:
    return "{:.1f} % [{:.1f}, {:.1f}]".format(*(100 * v for v in value))


def number(value: list[float]) -> str:
    return "{:.3f} [{:.3f}, {:.3f}]".format(*value)


def least(count: int) -> float:
    """The least share, in percent, at which `count` of `count` are right in one of forty draws."""
    return 100 * 0.025 ** (1 / count)


def reading(again: dict[str, Any], kind: str) -> str:
    """Share of videos without a mistake; its exact 95 % interval where there is none."""
    share = again[kind]
    interval = f" [{least(again['videos']):.1f}, 100.0]" if share == 1 else ""
    return f"{100 * share:.1f} %{interval}"


def trained(config: dict[str, Any]) -> str:
    """What was trained for how long."""
    lesson = config["reading"]
    own = config["stages"][config["start"]["stages"] if "start" in config else 0 :]
    stages = "; then ".join(
        f"{stage['steps']:,} steps of {stage['batch']} clips with patches of "
        f"{stage['transformer']['patch_size']} x {stage['transformer']['patch_size']} latent pixels"
        for stage in own
    )
    loose = " and ".join(
        f"in {100 * share:.0f} % of all cases the other's {name}" for name, share in config["loose"].items()
    )
    return f"""The text encoder reads {lesson["steps"]} times {lesson["batch"]} training captions, until every word
knows colour, shape and motion of its object, and then stays as it is. Denoiser: {stages}. Captions are loose, as
those of clips from the web are: where one names two objects, it gives each {loose}. So the caption says what is
likely, and the noise decides."""


def taught(config: dict[str, Any]) -> str:
    """What a student learned from its teacher."""
    own, many = config["distillation"], config["call"]["num_inference_steps"]
    few = own["call"]["num_inference_steps"]
    return f"""The student began as its teacher. On {own["noises"]:,} noises with training captions the teacher went its
{many} steps, with guidance {config["call"]["guidance_scale"]:g}; in {own["steps"]:,} batches of {own["batch"]} of them the student learned to go from each of
its {few} times to the teacher's state at the next, from where its own step before had ended
(`recipes/shapes/distill.py`; progressive distillation, 2202.00512, in one round). So it needs no guidance, and knows these
{few} times alone. Text encoder and autoencoder are its teacher's."""


def bound(rows: list[dict[str, Any]]) -> str:
    """What exchanging an attribute between the objects of a caption does to the denoiser, at its most."""

    def worst(attribute: str) -> str:
        row = max(rows, key=lambda row: row[attribute][0])
        mean, low, high = (f"{100 * value:.3g}" for value in row[attribute])
        return f"{mean} % [{low}, {high}] (at {row['share']:g} of the times)"

    return f"motions {worst('motion')}, shapes {worst('shape')}"


def knows(read: dict[str, Any]) -> str:
    return f"""
Does it know what belongs to what? {read["clips"]} held-out clips are denoised with their caption, and with one in
which the objects have exchanged an attribute. The error rises by at most this share of itself: {bound(read["rows"])}.
A model to which a caption is a bag of words stays at 0, and which object gets which attribute is left to the noise.
"""


KINDS = {
    "cogvideox": ("CogVideoXPipeline", "v-prediction, zero terminal signal-to-noise ratio"),
    "wan": ("WanPipeline", "flow matching"),
}


def card(name: str, config: dict[str, Any], result: dict[str, Any], sizes: dict[str, float]) -> str:
    single, pairs = result["single"], result["pairs"]
    again, teacher = result["reconstruction"], name.removesuffix(FAST)
    pipeline, target = KINDS[config["family"]]
    table = "\n".join(
        f"| {name} | {percent(single[key])} | {percent(pairs[key])} |"
        for name, key in (
            ("colour", "colour"),
            ("shape", "shape"),
            ("motion", "motion"),
            ("number of objects", "count"),
            ("**everything right**", "all_right"),
        )
    )
    origin = "trained from nothing by `recipes/shapes`"
    if "start" in config:
        origin = f"""which `recipes/shapes/train.py {name}` made of
`{Path(config["start"]["folder"]).name}` of commit {config["start"]["commit"]}: autoencoder, text encoder and the denoiser
that training went on from are those of that model, trained from nothing by the recipe of commit {config["start"]["recipe"]}"""
    training = f"""Autoencoder: {config["autoencoder"]["steps"]} steps of {config["autoencoder"]["batch"]} videos, then its latents are whitened and
its decoder settles for {config["autoencoder"]["settle_steps"]} steps. {trained(config)}
Trained on {config["latents"]["count"]:,} cached latents: {target}, Muon and AdamW, on CPU cores (bf16 autocast where they have it)."""
    if name != teacher:
        origin, training = f"a student of `{teacher}` that needs fewer steps", taught(config)
    call = ", ".join(f"{key}={value}" for key, value in result["call"].items())
    return f"""# {name}

A complete text-to-video diffusion model, small enough to ship and to run on a laptop: diffusers' own
`{pipeline}` with {sizes["transformer"]:.1f} M (transformer), {sizes["vae"]:.1f} M (autoencoder)
and {sizes["text_encoder"]:.1f} M (text encoder) parameters, {origin}.
It exists to study initial noise: generation takes about a second, and whether a video shows what its prompt says
can be read back exactly (`seedbed.worlds.verifier`). It knows only the sentences of that world.

![videos](contact-sheet.png)

Every other frame of one video per held-out caption: the first {len(single["shown"])} captions with one object, the
first {len(pairs["shown"])} with two, each from its first noise (seed 0, candidate 0). None was picked. Left column
from top to bottom, then right:

{chr(10).join(f"{n + 1}. {caption}" for n, caption in enumerate(single["shown"] + pairs["shown"]))}

## Accuracy on captions it never saw

{single["captions"]} captions with one object ({single["videos"]} videos) and {pairs["captions"]} with two
({pairs["videos"]} videos), {result["noises"]} noises each, called with {call}. Share right, with 95 % bootstrap
intervals over captions:

| attribute | one object | two objects |
|---|---|---|
{table}
{knows(result["reading"]) if "reading" in result else ""}
How much the seed decides: score = share of attributes right.

| | one object | two objects |
|---|---|---|
| a random noise | {number(single["score"])} | {number(pairs["score"])} |
| the best of {result["noises"]} | {number(single["best"])} | {number(pairs["best"])} |
| difference | {number(single["gap"])} | {number(pairs["gap"])} |

An interval without width says that none of the videos failed, not that none would: the {single["captions"]} captions with one object
are all that were held out, and share {result["noises"]} noises.

The verifier reads {reading(again, "rendered")} of {again["videos"]} rendered held-out videos without
a mistake, and {reading(again, "reconstructed")} of their reconstructions by the autoencoder
(PSNR {again["psnr"]:.1f} dB). `recipes/shapes/evaluate.py`
measures all of this again. In a finished video it looks at what an object is on average over the frames and how far it
comes from the first frame to the last: a jump there and back, or a missing frame, it does not see.

## Training

Videos of {shapes.FRAMES} frames of {shapes.SIDE} x {shapes.SIDE} pixels, drawn by `seedbed.worlds.shapes`:
{len(shapes.COLOURS)} colours, {len(shapes.SHAPES)} shapes, {len(shapes.MOTIONS)} motions, random place, size and speed;
{100 * config["latents"]["pairs"]:.0f} % of the scenes have two objects; one caption in {shapes.HELD_OUT} is held out.
{training} Everything
else is in `recipes/shapes/config.json`.

![loss curves](loss.png)

## Limits

Anything but the world's sentences (`a red circle moving left and a blue square staying still`) is outside its
vocabulary and gives an arbitrary video of shapes. Captions must fit 12 tokens, and the pipeline must be called with
`max_sequence_length=12`; seedbed reads that from `seedbed.json` beside the weights. Weights are stored in half
precision; float32 and float16 reproduce the same seeds best.
"""


def pages(folder: Path, recipe: Path) -> dict[Path, str]:
    """The card beside the model, and the same page for the documentation, by path."""
    name = folder.name
    config = settings(json.loads((recipe / "config.json").read_text()), name.removesuffix(FAST))
    result = json.loads((folder / "evaluation.json").read_text())
    text = card(name, config, result, sizes(folder))
    page = text
    for figure in ("contact-sheet", "loss"):
        page = page.replace(f"]({figure}.png)", f"](figures/{figure}-{name}.png)")
    return {folder / "README.md": text, recipe.parents[1] / f"docs/model-card-{name}.md": page}


def sizes(folder: Path) -> dict[str, float]:
    """Millions of parameters of each part."""
    files = {
        part: next((folder / part).glob("*.safetensors")) for part in ("transformer", "vae", "text_encoder")
    }
    counts = {}
    for part, file in files.items():
        with safe_open(file, "pt") as tensors:
            counts[part] = sum(math.prod(tensors.get_slice(k).get_shape()) for k in tensors.keys()) / 1e6  # noqa: SIM118
    return counts


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="the exported and evaluated model")
    folder, recipe = parser.parse_args().folder.resolve(), Path(__file__).resolve().parent
    figures = recipe.parents[1] / "docs/figures"
    figures.mkdir(exist_ok=True)
    curves(recipe / "logs", folder.name, folder / "loss.png")
    for figure in ("loss", "contact-sheet"):
        shutil.copy(folder / f"{figure}.png", figures / f"{figure}-{folder.name}.png")
    for path, text in pages(folder, recipe).items():
        path.write_text(text)
