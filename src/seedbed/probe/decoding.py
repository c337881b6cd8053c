"""What a pipeline decoded, as pixels."""

from typing import Any

import numpy as np

from seedbed.errors import BadOutput


def decoded(output: Any, pipeline_name: str) -> list[np.ndarray]:
    """The videos of a pipeline's "np" output: (frames, height, width, 3) uint8 each, one frame for images.

    Raises:
        BadOutput: values that are not finite.
    """
    videos = np.asarray(output.frames if hasattr(output, "frames") else output.images, dtype=np.float32)
    if not np.isfinite(videos).all():
        raise BadOutput(f"{pipeline_name} decoded values that are not finite: try float32 or bfloat16")
    pixels = (videos.clip(0, 1) * 255).round().astype(np.uint8)
    return list(pixels if pixels.ndim == 5 else pixels[:, None])
