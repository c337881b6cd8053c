"""How large must a sample of the query rows be to choose as all rows do, and what do all rows cost?

`python benchmarks/row_sampling.py` (ten minutes) scores every row of the default BANSA on
the embedded model at three sizes, for 20 held-out captions with 10 noises each, draws samples of a
share of the rows, 20 times for each caption, and compares their choice with that of all rows.

The law that is fitted: the candidates' means over all rows are independent and normal, and a sample of a
share f of them adds an error of r sqrt((1 - f) / f) times their spread (sampling without replacement). The
chance that the lowest of ten stays the lowest is simulated; the one number that is fitted is r. It would be
1 where candidates differ by no more than what independent rows of one distribution differ by, whatever the
number of rows; therefore a share of the rows, not a number, decides.

Last, one head of CogVideoX at full size, 17,776 tokens: processor time of scoring some rows or all against
that head's attention, in turn. Writes benchmarks/results/row_sampling.json.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from running import machine, seconds, spread, write
from torch import Tensor

from seedbed import zoo
from seedbed.acquisition import Bansa
from seedbed.acquisition.sampling import confidence
from seedbed.acquisition.scoring import plan_layers
from seedbed.attention import AttentionCall, bansa_expected, sample_rows
from seedbed.pipelines.session import Session
from seedbed.selection.pools import draw_pool
from seedbed.statistics import Array, bootstrap
from seedbed.worlds import shapes

CALLS: tuple[dict[str, int], ...] = (
    {},
    {"height": 48, "width": 48},
    {"height": 72, "width": 72},
)
CANDIDATES, DRAWS = 10, 20
SHARES = (1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 5 / 8, 3 / 4, 7 / 8, 15 / 16, 1)
LEAST = 4  # rows of a sample: fewer are no sample of a layer
TOKENS, WIDTH = 17_776, 64  # of CogVideoX at 49 x 480 x 720, and of its heads
RATIOS = np.arange(0.05, 2.0, 0.005)  # that are tried for r
SAME = 0.9  # of the pools are to choose as all rows do


def all_rows(pipe: Any, number: int, caption: str, call: dict[str, Any]) -> Tensor:
    """What each row says under the default function: (candidates, layers, rows) float64."""
    function, session = Bansa(), Session(pipe, caption, **call)
    kept: list[Tensor] = []

    def see(attention: AttentionCall) -> None:
        kept.append(function.observe(attention))

    depth = plan_layers(session.layers, function.layers, function.depth)[-1] + 1
    session.evaluate(draw_pool(session, CANDIDATES, number).noises, see, depth=depth)
    return torch.stack(kept, 1)


def chosen(table: Tensor, rows: int, seed: int) -> tuple[int, float]:
    """The choice of a sample of each layer's rows, and the confidence that `select` would state."""
    total = table.shape[2]
    picked = [sample_rows(total, rows, seed * 1_000_003 + layer) for layer in range(table.shape[1])]
    seen = [table[:, layer] if some is None else table[:, layer, some] for layer, some in enumerate(picked)]
    totals = torch.stack([values.mean(1) for values in seen], 1).sum(1)
    layers = [] if picked[0] is None else [[(row, total) for row in values] for values in seen]
    samples = [[values[index] for values in layers] for index in range(len(table))]
    order = totals.argsort().tolist()
    return order[0], confidence(order, totals, samples)


def line(tables: list[Tensor], rows: int) -> tuple[dict[str, Any], Array]:
    """What samples of so many rows choose, and by caption the share that choose as all rows, (captions,)."""
    lost, same, stated = [], [], []
    for number, table in enumerate(tables):
        full = table.mean((1, 2))
        best = int(full.argmin())
        runs = [chosen(table, rows, 1000 * number + draw) for draw in range(DRAWS)]
        lost.append(np.mean([float(full[pick] - full[best]) for pick, _ in runs]))
        lost[-1] /= float(full.median() - full.min())
        same.append(np.mean([pick == best for pick, _ in runs]))
        stated.append(np.mean([sure for _, sure in runs]))
    found = {
        "rows": rows,
        "share": rows / tables[0].shape[2],
        "regret against all rows": list(bootstrap(np.array(lost))),
        "choice of all rows": list(bootstrap(np.array(same))),
        "stated confidence": float(np.mean(stated)),
    }
    return found, np.array(same)


