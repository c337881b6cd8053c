"""The tables of docs/cost.md, from benchmarks/results: `python benchmarks/cost_page.py`."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/cost.md"


def load(name: str) -> Any:
    return json.loads((ROOT / f"benchmarks/results/{name}.json").read_text())


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def percent(value: float) -> str:
    """Two digits, or whole percents from 100 on."""
    return f"{100 * value:.0f} %" if abs(value) >= 0.995 else f"{100 * value:#.2g} %".replace(". %", " %")


def between(found: dict[str, float]) -> str:
    """A share with its quartiles."""
    if found["low"] == found["high"]:
        return percent(found["median"])
    return f"{percent(found['median'])} [{percent(found['low'])}, {percent(found['high'])}]"


def where(machine: dict[str, Any]) -> str:
    threads = "one thread" if machine["threads"] == 1 else f"{machine['threads']} threads"
    busy = f"{machine['cores']} cores, load {machine['load']} before the start"
    return (
        f"{machine['device']}, {threads}, {busy}, torch {machine['torch']}, diffusers {machine['diffusers']}"
    )


def full_size() -> str:
    result = load("cost_model")
    costs, bytes_ = [], []
    for model in result["models"]:
        methods = model["methods"]
        plain = methods["plain"]["operations"]

        def operations(name: str, methods: Any = methods) -> float:
            return float(methods[name]["operations"] + methods[name]["scoring_operations"])

        frames, height, width = model["size"]
        costs.append(
            [
                f"{model['name']}, {frames} × {height} × {width}",
                f"{model['tokens']:,}",
                f"{methods['plain']['evaluations']:.0f}; {plain / 1e15:.3g}",
                f"{methods['published']['evaluations']:.2f}; {operations('published') / 1e15:.3g}; "
                f"**{percent(operations('published') / plain)}**",
                f"{methods['ours']['evaluations']:.2f}; {operations('ours') / 1e15:.3g}; "
                f"**{percent(operations('ours') / plain)}**",
                f"{percent(methods['ours']['scoring_operations'] / plain)}",
                f"{methods['second look']['evaluations']:.2f}; {percent(operations('second look') / plain)}",
                f"{methods['best of 10']['evaluations']:.0f}; {operations('best of 10') / 1e15:.4g}",
            ]
        )
        memory = model["memory"]
        bytes_.append(
            [
                model["name"],
                f"{model['parameters'] / 1e9:.2f}",
                *(f"{methods[name]['weight_bytes'] / 1e12:.2g}" for name in ("plain", "published", "ours")),
                f"{memory['plain'] / 1e9:.1f}",
                f"{memory['ours'] / 1e9:.1f}",
                f"{memory['batch']}",
                f"{memory['ours'] / memory['plain']:.2f} ×",
            ]
        )
    head = ["model", "tokens", "plain", "published", "ours", "of which scores", "a second look", "best of 10"]
    head_bytes = ["model", "10⁹ parameters", "weights read, TB: plain", "published", "ours"]
    head_bytes += ["peak, GB: guided step", "ours", "noises in a call", "ratio"]
    return (
        f"Evaluations; operations in PFLOP; **operations against the plain generation's**. Ours looks at "
        f"{result['rows']} rows of each layer, in a second look at {result['rows_of_second_look']}:\n\n"
        f"{table(head, costs)}\n\nBytes, weights in bfloat16:\n\n{table(head_bytes, bytes_)}"
    )


def measured(name: str) -> str:
    result = load(name)
    parts = []
    for subject in result["subjects"]:
        rows = [
            [
                method,
                f"{found['evaluations']['median']:.2f}",
                between(found["ledger_overhead"]),
                between(found["overhead"]),
                f"{found['seconds']['median']:.1f}",
            ]
            for method, found in subject["methods"].items()
        ]
        head = ["", "evaluations", "overhead, ledger", "overhead, clock", "seconds in all"]
        how = "run whole" if subject["plain_generations_run_whole"] else "one step counted 50 times"
        parts.append(
            f"**{subject['subject']}**, generations {how}, {subject['rounds']} rounds, of which "
            f"{subject['rounds_with_a_second_look']} with a second look; the first selection of all, before "
            f"them, took {subject['first_selection']:.1%} of a generation:\n\n{table(head, rows)}"
        )
    size = " × ".join(map(str, result["size"]))
    parts.append(f"CogVideoX-2B at {size}; {where(result['machine'])}.")
    return "\n\n".join(parts)


def native() -> str:
    memory = load("overhead_native")["memory"]
    return (
        f"{measured('overhead_native')}\n\nPeak of the GPU's memory: {memory['plain'] / 1e9:.1f} GB for "
        f"guided steps, {memory['select'] / 1e9:.1f} GB for selecting, {memory['ratio']:.2f} ×."
    )


def memory() -> str:
    result = load("selection_memory")
    rows = [
        [
            row["subject"],
            *(
                f"{row[how]['plain'] / 1e6:,.0f} → {row[how]['select'] / 1e6:,.0f} MB, "
                f"{row[how]['ratio']:.2f} ×"
                for how in ("live", "resident")
            ),
        ]
        for row in result["rows"]
    ]
    machine = result["machine"]
    made = table(["", "live tensors", "resident memory"], rows)
    return f"{made}\n\n{machine['device']}, torch {machine['torch']}."


def scaling() -> str:
    result = load("scaling")
    rows = []
    for panel, lines in result["panels"].items():
        for name, line in lines.items():
            slope, sizes = line["slope"], list(line["seconds"])
            last = line["seconds"][sizes[-1]]["median"]
            rows.append(
                [
                    panel,
                    name,
                    f"{slope['median']:.2f} [{slope['low']:.2f}, {slope['high']:.2f}]",
                    f"{last:.3g} s at {int(sizes[-1]):,}",
                ]
            )
    head = ["over", "", "slope", "longest"]
    return f"{table(head, rows)}\n\n{result['repetitions']} rounds; {where(result['machine'])}."


def not_yet() -> str:
    return "| | |\n| --- | --- |\n| CogVideoX-2B | not measured yet |"


def replaced(make: Callable[[], str], match: re.Match[str]) -> str:
    return f"{match[1]}{make()}\n{match[2]}"


def page(text: str) -> str:
    """The page with every part between its markers made anew."""
    parts = {
        "cost_model": full_size,
        "overhead": lambda: measured("overhead"),
        "overhead_native": native,
        "selection_memory": memory,
        "scaling": scaling,
    }
    for name, make in parts.items():
        if not (ROOT / f"benchmarks/results/{name}.json").exists():
            make = not_yet
        pattern = re.compile(
            rf"(<!-- {name}: benchmarks/cost_page.py writes this -->\n).*?(<!-- end -->)", re.S
        )
        text, count = pattern.subn(partial(replaced, make), text)
        if count != 1:
            raise SystemExit(f"docs/cost.md has {count} places for {name}")
    return text


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    PAGE.write_text(page(PAGE.read_text()))
