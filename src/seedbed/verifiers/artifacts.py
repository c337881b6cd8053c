"""Faults that no prompt asks for, found without weights: each a number, a limit and a pass mark.

They are what ffmpeg's freezedetect, scdet, signalstats, blackdetect and blurdetect look for, on frames in
memory and on videos of a few frames and a few pixels. `recipes/verifiers/artifacts.py` sets the limits and
tests them.
"""

from __future__ import annotations

import numpy as np
import torch

from seedbed.errors import BadInput
from seedbed.statistics import Array
from seedbed.verifiers import Frames

# The greatest number that passes: halfway between the sound and the faulty clips of the half that the
# recipe sets them on.
LIMITS = {
    "frozen": 0.32,
    "cut": 0.018,
    "flicker": 0.042,
    "black": 0.0,
    "blown": 0.0,
    "blur": 3.6,
    "drift": 0.028,
}

_LUMA = (0.299, 0.587, 0.114)
_SIDE = 96  # of what is looked at, pixels: larger frames are averaged in whole blocks to about this
_CELL, _STILL = 4, 0.01  # nothing moves where no block of so many pixels changes by so much
_DARK, _LIGHT, _ALL = 0.1, 0.9, 0.98  # what blackdetect calls a dark pixel and a black frame
_FLAT = 0.02  # a frame of less contrast has no edges to be blurred
_EXTREME = 0.995  # quantile of luma and of its steps that counts as the greatest: one pixel may err


def marks(frames: Frames, prompts: list[str]) -> dict[str, torch.Tensor]:
    """What is wrong with each video, whatever its prompt: (videos,) float64 by name.

    Of luma from 0 to 1, frames averaged in blocks to about 96 pixels on the short side:

    - `frozen`: share of steps from a frame to the next in which no block of 4 × 4 pixels changes by .01.
    - `cut`: by how much the greatest mean change of a step exceeds that of the steps beside it.
    - `flicker`: median over frames of the change of change of the mean luma, as a share of that luma.
    - `black`, `blown`: share of frames with at least 98 % of pixels below .1, above .9.
    - `blur`: the width of the sharpest edges, pixels: a frame's range of luma over its steepest step, the
      median over frames. 0 where no frame has an edge.
    - `drift`: the greatest distance of a frame's mean colour from the first one's, brightness aside, up to 1.

    `NAME.ok` is 1 where the number is at most `LIMITS[NAME]`, else 0. `score` is the mean over all of them of
    1 where it passes, else limit / (limit + number), which is below a half: 1 for a sound video, so that it
    prefers none of several.

    On previews, numbers and marks say what is wrong with the preview: early ones are blurred.

    Args:
        frames: uint8 (videos, frames, height, width, 3).
        prompts: are not looked at.

    Raises:
        BadInput: frames of another kind.
    """
    if frames.dtype != np.uint8 or frames.ndim != 5 or frames.shape[-1] != 3 or 0 in frames.shape:
        raise BadInput(
            "artifacts are found in uint8 videos of shape (videos, frames, height, width, 3), not "
            f"{frames.dtype} {tuple(frames.shape)}"
        )
    table = [numbers(video) for video in frames]
    found = {name: torch.tensor([each[name] for each in table], dtype=torch.float64) for name in LIMITS}
    passed = {name: (values <= LIMITS[name]).double() for name, values in found.items()}
    graded = [
        torch.where(passed[name] > 0, 1.0, limit / (limit + found[name]).clamp_min(1e-9))
        for name, limit in LIMITS.items()
    ]
    score = torch.stack(graded).mean(0)
    return {"score": score, **found, **{f"{name}.ok": values for name, values in passed.items()}}


def numbers(video: Frames) -> dict[str, float]:
    """The numbers of `marks` for one video, uint8 (frames, height, width, 3), which has no step if it is one
    frame: all that speak of change are 0 then."""
    rgb = _averaged(video.astype(np.float64) / 255, max(1, round(min(video.shape[1:3]) / _SIDE)))
    luma: Array = rgb @ np.array(_LUMA)
    light = luma.mean((1, 2))
    found = dict.fromkeys(LIMITS, 0.0)
    if len(video) > 1:
        steps = np.diff(luma, axis=0)
        cells = np.abs(_averaged(steps[..., None], min(_CELL, *luma.shape[1:]))).max((1, 2, 3))
        found["frozen"] = float((cells < _STILL).mean())
        sizes = np.abs(steps).mean((1, 2))
        beside = np.maximum(np.append(0, sizes[:-1]), np.append(sizes[1:], 0))
        found["cut"] = max(0.0, float((sizes - beside).max())) if len(sizes) > 1 else 0.0
        colour = rgb.mean((1, 2)) + 1e-3  # of a black frame grey
        share = colour / colour.sum(1, keepdims=True)
        found["drift"] = float(np.abs(share - share[0]).sum(1).max() / 2)
    if len(video) > 2 and light.any():
        found["flicker"] = float(np.median(np.abs(np.diff(light, 2))) / light.mean())
    found["black"] = float(((luma < _DARK).mean((1, 2)) >= _ALL).mean())
    found["blown"] = float(((luma > _LIGHT).mean((1, 2)) >= _ALL).mean())
    low, high = np.quantile(luma, (1 - _EXTREME, _EXTREME), axis=(1, 2))
    across, down = np.abs(np.diff(luma, axis=2))[:, 1:], np.abs(np.diff(luma, axis=1))[:, :, 1:]
    steepest = np.quantile(np.maximum(across, down), _EXTREME, axis=(1, 2)) if across.size else high - low
    seen = high - low >= _FLAT
    if seen.any():
        found["blur"] = float(np.median((high - low)[seen] / np.maximum(steepest[seen], 1e-3)))
    return found


def _averaged(values: Array, block: int) -> Array:
    """(n, height, width, channels) averaged in blocks of so many pixels each way; the rest is left out."""
    n, height, width, channels = values.shape
    rows, columns = height // block, width // block
    whole = values[:, : rows * block, : columns * block]
    return np.asarray(whole.reshape(n, rows, block, columns, block, channels).mean((2, 4)))
