"""How the cost of selecting grows with noises, tokens and layers, next to the attention that runs anyway.

`python benchmarks/scaling.py` (ten minutes, one thread): random weights, float32,

- noises, 2 to 64: the first 14 of 30 layers (CogVideoX-2B's, four heads of 64 wide, 304 tokens) unscored,
  scored on all rows, and in the race ((0.1, 0.2), (0.46, 1));
- tokens, 256 to 16,384: two heads of 64 of one attention call, torch's own attention, scored on 512 rows, on
  all rows, and on all rows with K = 10 drawn masks (up to 4,096);
- layers, 1 to 30: as for noises, for four of them.

Discovering the pipeline, which `select` does once whatever the sizes, is not in these times. Slopes are
fitted to logarithms, by rounds: median and quartiles; for tokens from 1,024 on. Writes
benchmarks/results/scaling.json and docs/figures/scaling.svg.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from architectures import ARCHITECTURES
from bare import bare_pipeline
from cost_model import RACE
from running import RESULTS, machine, seconds, spread, write

from seedbed.acquisition import Bansa
from seedbed.attention import AttentionCall, bansa_expected, bansa_masked, sample_rows
from seedbed.pipelines.session import Session
from seedbed.selection.pools import draw_pool

FIGURE = Path(__file__).resolve().parents[1] / "docs/figures/scaling.svg"
NOISES = (2, 4, 8, 16, 32, 64)
TOKENS = (256, 512, 1024, 2048, 4096, 8192, 16384)
LAYERS = (1, 2, 4, 8, 15, 30)
DEPTH, FEW = 14, 4
HEADS, WIDTH = 2, 64
MOST_DRAWN = 4096
BLUE, RED, GREEN, GREY = "#2a6f97", "#c1443c", "#3b8752", "#8a8f98"
LINES = {
    "noises": {"not scored": GREY, "scored": BLUE, "raced": GREEN},
    "tokens": {"attention": GREY, "512 rows": GREEN, "all rows": BLUE, "drawn masks": RED},
    "layers": {"not scored": GREY, "scored": BLUE},
}

Timed = dict[str, dict[int, float]]


def subject() -> Session:
    """Of a pipeline of 30 narrow layers, which it has discovered."""
    config = {"num_attention_heads": 4, "text_embed_dim": 64, "max_text_seq_length": 16}
    architecture = replace(
        ARCHITECTURES[0],
        config=ARCHITECTURES[0].config | config,
        text=(16, 64),
        size=(9, 128, 192),
    )
    torch.manual_seed(0)
    session = Session(bare_pipeline(architecture), prompt_embeds=torch.zeros(1, 16, 64))
    assert len(session.layers) == max(LAYERS)
    return session


def by_noises(session: Session) -> Timed:
    found: Timed = {name: {} for name in LINES["noises"]}
    for count in NOISES:
        pool = draw_pool(session, count, seed=0)
        race = Bansa(depth=None, race=RACE)
        ways: dict[str, Callable[[], Any]] = {
            "not scored": partial(session.evaluate, pool.noises, depth=DEPTH),
            "scored": partial(session.evaluate, pool.noises, score, depth=DEPTH),
            "raced": partial(race.score, session, pool, batch_size=count),
        }
        for name, way in ways.items():
            found[name][count] = seconds(way)
    return found


def by_layers(session: Session) -> Timed:
    noises = torch.randn(FEW, *session.spec.shape)
    return {
        name: {depth: seconds(partial(session.evaluate, noises, handler, depth=depth)) for depth in LAYERS}
        for name, handler in (("not scored", None), ("scored", score))
    }


def score(call: AttentionCall) -> None:
    """Scores a call on all rows."""
    Bansa().observe(call)


def by_tokens() -> Timed:
    found: Timed = {name: {} for name in LINES["tokens"]}
    for count in TOKENS:
        generator = torch.Generator().manual_seed(count)
        query, key, value = torch.randn(3, 1, HEADS, count, WIDTH, generator=generator)
        rows = sample_rows(count, 512)
        ways: dict[str, Callable[[], Any]] = {
            "attention": partial(torch.nn.functional.scaled_dot_product_attention, query, key, value),
            "512 rows": partial(bansa_expected, query, key, rows=rows),
            "all rows": partial(bansa_expected, query, key),
        }
        if count <= MOST_DRAWN:
            ways["drawn masks"] = partial(bansa_masked, query, key)
        for name, way in ways.items():
            found[name][count] = seconds(way)
    return found


def slope(times: dict[int, float], least: int) -> float:
    """Of the logarithm of the time over that of the size, from size `least` on."""
    sizes = [size for size in times if size >= least]
    return float(np.polyfit(np.log(sizes), np.log([times[size] for size in sizes]), 1)[0])


def summary(rounds: list[Timed], panel: str) -> dict[str, Any]:
    """By line: seconds at each size and the slope, with their spread over rounds."""
    least = 1024 if panel == "tokens" else 0
    return {
        name: {
            "seconds": {size: spread([found[name][size] for found in rounds]) for size in rounds[0][name]},
            "slope": spread([slope(found[name], least) for found in rounds]),
        }
        for name in LINES[panel]
    }


def figure(panels: dict[str, Any], path: Path) -> None:
    plt.rcParams["svg.hashsalt"] = "scaling"  # the same file from the same numbers
    plots, axes = plt.subplots(1, 3, figsize=(10.5, 3.4))
    for axis, (panel, lines) in zip(axes, panels.items(), strict=True):
        for name, line in lines.items():
            sizes = [int(size) for size in line["seconds"]]
            values = list(line["seconds"].values())
            colour, label = LINES[panel][name], f"{name}, slope {line['slope']['median']:.2f}"
            axis.plot(
                sizes,
                [v["median"] for v in values],
                "o-",
                color=colour,
                label=label,
                markersize=3,
                linewidth=1.3,
            )
            low, high = [v["low"] for v in values], [v["high"] for v in values]
            axis.fill_between(sizes, low, high, color=colour, alpha=0.15, linewidth=0)
        axis.set(xscale="log", yscale="log", xlabel=panel)
        axis.set_xticks(
            sizes := [int(size) for size in next(iter(lines.values()))["seconds"]], map(str, sizes)
        )
        axis.minorticks_off()
        axis.tick_params(labelsize=7)
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
        axis.legend(frameon=False, fontsize=7)
    axes[0].set_ylabel("seconds")
    plots.tight_layout()
    plots.savefig(path, metadata={"Date": None})


def main(given: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the result")
    parser.add_argument("--figure", type=Path, default=FIGURE)
    arguments = parser.parse_args(given)
    torch.set_num_threads(1)
    described = machine()
    session = subject()
    rounds: dict[str, list[Timed]] = {panel: [] for panel in LINES}
    for number in range(arguments.repetitions + 1):
        found = {"noises": by_noises(session), "tokens": by_tokens(), "layers": by_layers(session)}
        if number:  # the first round warms up
            for panel, timed in found.items():
                rounds[panel].append(timed)
        print(f"round {number} of {arguments.repetitions}", flush=True)
    panels = {panel: summary(timed, panel) for panel, timed in rounds.items()}
    result = {"machine": described, "seed": 0, "repetitions": arguments.repetitions, "panels": panels}
    write("scaling", result, arguments.out)
    figure(panels, arguments.figure)


if __name__ == "__main__":
    main()
