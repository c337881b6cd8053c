"""What selecting costs on the full-size models: evaluations, operations, bytes, without running them.

`python benchmarks/cost_model.py` (a minute): for each model of `architectures.py` at its native size, counts

- plain: one generation with guidance, as its pipeline runs it;
- published: BANSA as published (arXiv 2505.17561), ten noises one by one, K = 10 masks drawn on the exact
  maps of the first d* blocks, worked on in chunks;
- ours: `seedbed.select(candidates=10)` with its defaults for a model without a profile: masks integrated out,
  all query rows, the first 46 % of the layers;
- raced: the same over all layers with race=((0.1, 0.2), (0.46, 1)), which is not the default;
- best of 10: ten generations; what judges them is not counted.

Writes benchmarks/results/cost_model.json, from which `cost_page.py` makes the tables of docs/cost.md.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from architectures import ARCHITECTURES, Architecture
from bare import rows_of_selection
from counting import Forward, count_forward, peak_bytes, score_bytes, score_operations
from running import RESULTS, machine, write

from seedbed.acquisition import Bansa
from seedbed.acquisition.base import rows_that_fit

CANDIDATES = 10
BYTES = 2  # of a weight in bfloat16
OURS = Bansa()
RACE = ((0.1, 0.2), (0.46, 1))  # a fifth stays after a tenth of the layers


def scoring(forward: Forward, rows: list[list[int]], function: Bansa) -> dict[str, float]:
    """The cost of scoring noises.

    Args:
        rows: in the batch, at every attention layer that each forward comes to.
        function: whose `estimator` and `rows` count.
    """
    layers = forward.layers
    return {
        "evaluations": sum(map(sum, rows)) / len(layers),
        "operations": float(sum(map(forward.operations_of, rows))),
        "scoring_operations": sum(
            count * score_operations(function.estimator, layer.shape, function.rows)
            for run in rows
            for layer, count in zip(layers, run, strict=False)
        ),
        "weight_bytes": float(sum(layers[len(run) - 1].parameters * BYTES for run in rows)),
    }


def published_depth(architecture: Architecture, forward: Forward) -> int:
    """The attention layers up to the end of the published d*, which counts blocks."""
    within = [
        index
        for index, layer in enumerate(forward.layers, 1)
        if layer.name.startswith(architecture.blocks)
        and int(layer.name.removeprefix(architecture.blocks).split(".")[0]) < architecture.published_depth
    ]
    return within[-1]


def methods(architecture: Architecture, forward: Forward, batch: int) -> dict[str, dict[str, float]]:
    """By method: evaluations, operations of forwards and of scoring, bytes of weights that are read.

    Args:
        batch: how many noises may share a forward of ours.
    """
    calls, rows = architecture.calls
    plain = {
        "evaluations": float(architecture.steps * calls * rows),
        "operations": float(architecture.steps * calls * rows * forward.operations),
        "scoring_operations": 0.0,
        "weight_bytes": float(architecture.steps * calls * forward.parameters * BYTES),
    }
    depth = published_depth(architecture, forward)
    ours = rows_of_selection(architecture, CANDIDATES, batch, depth=OURS.depth)
    raced = rows_of_selection(architecture, CANDIDATES, batch, race=RACE)
    return {
        "plain": plain,
        "published": scoring(forward, [[1] * depth] * CANDIDATES, Bansa(estimator="masked")),
        "ours": scoring(forward, ours, OURS),
        "raced": scoring(forward, raced, OURS),
        "best of 10": {name: CANDIDATES * value for name, value in plain.items()},
    }


def memory(architecture: Architecture, forward: Forward) -> dict[str, int]:
    """Peak bytes of a guided step and of our scoring: weights and live tensors of the denoiser alone.

    `batch` is how many noises share a forward of ours with batch_size="auto".
    """
    shapes = {layer.shape for layer in forward.layers}

    def ours(rows: int) -> int:
        blocks = max(score_bytes(shape, OURS.rows, rows) for shape in shapes)
        return peak_bytes(architecture.build, architecture.inputs, rows) + blocks

    latents = next(iter(architecture.inputs(1).values()))
    batch = rows_that_fit("auto", latents)
    plain = peak_bytes(architecture.build, architecture.inputs, architecture.calls[1])
    return {"batch": batch, "plain": plain, "ours": ours(batch)}


def row(architecture: Architecture) -> dict[str, Any]:
    """Everything that is counted for one model."""
    forward = count_forward(architecture.build, architecture.inputs)
    peaks = memory(architecture, forward)
    low, high = architecture.billions
    if not low <= forward.parameters / 1e9 <= high:
        raise SystemExit(f"{architecture.name} has {forward.parameters / 1e9:.2f} billion parameters")
    return {
        "name": architecture.name,
        "source": architecture.source,
        "size": architecture.size,
        "steps": architecture.steps,
        "calls": architecture.calls,
        "parameters": forward.parameters,
        "layers": len(forward.layers),
        "tokens": max(layer.shape[1] for layer in forward.layers),
        "forward_operations": forward.operations,
        "published_depth": published_depth(architecture, forward),
        "methods": methods(architecture, forward, peaks["batch"]),
        "memory": peaks,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the result")
    arguments = parser.parse_args()
    rows = [row(architecture) for architecture in ARCHITECTURES]
    result = {
        "machine": machine(),
        "candidates": CANDIDATES,
        "race": RACE,
        "models": rows,
    }
    write("cost_model", result, arguments.out)
    for found in rows:
        plain = found["methods"]["plain"]
        for name, spent in found["methods"].items():
            total = spent["operations"] + spent["scoring_operations"]
            print(
                f"{found['name']:24} {name:10} {spent['evaluations']:7.1f} evaluations  "
                f"{total / 1e15:9.2f} PFLOP  {total / plain['operations']:7.2%}  "
                f"{spent['weight_bytes'] / 1e12:6.2f} TB"
            )
        memory_ = found["memory"]
        print(f"{'':24} peak {memory_['ours'] / memory_['plain']:.3f} x")
