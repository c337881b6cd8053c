"""Write docs/evidence.md, its appendix, its figure and the README's table: `python recipes/front/page.py`.

From what `summarise.py` and `semantics.py` leave in `results/`, and from the two templates beside this file.
A test checks that the pages are what the committed results make.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jinja2

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from tables import fine, interval, replaced, share, signed, table  # noqa: E402

ROOT = HERE.parents[1]
MODELS = ("shapes-cogvideox", "shapes-wan")
FEW = "shapes-wan-fast"
SHOWN = ("bansa", "judge.score")  # of the signals, on the page itself
LEAST = -0.15  # of the figure; what lies beyond is written
BESIDE = ("movement", "flicker", "sharpness")
Found = dict[str, dict[str, Any]]


def read() -> Found:
    """The results of the models that have any."""
    found: Found = {}
    for model in MODELS:
        for name in (model, f"semantics-{model}"):
            file = HERE / f"results/{name}.json"
            if file.exists():
                part = json.loads(file.read_text())
                found.setdefault(model, {}).update(part if name == model else {"semantics": part})
    return found


def cells(results: Found, part: str, line: str, form: Callable[[dict[str, Any]], str]) -> list[str]:
    """One cell for each model; – where it has no such line."""
    return [form(r[part][line]) if line in r.get(part, {}) else "–" for r in results.values()]


def lines_of(results: Found, part: str) -> list[str]:
    """The lines of a part that any model has, in their order."""
    return list(dict.fromkeys(line for result in results.values() for line in result.get(part, {})))


def front(results: Found) -> str:
    """Every way to choose or better a noise: its cost, and what it gains on each model."""
    heads = ["method", "verifier", "cost", *(f"gain, `{model}`" for model in results)]
    rows = [["the first noise", "–", "1 ×", *(f"score {interval(r['random'])}" for r in results.values())]]
    for line in sorted(
        lines_of(results, "front"),
        key=lambda line: min(r["front"][line]["cost"] for r in results.values() if line in r["front"]),
    ):
        judged = any(r["front"].get(line, {}).get("verifier") for r in results.values())
        cost = " / ".join(dict.fromkeys(cells(results, "front", line, lambda each: f"{each['cost']:.2g} ×")))
        gains = cells(results, "front", line, lambda each: signed(each["gain"]))
        rows.append([line, "yes" if judged else "no", cost, *gains])
    rows.append(["the best of 16", "yes", "16 ×", *(signed(r["gap"]) for r in results.values())])
    return table(heads, rows)


def twice(results: Found) -> str:
    """What about the cost of two generations buys, against best of 2."""
    rows = [
        [line, f"`{model}`", "yes" if each["verifier"] else "no", signed(each["minus best of 2"])]
        for model, result in results.items()
        for line, each in result["front"].items()
        if 1.5 < each["cost"] < 2.5 and line != "best of 2"
    ]
    return table(["method", "model", "verifier", "score minus best of 2"], rows)


def steps(results: Found) -> str:
    """After how many steps something is known: attention, the predictions, and the verifier's look."""
    rows = [
        [
            f"`{model}`",
            f"`{each['signal']}`",
            signed(each["within"]),
            f"{each['p']:.2g}",
            signed(max((each["low"], each["high"]), key=lambda gain: gain[0])),
        ]
        for model, result in results.items()
        for each in result["signals"]
        if each["signal"].partition("/")[2] in SHOWN
    ]
    rows += [
        [
            f"`{model}`",
            f"`{each['step']}/judge.score`, of 8",
            signed(each["within"]),
            "–",
            signed(each["gain"]),
        ]
        for model, result in results.items()
        for each in result.get("late", [])
    ]
    return table(["model", "steps/signal", "Spearman", "p", "gain of the better end"], rows)


def unseen(results: Found) -> str:
    """What previews gain on the half of the attributes that they were not chosen by, in words."""
    return "; ".join(
        f"`{model}`, {line} {signed(each)}"
        for model, result in results.items()
        for line, each in result["unseen judge"].items()
        if line in ("chosen by look, judged by motion", "chosen by motion, judged by look")
    )


def beside(results: Found) -> str:
    """What the methods do to numbers that nothing was chosen by."""
    rows = [
        [line, f"`{model}`", signed(each["minus best of 2"]), *(fine(each.get(n)) for n in BESIDE)]
        for line in lines_of(results, "front")
        for model, result in results.items()
        if (each := result["front"].get(line))
    ]
    return table(["method", "model", "score minus best of 2", *BESIDE], rows)


def compared(results: Found, part: str, keys: Sequence[str]) -> str:
    """Every method of a recipe minus its first, on the same noises."""
    rows = [
        [line, f"`{model}`", f"{each['evaluations']:.3g}", *(fine(each.get(k)) for k in keys)]
        for line in lines_of(results, part)
        for model, result in results.items()
        if (each := result.get(part, {}).get(line))
    ]
    return table(["method", "model", "NFE", *keys], rows)


