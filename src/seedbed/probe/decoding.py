"""What a pipeline decoded, as pixels."""

from typing import Any

import numpy as np

from seedbed.errors import BadOutput, NotSupported

# What pipelines call the pixels of their output.
_PIXELS = ("frames", "images", "image", "video")


def decoded(output: Any, pipeline_name: str) -> list[np.ndarray]:
    """The videos of a pipeline's "np" output: (frames, height, width, 3) uint8 each, one frame for images.

    Raises:
        BadOutput: values that are not finite.
        NotSupported: it returns neither frames nor images.
    """
    found = next((getattr(output, name) for name in _PIXELS if hasattr(output, name)), None)
    if found is None:
        raise NotSupported(f"{pipeline_name} returns a {type(output).__name__} without frames or images")
    videos = np.asarray(found, dtype=np.float32)
    if found is getattr(output, "video", None):  # of a pipeline that makes one at a time
        videos = videos[None]
    if not np.isfinite(videos).all():
        raise BadOutput(f"{pipeline_name} decoded values that are not finite: try float32 or bfloat16")
    pixels = (videos.clip(0, 1) * 255).round().astype(np.uint8)
    return list(pixels if pixels.ndim == 5 else pixels[:, None])
