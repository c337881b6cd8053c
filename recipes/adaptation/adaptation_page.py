"""What enhancement and guidance are worth: `python recipes/adaptation/adaptation_page.py --runs runs`.

Reads what `seedbed lab run` made of this folder's recipes, runs/enhancement, runs/guidance and runs/layers,
into `results.json`; then writes the measured part of docs/enhancement.md and its figure from that. Without
--runs the page alone. A test checks that the page is what the committed results make.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from seedbed.lab.evidence import OUTCOME, Evidence
from seedbed.lab.work import Store
from seedbed.statistics import Array, bootstrap
from seedbed.verifiers.appearance import METRICS

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from tables import fine, interval, replaced, rounded, signed, table  # noqa: E402

ROOT = HERE.parents[1]
RECIPES = ("enhancement", "guidance", "layers")
# Of the largest recipe, but the first, which the others are held against. The intervals of every recipe are
# widened for so many where a finding counts.
SETTINGS = max(len(json.loads((HERE / f"{name}.json").read_text())["methods"]) - 1 for name in RECIPES)
MODELS = ("shapes-cogvideox", "shapes-wan")
Found = dict[str, dict[str, dict[str, Any]]]


def corrected(values: Array, draws: int = 20_000) -> list[float]:
    """Mean over captions with its bootstrap interval at 1 − .05 / SETTINGS."""
    drawn = np.random.default_rng(0).integers(len(values), size=(draws, len(values)))
    tail = 0.05 / SETTINGS / 2
    return [float(values.mean()), *map(float, np.quantile(values[drawn].mean(1), [tail, 1 - tail]))]


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Each model's methods, minus the first on the same noises; of the first the values themselves."""
    found: dict[str, Any] = {}
    for model in sorted({row["model"] for row in rows}):
        methods: dict[str, list[dict[str, Any]]] = {}
        for row in rows:
            if row["model"] == model:
                methods.setdefault(row["method"], []).append(row)
        columns = {method: Evidence.of(own).columns for method, own in methods.items()}
        first, plain = next(iter(columns.items()))
        best = max(columns, key=lambda method: columns[method][OUTCOME].mean())
        found[model] = {"captions": len(plain[OUTCOME])}
        for method, own in columns.items():
            minus = {
                n: own[n] - (0 if method == first else plain[n]) for n in own if n.startswith("outcome.")
            }
            score = minus[OUTCOME].mean(1)
            found[model][method] = {
                "evaluations": float(
                    sum(own[n].mean() for n in own if n.startswith("cost.") and "step" not in n)
                ),
                "score": bootstrap(score),
                **{name: bootstrap(minus[f"outcome.{name}"].mean(1)) for name in METRICS},
                "corrected": corrected(score),
                "minus best": bootstrap((own[OUTCOME] - columns[best][OUTCOME]).mean(1)),
            }
    return found


def part(found: Found, recipe: str) -> str:
    """The table of a recipe, a line for each setting; a star where its gain counts among all tried."""
    models = [model for model in MODELS if model in found[recipe]]
    heads = ["setting", *(f"{what}, `{model}`" for what in ("score", "sharpness") for model in models)]
    rows = []
    for number, setting in enumerate(name for name in found[recipe][models[0]] if name != "captions"):
        own = [found[recipe][model][setting] for model in models]
        scores = [(signed if number else interval)(each["score"]) for each in own]
        stars = ["\\*" if number and each["corrected"][1] > 0 else "" for each in own]
        sharp = [fine(each["sharpness"]) if number else interval(each["sharpness"], ".4f") for each in own]
        rows.append([setting, *map(str.__add__, scores, stars), *sharp])
    return table(heads, rows)


def pages(found: Found) -> dict[Path, str]:
    """What is written where."""
    path = ROOT / "docs/enhancement.md"
    titles = {"enhancement": "Enhancement", "guidance": "Guidance", "layers": "Guidance by a single layer"}
    tables = [f"### {title}\n\n{part(found, recipe)}" for recipe, title in titles.items()]
    return {path: replaced(path, "measured", "\n\n".join(tables))}


def draw(found: Found, path: Path) -> None:
    """The gain in score of every setting, a panel for each model."""
    import matplotlib.pyplot as plt

    colours = dict(zip(RECIPES, ("#3b8752", "#2a6f97", "#b0672b"), strict=True))
    figure, axes = plt.subplots(1, len(MODELS), figsize=(11, 8), sharey=True)
    for axis, model in zip(axes, MODELS, strict=True):
        settings = [
            (recipe, setting, each["score"])
            for recipe in RECIPES
            for setting, each in [*found[recipe][model].items()][2:]  # after the captions and the first
        ]
        for place, (recipe, _, (mean, low, high)) in enumerate(settings):
            axis.errorbar(mean, place, xerr=[[mean - low], [high - mean]], fmt="o", color=colours[recipe])
        axis.axvline(0, color="#8a8f98", linewidth=1)
        names = [setting for _, setting, _ in settings]
        axis.set_yticks(range(len(names)), names, fontsize=8)
        axis.set(title=model, xlabel="change of the score at equal cost")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].invert_yaxis()
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, help="the folder of the runs (else the committed results)")
    arguments = parser.parse_args()
    results = HERE / "results.json"
    if arguments.runs:
        made = {}
        for name in RECIPES:  # a run of each model may have a folder of its own, NAME-MODEL
            folders = sorted(path.parent for path in arguments.runs.glob(f"{name}*/rows.jsonl"))
            made[name] = summary([row for folder in folders for row in Store(folder).rows()])
        results.write_text(json.dumps(rounded(made), indent=1) + "\n")
    found = json.loads(results.read_text())
    for path, text in pages(found).items():
        path.write_text(text)
    draw(found, ROOT / "docs/figures/adaptation.png")
