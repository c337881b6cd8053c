"""Read a video of the shapes world back, without a network: its objects, colours, shapes and motions.

Every number comes from geometry. A pixel belongs to the palette colour nearest in direction; an object is
the connected region of one colour; its shape is the template of equal area and centre that overlaps it best;
its motion is the displacement of its centre of mass. An object in two pieces is two objects, and a region
that no template fits has no shape: it is `unclear`, which is right for no caption.

Shapes are means over the frames and motion is from the first to the last, so what only some frames show, an
object missing in two of nine, a jump there and back, a shape that changes on the way, can pass as right.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

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
    """One object of a video: `fit` is its overlap with its best template, `travel` its path in pixels."""

    colour: str
    shape: str
    motion: str
    fit: float
    travel: tuple[float, float]


@dataclass(frozen=True)
class Reading:
    """What a video shows. `pieces` is the number of connected regions, the median over frames.

    `sharpness` is 1 for hard edges and falls towards 0 as the objects blur; `flicker` is the mean relative
    change of an object's area from one frame in which it is seen to the next such (0 for a perfect clip).
    """

    objects: tuple[Found, ...]
    pieces: int
    sharpness: float
    flicker: float


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


def read(frames: np.ndarray) -> list[Reading]:
    """Read videos: uint8, shape `(videos, frames, side, side, 3)`; one `Reading` each."""
    if (
        frames.ndim != 5
        or frames.shape[-1] != 3
        or frames.shape[2] != frames.shape[3]
        or frames.dtype != np.uint8
    ):
        raise BadInput(
            f"the shapes verifier reads uint8 videos of shape (videos, frames, side, side, 3), "
            f"not {frames.dtype} {tuple(frames.shape)}"
        )
    videos, count, side = frames.shape[:3]
    palette = np.array(list(COLOURS.values()), dtype=np.float64)
    pixels = frames.astype(np.float64)
    norm = np.linalg.norm(pixels, axis=-1, keepdims=True)
    likeness = (pixels / np.maximum(norm, 1e-9)) @ (
        palette / np.linalg.norm(palette, axis=1, keepdims=True)
    ).T
    nearest = likeness.argmax(axis=-1)
    bright = np.clip(norm[..., 0] / np.linalg.norm(palette, axis=1)[nearest], 0.0, 1.0)
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
    return [_reading(own[v], pieces[v], area[v], x[v], y[v], bright[v]) for v in range(videos)]


def _reading(
    own: np.ndarray, pieces: np.ndarray, area: np.ndarray, x: np.ndarray, y: np.ndarray, bright: np.ndarray
) -> Reading:
    objects, flickers = [], []
    for c, colour in enumerate(COLOURS):
        seen = pieces[c] > 0
        if seen.mean() < PRESENT:
            continue
        radius = np.sqrt(area[c][seen] / np.pi)
        fits = {}
        for shape in SHAPES:
            template = coverage(shape, x[c][seen], y[c][seen], radius, own.shape[-1])
            overlap = np.minimum(template, own[c][seen]).sum(axis=(-2, -1))
            fits[shape] = float((overlap / np.maximum(template, own[c][seen]).sum(axis=(-2, -1))).mean())
        shape = max(fits, key=lambda name: fits[name])
        path_x, path_y = x[c][seen], y[c][seen]
        travel = (float(path_x[-1] - path_x[0]), float(path_y[-1] - path_y[0]))
        objects.append(
            Found(colour, shape if fits[shape] >= FIT else UNCLEAR, _motion(travel), fits[shape], travel)
        )
        areas = area[c][seen]
        flickers.append(float((np.abs(np.diff(areas)) / areas[:-1]).mean()) if len(areas) > 1 else 0.0)
    lit = bright[bright > 0.1]
    return Reading(
        objects=tuple(objects),
        pieces=int(np.median(pieces.sum(axis=0))),
        sharpness=float(np.abs(2 * lit - 1).mean()) if lit.size else 0.0,
        flicker=float(np.mean(flickers)) if flickers else 0.0,
    )


def _motion(travel: tuple[float, float]) -> str:
    along, across = sorted((abs(travel[0]), abs(travel[1])), reverse=True)
    if along < STILL:
        return "staying still"
    if across > 0.5 * along:
        return UNCLEAR
    direction = tuple(float(np.sign(t)) if abs(t) == along else 0.0 for t in travel)
    return next(name for name, step in MOTIONS.items() if step == direction)


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


def attributes(frames: np.ndarray, prompts: list[str]) -> dict[str, torch.Tensor]:
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


def score(frames: np.ndarray, prompts: list[str]) -> torch.Tensor:
    """Share of prompted attributes that each video gets right, float64, shape `(videos,)`."""
    return attributes(frames, prompts)["score"]
