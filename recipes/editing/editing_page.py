"""What edits are worth: `python recipes/editing/editing_page.py shapes-wan=runs/editing-wan.jsonl ...`.

Makes `results.json` of the lines of editing.py, then the measured part of docs/editing.md and its figure of
that. Without files the page alone. A test checks that the page is what the committed results make.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from editing import INJECTED, SOURCES, lines
from scipy.stats import binomtest

from seedbed.statistics import bootstrap, holm

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from tables import interval, replaced, rounded, share, signed, table  # noqa: E402

ROOT = HERE.parents[1]
OUTCOMES = ("followed", "kept", "all_kept", "both", "outside")
RIVALS = ("all", "high", "low-40", "flowedit")
BOUNDS = ("none", "source")
METHODS = {
    "low": "low-entropy half, 80 % of the steps",
    "low-40": "the same, 40 %",
    "high": "high-entropy half, 80 %",
    "all": "all layers, 80 %",
    "flowedit": "FlowEdit",
    "none": "bound: target from the same noise",
    "source": "bound: the source, untouched",
}
Found = dict[str, dict[str, dict[str, Any]]]


def summary(found: list[dict[str, Any]]) -> dict[str, Any]:
    """For each kind of source: every method's outcomes over captions, and `low` against the others.

    Ends with one line where a run is not finished: without the methods that decide there is no verdict.
    """
    kinds = {}
    for kind in SOURCES:
        by = defaultdict[str, dict[int, dict[str, Any]]](dict)
        for line in found:
            if line["kind"] == kind:
                by[line["method"]][line["case"]] = line
        dropped = len(by.pop("dropped", {}))
        if not by:
            continue
        if missing := [name for name in ("low", *BOUNDS) if name not in by]:
            names = " and ".join(f"`{name}`" for name in missing)
            raise SystemExit(f"the {kind} source has no edit by {names} yet: run editing.py again to go on")
        methods: dict[str, Any] = {}
        for method, own in by.items():
            methods[method] = {what: bootstrap([line[what] for line in own.values()]) for what in OUTCOMES}
            methods[method]["evaluations"] = float(np.mean([line["nfe"] for line in own.values()]))
            both = sorted(by["low"].keys() & own.keys())
            if method != "low" and both:
                for what in ("both", "outside"):
                    pairs = [by["low"][case][what] - own[case][what] for case in both]
                    methods[method][f"low minus it, {what}"] = bootstrap(pairs)
        rivals = [method for method in RIVALS if method in by]
        for method, p in zip(rivals, holm([signs(by["low"], by[each]) for each in rivals]), strict=True):
            methods[method]["p"] = float(p)
        source = by.get("source", {}).values()
        inversion = {
            what: bootstrap([line[what] for line in source])
            for what in ("error", "right", "deviation")
            if all(what in line for line in source)
        }
        failed = [name for name in BOUNDS if methods[name]["low minus it, both"][1] <= 0]
        kinds[kind] = {
            "captions": len(by["low"]),
            "dropped": dropped,
            "methods": methods,
            "inversion": inversion,
            "not above": failed,
        }
    return kinds


def signs(one: dict[int, dict[str, Any]], other: dict[int, dict[str, Any]]) -> float:
    """The two-sided sign test on *both*, over the cases in which they differ."""
    pairs = [one[case]["both"] - other[case]["both"] for case in one.keys() & other.keys()]
    wins, losses = sum(each > 0 for each in pairs), sum(each < 0 for each in pairs)
    return float(binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0


def verdict(kind: dict[str, Any]) -> str:
    """What the plan calls the method, by the two bounds."""
    low, failed = kind["methods"]["low"], kind["not above"]
    aims = low["followed"][0] >= 0.8 and low["kept"][0] >= 0.9
    if failed:
        names = {"none": "the target from the same noise", "source": "the untouched source"}
        return f"**a failed edit**: not above {' and '.join(names[each] for each in failed)}"
    return "above both bounds" + (", aims met" if aims else ", aims not met")


def pages(found: Found) -> dict[Path, str]:
    """What is written where."""
    verdicts, rows, inverted = [], [], []
    for model, kinds in found.items():
        for kind, each in kinds.items():
            verdicts.append(f"- `{model}`, {kind} source ({each['captions']} captions): {verdict(each)}.")
            for method in (name for name in METHODS if name in each["methods"]):
                own = each["methods"][method]
                minus = own.get("low minus it, both")
                cells = [share(own[what]) for what in ("followed", "kept", "both")]
                cells += [interval(own["outside"], ".1f"), signed(minus) if minus else ""]
                rows.append([f"`{model}`, {kind}", METHODS[method], *cells])
            if each["inversion"]:
                made = each["inversion"]
                error, right, deviation = (
                    interval(made["error"], ".1f"),
                    share(made["right"]),
                    interval(made["deviation"], ".2f"),
                )
                inverted.append(
                    f"On `{model}` the unguided video from the inverted noise is {error} grey levels from "
                    f"the source, the verifier still finds {right} all right, and the noise has a "
                    f"deviation of {deviation}."
                )
    heads = ["source", "method", "followed", "kept", "both", "outside", "low − it, both"]
    text = "\n\n".join(["\n".join(verdicts), table(heads, rows), " ".join(inverted)])
    return {ROOT / "docs/editing.md": replaced(ROOT / "docs/editing.md", "measured", text)}


def draw(found: Found, path: Path) -> None:
    """Share of edits that follow and keep everything, by method, a panel for each model and source."""
    import matplotlib.pyplot as plt

    parts = [(model, kind, each) for model, kinds in found.items() for kind, each in kinds.items()]
    figure, axes = plt.subplots(1, len(parts), figsize=(3.4 * len(parts), 3.2), sharey=True, squeeze=False)
    for axis, (model, kind, each) in zip(axes[0], parts, strict=True):
        for place, method in enumerate(METHODS):
            if method in each["methods"]:
                mean, low, high = each["methods"][method]["both"]
                colour = "#3b8752" if method in INJECTED else "#8a8f98" if method in BOUNDS else "#2a6f97"
                axis.errorbar(mean, place, xerr=[[mean - low], [high - mean]], fmt="o", color=colour)
        axis.set_yticks(range(len(METHODS)), METHODS.values(), fontsize=8)
        axis.set(title=f"{model}, {kind}", xlabel="followed, and all kept", xlim=(-0.03, 1.03))
        axis.title.set_fontsize(9)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0][0].invert_yaxis()
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*", help="MODEL=FILE.jsonl each (else the committed results)")
    results = HERE / "results.json"
    if given := dict(each.split("=", 1) for each in parser.parse_args().files):
        made = {model: summary(lines(Path(file))) for model, file in given.items()}
        results.write_text(json.dumps(rounded(made), indent=1) + "\n")
    found = json.loads(results.read_text())
    for path, text in pages(found).items():
        path.write_text(text)
    draw(found, ROOT / "docs/figures/editing.png")
