"""What does a race over layers cost, and what does it lose against the score of all layers?

`python benchmarks/racing.py` scores 160 held-out captions with two objects, 10 noises each, on the embedded
model with the mask-free BANSA at every layer, replays all schedules of up to three rungs on those scores, and
checks some of them against real races: the same choice, for the cost that the ledger says. Regret is how far
the chosen noise lies from the best of the full score, in units of the distance from the best to the median
noise. The cheapest schedule is looked for on one half of the captions and judged on the other, so that it is
within 5 % there. Writes benchmarks/results/racing.json and docs/figures/racing.svg.

`--model` names another embedded model, whose result gets its name and no figure.
"""

from __future__ import annotations

import argparse
import json
import platform
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch

from seedbed import zoo
from seedbed.acquisition import Bansa
from seedbed.files import write_bytes_atomically
from seedbed.halving import Rungs, planned
from seedbed.lab import replays
from seedbed.selection.choosing import select
from seedbed.statistics import Array, bootstrap
from seedbed.worlds import shapes

HERE = Path(__file__).resolve().parent
BLUE, RED, GREEN, GREY = "#2a6f97", "#c1443c", "#3b8752", "#8a8f98"
CANDIDATES = 10
RACE = ((0.1, 0.2), (0.46, 1))  # the shares that are opt-in for models that were not calibrated
GUIDED = 2 * 50  # evaluations of 50 guided steps, what overheads are told against


def measured(pipe: Any, prompts: int) -> tuple[list[str], Array]:
    """Captions, and the score of each layer: (prompts, candidates, layers)."""
    captions = shapes.captions(prompts, objects=2, seed=0, held=True)
    tables = [chosen(pipe, number, caption, None).scores.numpy() for number, caption in enumerate(captions)]
    return captions, np.stack(tables)


def chosen(pipe: Any, number: int, caption: str, race: Rungs | None) -> Any:
    options: dict[str, Any] = {"candidates": CANDIDATES, "seed": number, "progress": False}
    return select(pipe, caption, acquisition=Bansa(depth=None, race=race), **options)


def line(scores: Array, rungs: Rungs) -> dict[str, Any]:
    _, candidates, layers = scores.shape
    lost = replays.regret(scores, rungs)
    spent = replays.cost(rungs, candidates, layers, finish=False)
    return {
        "schedule": rungs,
        "evaluations": spent,
        "share of 50 guided steps": spent / GUIDED,
        "regret": list(bootstrap(lost)),
        "best kept": float((replays.raced(scores, rungs) == scores.mean(2).argmin(1)).mean()),
    }


def held_out(scores: Array, limit: float) -> list[dict[str, Any]]:
    """For each half of the prompts: the schedule chosen on it, there and on the other half.

    limit: the regret within which it is chosen.
    """
    lines = []
    for half in range(2):
        rungs = replays.cheapest(scores[half::2], limit)
        if rungs is not None:
            here, there = line(scores[half::2], rungs), line(scores[1 - half :: 2], rungs)
            lines.append({**there, "regret where it was chosen": here["regret"]})
    return lines


def checked(pipe: Any, captions: list[str], scores: Array, schedules: list[Rungs]) -> dict[str, Any]:
    """Real races: do they choose what the replay says, for what the replay says?"""
    same, priced, count = 0, True, 0
    for rungs in schedules:
        picks = replays.raced(scores, rungs)
        for number, caption in enumerate(captions[:20]):
            choice = chosen(pipe, number, caption, rungs)
            same, count = same + (choice.best == picks[number]), count + 1
            spent = replays.cost(rungs, CANDIDATES, scores.shape[2], finish=False)
            priced = priced and abs(choice.ledger.entries["scoring"] - spent) < 1e-9
    return {"races": count, "same choice": int(same), "ledger agrees": priced}


def figure(result: dict[str, Any], path: Path) -> None:
    plt.rcParams["svg.hashsalt"] = "racing"  # the same file from the same numbers
    chart, axis = plt.subplots(figsize=(7.2, 4.2))
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(alpha=0.25)
    grid = result["schedules"]
    axis.scatter(
        [row["evaluations"] for row in grid],
        [100 * row["regret"][0] for row in grid],
        s=7,
        color=GREY,
        alpha=0.5,
        linewidths=0,
        label="schedules of up to three rungs",
    )
    for rows, colour, mark, name in (
        (result["truncation"], RED, "s-", "all candidates, fewer layers"),
        (result["held out"], GREEN, "D", "cheapest, judged on the other captions"),
        ([result["shares"]], BLUE, "^", "((0.1, 0.2), (0.46, 1))"),
    ):
        mean, low, high = 100 * np.array([row["regret"] for row in rows]).T
        axis.errorbar(
            [row["evaluations"] for row in rows],
            mean,
            (mean - low, high - mean),
            fmt=mark,
            color=colour,
            markersize=5,
            capsize=2,
            linewidth=1.2,
            label=name,
        )
    axis.axhline(100 * replays.REGRET, color=GREY, linewidth=0.8, linestyle="--")
    axis.set_xlabel("evaluations for ten candidates (one is a full conditional forward)")
    axis.set_ylabel("regret, % of best to median")
    axis.set_ylim(bottom=0)
    axis.legend(frameon=False, fontsize=8)
    chart.tight_layout()
    chart.savefig(path, metadata={"Date": None})
    plt.close(chart)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=160)
    parser.add_argument("--model", default=zoo.DEFAULT)
    arguments = parser.parse_args()
    suffix = "" if arguments.model == zoo.DEFAULT else f"-{arguments.model}"
    pipe = zoo.load(arguments.model)
    captions, scores = measured(pipe, arguments.prompts)
    layers = scores.shape[2]
    full = scores.mean(2)
    correlations = [
        float(
            np.mean(
                [np.corrcoef(table[:, layer], mean)[0, 1] for table, mean in zip(scores, full, strict=True)]
            )
        )
        for layer in range(layers)
    ]
    race, promised = replays.fitted_race(scores), replays.promised(scores)
    limit = promised and promised[0]
    shares = planned(RACE, layers, CANDIDATES)
    result = {
        "model": arguments.model,
        "prompts": len(captions),
        "candidates": CANDIDATES,
        "layers": layers,
        "correlation of each layer with the mean": correlations,
        "fitted": None if race is None else {**line(scores, race.schedule), "crossed regret": race.regret},
        "regret within which schedules are chosen": limit,
        "held out": held_out(scores, limit or replays.REGRET),
        "shares": line(scores, shares),
        "truncation": [line(scores, ((depth, 1),)) for depth in range(1, layers + 1)],
        "schedules": [line(scores, rungs) for rungs in replays.every_race(CANDIDATES, layers)],
        "real races": checked(pipe, captions, scores, [shares, *([race.schedule] if race else [])]),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    text = json.dumps(result, indent=1, default=list) + "\n"
    write_bytes_atomically(HERE / f"results/racing{suffix}.json", text.encode())
    if not suffix:
        figure(result, HERE.parent / "docs/figures/racing.svg")
    for name in ("fitted", "shares", "held out", "real races"):
        print(name, json.dumps(result[name], default=list))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
