"""Whether a verifier can be trusted: sound videos against those with something wrong, one trap at a time.

A fault takes a video, uint8 (frames, height, width, 3) of at least 6 frames, numpy's generator, and another
video of the same shape, and returns a new video of that shape. Limits of verifiers are set by them too.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from seedbed.errors import BadInput, whole
from seedbed.lab.presentation import Cell, Table
from seedbed.statistics import Array, bootstrap
from seedbed.verifiers import Frames, Verifier, judged
from seedbed.worlds import WORLDS

# What each line compares a sound video with its own prompt with.
LINES = {
    "another prompt": "the same video with another one's prompt",
    "still": "its first frame all the time",
    "shuffled": "its frames in random order",
    "backwards": "its frames from last to first",
    "noisy": "Gaussian noise of 10 %",
    "frozen": "no motion in the last half or more",
    "cut": "another video from some frame on",
    "flicker": "frames darker by up to 15 to 50 %",
    "black": "up to a quarter of the frames black",
    "blown": "up to a quarter of the frames white",
    "blur": "a Gaussian of 1.5 pixels or more",
    "drift": "takes on another colour",
    "half the rate": "every second frame of the sound one, against all of these",
    "twice the size": "the sound one enlarged, against all of these",
}
LEAST_FRAMES, LEAST_VIDEOS = 6, 8

Fault = Callable[[Frames, np.random.Generator, Frames], Frames]


@dataclass(frozen=True, eq=False)
class Audit:
    """What `audit` found.

    Attributes:
        right: for each of `LINES`, (videos,): 1 where the sound video has the higher score, .5 where both
            have the same, else 0; of the last two lines, the mean over everything that is wrong. nan where
            there is no other prompt.
        equal: the same for the share of equal scores.
    """

    right: dict[str, Array]
    equal: dict[str, Array]

    @property
    def table(self) -> Table:
        """A line for each trap."""
        rows: list[list[Cell]] = [
            [name, bootstrap(self.right[name]), bootstrap(self.equal[name]).mean, what]
            for name, what in LINES.items()
        ]
        return Table(
            "A sound video against one with something wrong",
            ("trap", "ordered rightly", "equal scores", "what is wrong"),
            rows,
            "Share of pairs in which the sound video has the higher score; equal scores count a half, so "
            "that 0.500 with all equal is a verifier that does not look there. Intervals are 95 %, bootstrap "
            "over videos.",
        )


def audit(verifier: Verifier, clips: Sequence[tuple[Frames, str]], seed: int = 0) -> Audit:
    """Hold sound videos against wrong ones by a verifier.

    Args:
        verifier: as `seedbed.verifiers.resolve` gives it.
        clips: sound videos, uint8 (frames, height, width, 3) of one shape, and their prompts: what the prompt
            says must move, else `still` and `backwards` are no faults.
        seed: of the faults, and of the prompts that are taken for others.

    Raises:
        BadInput: fewer than 8 videos, fewer than 6 frames, videos of different shapes, or what the verifier
            refuses.
        BadOutput: a score that is not finite.
    """
    seed = whole("seed", seed, least=0)
    if len(clips) < LEAST_VIDEOS:
        raise BadInput(f"{len(clips)} videos are too few for an audit: give at least {LEAST_VIDEOS}")
    shapes_seen = {video.shape for video, _ in clips}
    if len(shapes_seen) > 1 or min(len(video) for video, _ in clips) < LEAST_FRAMES:
        raise BadInput(f"an audit wants videos of one shape with at least {LEAST_FRAMES} frames each")
    wrong = {**TRAPS, **FAULTS}
    right = {name: np.full(len(clips), np.nan) for name in LINES}
    equal = {name: np.full(len(clips), np.nan) for name in LINES}
    for number, (video, prompt) in enumerate(clips):
        rng = np.random.default_rng([seed, number])
        other, _ = clips[(number + int(rng.integers(1, len(clips)))) % len(clips)]
        prompts = sorted({text for _, text in clips} - {prompt})
        videos = [video, *(fault(video, rng, other) for fault in wrong.values())]
        sound, *faulty = judged(verifier, videos, prompt)["score"].tolist()
        scores = dict(zip(wrong, faulty, strict=True))
        if prompts:
            given = prompts[int(rng.integers(len(prompts)))]
            scores["another prompt"] = float(judged(verifier, [video], given)["score"])
        pixels = torch.from_numpy(video.copy()).permute(0, 3, 1, 2).float()
        large = F.interpolate(pixels, scale_factor=2, mode="bilinear", align_corners=False)
        enlarged = large.permute(0, 2, 3, 1).round().byte().numpy()
        changed = {"half the rate": video[::2], "twice the size": enlarged}
        against = {name: (sound, [score]) for name, score in scores.items()} | {
            name: (float(judged(verifier, [frames], prompt)["score"]), [*scores.values()])
            for name, frames in changed.items()
        }
        for name, (own, others) in against.items():
            same = np.isclose(others, own, rtol=1e-9, atol=1e-12)
            right[name][number] = np.where(same, 0.5, np.array(others) < own).mean()
            equal[name][number] = same.mean()
    return Audit(right, equal)


def moving(world: str, count: int, seed: int = 0) -> list[tuple[NDArray[np.uint8], str]]:
    """Videos of held-out scenes of "shapes" or "digits" in which everything moves, with their captions.

    Raises:
        NotSupported: the package that the world needs is not there.
    """
    module = WORLDS[world]
    scenes = ((scene, module.caption(scene)) for scene in module.scenes(seed, held=True))
    some = ((module.render(scene), text) for scene, text in scenes if "staying still" not in text)
    return list(itertools.islice(some, count))


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
