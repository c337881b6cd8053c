"""The figures of docs/evidence.md, from recipes/selection/results: `python recipes/selection/figures.py`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from PIL import Image

matplotlib.use("Agg")
import matplotlib.pyplot as plt

HERE = Path(__file__).resolve().parent
FIGURES = HERE.parents[1] / "docs/figures"
BLUE, RED, GREEN, GREY, GOLD = "#2a6f97", "#c1443c", "#3b8752", "#8a8f98", "#b5832b"


def load(name: str) -> Any:
    return json.loads((HERE / f"results/{name}.json").read_text())


def axes(width: float, height: float, columns: int = 1, **options: Any) -> tuple[Any, Any]:
    figure, found = plt.subplots(1, columns, figsize=(width, height), **options)
    for axis in np.atleast_1d(found):
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
    return figure, found


def line(
    axis: Any, x: list[float], intervals: list[list[float]], colour: str, label: str, style: str = "o-"
) -> None:
    mean, low, high = (np.array(column, float) for column in zip(*intervals, strict=True))
    axis.plot(x, mean, style, color=colour, label=label, markersize=4, linewidth=1.4)
    axis.fill_between(x, low, high, color=colour, alpha=0.14, linewidth=0)


def save(figure: Any, name: str) -> None:
    figure.tight_layout()
    figure.savefig(FIGURES / f"evidence-{name}.png", dpi=120)
    plt.close(figure)


def score_against_cost() -> None:
    evidence, equal = load("evidence"), load("equal-cost")
    base, top = evidence["spread"]["random"][0], evidence["spread"]["oracle"]
    shift = lambda intervals: [[base + v for v in interval] for interval in intervals]  # noqa: E731
    figure, axis = axes(7.2, 4.4)
    budgets = [row["budget"] for row in equal["rows"]]
    line(
        axis,
        [1, *budgets],
        shift([[0, 0, 0], *(r["gain"] for r in equal["rows"])]),
        GREEN,
        "preview, halving",
    )
    full = shift([[0, 0, 0], *(r["full videos"] for r in equal["rows"])])
    line(axis, [1, *budgets], full, BLUE, "best of N full videos")
    best = max(evidence["learned"], key=lambda row: row["gain"][0])
    sizes = [int(m) for m in best["best of m"] if 1 + int(m) * best["evaluations"] / 40 <= 4]
    gains = shift([best["best of m"][str(m)] for m in sizes])
    line(
        axis,
        [1 + m * best["evaluations"] / 40 for m in sizes],
        gains,
        GOLD,
        f"learned, after {best['step']} steps",
    )
    pool = load("pool")
    for label, colour in (("bansa low", RED), ("bansa high", GREY)):
        sizes = [int(m) for m in pool[label]]
        end = label.split()[1] + "est"
        line(
            axis,
            [1 + m / 40 for m in sizes],
            shift(list(pool[label].values())),
            colour,
            f"{end} BANSA at t = T",
        )
    axis.axhline(top[0], color="black", linewidth=0.8, linestyle=":")
    axis.text(4, top[0], f"best of {evidence['spread']['noises']}", ha="right", va="bottom", fontsize=8)
    axis.set(xlabel="denoiser evaluations, in plain generations", ylabel="verifier score", xlim=(0.95, 4.05))
    axis.legend(frameon=False, fontsize=8, loc="center right")
    save(figure, "cost")


def pool_size() -> None:
    pool = load("pool")
    figure, axis = axes(5.6, 3.4)
    for label, colour in (
        ("oracle", "black"),
        ("bansa low", RED),
        ("bansa high", GREY),
        ("bansa k10 low", GOLD),
        ("entropy low", BLUE),
    ):
        line(axis, [int(m) for m in pool[label]], list(pool[label].values()), colour, label)
    axis.set(xscale="log", xlabel="noises in the pool", ylabel="gain over a random noise")
    axis.set_xticks([2, 4, 8, 16, 32], ["2", "4", "8", "16", "32"])
    axis.legend(frameon=False, fontsize=8)
    save(figure, "pool")


def depth() -> None:
    evidence = load("evidence")
    figure, (left, right) = axes(8.4, 3.2, 2)
    for name, colour in (("bansa", RED), ("entropy", BLUE)):
        rows = [evidence["depth"][f"{name} {d}"] for d in range(1, 7)]
        line(left, list(range(1, 7)), [row["within"] for row in rows], colour, name)
        for rule, style in (("full_score", "o-"), ("quality", "s--")):
            right.plot(range(1, 7), evidence["d*"][name][rule]["pooled"], style, color=colour, markersize=4,
                       linewidth=1.2, label=f"{name}, {rule.replace('_', ' ')}")  # fmt: skip
    left.axhline(0, color="black", linewidth=0.6)
    left.set(xlabel="layers averaged", ylabel="Spearman with the outcome, within prompts")
    right.axhline(0.7, color="black", linewidth=0.6, linestyle=":")
    right.set(xlabel="layers averaged", ylabel="pooled Pearson, as published")
    for axis in (left, right):
        axis.legend(frameon=False, fontsize=8)
    save(figure, "depth")


def mask_noise() -> None:
    rows = json.loads((HERE.parents[1] / "benchmarks/results/mask_noise.json").read_text())["rows"]
    figure, (left, right) = axes(8.4, 3.2, 2, sharey=True)
    for place, colour in (("probabilities", RED), ("logits", BLUE)):
        mine = [row for row in rows if row["place"] == place]
        some = [r for r in mine if (r["tokens"], r["rows"], r["heads"]) == (60, 60, 6)]
        line(
            left,
            [r["masks"] for r in some],
            [r["reliability"] for r in some],
            colour,
            f"masks on the {place}",
        )
        some = [r for r in mine if r["masks"] == 10 and r["rows"] == r["tokens"] and r["heads"] == 6]
        line(
            right,
            [r["tokens"] for r in some],
            [r["reliability"] for r in some],
            colour,
            f"masks on the {place}",
        )
    left.set(xlabel="K masks (60 tokens)", ylabel="agreement of two sets of masks")
    right.set(xlabel="tokens (K = 10)", xscale="log")
    right.set_xticks([60, 204, 444], ["60", "204", "444"])
    right.minorticks_off()
    left.legend(frameon=False, fontsize=8)
    save(figure, "mask-noise")


def terminal_snr() -> None:
    models = load("terminal-snr")
    names = {
        "shapes-cogvideox-unread": ("zero terminal SNR", RED, "o-"),
        "shapes-cogvideox-repeat": ("zero, second training", RED, "s--"),
        "shapes-cogvideox-snr": ("without", BLUE, "o-"),
        "shapes-cogvideox-snr-repeat": ("without, second training", BLUE, "s--"),
    }
    signals = ("entropy", "collision", "text_mass", "guidance_gap")
    figure, grid = axes(10, 2.9, 4, sharey=True)
    for axis, signal in zip(grid, signals, strict=True):
        for model, (label, colour, style) in names.items():
            rows = [row for row in models[model]["signals"] if row["signal"] == signal]
            line(axis, [r["step"] for r in rows], [r["within"] for r in rows], colour, label, style)
        axis.axhline(0, color="black", linewidth=0.6)
        axis.set(title=signal.replace("_", " "), xlabel="steps done")
    grid[0].set(ylabel="Spearman, within prompts")
    grid[-1].legend(frameon=False, fontsize=6.5)
    save(figure, "terminal-snr")


def gallery() -> None:
    """The surest choices of the lowest score that failed, beside the best noise of the same pool."""
    from seedbed import zoo
    from seedbed.noise import NoiseRecipe
    from seedbed.pipelines.session import Session

    pipe, strips = zoo.load("shapes-cogvideox-unread"), []
    for row in load("evidence")["confident but wrong"]["gallery"][:6]:
        session = Session(pipe, row["prompt"])
        pair = []
        for candidate in (row["candidate"], row["best"]):
            noise = NoiseRecipe(row["number"], candidate, tuple(session.spec.shape)).draw()
            frames = session.generate(noise)[::2]
            framed = np.pad(frames, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=60)
            pair.append(np.concatenate(list(framed), axis=1))
        strips.append(np.concatenate([pair[0], np.full((34, 12, 3), 255, np.uint8), pair[1]], axis=1))
    page = np.concatenate(strips, axis=0)
    Image.fromarray(page.repeat(2, axis=0).repeat(2, axis=1)).save(
        FIGURES / "evidence-wrong.png", optimize=True
    )


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    for draw in (score_against_cost, pool_size, depth, mask_noise, terminal_snr, gallery):
        draw()
        print(draw.__name__, flush=True)
