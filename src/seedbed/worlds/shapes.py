"""A world of coloured shapes: scenes drawn from a seed, their captions, and their rendered videos.

One or two flat shapes on black, each moving in one of four directions or standing still. Position, size and
speed are random and unsaid, so a caption leaves room for many right videos: the room that a seed decides.
Two objects always differ in colour and never touch, which makes every video readable without ambiguity.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from seedbed.errors import BadInput

COLOURS = {
    "red": (235, 50, 45),
    "green": (50, 205, 80),
    "blue": (60, 100, 255),
    "yellow": (250, 215, 45),
}
SHAPES = ("circle", "square", "triangle")
MOTIONS = {
    "moving left": (-1.0, 0.0),
    "moving right": (1.0, 0.0),
    "moving up": (0.0, -1.0),
    "moving down": (0.0, 1.0),
    "staying still": (0.0, 0.0),
}
SIDE = 32
FRAMES = 9
RADII = (4.2, 5.8)  # of the circle of equal area, pixels
SPEEDS = (0.9, 1.5)  # pixels per frame
GAP = 1.5  # least distance between the boxes of two objects, pixels
HELD_OUT = 8  # one caption in so many is kept from training

# Half width of each shape's box and its height above and below the centre, at an equal-area radius of 1.
_SQUARE = np.sqrt(np.pi) / 2
_TRIANGLE = np.sqrt(np.pi / np.sqrt(3.0))
_BOX = {"circle": (1.0, 1.0, 1.0), "square": (_SQUARE, _SQUARE, _SQUARE)}
_BOX["triangle"] = (
    _TRIANGLE,
    2 * _TRIANGLE / np.sqrt(3.0),
    _TRIANGLE / np.sqrt(3.0),
)  # half width, above, below


@dataclass(frozen=True)
class Thing:
    """What a caption says of one object."""

    colour: str
    shape: str
    motion: str

    def __str__(self) -> str:
        return f"a {self.colour} {self.shape} {self.motion}"


@dataclass(frozen=True)
class Body:
    """Centre of mass in the first frame, radius of the circle of equal area, speed; all in pixels."""

    thing: Thing
    x: float
    y: float
    radius: float
    speed: float

    def track(self, frames: int = FRAMES) -> np.ndarray:
        """Centre of mass in every frame, shape `(frames, 2)` as x, y."""
        step = np.array(MOTIONS[self.thing.motion]) * self.speed
        return np.array([self.x, self.y]) + np.arange(frames)[:, None] * step


@dataclass(frozen=True)
class Scene:
    """One or two bodies; `caption` names them in their order."""

    bodies: tuple[Body, ...]
    caption: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "caption", caption([body.thing for body in self.bodies]))


def caption(things: list[Thing]) -> str:
    """`a red circle moving left and a blue square staying still`."""
    return " and ".join(str(thing) for thing in things)


_PHRASE = re.compile(rf"a ({'|'.join(COLOURS)}) ({'|'.join(SHAPES)}) ({'|'.join(MOTIONS)})")


def parse(prompt: str) -> list[Thing]:
    """The things a caption of this world names. Raises `BadInput` for any other sentence."""
    phrases = [_PHRASE.fullmatch(part) for part in prompt.strip().split(" and ")]
    if not all(phrases) or len(phrases) > 2:
        raise BadInput(
            f"'{prompt}' is not a sentence of the shapes world; write for example "
            "'a red circle moving left and a blue square staying still'"
        )
    return [Thing(*match.groups()) for match in phrases if match]


def all_things() -> list[Thing]:
    """All 60 combinations of colour, shape and motion."""
    return [Thing(c, s, m) for c in COLOURS for s in SHAPES for m in MOTIONS]


def held_out(things: list[Thing]) -> bool:
    """Whether training never shows this caption, in either order of its objects."""
    return zlib.crc32(caption(sorted(things, key=str)).encode()) % HELD_OUT == 0


def captions(count: int, *, objects: int, seed: int, held: bool) -> list[str]:
    """Distinct captions with `objects` things each, from the held-out part or the training part.

    There are 60 captions of one thing; asking for more than exist returns all of them.
    """
    rng = np.random.default_rng(seed)
    things = all_things()
    pool = (
        [[a] for a in things]
        if objects == 1
        else [[a, b] for a in things for b in things if a.colour != b.colour]
    )
    pool = [entry for entry in pool if held_out(entry) is held]
    return [caption(pool[i]) for i in rng.permutation(len(pool))[:count]]


def place(things: list[Thing], rng: np.random.Generator, tries: int = 64) -> Scene | None:
    """Random positions, sizes and speeds that keep boxes inside the frame and apart; None if unlucky."""
    shape = (tries, len(things))
    radius, speed = rng.uniform(*RADII, size=shape), rng.uniform(*SPEEDS, size=shape)
    share = rng.random((tries, len(things), 2))
    at = np.arange(FRAMES)[:, None]
    start, boxes = [], []
    for i, thing in enumerate(things):
        half, above, below = (side * radius[:, i, None, None] for side in _BOX[thing.shape])
        path = at * np.array(MOTIONS[thing.motion]) * speed[:, i, None, None]
        box = path[..., [0, 1, 0, 1]] + np.concatenate([-half, -above, half, below], axis=-1)
        low = 0.5 - box[..., :2].min(axis=1)
        high = SIDE - 0.5 - box[..., 2:].max(axis=1)
        start.append(low + share[:, i] * (high - low))
        boxes.append(box + start[-1][:, None, [0, 1, 0, 1]])
    fits = np.all([(box >= 0).all(axis=(1, 2)) & (box <= SIDE).all(axis=(1, 2)) for box in boxes], axis=0)
    if len(things) == 2:
        a, b = boxes
        apart = np.maximum(a[..., :2] - b[..., 2:], b[..., :2] - a[..., 2:]).max(axis=2).min(axis=1)
        fits &= apart >= GAP
    if not fits.any():
        return None
    n = int(fits.argmax())
    return Scene(
        tuple(
            Body(thing, *map(float, (*start[i][n], radius[n, i], speed[n, i])))
            for i, thing in enumerate(things)
        )
    )


def scenes(seed: int, *, pairs: float = 0.62, held: bool = False) -> Iterator[Scene]:
    """Endless scenes of the training (or held-out) part, a share `pairs` of them with two objects."""
    rng = np.random.default_rng(seed)
    things = all_things()
    while True:
        count = 2 if rng.random() < pairs else 1
        chosen = [things[i] for i in rng.choice(len(things), size=count, replace=False)]
        if (count == 2 and chosen[0].colour == chosen[1].colour) or held_out(chosen) is not held:
            continue
        # Captions must stay equally likely however hard they are to place, so try until this one fits.
        scene = place(chosen, rng)
        while scene is None:
            scene = place(chosen, rng)
        yield scene


def coverage(shape: str, x: np.ndarray, y: np.ndarray, radius: np.ndarray, side: int = SIDE) -> np.ndarray:
    """How much of each pixel a shape covers, 0 to 1 with anti-aliased edges.

    `x`, `y` (centre of mass) and `radius` (of the circle of equal area) broadcast together to `(...)`,
    in pixels; returns `(..., side, side)`.
    """
    at = np.arange(side) + 0.5
    dx = at[None, :] - np.asarray(x)[..., None, None]
    dy = at[:, None] - np.asarray(y)[..., None, None]
    r = np.asarray(radius)[..., None, None]
    if shape == "circle":
        distance = np.hypot(dx, dy) - r
    elif shape == "square":
        distance = np.maximum(np.abs(dx), np.abs(dy)) - _SQUARE * r
    else:
        inner = _TRIANGLE * r / np.sqrt(3.0)
        distance = np.maximum(dy - inner, np.abs(dx) * np.sqrt(0.75) - dy / 2 - inner)
    return np.clip(0.5 - distance, 0.0, 1.0)


def render(scene: Scene) -> np.ndarray:
    """The scene's video: uint8, shape `(FRAMES, SIDE, SIDE, 3)`."""
    video = np.zeros((FRAMES, SIDE, SIDE, 3))
    for body in scene.bodies:
        x, y = body.track().T
        mask = coverage(body.thing.shape, x, y, np.full(FRAMES, body.radius))
        video += mask[..., None] * np.array(COLOURS[body.thing.colour])
    return np.clip(np.rint(video), 0, 255).astype(np.uint8)
