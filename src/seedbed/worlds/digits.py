"""A world of handwriting that moves: real digits of many hands, their captions, and a reader of its videos.

The digits are the 1797 of scikit-learn's `load_digits` (8 × 8 pixels, 17 levels of ink; the test part of the
UCI set of optical recognition of handwritten digits, by 13 people), enlarged, white on black, one in a video
of the shapes world's size and length. A caption says which digit it is and how it moves; hand, place, size
and speed are unsaid. The last fifth of the pictures is kept from training: neighbours in the set are alike,
so that a split at random would be easier. Who wrote which is not known, so a hand may be in both parts.

Unlike shapes, handwriting cannot be read exactly. The reader is a support vector machine, fitted to the
training pictures, and errs: `accuracy` says how often. What is far from every training picture is `unclear`.
"""

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from seedbed.attention.tap import plain_arithmetic
from seedbed.errors import BadInput, NotSupported
from seedbed.worlds.shapes import FRAMES, MOTIONS, SIDE, SPEEDS
from seedbed.worlds.verifier import PRESENT, UNCLEAR, held_against, motion_of

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SCALES = (1.75, 2.2)  # pixels of the video for one of the picture
HELD_OUT = 1437  # pictures from this one on are kept from training
FAINT = 0.15  # ink below this share of full brightness is background
LEAST = 20.0  # ink of a frame that shows a digit, in pixels of full brightness
FAR = 0.40  # greatest distance to a training picture, of unit length, at which something is a digit

Array = NDArray[np.float64]

_PATCH = (np.arange(16) - 7.5) * 1.3  # where the reader looks, around the centre of mass, pixels


@dataclass(frozen=True)
class Thing:
    """What a caption says."""

    digit: str
    motion: str

    def __str__(self) -> str:
        return f"a{'n' * (self.digit == 'eight')} {self.digit} {self.motion}"


@dataclass(frozen=True)
class Scene(Thing):
    """One digit in a video.

    Attributes:
        picture: its number in `pictures`.
        x, y: centre of the picture in the first frame, pixels.
        scale: pixels of the video for one of the picture.
        speed: pixels per frame.
    """

    picture: int
    x: float
    y: float
    scale: float
    speed: float


def caption(thing: Thing) -> str:
    """`a seven moving left`; of a scene too."""
    return str(thing)


_PHRASE = re.compile(rf"an? ({'|'.join(DIGITS)}) ({'|'.join(MOTIONS)})")


def parse(prompt: str) -> Thing:
    """What a caption of this world names. Raises `BadInput` for any other sentence."""
    match = _PHRASE.fullmatch(prompt.strip())
    if match is None or str(Thing(*match.groups())) != prompt.strip():
        raise BadInput(
            f"'{prompt}' is not a sentence of the digits world; write for example 'a seven moving left'"
        )
    return Thing(*match.groups())


def captions(count: int, *, seed: int) -> list[str]:
    """Distinct captions, all 50 where more are asked for."""
    pool = [caption(Thing(digit, motion)) for digit in DIGITS for motion in MOTIONS]
    return [pool[i] for i in np.random.default_rng(seed).permutation(len(pool))[:count]]


@functools.cache
def pictures() -> tuple[Array, NDArray[np.int64]]:
    """Ink of all pictures, (1797, 8, 8) in [0, 1], and the digit that each of them is, (1797,).

    Raises NotSupported without scikit-learn.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise NotSupported("the digits world needs scikit-learn: pip install 'seedbed[lab]'") from error
    found = load_digits()
    images: Array = found.images / 16.0
    return images, found.target.astype(np.int64)


def place(picture: int, motion: str, rng: np.random.Generator) -> Scene:
    """A scene of this picture: random place, size and speed that keep it inside the frame."""
    scale, speed, share = rng.uniform(*SCALES), rng.uniform(*SPEEDS), rng.random(2)
    # Ink fades out over half a pixel of the picture around it.
    half, travel = 4.5 * scale, (FRAMES - 1) * speed * np.array(MOTIONS[motion])
    low, high = half - np.minimum(travel, 0), SIDE - half - np.maximum(travel, 0)
    x, y = (low + share * (high - low)).tolist()
    return Scene(DIGITS[pictures()[1][picture]], motion, picture, x, y, scale, speed)


def scenes(seed: int, *, held: bool = False) -> Iterator[Scene]:
    """Endless scenes of the training pictures, or of the held-out ones; all captions are equally likely."""
    rng, target = np.random.default_rng(seed), pictures()[1]
    part = np.arange(len(target))[HELD_OUT:] if held else np.arange(HELD_OUT)
    by_digit = [part[target[part] == digit] for digit in range(10)]
    while True:
        picture = int(rng.choice(by_digit[rng.integers(10)]))
        yield place(picture, list(MOTIONS)[rng.integers(len(MOTIONS))], rng)


def render(scene: Scene, side: int = SIDE) -> NDArray[np.uint8]:
    """The scene's video: uint8, shape `(FRAMES, side, side, 3)`; all its lengths grow with the side."""
    step = np.arange(FRAMES)[:, None] * np.array(MOTIONS[scene.motion]) * scene.speed
    # Which row and column of the picture lies at each of the video's.
    place = (np.arange(side) + 0.5) * SIDE / side
    at = (place - (np.array([scene.x, scene.y]) + step)[..., None]) / scene.scale + 3.5
    ink = _sampled(np.broadcast_to(pictures()[0][scene.picture], (FRAMES, 8, 8)), at[:, 1], at[:, 0])
    grey = np.rint(255 * ink).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=-1)


