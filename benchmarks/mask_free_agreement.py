"""Does the mask-free score rank noises as the masked one does, once that has been averaged enough?

`python benchmarks/mask_free_agreement.py`: on an embedded model, for several prompts, 64 noises are scored
by `bansa_expected` and `bansa_masked` with K = 10, the latter repeated with fresh masks until the standard
error of its average is below a fifteenth of the standard deviation between noises. Reports the Spearman
correlation of the two rankings, how well a single draw of K = 10 masks ranks the noises, and the cost of both
in one run. Writes benchmarks/results/mask_free_agreement.json; with `--model` a file that ends in its name.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
from pathlib import Path
from time import thread_time
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr

from seedbed import zoo
from seedbed.attention import AttentionCall, bansa_expected, bansa_masked
from seedbed.noise import NoiseRecipe
from seedbed.pipelines.session import Session
from seedbed.worlds import shapes


def captured(session: Session, noises: int) -> list[dict[str, Any]]:
    """The attention calls of the first evaluation for noises 0 .. n-1 of seed 0, without the values."""
    calls: list[dict[str, Any]] = []

    def keep(call: AttentionCall) -> None:
        calls.append(
            {
                "query": call.query.clone(),
                "key": call.key.clone(),
                "scale": call.scale,
                "mask": call.mask,
                "causal": call.causal,
            }
        )

    spec = session.spec
    session.evaluate(
        torch.stack([NoiseRecipe(seed=0, candidate=i, shape=spec.shape).draw() for i in range(noises)]), keep
    )
    return calls


def total(function: Any, calls: list[dict[str, Any]], **options: Any) -> np.ndarray:
    """Mean over layers, heads and rows: one number per noise."""
    layers = [function(**call, **options).double().mean(dim=(1, 2)) for call in calls]
    return torch.stack(layers).mean(dim=0).numpy()


def total_masked(calls: list[dict[str, Any]], place: str, repeat: int) -> np.ndarray:
    """As `total`, with masks of its own for every layer and repeat."""
    return np.mean(
        [total(bansa_masked, [call], place=place, seed=repeat * 1009 + n) for n, call in enumerate(calls)],
        axis=0,
    )


def agreement(calls: list[dict[str, Any]], place: str, most: int) -> dict[str, Any]:
    expected = total(bansa_expected, calls, place=place)
    drawn: list[np.ndarray] = []
    error = spread = float("nan")
    while len(drawn) < most:
        drawn.append(total_masked(calls, place, len(drawn)))
        if len(drawn) < 20 or len(drawn) % 10:
            continue
        # Masks are common to all noises: what they move together does not disturb the ranking.
        centred = np.array(drawn) - np.mean(drawn, axis=1, keepdims=True)
        error = float(np.sqrt(centred.var(axis=0, ddof=1).mean() / len(drawn)))
        spread = float(centred.mean(axis=0).std(ddof=1))
        if error < spread / 15:
            break
    mean = np.mean(drawn, axis=0)
    return {
        "place": place,
        "repeats": len(drawn),
        "spread_between_noises": spread,
        "standard_error_over_spread": error / spread,
        "spearman": float(spearmanr(expected, mean).statistic),
        "relative_bias": float((expected.mean() - mean.mean()) / mean.mean()),
        "single_draw_spearman": float(np.mean([spearmanr(one, mean).statistic for one in drawn])),
    }


def cost(calls: list[dict[str, Any]], place: str, repetitions: int) -> dict[str, Any]:
    """Processor time of the masked score over that of the mask-free one, alternating in one run."""
    ratios = []
    for n in range(repetitions + 1):
        started = thread_time()
        total(bansa_expected, calls, place=place)
        middle = thread_time()
        total_masked(calls, place, n)
        ratios.append((thread_time() - middle) / (middle - started))
    low, median, high = statistics.quantiles(ratios[1:], n=4)
    return {
        "place": place,
        "noises": len(calls[0]["query"]),
        "masked_over_mask_free": median,
        "quartiles": [low, high],
        "repetitions": repetitions,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=zoo.DEFAULT, help="an embedded model's name")
    parser.add_argument("--noises", type=int, default=64)
    parser.add_argument("--prompts", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=2000)
    parser.add_argument("--repetitions", type=int, default=9)
    arguments = parser.parse_args()
    pipe = zoo.load(arguments.model)
    result: dict[str, Any] = {
        "noises": arguments.noises,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "prompts": [],
    }
    for caption in shapes.captions(arguments.prompts, objects=2, seed=0, held=True):
        calls = captured(Session(pipe, caption), arguments.noises)
        row = {
            "prompt": caption,
            **{p: agreement(calls, p, arguments.repeats) for p in ("probabilities", "logits")},
        }
        result["prompts"].append(row)
        print(json.dumps(row), flush=True)
    torch.set_num_threads(1)  # the processor time of one thread is what `cost` sees
    few = [{**call, "query": call["query"][:10], "key": call["key"][:10]} for call in calls]
    result["cost"] = [
        cost(some, place, arguments.repetitions)
        for place in ("probabilities", "logits")
        for some in (few, calls)
    ]
    print(json.dumps(result["cost"]))
    suffix = "" if arguments.model == zoo.DEFAULT else f"-{arguments.model}"
    out = Path(__file__).parent / f"results/mask_free_agreement{suffix}.json"
    out.write_text(json.dumps(result, indent=2) + "\n")