def semantics(results: Found) -> str:
    """Prompts that say what a noise makes by itself, from that noise and from another."""
    rows = [
        [
            f"`{model}`",
            str(own["captions"]["noises"]),
            measure,
            *map(interval, (each["matched"], each["mismatched"])),
            signed(each["difference"]),
        ]
        for model, result in results.items()
        for own in [result["semantics"]]
        for measure, each in own["measures"].items()
    ]
    return table(["model", "noises", "measure", "matched", "mismatched", "difference"], rows)


def first_step(few: dict[str, Any]) -> str:
    """What the first step of the model of few steps knows, and what the verifier sees after one and two."""
    rows = [
        [
            f"`{each['signal']}`",
            signed(each["within"]),
            f"{each['p']:.2g}",
            *(signed(each[end]) for end in ("low", "high")),
        ]
        for each in few["first step"]
        + [each for each in few["signals"] if each["signal"].endswith("judge.score")]
    ]
    return table(["signal", "Spearman", "p, Holm", "gain, lowest", "gain, highest"], rows)


def spread() -> dict[str, Any]:
    """What `seedbed noise spread` found on the teacher and on its student."""
    paths = {model: HERE / f"results/spread-{model}.json" for model in (MODELS[1], FEW)}
    return {model: json.loads(path.read_text()) for model, path in paths.items()}


def spreads() -> str:
    """What the prompt and the noise decide of how finished videos look, on both Wan models."""
    shares = ("prompt", "noise", "both", "within")
    rows = []
    for model, found in spread().items():
        rows.append([f"`{model}`", *(interval(found[each], ".2f") for each in shares)])
    return table(["model", "prompt", "noise", "both together", "within a prompt"], rows)


def kinds(results: Found) -> str:
    """Score and gap by what the two objects of a caption share, and how the lowest BANSA does there."""
    rows = [
        [
            kind,
            f"`{model}`",
            str(each["captions"]),
            *(interval(each[k]) for k in ("random", "gap")),
            *(share(each[k]) for k in ("wrong", "wrong, lowest BANSA")),
        ]
        for model, result in results.items()
        for kind, each in result["kinds"].items()
    ]
    return table(
        ["both objects share", "model", "captions", "random", "gap", "wrong", "wrong, lowest BANSA"], rows
    )


def signals(result: dict[str, Any]) -> str:
    """What every signal on the way is worth on one model."""
    rows = [
        [
            f"`{each['signal']}`",
            f"{each['evaluations']:g}",
            signed(each["within"]),
            f"{each['p']:.2g}",
            signed(each["low"]),
            signed(each["high"]),
            signed(each["reliability"]) if each["reliability"] else "–",
        ]
        for each in result["signals"]
    ]
    return table(
        ["signal", "NFE", "Spearman", "p, Holm", "gain, lowest", "gain, highest", "reliability"], rows
    )


def pages(results: Found) -> dict[Path, str]:
    """What is written where."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE), undefined=jinja2.StrictUndefined, keep_trailing_newline=True
    )
    made = {"results": results, "cogvideox": results[MODELS[0]], "wan": results.get(MODELS[1])}
    made["few"] = json.loads((HERE / f"results/{FEW}.json").read_text())
    made["spread"] = spread()
    parts = (front, twice, steps, unseen, beside, compared, semantics, first_step, spreads, kinds, signals)
    made |= {f.__name__: f for f in parts}
    made |= {f.__name__: f for f in (interval, signed, share)}
    return {
        ROOT / "docs/evidence.md": environment.get_template("evidence.md").render(made),
        ROOT / "docs/evidence-appendix.md": environment.get_template("appendix.md").render(made),
        ROOT / "README.md": replaced(ROOT / "README.md", "evidence", front(results)),
    }


def draw(results: Found, path: Path) -> None:
    """What every method gains at which cost, a panel for each model; the cheapest at the top."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(results), figsize=(5.2 * len(results), 4.8), squeeze=False)
    for axis, (model, result) in zip(axes[0], results.items(), strict=True):
        lines = sorted(result["front"].items(), key=lambda item: item[1]["cost"])
        for place, (_, each) in enumerate(lines):
            mean, low, high = each["gain"]
            colour = "#3b8752" if each["verifier"] else "#2a6f97"
            if high < LEAST:
                axis.text(LEAST, place, f"\u25c4 {mean:.2f}", color=colour, va="center", fontsize=8)
            else:
                axis.errorbar(mean, place, xerr=[[mean - low], [high - mean]], fmt="o", color=colour)
        axis.axvline(0, color="#8a8f98", linewidth=1)
        axis.axvline(result["gap"][0], color="#8a8f98", linewidth=1, linestyle=":")
        axis.set_yticks(
            range(len(lines)), [f"{name}  ({each['cost']:.2g} ×)" for name, each in lines], fontsize=8
        )
        axis.set_xticks([-0.1, 0, 0.1])
        axis.invert_yaxis()
        axis.set(title=model, xlabel="gain in score over one noise", xlim=(LEAST, -LEAST))
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    results = read()
    for path, text in pages(results).items():
        path.write_text(text)
    draw(results, ROOT / "docs/figures/evidence-cost.png")
