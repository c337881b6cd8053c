"""Read a video of the shapes world back, without a network: its objects, colours, shapes and motions.

Every number comes from geometry. A pixel belongs to the palette colour nearest in direction; an object is
the connected region of one colour; its shape is the template of equal area and centre that overlaps it best;
its motion is the displacement of its centre of mass. An object in two pieces is two objects, and a region
that no template fits has no shape: it is `unclear`, which is right for no caption.

Shapes are means over the frames and motion is from the first to the last, so what only some frames show, an
object missing in two of nine, a jump there and back, a shape that changes on the way, can pass as right.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from seedbed.attention.tap import plain_arithmetic
from seedbed.errors import BadInput
from seedbed.worlds.shapes import COLOURS, MOTIONS, SHAPES, Thing, coverage, parse

UNCLEAR = "unclear"
FAINT = 0.25  # a pixel below this share of full brightness is background
PIECE = 6  # a connected region of fewer pixels is a speck, not an object
PRESENT = 0.75  # an object must be seen in this share of the frames
FIT = 0.80  # least overlap (intersection over union) with a template to have a shape at all
STILL = 2.5  # an object whose centre moves less than this over the clip stands still, pixels


@dataclass(frozen=True)
class Reading:
    """What a video shows.

    Attributes:
        objects: at most one of each colour; their shape and their motion may be `unclear`.
        pieces: the number of connected regions, the median over frames.
    """

    objects: tuple[Thing, ...]
    pieces: int


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
    centres = [(own.sum(axis=axis) * at).sum(axis=-1) / np.maximum(area, 1e-9) for axis in (-2, -1)]
    readings = []
    for v in range(videos):
        objects = []
        for c, colour in enumerate(COLOURS):
            seen = pieces[v, c] > 0
            if seen.mean() < PRESENT:
                continue
            region, (x, y) = own[v, c, seen], (path[v, c, seen] for path in centres)
            fits = {}
            for shape in SHAPES:
                template = coverage(shape, x, y, np.sqrt(area[v, c, seen] / np.pi), side)
                union = np.maximum(template, region).sum(axis=(-2, -1))
                fits[shape] = (np.minimum(template, region).sum(axis=(-2, -1)) / union).mean()
            shape = max(SHAPES, key=lambda name: fits[name])
            motion = motion_of(np.array([path[-1] - path[0] for path in (x, y)]))
            objects.append(Thing(colour, shape if fits[shape] >= FIT else UNCLEAR, motion))
        readings.append(Reading(tuple(objects), int(np.median(pieces[v].sum(axis=0)))))
    return readings


def motion_of(travel: NDArray[np.float64]) -> str:
    """The motion of something whose centre goes so far over the clip, (2,) as x, y in pixels."""
    furthest = np.abs(travel).max()
    # The lesser of two moves counts from half the greater; a diagonal is no motion of this world.
    step = tuple(np.rint(travel / furthest)) if furthest >= STILL else (0.0, 0.0)
    return next((name for name, move in MOTIONS.items() if move == step), UNCLEAR)


def judge(reading: Reading, prompt: str) -> dict[str, float]:
    """Hold a reading against its prompt; objects are matched by colour, which differs within a scene.

    Returns:
        `score`, the share of all that is right, three attributes of each prompted object and the number of
        objects; `all_right`, whether that is one; `colour`, `shape` and `motion`, shares over the prompted
        objects; `count`, whether their number is right.
    """
    things = parse(prompt)
    by_colour = {found.colour: found for found in reading.objects}
    right = {
        what: [getattr(by_colour.get(thing.colour), what, None) == getattr(thing, what) for thing in things]
        for what in ("colour", "shape", "motion")
    }
    right["count"] = [reading.pieces == len(reading.objects) == len(things)]
    marks = [mark for some in right.values() for mark in some]
    parts = {what: float(np.mean(some)) for what, some in right.items()}
    return {"score": float(np.mean(marks)), "all_right": float(all(marks)), **parts}


@plain_arithmetic()
def attributes(frames: NDArray[np.uint8], prompts: list[str]) -> dict[str, torch.Tensor]:
    """What each video gets right, by the keys of `judge`: float64, shape `(videos,)` each.

    Args:
        frames: as `read` takes them.
        prompts: one for each video.
    """
    return held_against(prompts, frames, read, judge)


def held_against(
    prompts: list[str],
    frames: NDArray[np.uint8],
    read: Callable[[NDArray[np.uint8]], list[Any]],
    judge: Callable[[Any, str], dict[str, float]],
) -> dict[str, torch.Tensor]:
    """What a world's `judge` says of each of its readings, key by key: float64, shape `(videos,)` each."""
    if len(frames) != len(prompts):
        raise BadInput(f"{len(frames)} videos but {len(prompts)} prompts; give one prompt for each video")
    found = [judge(reading, prompt) for reading, prompt in zip(read(frames), prompts, strict=True)]
    return {key: torch.tensor([each[key] for each in found], dtype=torch.float64) for key in found[0]}
