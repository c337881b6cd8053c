"""A world of coloured shapes: scenes drawn from a seed, their captions, and their rendered videos.

One or two flat shapes on black, each moving in one of four directions or standing still. Position, size and
speed are random and unsaid, so a caption leaves room for many right videos: the room that a seed decides.
Two objects always differ in colour and never touch, which makes every video readable without ambiguity.
"""

import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass

import numpy as np
from numpy.typing import NDArray

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

_SQUARE = np.sqrt(np.pi) / 2  # half a side of a square, and of an equilateral triangle, of the area pi
_TRIANGLE = np.sqrt(np.pi / np.sqrt(3.0))
_BOX = {  # half width, height above and height below the centre of mass, at an equal-area radius of 1
    "circle": (1.0, 1.0, 1.0),
    "square": (_SQUARE, _SQUARE, _SQUARE),
    "triangle": (_TRIANGLE, 2 * _TRIANGLE / np.sqrt(3.0), _TRIANGLE / np.sqrt(3.0)),
}


@dataclass(frozen=True)
class Thing:
    """What a caption says of one object."""

    colour: str
    shape: str
    motion: str

    def __str__(self) -> str:
        return f"a {self.colour} {self.shape} {self.motion}"


@dataclass(frozen=True)
class Body(Thing):
    """A thing in a scene.

    Attributes:
        x, y: centre of mass in the first frame, pixels.
        radius: of the circle of equal area, pixels.
        speed: pixels per frame.
    """

    x: float
    y: float
    radius: float
    speed: float

    def track(self) -> NDArray[np.float64]:
        """Centre of mass in every frame, shape `(FRAMES, 2)` as x, y."""
        step = np.array(MOTIONS[self.motion]) * self.speed
        return np.array([self.x, self.y]) + np.arange(FRAMES)[:, None] * step


Scene = tuple[Body, ...]
"""One or two bodies, in the order in which the caption names them."""


def caption(things: Sequence[Thing]) -> str:
    """`a red circle moving left and a blue square staying still`; of a scene too."""
    return " and ".join(map(str, things))


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


def held_out(things: Sequence[Thing]) -> bool:
    """Whether training never shows this caption, in either order of its objects."""
    return zlib.crc32(caption(sorted(things, key=str)).encode()) % HELD_OUT == 0


def captions(count: int, *, objects: int, seed: int, held: bool) -> list[str]:
    """Distinct captions with `objects` things each, from the held-out part or the training part.

    There are 60 captions of one thing; asking for more than exist returns all of them.
    """
    things = all_things()
    one, two = ((a,) for a in things), ((a, b) for a in things for b in things if a.colour != b.colour)
    pool = [entry for entry in (one if objects == 1 else two) if held_out(entry) is held]
    return [caption(pool[i]) for i in np.random.default_rng(seed).permutation(len(pool))[:count]]


def place(things: list[Thing], rng: np.random.Generator) -> Scene | None:
    """Random positions, sizes and speeds that keep boxes inside the frame and apart.

    The first that fit of 64 draws; None where none does.
    """
    shape = (64, len(things))
    radius, speed, share = rng.uniform(*RADII, shape), rng.uniform(*SPEEDS, shape), rng.random((*shape, 2))
    start, boxes = [], []
    for i, thing in enumerate(things):
        half, above, below = (side * radius[:, i, None, None] for side in _BOX[thing.shape])
        path = np.arange(FRAMES)[:, None] * np.array(MOTIONS[thing.motion]) * speed[:, i, None, None]
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
    numbers = [map(float, (*start[i][n], radius[n, i], speed[n, i])) for i in range(len(things))]
    return tuple(Body(*astuple(thing), *own) for thing, own in zip(things, numbers, strict=True))


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
        while (scene := place(chosen, rng)) is None:
            pass
        yield scene


def coverage(
    shape: str,
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    radius: NDArray[np.float64],
    side: int = SIDE,
) -> NDArray[np.float64]:
    """How much of each pixel a shape covers, 0 to 1 with anti-aliased edges.

    `x`, `y` (centre of mass) and `radius` (of the circle of equal area) broadcast together to `(...)`,
    in pixels; returns `(..., side, side)`.
    """
    at = np.arange(side) + 0.5
    dx, dy = at - x[..., None, None], at[:, None] - y[..., None, None]
    r = radius[..., None, None]
    if shape == "circle":
        distance = np.hypot(dx, dy) - r
    elif shape == "square":
        distance = np.maximum(np.abs(dx), np.abs(dy)) - _SQUARE * r
    else:
        inner = _TRIANGLE * r / np.sqrt(3.0)
        distance = np.maximum(dy - inner, np.abs(dx) * np.sqrt(0.75) - dy / 2 - inner)
    return np.clip(0.5 - distance, 0.0, 1.0)


def render(scene: Scene, side: int = SIDE) -> NDArray[np.uint8]:
    """The scene's video: uint8, shape `(FRAMES, side, side, 3)`; all its lengths grow with the side."""
    video, scale = np.zeros((FRAMES, side, side, 3)), side / SIDE
    for body in scene:
        x, y = scale * body.track().T
        mask = coverage(body.shape, x, y, np.full(FRAMES, scale * body.radius), side)
        video += mask[..., None] * np.array(COLOURS[body.colour])
    return np.clip(np.rint(video), 0, 255).astype(np.uint8)