def _sampled(images: Array, rows: Array, columns: Array) -> Array:
    """Images (n, height, width) at rows (n, a) and columns (n, b), bilinearly, 0 outside: (n, a, b)."""

    def weights(at: Array, size: int) -> Array:
        return np.asarray(np.maximum(1 - np.abs(at[..., None] - np.arange(size)), 0.0))

    down, across = weights(rows, images.shape[1]), weights(columns, images.shape[2])
    found: Array = down @ images @ across.swapaxes(1, 2)
    return found


@plain_arithmetic()
def read(frames: NDArray[np.uint8]) -> list[Thing]:
    """Read videos: uint8, shape `(videos, frames, side, side, 3)`; digit and motion may be `unclear`."""
    found = _all_followed(frames)
    return [Thing(_digit(seen[0]), motion_of(seen[1])) if seen else Thing(UNCLEAR, UNCLEAR) for seen in found]


@plain_arithmetic()
def logits(frames: NDArray[np.uint8]) -> Array:
    """Logits of the digits for an Inception Score, (videos, 10), by logistic regression on the same patches.

    Args:
        frames: as `read` takes them. A video that shows nothing has equal ones.
    """
    found, regression = _all_followed(frames), _regression()
    rows = [regression.decision_function(seen[0][None])[0] if seen else np.zeros(10) for seen in found]
    return np.stack(rows)


def _all_followed(frames: NDArray[np.uint8]) -> list[tuple[Array, Array] | None]:
    """What `_followed` finds in each video. Raises BadInput for anything but uint8 videos."""
    if frames.dtype != np.uint8 or frames.ndim != 5 or frames.shape[3:] != (frames.shape[2], 3):
        raise BadInput(
            f"the digits verifier reads uint8 videos of shape (videos, frames, side, side, 3), "
            f"not {frames.dtype} {tuple(frames.shape)}"
        )
    return [_followed(video) for video in frames]


def _followed(video: NDArray[np.uint8]) -> tuple[Array, Array] | None:
    """The mean patch, of unit length, and how far it moves (2,), in pixels of the world; None for nothing."""
    ink, centres, mass = _looked_at(video.astype(np.float64).mean(-1) / 255)
    seen = mass >= LEAST * (video.shape[1] / SIDE) ** 2
    if seen.mean() < PRESENT:
        return None
    patch = _patches(ink[seen], centres[seen]).mean(0)
    path = centres[seen] * SIDE / video.shape[1]
    return patch / np.linalg.norm(patch), path[-1] - path[0]


def _looked_at(ink: Array) -> tuple[Array, Array, Array]:
    """Ink without background, (n, side, side), its centre of mass (n, 2) as x, y, and its sum (n,)."""
    ink = np.where(ink > FAINT, ink, 0.0)
    at = np.arange(ink.shape[1]) + 0.5
    mass = ink.sum((1, 2))
    centres = [(ink.sum(axis) * at).sum(-1) / np.maximum(mass, 1e-9) for axis in (1, 2)]
    return ink, np.stack(centres, axis=-1), mass


def _patches(ink: Array, centres: Array) -> Array:
    """What the reader looks at, (n, 256): the same part of the frame at every resolution of the video."""
    zoom = ink.shape[1] / SIDE
    at = centres[..., None] + _PATCH * zoom - 0.5
    return _sampled(ink, at[:, 1], at[:, 0]).reshape(len(ink), -1)


@functools.cache
def _training() -> tuple[Array, Any]:
    """Patches of unit length of three renderings of each training picture, and a classifier of them."""
    target = np.repeat(pictures()[1][:HELD_OUT], 3)
    from sklearn.svm import SVC

    rng, patches = np.random.default_rng(0), []
    for picture in np.repeat(np.arange(HELD_OUT), 3):
        first = render(place(int(picture), "staying still", rng))[:1, ..., 0] / 255
        ink, centres, _ = _looked_at(first)
        patches.append(_patches(ink, centres)[0])
    found = np.stack(patches)
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    # Chosen on the last fifth of the training pictures, as what `_regression` has.
    return found, SVC(C=5, gamma=5).fit(found, target)


@functools.cache
def _regression() -> Any:
    """Logistic regression of the same patches: the classifier above has no logits."""
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=100, max_iter=1000).fit(
        _training()[0], np.repeat(pictures()[1][:HELD_OUT], 3)
    )


def _digit(patch: Array) -> str:
    """What a patch of unit length shows."""
    known, classifier = _training()
    near = np.sqrt(np.square(known - patch).sum(1).min()) <= FAR
    return DIGITS[int(classifier.predict(patch[None])[0])] if near else UNCLEAR


def accuracy(seed: int = 0) -> dict[str, float]:
    """How often the reader is right on videos of the 360 held-out pictures, by the keys of `judge`."""
    rng = np.random.default_rng(seed)
    some = range(HELD_OUT, len(pictures()[1]))
    drawn = [place(picture, list(MOTIONS)[rng.integers(len(MOTIONS))], rng) for picture in some]
    marks = attributes(np.stack([render(scene) for scene in drawn]), [caption(scene) for scene in drawn])
    return {key: float(values.mean()) for key, values in marks.items()}


def judge(reading: Thing, prompt: str) -> dict[str, float]:
    """Hold a reading against its prompt: `digit`, `motion`, `score`, their mean, and `all_right`."""
    thing = parse(prompt)
    digit, motion = float(reading.digit == thing.digit), float(reading.motion == thing.motion)
    return {"score": (digit + motion) / 2, "all_right": digit * motion, "digit": digit, "motion": motion}


@plain_arithmetic()
def attributes(frames: NDArray[np.uint8], prompts: list[str]) -> dict[str, torch.Tensor]:
    """What each video gets right, by the keys of `judge`: float64, shape `(videos,)` each.

    Args:
        frames: as `read` takes them.
        prompts: one for each video.
    """
    return held_against(prompts, frames, read, judge)
