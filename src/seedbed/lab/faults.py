"""What can be wrong with a video, done to a sound one: to set limits by, and to audit verifiers with.

Everything takes a video, uint8 (frames, height, width, 3) of at least 6 frames, numpy's generator, and
another video of the same shape, and returns a new video of that shape.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from seedbed.verifiers import Frames

Fault = Callable[[Frames, np.random.Generator, Frames], Frames]


def frozen(video: Frames, rng: np.random.Generator, other: Frames) -> Frames:
    """Stands still for the last half of its frames or more, but for noise of a decoder, up to 1 of 255."""
    since = int(rng.integers(len(video) // 2))
    rest = np.repeat(video[since : since + 1], len(video) - since, axis=0)
    return np.concatenate([video[:since], _bytes(rest + rng.normal(0, rng.random(), rest.shape))])


def cut(video: Frames, rng: np.random.Generator, other: Frames) -> Frames:
    """Goes on with the other video, from a frame that is neither near the start nor the end."""
    since = int(rng.integers(2, len(video) - 1))
    return np.concatenate([video[:since], other[since:]])


def flicker(video: Frames, rng: np.random.Generator, other: Frames) -> Frames:
    """Every frame is darker by a share of its own, up to 15 to 50 %."""
    depth = rng.uniform(0.15, 0.5) * rng.random((len(video), 1, 1, 1))
    return _bytes(video * (1 - depth))


def black(video: Frames, rng: np.random.Generator, other: Frames) -> Frames:
    """Between one frame and a quarter of them, in a row, are black but for 2 % of their light."""
    return _some(video, rng, video * 0.02)


def blown(video: Frames, rng: np.random.Generator, other: Frames) -> Frames:
    """Between one frame and a quarter of them, in a row, are white but for 4 % of their darkness."""
    return _some(video, rng, 255 - (255 - video.astype(np.float64)) * 0.04)


def blur(video: Frames, rng: np.random.Generator, other: Frames) -> Frames:
    """A Gaussian of 1.5 to 2.5 pixels at a short side of 32, and by the root of the side in larger frames."""
    sigma = rng.uniform(1.5, 2.5) * np.sqrt(min(video.shape[1:3]) / 32)
    at = np.arange(-int(3 * sigma), int(3 * sigma) + 1)
    weights = np.exp(-0.5 * (at / sigma) ** 2)
    values: NDArray[np.float64] = video.astype(np.float64)
    for axis in (1, 2):
        pad = [(len(at) // 2,) * 2 if a == axis else (0, 0) for a in range(4)]
        padded, size = np.pad(values, pad, mode="edge"), video.shape[axis]
        shifted = (np.take(padded, range(i, i + size), axis) * w for i, w in enumerate(weights))
        values = sum(shifted, np.zeros(video.shape)) / weights.sum()
    return _bytes(values)


def drift(video: Frames, rng: np.random.Generator, other: Frames) -> Frames:
    """What is light takes on, frame by frame, the primary colour that the video has least of."""
    means = video[0].mean((0, 1)) + rng.uniform(0, 2, 3)  # of a grey one, any
    tint = np.linspace(0, rng.uniform(0.2, 0.5), len(video))[:, None, None]
    values = video.astype(np.float64)
    values[..., int(means.argmin())] += tint * video.max(-1)
    return _bytes(values)


def still(video: Frames, rng: np.random.Generator, other: Frames) -> Frames:
    """The first frame, all the time."""
    return np.repeat(video[:1], len(video), axis=0)


def shuffled(video: Frames, rng: np.random.Generator, other: Frames) -> Frames:
    """The frames in an order drawn at random."""
    return video[rng.permutation(len(video))]


def backwards(video: Frames, rng: np.random.Generator, other: Frames) -> Frames:
    """The frames from last to first."""
    return video[::-1].copy()


def noisy(video: Frames, rng: np.random.Generator, other: Frames) -> Frames:
    """Gaussian noise of 10 % of the full scale on every value."""
    return _bytes(video + rng.normal(0, 25.5, video.shape))


# What `seedbed.verifiers.artifacts` looks for, by its names.
FAULTS: dict[str, Fault] = {each.__name__: each for each in (frozen, cut, flicker, black, blown, blur, drift)}
# What a verifier of the content should see.
TRAPS: dict[str, Fault] = {each.__name__: each for each in (still, shuffled, backwards, noisy)}


def _some(video: Frames, rng: np.random.Generator, changed: Frames) -> Frames:
    """The video with a row of its frames taken from the changed one."""
    length = int(rng.integers(1, len(video) // 4 + 1))
    since = int(rng.integers(len(video) - length + 1))
    return np.concatenate([video[:since], _bytes(changed[since : since + length]), video[since + length :]])


def _bytes(values: NDArray[np.float64]) -> Frames:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)
