"""The tables and the figure of docs/attention.md: `python recipes/attention/attention_page.py`.

From what study.py left in `results/`. A test checks that the page is what the committed results make.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from tables import interval, replaced, table  # noqa: E402

ROOT = HERE.parents[1]
MODELS = ("shapes-cogvideox", "shapes-wan", "shapes-animatediff")
EFFECTS = {
    "ssim": "structure: SSIM with the unperturbed video",
    "verifier.score": "attributes right, change",
    "|sharpness|": "sharpness, size of the change",
    "|flicker|": "flicker, size of the change",
}
Found = dict[str, dict[str, Any]]


def read() -> Found:
    """The results of the models that have any."""
    paths = {model: HERE / f"results/{model}.json" for model in MODELS}
    return {model: json.loads(path.read_text()) for model, path in paths.items() if path.exists()}


def effects(result: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of the page: by entropy of all a layer's rows."""
    own = [e for e in result["effects"] if e["effect"] in EFFECTS]
    return [e for e in own if (e["by"], e["part"]) == ("normalised_entropy", "all")]


def pages(results: Found) -> dict[Path, str]:
    """What is written where."""
    rows = [
        [
            EFFECTS[each["effect"]],
            f"`{model}`, {each['kind']}, {each['layers']} layers",
            each["perturb"],
            interval(each["spearman"], "+.2f"),
            *(
                interval(each[half], ".4f" if each["effect"][0] == "|" else "+.2f")
                for half in ("top", "bottom")
            ),
        ]
        for effect in EFFECTS
        for model, result in results.items()
        for each in effects(result)
        if each["effect"] == effect
    ]
    heads = ["effect", "layers", "replaced by", "Spearman with entropy", "high half", "low half"]
    beside = [
        [f"`{model}`", pair, interval(values, "+.2f")]
        for model, result in results.items()
        for pair, values in [
            ("entropy, energy (over layers)", result["entropy with energy"]),
            *result["anse"].items(),
        ]
    ]
    text = f"{table(heads, rows)}\n\n{table(['model', 'pair', 'Spearman'], beside)}"
    return {ROOT / "docs/attention.md": replaced(ROOT / "docs/attention.md", "measured", text)}


def draw(results: Found, path: Path) -> None:
    """Spearman of entropy with every effect, a panel for each model."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(results), figsize=(5.4 * len(results), 3.8), squeeze=False)
    for axis, (model, result) in zip(axes[0], results.items(), strict=True):
        # Of what never changes, as the score where layers stand in for one another, there is no correlation.
        told = [each for each in effects(result) if None not in each["spearman"]]
        rows = sorted(told, key=lambda each: [*EFFECTS].index(each["effect"]))
        for place, each in enumerate(rows):
            mean, low, high = each["spearman"]
            colour = "#2a6f97" if each["perturb"] == "identity" else "#b0672b"
            axis.errorbar(mean, place, xerr=[[mean - low], [high - mean]], fmt="o", color=colour)
        names = [
            f"{EFFECTS[e['effect']].split(':')[0].split(',')[0]}, {e['kind']}, {e['perturb']}" for e in rows
        ]
        axis.set_yticks(range(len(rows)), names, fontsize=8)
        axis.axvline(0, color="#8a8f98", linewidth=1)
        axis.set(title=model, xlabel="Spearman with a layer's entropy", xlim=(-1.05, 1.05))
        axis.invert_yaxis()
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    results = read()
    for path, text in pages(results).items():
        path.write_text(text)
    draw(results, ROOT / "docs/figures/attention.png")
