"""How far is the mask-free score from the average of drawn masks, over sharpness, keys, K and keep?

`python benchmarks/bansa_grid.py`: random attention rows with normal logits. A cell compares the mean of
`bansa_expected` over its rows with that of `bansa_masked` over rows and independent draws, and reports the
relative error with the Monte Carlo standard error. Rows sharper than a model's follow, for K = 10 and
keep = 0.2, in the table alone. Writes docs/figures/bansa-grid.csv and bansa-grid.png.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import math
from pathlib import Path

import matplotlib.pyplot as plt
import torch

from seedbed.attention import bansa_expected, bansa_masked

SPREADS = (0.25, 0.5, 1.0, 2.0, 3.0, 4.0, 6.0)
BEYOND = (10.0, 15.0, 20.0)
KEYS = (3, 8, 17, 60, 256, 1024)
MASKS = (2, 3, 10, 30)
KEEPS = (0.1, 0.2, 0.5, 0.8)
PLACES = ("probabilities", "logits")
ROWS = 8


def cell(
    place: str, spread: float, keys: int, masks: int, keep: float, budget: int
) -> dict[str, float | str]:
    generator = torch.Generator().manual_seed(keys)
    rows = spread * torch.randn(ROWS, keys, generator=generator, dtype=torch.float64)
    draws = max(40, budget // (ROWS * keys * masks))
    query, key = torch.eye(ROWS, dtype=torch.float64)[None, None], rows.T[None, None]
    options = {"scale": 1.0, "masks": masks, "keep": keep, "place": place}
    found = bansa_expected(query, key, **options).mean().item()
    drawn = bansa_masked(query.expand(1, draws, -1, -1), key, **options)[0].mean(1)
    mean, error = drawn.mean().item(), drawn.std().item() / math.sqrt(draws)
    return {
        "place": place,
        "logit_std": spread,
        "keys": keys,
        "masks": masks,
        "keep": keep,
        "draws": draws,
        "drawn": mean,
        "mask_free": found,
        "relative_error": (found - mean) / mean,
        "standard_error": error / mean,
    }


def figure(table: list[dict[str, float | str]], path: Path) -> None:
    plots, axes = plt.subplots(2, len(KEYS), figsize=(13, 4.6), sharex=True, sharey="row")
    for row, place in enumerate(PLACES):
        for column, keys in enumerate(KEYS):
            axis = axes[row, column]
            for keep, colour in zip(KEEPS, ("#7b5ea7", "#2a6f97", "#c77d3a", "#5b8c5a"), strict=True):
                cells = [
                    c
                    for c in table
                    if (c["place"], c["keys"], c["keep"], c["masks"]) == (place, keys, keep, 10)
                    and c["logit_std"] in SPREADS
                ]
                x = [float(c["logit_std"]) for c in cells]
                y = [100 * float(c["relative_error"]) for c in cells]
                bars = [196 * float(c["standard_error"]) for c in cells]
                axis.errorbar(
                    x, y, yerr=bars, color=colour, linewidth=1, marker="o", markersize=3, label=f"keep {keep}"
                )
            axis.axhline(0, color="#888", linewidth=0.6)
            axis.spines[["top", "right"]].set_visible(False)
            if row == 0:
                axis.set_title(f"{keys} keys", fontsize=9)
            else:
                axis.set_xlabel("std of the logits", fontsize=8)
            if column == 0:
                axis.set_ylabel(f"masks on {place}\nerror, %", fontsize=8)
            axis.tick_params(labelsize=7)
    axes[0, 0].legend(fontsize=7, frameon=False)
    plots.tight_layout()
    plots.savefig(path, dpi=120)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--budget", type=int, default=1_000_000, help="mask entries drawn for each cell")
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parents[1] / "docs/figures")
    arguments = parser.parse_args()
    table = [
        cell(place, spread, keys, masks, keep, arguments.budget)
        for place, keys, masks, keep, spread in (
            *itertools.product(PLACES, KEYS, MASKS, KEEPS, SPREADS),
            *itertools.product(PLACES, KEYS, (10,), (0.2,), BEYOND),
        )
    ]
    with (arguments.out / "bansa-grid.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, table[0].keys())
        writer.writeheader()
        writer.writerows(table)
    figure(table, arguments.out / "bansa-grid.png")
    for place, spreads in itertools.product(PLACES, (SPREADS, *((spread,) for spread in BEYOND))):
        cells = [c for c in table if c["place"] == place and c["logit_std"] in spreads]
        errors = sorted(abs(float(c["relative_error"])) for c in cells)
        middle = f"median {errors[len(errors) // 2]:.2%}, largest {errors[-1]:.2%} of {len(errors)} cells"
        print(f"{place}, std {spreads[0]} to {spreads[-1]}: {middle}")
