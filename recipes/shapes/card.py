# ruff: noqa: E501 - the card is prose
"""Write the model card beside an exported model from its logs and its evaluation.

`python recipes/shapes/card.py models/shapes-cogvideox-loose`, once the trained and evaluated model lies there
(the default model: in src/seedbed/zoo/models) and the logs of its training in recipes/shapes/logs. The documentation gets the same page.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
from pathlib import Path
from typing import Any

from common import settings
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


def curves(out: Path, name: str, figure: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    vae, denoiser = rows(out / "vae.log.jsonl"), rows(out / f"{name}.log.jsonl")
    plots, (left, right) = plt.subplots(1, 2, figsize=(8, 2.6))
    left.plot([r["step"] for r in vae], [r["psnr"] for r in vae], color="#2a6f97", linewidth=1)
    left.set(title="autoencoder", xlabel="step", ylabel="PSNR of a batch, dB")
    right.plot(
        [r["step"] for r in denoiser], smooth([r["loss"] for r in denoiser]), color="#2a6f97", linewidth=1
    )
    right.set(title="denoiser", xlabel="step", ylabel="v-prediction loss", yscale="log")
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
    share = again[kind]["all right"]
    interval = f" [{least(again['videos']):.1f}, 100.0]" if share == 1 else ""
    return f"{100 * share:.1f} %{interval}"


def trained(config: dict[str, Any], name: str, steps: float) -> str:
    """What was trained for how long, before the words `of N clips`."""
    own = settings(config, name)
    if "start" not in own:
        return f"Denoiser and text encoder: {steps} steps"
    if "reading" in own:
        return f"""A new text encoder reads {own["reading"]["steps"]} times
{own["reading"]["batch"]} training captions, until every word knows colour, shape and motion of its object, and then stays as it is.
Denoiser: from where `{own["start"]}` ended (its weights as they ship, in half precision), {steps} steps"""
    before = settings(config, own["start"])
    return f"""{trained(config, own["start"], before["steps"])}
with patches of 2 x 2 latent pixels, then {steps} with patches of one. In these last steps captions are loose, as those of clips from the
web are: of two objects that a caption names, it gives each the other's motion in {100 * own["loose_captions"]:.0f} % of all cases, and the other's shape
in {100 * own["loose_captions"]:.0f} %. So the caption says what is likely, and the noise decides. All steps are"""


def bound(rows: list[dict[str, Any]]) -> str:
    """What exchanging an attribute between the objects of a caption does to the denoiser."""

    def worst(attribute: str) -> str:
        row = max(rows, key=lambda row: row[attribute][0])
        mean, low, high = (f"{100 * value:.2g}" for value in row[attribute])
        return f"{mean} % [{low}, {high}] (t = {row['t']})"

    return f"motions {worst('motion')}, shapes {worst('shape')}"


def card(
    name: str,
    config: dict[str, Any],
    result: dict[str, Any],
    sizes: dict[str, float],
    log: list[dict[str, float]],
    binding: dict[str, Any],
) -> str:
    single, pairs = result["single"], result["pairs"]
    denoiser = settings(config, name)
    again = result["reconstruction"]
    table = "\n".join(
        f"| {name} | {percent(single[key])} | {percent(pairs[key])} |"
        for name, key in (
            ("colour", "colour"),
            ("shape", "shape"),
            ("motion", "motion"),
            ("number of objects", "count"),
            ("**everything right**", "all right"),
        )
    )
    call = ", ".join(f"{key}={value}" for key, value in result["call"].items())
    return f"""# {name}

A complete text-to-video diffusion model, small enough to ship and to run on a laptop: diffusers' own
`CogVideoXPipeline` with {sizes["transformer"]:.1f} M (transformer), {sizes["vae"]:.1f} M (autoencoder)
and {sizes["text_encoder"]:.1f} M (text encoder) parameters, trained from nothing by `recipes/shapes`.
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

