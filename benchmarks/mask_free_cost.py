"""What the mask-free score costs against K = 10 drawn masks, by the number of tokens.

`python benchmarks/mask_free_cost.py`: random queries and keys of ten candidates, at 60 tokens also of 64,
both functions in turn in one run, one thread; medians of the ratio with quartiles. Both include the logits.
Processor time counts, which other programs on the machine disturb less than the clock's. Writes
benchmarks/results/mask_free_cost.json.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
from pathlib import Path
from time import thread_time
from typing import Any

import torch

from seedbed.attention import bansa_expected, bansa_masked

# Candidates, tokens, heads, width.
SHAPES = ((10, 60, 6, 32), (64, 60, 6, 32), (10, 256, 4, 32), (10, 1024, 2, 64), (10, 2048, 1, 64))


def seconds(function: Any) -> float:
    started = thread_time()
    function()
    return thread_time() - started


def compare(
    place: str, candidates: int, tokens: int, heads: int, width: int, repetitions: int
) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(tokens)
    query, key = torch.randn(2, candidates, heads, tokens, width, generator=generator)
    ratios = []
    for _ in range(repetitions + 1):
        free = seconds(lambda: bansa_expected(query, key, place=place))
        drawn = seconds(lambda: bansa_masked(query, key, place=place))
        ratios.append(drawn / free)
    low, median, high = statistics.quantiles(ratios[1:], n=4)
    return {
        "place": place,
        "candidates": candidates,
        "tokens": tokens,
        "heads": heads,
        "masked_over_mask_free": median,
        "quartiles": [low, high],
        "repetitions": repetitions,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results/mask_free_cost.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    table = [
        compare(place, *shape, arguments.repetitions)
        for place in ("probabilities", "logits")
        for shape in SHAPES
    ]
    result = {
        "torch": torch.__version__,
        "machine": platform.machine(),
        "table": table,
    }
    arguments.out.write_text(json.dumps(result, indent=2) + "\n")
    for row in table:
        print({k: v if isinstance(v, str | int | list) else round(v, 2) for k, v in row.items()}, flush=True)
