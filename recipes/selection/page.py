# ruff: noqa: E501 - the page is prose
"""Write docs/evidence.md and the README's table from recipes/selection/results.

`python recipes/selection/page.py`, after `summarise.py`, `first_step.py`, `benchmarks/mask_noise.py` and
`figures.py`. A test checks that both are what the committed results make.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
START, END = "<!-- evidence: recipes/selection/page.py writes this -->", "<!-- /evidence -->"

SIGNALS = {
    "entropy": "row entropy",
    "collision": "collision probability",
    "bansa": "BANSA, mask-free",
    "text_mass": "attention on the text",
    "guidance_gap": "guidance gap",
    "x0_std": "spread of x̂0",
    "x0_motion": "motion of x̂0",
    "x0_change": "change of x̂0",
    "judge.score": "verifier on decoded x̂0",
}


def load(name: str) -> Any:
    return json.loads((HERE / f"results/{name}.json").read_text())


def signed(interval: list[float | None]) -> str:
    mean, low, high = interval
    if mean is None:
        return "–"
    return f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]".replace("-", "−")


def plain(interval: list[float | None]) -> str:
    return "–" if interval[0] is None else "{:.3f} [{:.3f}, {:.3f}]".format(*interval)


def percent(interval: list[float | None]) -> str:
    mean, low, high = interval
    if mean is None:
        return "–"
    return f"{100 * mean:.0f} % [{100 * low:.0f}, {100 * high:.0f}]".replace("-", "−")


def p_value(p: float) -> str:
    return "1" if p >= 0.995 else f"{p:.3f}" if p >= 0.001 else "< .001"


def rows_of(lines: list[list[str]], heads: list[str]) -> str:
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [heads, ["---"] * len(heads), *lines])


def signal_table(rows: list[dict[str, Any]]) -> str:
    lines = []
    for row in rows:
        step, _, name = row["signal"].partition("/")
        agreement = "–" if row["reliability"] is None else f"{row['reliability'][0]:.2f}"
        lines.append(
            [
                SIGNALS[name],
                step,
                f"{row['evaluations']:g}",
                signed(row["within"]),
                p_value(row["adjusted"]),
                signed(row["low"]),
                signed(row["high"]),
                percent(row["share"]),
                agreement,
            ]
        )
    return rows_of(
        lines,
        ["signal", "steps", "NFE", "Spearman", "p", "gain, lowest", "gain, highest", "share", "reliability"],
    )


def variant_table(rows: list[dict[str, Any]]) -> str:
    lines = []
    for row in rows:
        name = row["signal"].removeprefix("0/")
        masks, place, keep = "mask-free", "probabilities", "0.2"
        for part in name.replace(".0", "", 0).split("."):
            if part.startswith("k") and part[1:].isdigit():
                masks = f"K = {part[1:]}"
        place = "logits" if "logits" in name else place
        for value in ("0.5", "0.8"):
            keep = value if f"keep{value}" in name else keep
        if name == "bansa-dropout":
            masks, place, keep = "K = 10", "dropout, 10 forwards", "0.8"
        agreement = "–" if row["reliability"] is None else plain(row["reliability"])
        lines.append(
            [place, masks, keep, signed(row["within"]), signed(row["low"]), signed(row["high"]), agreement]
        )
    head = [
        "masks on",
        "estimate",
        "keep",
        "Spearman",
        "gain, lowest",
        "gain, highest",
        "agreement of two sets of masks",
    ]
    return rows_of(lines, head)


def schedule_text(chosen: dict[str, Any]) -> str:
    rungs = ", ".join(f"{left} after {at}" for at, left in chosen["schedule"])
    return f"{chosen['candidates']} noises: {rungs}"


def equal_table(rows: list[dict[str, Any]]) -> str:
    return rows_of(
        [
            [
                f"{row['budget']:g} ×",
                signed(row["gain"]),
                percent(row["share"]),
                signed(row["full videos"]),
                percent(row["full videos share"]),
                signed(row["difference"]),
                "; ".join(dict.fromkeys(schedule_text(c) for c in row["chosen"])),
            ]
            for row in rows
        ],
        [
            "cost",
            "preview: gain",
            "share",
            "best of N: gain",
            "share",
            "difference",
            "schedules (survivors after steps)",
        ],
    )


def front_table() -> str:
    """The README's: what choosing by each signal brings on the embedded model, as it came out."""
    evidence, equal = load("evidence"), load("equal-cost")
    spread = evidence["spread"]
    by_name = {row["signal"]: row for row in evidence["signals"] + evidence["variants"]}

    def cost(evaluations: float, pool: int = 10) -> str:
        return f"{1 + pool * evaluations / 40:.2f} ×"

    lines = [["a random noise", "1 ×", plain(spread["random"]), "–"]]

    def line(label: str, price: str, interval: list[float], share: list[float]) -> None:
        lines.append([label, price, signed(interval), percent(share)])

    gap = spread["gap"][0]
    for label, name, end in (
        ("lowest BANSA at the first step, K = 10 masks, as published", "0/bansa.k10.0", "low"),
        ("lowest BANSA, mask-free", "0/bansa", "low"),
        ("highest BANSA, mask-free", "0/bansa", "high"),
        ("lowest entropy", "0/entropy", "low"),
    ):
        row = by_name[name]
        lines.append(
            [label, cost(1, 16), signed(row[end]), f"{100 * row[end][0] / gap:.0f} %".replace("-", "−")]
        )
    learned = evidence["learned"][0]
    line(
        "learned from the first step's attention and prediction",
        cost(2, 16),
        learned["gain"],
        learned["share"],
    )
    for row in equal["rows"]:
        if row["budget"] in (2.0, 3.0):
            number = f"{row['budget']:g}"
            line(
                f"best of {number} full videos, by the verifier",
                f"{number} ×",
                row["full videos"],
                row["full videos share"],
            )
            line("**preview**, by the same verifier", f"{number} ×", row["gain"], row["share"])
    lines.append(
        [f"the best of {spread['noises']} noises", f"{spread['noises']} ×", signed(spread["gap"]), "100 %"]
    )
    return rows_of(lines, ["choice among 16 noises", "cost", "gain in score", "share of the gap"])