Does it know what belongs to what? {binding["clips"]} held-out clips are denoised with their caption, and with one in
which the objects have exchanged an attribute. The error rises by at most this share of itself: {bound(binding["rows"])}.
A model to which a caption is a bag of words stays at 0, and which object gets which attribute is left to the noise.

How much the seed decides: score = share of attributes right.

| | one object | two objects |
|---|---|---|
| a random noise | {number(single["score"])} | {number(pairs["score"])} |
| the best of {result["noises"]} | {number(single["best of all noises"])} | {number(pairs["best of all noises"])} |
| difference | {number(single["best minus random"])} | {number(pairs["best minus random"])} |

An interval without width says that none of the videos failed, not that none would: the {single["captions"]} captions with one object
are all that were held out, and share {result["noises"]} noises.

The verifier reads {reading(again, "rendered")} of {again["videos"]} rendered held-out videos without
a mistake, and {reading(again, "reconstructed")} of their reconstructions by the autoencoder
({100 * again["reconstructed"]["attributes right"]:.1f} % of attributes; PSNR {again["psnr"]:.1f} dB). `recipes/shapes/evaluate.py`
measures all of this again. In a finished video it looks at what an object is on average over the frames and how far it
comes from the first frame to the last: a jump there and back, or a missing frame, it does not see.

## Training

Videos of {shapes.FRAMES} frames of {shapes.SIDE} x {shapes.SIDE} pixels, drawn by `seedbed.worlds.shapes`:
{len(shapes.COLOURS)} colours, {len(shapes.SHAPES)} shapes, {len(shapes.MOTIONS)} motions, random place, size and speed;
{100 * config["latents"]["pairs"]:.0f} % of the scenes have two objects; one caption in {shapes.HELD_OUT} is held out.
Autoencoder: {config["vae"]["steps"]} steps of {config["vae"]["batch"]} videos, then its latents are whitened and the
decoder settles for {config["vae"]["settle_steps"]} steps. {trained(config, name, log[-1]["step"])} of
{denoiser["batch"]} clips from {config["latents"]["count"]} cached latents, v-prediction,
{"zero" if denoiser["zero_terminal_snr"] else "non-zero"} terminal signal-to-noise ratio, Muon and AdamW, bf16
autocast, two CPU cores. Last logged loss {log[-1]["loss"]:.3f}. Everything else is in `recipes/shapes/config.json`.

![loss curves](loss.png)

## Limits

Anything but the world's sentences (`a red circle moving left and a blue square staying still`) is outside its
vocabulary and gives an arbitrary video of shapes. Captions must fit 12 tokens, and the pipeline must be called with
`max_sequence_length=12`; seedbed reads that from `seedbed.json` beside the weights. Weights are stored in half
precision; float32 and float16 reproduce the same seeds best.
"""


def pages(folder: Path, recipe: Path) -> dict[Path, str]:
    """The card beside the model, and the same page for the documentation, by path."""
    config = json.loads((recipe / "config.json").read_text())
    result = json.loads((folder / "evaluation.json").read_text())
    log = rows(recipe / f"logs/{folder.name}.log.jsonl")
    binding = json.loads((recipe / "binding.json").read_text())[folder.name]
    text = card(folder.name, config, result, sizes(folder), log, binding)
    pages, end = {folder / "README.md": text}, folder.name.removeprefix("shapes-cogvideox")
    page = text.replace("](contact-sheet.png)", f"](figures/contact-sheet{end}.png)")
    pages[recipe.parents[1] / f"docs/model-card{end}.md"] = page.replace(
        "](loss.png)", f"](figures/loss{end}.png)"
    )
    return pages


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
    end = folder.name.removeprefix("shapes-cogvideox")
    for name in ("loss", "contact-sheet"):
        shutil.copy(folder / f"{name}.png", figures / f"{name}{end}.png")
    for path, text in pages(folder, recipe).items():
        path.write_text(text)
