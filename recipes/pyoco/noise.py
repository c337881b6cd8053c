"""How alike the noise is that the image model finds in a video's frames:

    python recipes/pyoco/noise.py runs/pyoco-image/model --out recipes/pyoco/results/noise-maps.json

50 clips of one object, 8 frames each; with `--world digits` of handwriting, with `--videos` of a folder of
files without captions. Inverted by DDIM without guidance in 50 steps. `--figure` draws the noise of the
frames of ten clips by t-SNE beside as much drawn noise.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
import numpy as np
import torch

from recipes.tables import rounded
from seedbed.files import write_bytes_atomically
from seedbed.lab.noise_maps import analyse, invert
from seedbed.pipelines.loading import load
from seedbed.training.config import Videos, World
from seedbed.training.data import FileClips, clips_of
from seedbed.training.denoisers import Model

COUNT, FRAMES, SHOWN = 50, 8, 10


def draw(model: Model, data: World | Videos, figure: Path) -> None:
    """Each frame a point, each clip a colour, of what is inverted and of independent noise."""
    import matplotlib.pyplot as plt
    from sklearn.manifold import TSNE

    clips = clips_of(data, FRAMES)
    maps = []
    numbers = clips.firsts() if isinstance(clips, FileClips) else [*range(SHOWN)]
    for number in numbers[:SHOWN]:
        pixels = torch.from_numpy(np.ascontiguousarray(clips.read(number, FRAMES, 0.0)))
        latents = model.encode(pixels[None])[0].transpose(0, 1)
        maps.append(invert(model, latents, model.embed([clips.caption(number)])).flatten(1).numpy())
    found = np.concatenate(maps)
    drawn = np.random.default_rng(0).standard_normal(found.shape)
    plots, axes = plt.subplots(1, 2, figsize=(7, 3.4), layout="constrained")
    for axis, rows, title in zip(
        axes, (found, drawn), ("inverted from frames", "independent noise"), strict=True
    ):
        x, y = TSNE(perplexity=FRAMES, init="pca", random_state=0).fit_transform(rows).T
        axis.scatter(x, y, c=np.repeat(np.arange(len(maps)), FRAMES), cmap="tab10", s=18)
        axis.set(title=title, xticks=[], yticks=[])
    plots.savefig(figure, dpi=160)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--world", choices=["shapes", "digits"], default="shapes")
    parser.add_argument("--videos", help="a folder of files, in place of a world")
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--count", type=int, default=COUNT)
    given = parser.parse_args(argv)
    # Clips that the training, whose seed is another, has not seen as such.
    pairs = 0 if given.world == "shapes" else None
    data: World | Videos = World(world=given.world, count=given.count, seed=1 << 20, pairs=pairs)
    if given.videos:
        data = Videos(videos=given.videos, fps=25, height=32, width=32, captions=False)
    pipe = load(given.model)
    if given.figure:
        draw(Model(pipe, {}), data, given.figure)
    found = analyse(pipe, data, FRAMES, given.count)
    kept = {"kind": "noise", "prior": found.prior, **dataclasses.asdict(found)}
    given.out.parent.mkdir(parents=True, exist_ok=True)
    write_bytes_atomically(given.out, (json.dumps(rounded(kept)) + "\n").encode())
    print(found.table)


if __name__ == "__main__":
    main()
