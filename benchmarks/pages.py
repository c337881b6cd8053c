"""The tables of docs/cost.md and docs/speed.md, from benchmarks/results: `python benchmarks/pages.py`."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


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
    return (
        f"{machine['device']}, {threads}, {machine['cores']} cores, load {machine['load']} before the start, "
        f"torch {machine['torch']}, diffusers {machine['diffusers']}, seedbed at {machine['commit']}"
    )


def full_size() -> str:
    costs, bytes_ = [], []
    for model in load("cost_model")["models"]:
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
                f"{methods['raced']['evaluations']:.2f}; {operations('raced') / 1e15:.3g}; "
                f"**{percent(operations('raced') / plain)}**",
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
    head = ["model", "tokens", "plain", "published", "ours", "of which scores", "raced", "best of 10"]
    head_bytes = ["model", "10⁹ parameters", "weights read, TB: plain", "published", "ours"]
    head_bytes += ["peak, GB: guided step", "ours", "noises in a call", "ratio"]
    return (
        "Evaluations; operations in PFLOP; **operations against the plain generation's**:\n\n"
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
        how = "generations run whole"
        if not subject["plain_generations_run_whole"]:
            how = f"{' × '.join(map(str, result['size']))}, generations one step counted 50 times"
        rounds = f"{subject['rounds']} round{'s' if subject['rounds'] > 1 else ''}"
        parts.append(
            f"**{subject['subject']}**, {how}, {rounds}; the first selection of all, before them, took "
            f"{subject['first_selection']:.1%} of a generation:\n\n{table(head, rows)}\n\n"
            f"{where(subject['machine'])}."
        )
    return "\n\n".join(parts)


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
    return f"{made}\n\n{where(machine)}."


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


def interval(found: list[float]) -> str:
    """A share with its 95 % interval, in whole percents."""
    mean, low, high = (f"{100 * value:.0f}" for value in found)
    return f"{mean} % [{low}, {high}]"


def told(rungs: list[list[int]]) -> str:
    stays = [f"{left} stay after {after}" for after, left in rungs[:-1]]
    return ", ".join([*stays, f"decided after {rungs[-1][0]}"])


def racing() -> str:
    result = load("racing")
    layers, share = result["layers"], result["shares"]
    ways = [
        (f"all candidates, first 3 of {layers} layers: the default's depth", [result["truncation"][2]]),
        (f"all candidates, first 5 of {layers} layers", [result["truncation"][4]]),
        (f"the shares: {told(share['schedule'])}", [share]),
        (f"fitted: {told(result['fitted']['schedule'])}", [result["fitted"]]),
        ("the same way on one half of the captions, judged on the other", result["held out"]),
    ]
    rows = [
        [
            name,
            " and ".join(f"{way['evaluations']:.1f}" for way in found),
            " and ".join(f"{100 * way['share of 50 guided steps']:.1f} %" for way in found),
            " and ".join(interval(way["regret"]) for way in found),
            " and ".join(f"{100 * way['best kept']:.0f} %" for way in found),
        ]
        for name, found in ways
    ]
    return table(["schedule", "evaluations", "of 50 guided steps", "regret", "best noise kept"], rows)


def sampled() -> str:
    largest = load("row_sampling")["sizes"][-1]
    laws = [*(f"{100 * value:.0f} %" for value in largest["law"]), "100 %"]
    rows = [
        [
            f"{line['rows']:,}",
            f"{100 * line['share']:.0f} %",
            interval(line["regret against all rows"]),
            f"{100 * line['stated confidence']:.0f} %",
            interval(line["choice of all rows"]),
            law,
        ]
        for line, law in zip(largest["lines"], laws, strict=True)
    ]
    head = ["rows", "of all", "regret", "stated confidence", "chose as all rows", "by the law"]
    return table(head, rows)


def law() -> str:
    result = load("row_sampling")
    rows = []
    for size in result["sizes"]:
        ratio, low, high = size["r"]
        worst = max(
            abs(line["choice of all rows"][0] - chance)
            for line, chance in zip(size["lines"], size["law"], strict=False)
        )
        rows.append(
            [
                f"{size['rows of a layer']:,}",
                f"{ratio:.2f} [{low:.2f}, {high:.2f}]",
                f"{100 * worst:.0f} points",
                interval(size["share needed"]),
                f"{result['tokens'] * size['share needed'][0]:,.0f}",
            ]
        )
    head = ["rows of a layer", "r", "law off by at most", "share needed for 90 %", "of 17,776"]
    return table(head, rows)


PARTS: dict[str, dict[str, Callable[[], str]]] = {
    "cost.md": {
        "cost_model": full_size,
        "overhead": lambda: measured("overhead"),
        "selection_memory": memory,
        "scaling": scaling,
    },
    "speed.md": {"racing": racing, "row_sampling": sampled, "law": law},
}


def page(name: str) -> str:
    """A page of docs with every part between its markers made anew."""
    text = (ROOT / "docs" / name).read_text()
    for part, make in PARTS[name].items():
        pattern = re.compile(rf"(<!-- {part}: benchmarks/pages.py writes this -->\n).*?(<!-- end -->)", re.S)
        made = make().replace("\\", r"\\")
        text, count = pattern.subn(rf"\g<1>{made}\n\g<2>", text)
        if count != 1:
            raise SystemExit(f"docs/{name} has {count} places for {part}")
    return text


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    for name in PARTS:
        (ROOT / "docs" / name).write_text(page(name))
