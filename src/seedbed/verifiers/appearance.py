"""What videos look like whatever was asked for, and how much two of them have in common."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from seedbed.attention.tap import plain_arithmetic
from seedbed.errors import BadInput
from seedbed.verifiers import Frames

METRICS = ("movement", "flicker", "sharpness")

# Wang et al. (2004): a Gaussian window of 1.5 pixels, cut at 11; constants for values from 0 to 1.
_SIGMA, _WINDOW = 1.5, 11
_C1, _C2 = 0.01**2, 0.03**2
_LUMA = (0.299, 0.587, 0.114)


def look(frames: Sequence[Frames]) -> dict[str, NDArray[np.float64]]:
    """What videos look like, whatever was asked for: (videos,) float64 each, of pixel values from 0 to 1.

    A choice may pay for what it is made by with something else; these show the usual prices.

    - `movement`: mean absolute change from a frame to the next.
    - `flicker`: mean absolute change of that change: what comes and goes within three frames. Steady motion
      has some of it at its edges, so compare videos of like movement.
    - `sharpness`: mean absolute difference of neighbouring pixels.

    Args:
        frames: of each video, uint8 (frames, height, width, 3). Of fewer than two (three) frames movement
            (flicker) is 0.
    """
    found: dict[str, list[float]] = {key: [] for key in METRICS}
    for video in frames:
        x = video.astype(np.float64) / 255
        change, sides = np.diff(x, axis=0), [np.abs(np.diff(x, axis=axis)) for axis in (1, 2)]
        found["movement"].append(np.abs(change).mean() if len(x) > 1 else 0.0)
        found["flicker"].append(np.abs(np.diff(change, axis=0)).mean() if len(x) > 2 else 0.0)
        found["sharpness"].append(sum(float(side.mean()) for side in sides) / 2)
    return {key: np.array(values) for key, values in found.items()}


@plain_arithmetic()
def structural_similarity(frames: Frames, others: Frames) -> float:
    """SSIM of two videos, the mean over pixels and frames of their luma; 1 for equal ones.

    Wang et al., "Image quality assessment" (2004), equation 13, in float64. Windows that do not fit into a
    frame are left out; of smaller frames the window is the largest odd one that fits.

    Args:
        frames, others: uint8 (frames, height, width, 3) each.

    Raises:
        BadInput: videos of different shapes.
    """
    if frames.shape != others.shape:
        raise BadInput(f"videos of shapes {frames.shape} and {others.shape} cannot be compared by pixels")
    x, y = (torch.from_numpy(each / 255.0 @ np.array(_LUMA))[:, None] for each in (frames, others))
    size = min(_WINDOW, *(side - 1 + side % 2 for side in x.shape[2:]))
    offsets = torch.arange(size, dtype=torch.float64) - size // 2
    weights = (-0.5 * (offsets / _SIGMA) ** 2).exp()
    window = torch.outer(weights, weights)[None, None] / weights.sum() ** 2

    def mean(values: torch.Tensor) -> torch.Tensor:
        return F.conv2d(values, window)

    mx, my = mean(x), mean(y)
    vx, vy, both = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
    same = (2 * mx * my + _C1) * (2 * both + _C2) / ((mx**2 + my**2 + _C1) * (vx + vy + _C2))
    return float(same.mean())
