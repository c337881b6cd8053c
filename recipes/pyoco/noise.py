"""How alike the noise is that the image model finds in a video's frames:

    python recipes/pyoco/noise.py runs/pyoco-image/model --out recipes/pyoco/results/noise-maps.json

50 clips of one object, 8 frames each; with `--world digits` of handwriting, with `--videos` of a folder of
files without captions. Inverted by DDIM without guidance in 50 steps.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
from recipes.tables import rounded
from seedbed.files import write_bytes_atomically
from seedbed.lab.noise_maps import analyse
from seedbed.pipelines.loading import load
from seedbed.training.config import Videos, World

COUNT, FRAMES = 50, 8


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--world", choices=["shapes", "digits"], default="shapes")
    parser.add_argument("--videos", help="a folder of files, in place of a world")
    parser.add_argument("--count", type=int, default=COUNT)
    given = parser.parse_args(argv)
    # Clips that the training, whose seed is another, has not seen as such.
    pairs = 0 if given.world == "shapes" else None
    data: World | Videos = World(world=given.world, count=given.count, seed=1 << 20, pairs=pairs)
    if given.videos:
        data = Videos(videos=given.videos, fps=25, height=32, width=32, captions=False)
    found = analyse(load(given.model), data, FRAMES, given.count)
    kept = {"kind": "noise", "prior": found.prior, **dataclasses.asdict(found)}
    given.out.parent.mkdir(parents=True, exist_ok=True)
    write_bytes_atomically(given.out, (json.dumps(rounded(kept)) + "\n").encode())
    print(found.table)


if __name__ == "__main__":
    main()
