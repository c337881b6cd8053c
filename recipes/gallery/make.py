"""Makes the pictures of docs/gallery.md: `python recipes/gallery/make.py [NAME ...]`, else all of them.

They are of the embedded models and take a minute each on a processor. Frames are enlarged without smoothing.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

import seedbed
from seedbed.noise import NoiseRecipe
from seedbed.refinement import walk
from seedbed.report.attention_page import overlaid, tinted
from seedbed.worlds.verifier import attributes

Frames = NDArray[np.uint8]
FIGURES = Path(__file__).resolve().parents[2] / "docs/figures"
PROMPT = "a red circle moving left and a blue square moving up"
LABEL, GAP = 180, 4  # pixels
PRIORS = ("gaussian", "mixed:1", "progressive:2", "shuffled:4", "repeated")


def picture(rows: Sequence[tuple[str, Frames]], scale: int) -> Image.Image:
    """A line for each row: its label, then its frames, uint8 (n, height, width, 3), from left to right."""
    count, height, width = rows[0][1].shape[:3]
    height, width = height * scale + GAP, width * scale + GAP
    made = Image.new("RGB", (LABEL + count * width + GAP, len(rows) * height + GAP), "white")
    draw, font = ImageDraw.Draw(made), ImageFont.load_default(17)
    for line, (label, frames) in enumerate(rows):
        top = GAP + line * height
        draw.text((10, top + height // 2), label, "#222222", font, anchor="lm", spacing=6)
        for column, frame in enumerate(frames):
            tile = Image.fromarray(frame.repeat(scale, 0).repeat(scale, 1))
            made.paste(tile, (LABEL + column * width, top))
    return made


def pipeline(name: str = "shapes-cogvideox") -> Any:
    torch.set_num_threads(1)  # the tensors are tiny
    pipe = seedbed.zoo.load(name)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def judged(label: str, frames: Frames, prompt: str = PROMPT) -> str:
    return f"{label}\nscore {attributes(frames[None], [prompt])['score'].item():.2f}"


def seeds() -> Image.Image:
    sheet = seedbed.contact_sheet(pipeline(), PROMPT, candidates=4, seed=100, prior="torch", progress=False)
    videos = [sheet.finish(number, progress=False).frames for number in range(4)]
    return picture([(judged(f"seed {100 + i}", video), video[::2]) for i, video in enumerate(videos)], 4)


def previews() -> Image.Image:
    pipe, rows = pipeline(), []
    for steps in (1, 3, 7, 10):
        sheet = seedbed.contact_sheet(pipe, PROMPT, candidates=6, after=steps, progress=False)
        rows.append((f"after {steps} of {sheet.all} steps", np.stack(sheet.selection.previews)[:, 4]))
    return picture(rows, 4)


def variation() -> Image.Image:
    pipe = pipeline()
    ends = seedbed.select(pipe, PROMPT, candidates=2, acquisition="random", progress=False).recipes
    steps, rows = walk(ends[0], ends[1], count=5), []
    for number, recipe in enumerate(steps):
        video = seedbed.generate(pipe, PROMPT, noises=[recipe], progress=False).frames
        rows.append((f"{100 * number // (len(steps) - 1)} % of the way", video[::2]))
    return picture(rows, 4)


def words() -> Image.Image:
    pipe, rows = pipeline(), []
    for word, steps in (("circle", (2, 10, 19)), ("square", (19,))):
        found = seedbed.maps(pipe, PROMPT, word=word, layers="*blocks.2.*", steps=steps, progress=False)
        frames = found.frames.repeat(4, 1).repeat(4, 2)
        for each in found.maps:
            if each.part == "video -> word":
                rows.append((f'"{word}"\nstep {each.step + 1} of 20', overlaid(frames, each.values[3])[::2]))
    return picture([("the video", frames[::2]), *rows], 1)


def edit() -> Image.Image:
    source, target = "a green triangle moving up", "a yellow triangle moving up"
    pipe = pipeline()
    made = seedbed.generate(pipe, source, candidates=1, progress=False)
    edited = seedbed.edit(pipe, made, source=source, target=target, progress=False)
    return picture([("source", edited.original[::2]), ("edit", edited.frames[::2])], 4)


def noise(prior: str) -> Frames:
    """Eight frames of a noise, and last how alike they are: the matrix of their correlations."""
    drawn = (
        NoiseRecipe(seed=0, candidate=0, shape=(1, 8, 24, 24), prior=prior, frame_axis=1).draw()[0].numpy()
    )
    grey = ((drawn + 3) / 6 * 255).clip(0, 255).astype(np.uint8)
    alike = tinted(np.corrcoef(drawn.reshape(8, -1)).clip(0, 1)).repeat(3, 0).repeat(3, 1)
    return np.concatenate([np.stack([grey] * 3, -1), alike[None]])


def priors() -> Image.Image:
    return picture([(prior, noise(prior)) for prior in PRIORS], 4)


PICTURES: dict[str, Callable[[], Image.Image]] = {
    make.__name__: make for make in (seeds, previews, variation, words, edit, priors)
}


if __name__ == "__main__":
    for name in sys.argv[1:] or PICTURES:
        PICTURES[name]().save(FIGURES / f"gallery-{name}.png", optimize=True)
