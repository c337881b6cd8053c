"""How many query rows tell candidates apart, and is the stated confidence reached?

`python benchmarks/row_sampling.py` scores every row of the mask-free BANSA on `shapes-cogvideox-unread`,
run at 96 x 96 pixels and 25 frames (about 1,000 tokens), for 20 held-out captions with 10 noises each. It
draws samples of 16 to all, 20 times for each caption, chooses as `select` does (the same function), and
compares with the choice of all rows: with one look, and with more rows for rivals that a look does not tell
apart; for all ten, and for the two that are left after a first rung. And it times the scoring of some rows
against the attention of all, one head of CogVideoX at full size. Writes benchmarks/results/row_sampling.json.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from seedbed import zoo
from seedbed.attention.disagreement import bansa_expected
from seedbed.attention.rows import sample_rows
from seedbed.attention.tap import AttentionCall
from seedbed.files import write_bytes_atomically
from seedbed.lab.statistics import bootstrap
from seedbed.selection import Bansa, select
from seedbed.selection.confidence import Look, tell_apart
from seedbed.worlds import shapes

RESULT = Path(__file__).parent / "results" / "row_sampling.json"
CALL = {"height": 96, "width": 96, "num_frames": 25}
CANDIDATES, DRAWS = 10, 20
ROWS = (16, 32, 64, 128, 256, 512)


class Keeping(Bansa):
    """BANSA of all rows that keeps each of them."""

    kept: list[Tensor]

    def by_row(self, call: AttentionCall) -> Tensor:
        values = super().by_row(call)
        self.kept.append(values)
        return values


def all_rows(pipe: Any, number: int, caption: str) -> Tensor:
    """(candidates, layers, rows) float64."""
    function = Keeping(rows=None)
    object.__setattr__(function, "kept", [])
    options: dict[str, Any] = {"batch_size": CANDIDATES, "race": None, "progress": False, **CALL}
    select(pipe, caption, candidates=CANDIDATES, seed=number, acquisition=function, **options)
    return torch.stack(function.kept, 1)


def looked(table: Tensor, near: list[int], rows: int, seed: int) -> tuple[Tensor, list[Look]]:
    """Scores and looks of these candidates, from so many rows of each layer."""
    total = table.shape[2]
    scores, looks = [], [Look() for _ in near]
    for layer in range(table.shape[1]):
        some = sample_rows(total, rows, seed * 1_000_003 + layer)
        values = table[near, layer] if some is None else table[near, layer][:, some]
        scores.append(values.mean(1))
        for look, candidate in zip(looks, values, strict=True):
            if some is not None:
                look.add(candidate, total)
    return torch.stack(scores, 1), looks


def chosen(table: Tensor, rows: int, seed: int, finalists: int, more: bool) -> tuple[int, float, int]:
    """The choice, its confidence, and how many candidates had to be looked at again, over all times."""
    count = len(table)
    scores, looks = looked(table, list(range(count)), rows, seed)
    near = sorted(scores[:, 0].argsort()[:finalists].tolist()) if finalists < count else list(range(count))
    times = torch.zeros(count)

    def again(rivals: list[int], finer: int) -> tuple[Tensor, list[Look]]:
        return looked(table, rivals, finer, seed)

    confidence = tell_apart(near, scores, looks, times, rows if more else None, again, "low")
    last = [candidate for candidate in near if times[candidate] == times[near].max()]
    return last[int(scores[last].mean(1).argmin())], confidence, int(times.sum())


def line(tables: list[Tensor], rows: int, finalists: int, more: bool) -> dict[str, Any]:
    lost, same, stated, again = [], [], [], []
    for number, table in enumerate(tables):
        full = table.mean((1, 2))
        first = table[:, 0].mean(1)
        # What all rows would do in the same race.
        heat = first.argsort()[:finalists]
        best = int(heat[full[heat].argmin()])
        scale = float(full.median() - full.min())
        runs = [chosen(table, rows, 1000 * number + draw, finalists, more) for draw in range(DRAWS)]
        lost.append(np.mean([float(full[pick] - full[best]) / scale for pick, _, _ in runs]))
        same.append(np.mean([pick == best for pick, _, _ in runs]))
        stated.append(np.mean([confidence for _, confidence, _ in runs]))
        again.append(np.mean([times for _, _, times in runs]))
    return {
        "rows": rows,
        "finalists": finalists,
        "more rows": more,
        "regret against all rows": list(bootstrap(np.array(lost))),
        "choice of all rows": list(bootstrap(np.array(same))),
        "stated confidence": float(np.mean(stated)),
        "evaluations again, each pool": float(np.mean(again)),
    }


def prices(tokens: int = 17_776, width: int = 64, repetitions: int = 5) -> dict[str, Any]:
    """Processor time of scoring some rows of one head, in that of its attention: medians and quartiles."""
    query, key, value = (torch.randn(1, 1, tokens, width) for _ in range(3))
    ratios: dict[int, list[float]] = {rows: [] for rows in (*ROWS, 1024)}
    for _ in range(repetitions):
        plain = spent(lambda: torch.nn.functional.scaled_dot_product_attention(query, key, value))
        for rows, found in ratios.items():
            some = sample_rows(tokens, rows)
            found.append(spent(lambda some=some: bansa_expected(query, key, rows=some)) / plain)  # type: ignore[misc]
    return {str(rows): np.percentile(found, (50, 25, 75)).tolist() for rows, found in ratios.items()}


def spent(work: Callable[[], Any]) -> float:
    begun = time.process_time()
    work()
    return time.process_time() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=20)
    arguments = parser.parse_args()
    pipe = zoo.load("shapes-cogvideox-unread")
    captions = shapes.captions(arguments.prompts, objects=2, seed=1, held=True)
    tables = [all_rows(pipe, number, caption) for number, caption in enumerate(captions)]
    result = {
        "call": CALL,
        "prompts": len(captions),
        "candidates": CANDIDATES,
        "draws": DRAWS,
        "layers": tables[0].shape[1],
        "rows of a layer": tables[0].shape[2],
        "lines": [
            line(tables, rows, finalists, more)
            for finalists in (CANDIDATES, 2)
            for more in (False, True)
            for rows in (*ROWS, tables[0].shape[2])
        ],
        "scoring over attention, 17,776 tokens": prices(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    write_bytes_atomically(RESULT, (json.dumps(result, indent=1) + "\n").encode())
    for row in result["lines"]:
        print(json.dumps(row))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
