"""How much of the published score's ranking is the noise of its own masks?

`python benchmarks/mask_noise.py`: on the embedded model, 16 noises of each of 16 held-out captions are
scored with two independent sets of K masks. Their Spearman correlation within a caption is the reliability
of the ranking; its square root is about how well one draw follows the score's own order. Varied are K, the
tokens (by the size of the frames; sizes the model was not trained on have attention all the same), the rows
and the heads. `mask_free` is the correlation of one draw with the mask-free form. 95 % bootstrap intervals
over captions. Writes benchmarks/results/mask_noise.json.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from seedbed import statistics, zoo
from seedbed.attention import AttentionCall, bansa_expected, bansa_masked
from seedbed.noise import NoiseRecipe
from seedbed.pipelines.session import Session
from seedbed.worlds import shapes

PLACES = ("probabilities", "logits")


def scores(
    session: Session, noises: int, masks: tuple[int, ...], number: int
) -> dict[tuple[str, int, int], np.ndarray]:
    """(place, K, draw) -> (noises, layers, heads, rows) float32; K = 0 is the mask-free form with K = 10.

    Noises and masks are those of caption `number` alone: shared ones would make captions dependent.
    """
    found: dict[tuple[str, int, int], list[np.ndarray]] = {}

    def see(call: AttentionCall) -> None:
        for place in PLACES:
            same: dict[str, Any] = {"scale": call.scale, "place": place}
            free = bansa_expected(call.query, call.key, **same)
            found.setdefault((place, 0, 0), []).append(free.numpy())
            for count in masks:
                for draw in (0, 1):
                    seed = (2 * number + draw) * 1_000_003 + call.index
                    score = bansa_masked(call.query, call.key, **same, masks=count, seed=seed)
                    found.setdefault((place, count, draw), []).append(score.numpy())

    spec = session.spec
    pool = [NoiseRecipe(seed=number, candidate=i, shape=spec.shape).draw() for i in range(noises)]
    session.evaluate(torch.stack(pool), see)
    return {key: np.stack(layers, axis=1) for key, layers in found.items()}


def total(values: np.ndarray, rows: np.ndarray | None = None, heads: int | None = None) -> np.ndarray:
    """The candidates' scores from some rows and the first heads: (noises,) float64."""
    values = values[:, :, :heads]
    return (values if rows is None else values[..., rows]).mean((1, 2, 3), dtype=np.float64)


def main(captions: list[str], noises: int) -> list[dict[str, Any]]:
    pipe = zoo.load()
    results = []
    for side in (32, 64, 96):
        masks = (3, 5, 7, 10, 30) if side == 32 else (10,)
        rankings: dict[tuple[Any, ...], list[list[np.ndarray]]] = {}
        for number, caption in enumerate(captions):
            session = Session(pipe, caption, height=side, width=side)
            found = scores(session, noises, masks, number)
            tokens = found["probabilities", 0, 0].shape[-1]
            order = np.random.default_rng(0).permutation(tokens)
            cuts = (
                {(None, None)} if side > 32 else {(None, None), (15, None), (30, None), (None, 1), (None, 3)}
            )
            for place in PLACES:
                for count in masks:
                    for some, heads in cuts if count == 10 else {(None, None)}:
                        rows = None if some is None else order[:some]
                        key = (place, count, tokens, some or tokens, heads or 6)
                        three = [(place, count, 0), (place, count, 1), (place, 0, 0)]
                        rankings.setdefault(key, []).append([total(found[k], rows, heads) for k in three])
        for (place, count, tokens, some, heads), pools in sorted(rankings.items()):
            first, second, free = (np.array(column) for column in zip(*pools, strict=True))
            row = {"place": place, "masks": count, "tokens": tokens, "rows": some, "heads": heads}
            row["reliability"] = statistics.bootstrap(statistics.within(first, second))
            row["mask_free"] = statistics.bootstrap(statistics.within(first, free))
            row["spread"] = float((free.std(1) / free.mean(1)).mean())
            results.append(row)
            print(json.dumps(row), flush=True)
    return results


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--noises", type=int, default=16)
    parser.add_argument("--captions", type=int, default=16)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results/mask_noise.json")
    arguments = parser.parse_args()
    captions = shapes.captions(arguments.captions, objects=2, seed=0, held=True)
    result = {
        "noises": arguments.noises,
        "captions": arguments.captions,
        "torch": torch.__version__,
        "rows": main(captions, arguments.noises),
    }
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