def simulated(draws: int = 100_000) -> Callable[[Any], Array]:
    """How likely the lowest of ten normal numbers stays the lowest, by the size of an error added to each."""
    generator = np.random.default_rng(0)
    means, errors = generator.standard_normal((2, draws, CANDIDATES))
    best = means.argmin(1)
    sizes = np.concatenate([np.arange(0, 1, 0.02), np.geomspace(1, 40, 40)])
    chances = [float(((means + size * errors).argmin(1) == best).mean()) for size in sizes]
    return lambda size: np.asarray(np.interp(size, sizes, chances))


def fitted(shares: Array, same: Array) -> dict[str, Any]:
    """The r of the law, and the share of the rows that `SAME` of the pools ask for by it.

    Args:
        shares: of the rows, (shares,), below 1.
        same: how often a sample chose as all rows did, (shares, captions).
    """
    chance = simulated()
    errors = np.sqrt((1 - shares) / shares)
    law = chance(RATIOS[:, None] * errors)

    def best(means: Array) -> float:
        return float(RATIOS[((law - means) ** 2).sum(1).argmin()])

    generator = np.random.default_rng(1)
    again = generator.integers(same.shape[1], size=(2000, same.shape[1]))
    ratios = np.array([best(same.mean(1)), *(best(same[:, some].mean(1)) for some in again)])
    sizes = np.linspace(0, 1, 1001)
    allowed = sizes[chance(sizes) >= SAME].max()
    needed = ratios**2 / (ratios**2 + allowed**2)
    return {
        "r": interval(ratios),
        "share needed": interval(needed),
        "law": chance(ratios[0] * errors).tolist(),
    }


def interval(values: Array) -> list[float]:
    """The first of them, and the 95 % interval of the others."""
    return [float(values[0]), *np.percentile(values[1:], (2.5, 97.5)).tolist()]


def size(pipe: Any, captions: list[str], call: dict[str, Any]) -> dict[str, Any]:
    """What samples choose where videos are made with this call, and the law that fits."""
    tables = [all_rows(pipe, number, caption, call) for number, caption in enumerate(captions)]
    total = tables[0].shape[2]
    counts = [round(share * total) for share in SHARES if round(share * total) >= LEAST]
    lines, same = zip(*(line(tables, rows) for rows in counts), strict=True)
    shares = np.array([found["share"] for found in lines[:-1]])
    law = fitted(shares, np.stack(same[:-1]))
    for found in lines:
        print(found, flush=True)
    print(total, law, flush=True)
    return {"call": call, "layers": tables[0].shape[1], "rows of a layer": total, "lines": lines, **law}


def prices(rounds: int) -> dict[str, Any]:
    """Processor time of scoring rows of one head of CogVideoX, in that of its attention, by how many."""
    query, key, value = torch.randn(3, 1, 1, TOKENS, WIDTH, generator=torch.Generator().manual_seed(0))
    found: dict[str, list[float]] = {}
    for _ in range(rounds):
        attention = seconds(partial(torch.nn.functional.scaled_dot_product_attention, query, key, value))
        for rows in (512, 1024, TOKENS // 2, TOKENS):
            score = partial(bansa_expected, query, key, rows=sample_rows(TOKENS, rows))
            found.setdefault(str(rows), []).append(seconds(score) / attention)
    return {rows: spread(ratios) for rows, ratios in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--prompts", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5, help="of the timing")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    described = machine()
    pipe = zoo.load()
    captions = shapes.captions(arguments.prompts, objects=2, seed=1, held=True)
    result = {
        "machine": described,
        "prompts": len(captions),
        "candidates": CANDIDATES,
        "draws": DRAWS,
        "chosen alike": SAME,
        "sizes": [size(pipe, captions, call) for call in CALLS],
        "tokens": TOKENS,
        "rounds": arguments.rounds,
        "scoring over attention": prices(arguments.rounds),
    }
    print(result["scoring over attention"])
    write("row_sampling", result)


if __name__ == "__main__":
    main()
