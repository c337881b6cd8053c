"""Read a video of the shapes world back, without a network: its objects, colours, shapes and motions.

Every number comes from geometry. A pixel belongs to the palette colour nearest in direction; an object is
the connected region of one colour; its shape is the template of equal area and centre that overlaps it best;
its motion is the displacement of its centre of mass. An object in two pieces is two objects, and a region
that no template fits has no shape: it is `unclear`, which is right for no caption.

Shapes are means over the frames and motion is from the first to the last, so what only some frames show, an
object missing in two of nine, a jump there and back, a shape that changes on the way, can pass as right.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from seedbed.attention.modes import plain_arithmetic
from seedbed.errors import BadInput
from seedbed.worlds.shapes import COLOURS, MOTIONS, SHAPES, coverage, parse

UNCLEAR = "unclear"
FAINT = 0.25  # a pixel below this share of full brightness is background
PIECE = 6  # a connected region of fewer pixels is a speck, not an object
PRESENT = 0.75  # an object must be seen in this share of the frames
FIT = 0.80  # least overlap (intersection over union) with a template to have a shape at all
STILL = 2.5  # an object whose centre moves less than this over the clip stands still, pixels


@dataclass(frozen=True)
class Found:
    """One object of a video; its shape and its motion may be `unclear`."""

    colour: str
    shape: str
    motion: str


@dataclass(frozen=True)
class Reading:
    """What a video shows. `pieces` is the number of connected regions, the median over frames."""

    objects: tuple[Found, ...]
    pieces: int


@dataclass(frozen=True)
class Verdict:
    """A reading held against its prompt: per prompted object, which attributes are right."""

    colour: tuple[bool, ...]
    shape: tuple[bool, ...]
    motion: tuple[bool, ...]
    count: bool

    @property
    def score(self) -> float:
        """Share of right attributes: three for each prompted object, and the number of objects."""
        marks = [*self.colour, *self.shape, *self.motion, self.count]
        return sum(marks) / len(marks)

    @property
    def all_right(self) -> bool:
        return self.score == 1.0


def _pieces(masks: torch.Tensor) -> torch.Tensor:
    """Number of 8-connected regions of at least `PIECE` pixels in each `(maps, height, width)` mask."""
    maps, height, width = masks.shape
    inside = masks.float()[:, None]
    labels = torch.arange(1, height * width + 1, dtype=torch.float32).view(1, 1, height, width) * inside
    while True:
        spread = F.max_pool2d(labels, 3, stride=1, padding=1) * inside
        if torch.equal(spread, labels):
            break
        labels = spread
    keys = labels.view(maps, -1).long() + torch.arange(maps)[:, None] * (height * width + 1)
    areas = torch.bincount(keys.view(-1), minlength=maps * (height * width + 1))
    return (areas.view(maps, -1)[:, 1:] >= PIECE).sum(dim=1)


@plain_arithmetic()
def read(frames: NDArray[np.uint8]) -> list[Reading]:
    """Read videos: uint8, shape `(videos, frames, side, side, 3)`; one `Reading` each."""
    if frames.dtype != np.uint8 or frames.ndim != 5 or frames.shape[3:] != (frames.shape[2], 3):
        raise BadInput(
            f"the shapes verifier reads uint8 videos of shape (videos, frames, side, side, 3), "
            f"not {frames.dtype} {tuple(frames.shape)}"
        )
    videos, count, side = frames.shape[:3]
    palette = np.array(list(COLOURS.values()), dtype=np.float64)
    light = np.linalg.norm(palette, axis=1, keepdims=True)
    pixels = frames.astype(np.float64)
    norm = np.linalg.norm(pixels, axis=-1, keepdims=True)
    nearest = ((pixels / np.maximum(norm, 1e-9)) @ (palette / light).T).argmax(axis=-1)
    bright = np.clip(norm[..., 0] / light[nearest, 0], 0.0, 1.0)
    # (videos, colours, frames, side, side): each colour's own brightness, background removed
    own = np.stack(
        [np.where((nearest == c) & (bright > FAINT), bright, 0.0) for c in range(len(COLOURS))], axis=1
    )

    solid = torch.from_numpy(own > 0.5).view(-1, side, side)
    pieces = _pieces(solid).view(videos, len(COLOURS), count).numpy()
    area = own.sum(axis=(-2, -1))
    at = np.arange(side) + 0.5
    safe = np.maximum(area, 1e-9)
    x = (own.sum(axis=-2) * at).sum(axis=-1) / safe
    y = (own.sum(axis=-1) * at).sum(axis=-1) / safe
    readings = []
    for v in range(videos):
        objects = []
        for c, colour in enumerate(COLOURS):
            seen = pieces[v, c] > 0
            if seen.mean() < PRESENT:
                continue
            region, centre = own[v, c, seen], (x[v, c, seen], y[v, c, seen])
            fits = {}
            for shape in SHAPES:
                template = coverage(shape, *centre, np.sqrt(area[v, c, seen] / np.pi), side)
                union = np.maximum(template, region).sum(axis=(-2, -1))
                fits[shape] = (np.minimum(template, region).sum(axis=(-2, -1)) / union).mean()
            shape = max(SHAPES, key=lambda name: fits[name])
            travel = np.array([path[-1] - path[0] for path in centre])
            furthest = np.abs(travel).max()
            # The lesser of two moves counts from half the greater; a diagonal is no motion of this world.
            step = tuple(np.rint(travel / furthest)) if furthest >= STILL else (0.0, 0.0)
            motion = next((name for name, move in MOTIONS.items() if move == step), UNCLEAR)
            objects.append(Found(colour, shape if fits[shape] >= FIT else UNCLEAR, motion))
        readings.append(Reading(tuple(objects), int(np.median(pieces[v].sum(axis=0)))))
    return readings


def judge(reading: Reading, prompt: str) -> Verdict:
    """Hold a reading against its prompt; objects are matched by colour, which differs within a scene."""
    things = parse(prompt)
    by_colour = {found.colour: found for found in reading.objects}
    found = [by_colour.get(thing.colour) for thing in things]
    return Verdict(
        colour=tuple(f is not None for f in found),
        shape=tuple(f is not None and f.shape == t.shape for f, t in zip(found, things, strict=True)),
        motion=tuple(f is not None and f.motion == t.motion for f, t in zip(found, things, strict=True)),
        count=reading.pieces == len(things) and len(reading.objects) == len(things),
    )


@plain_arithmetic()
def attributes(frames: NDArray[np.uint8], prompts: list[str]) -> dict[str, torch.Tensor]:
    """What each video gets right, float64, shape `(videos,)` each.

    `score` is the share of all prompted attributes, `all_right` whether that is one; `colour`, `shape` and
    `motion` are shares over the prompted objects, `count` is whether their number is right.
    """
    if len(frames) != len(prompts):
        raise BadInput(f"{len(frames)} videos but {len(prompts)} prompts; give one prompt for each video")
    verdicts = [judge(r, p) for r, p in zip(read(frames), prompts, strict=True)]
    rows = [(v.score, v.all_right, *map(np.mean, (v.colour, v.shape, v.motion)), v.count) for v in verdicts]
    names = ("score", "all_right", "colour", "shape", "motion", "count")
    return dict(zip(names, torch.tensor(rows, dtype=torch.float64).reshape(-1, 6).unbind(1), strict=True))


def score(frames: NDArray[np.uint8], prompts: list[str]) -> torch.Tensor:
    """Share of prompted attributes that each video gets right, float64, shape `(videos,)`."""
    return attributes(frames, prompts)["score"]
