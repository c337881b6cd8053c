"""The tables of docs/verifiers.md from the results beside this file: `python -m recipes.verifiers.tables`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).with_name("results")


def read(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return content


def artifacts(content: dict[str, Any]) -> str:
    """Caught faults and false alarms on the half that set no limit, ours and ffmpeg's."""
    lines = [
        "| fault | detector | limit | caught, worlds | caught, footage | caught, all | false alarms, all |",
        "|---|---|---|---|---|---|---|",
    ]
    for line in content["results"]:
        name, part = line["detector"].replace("ffmpeg.", ""), line["fault"]
        theirs = {"frozen": "freezedetect", "cut": "scdet", "blur": "blurdetect"}
        theirs |= dict.fromkeys(("black", "blown"), "blackdetect") | dict.fromkeys(
            ("flicker", "drift"), "signalstats"
        )
        ours = not line["detector"].startswith("ffmpeg.")
        detector = "ours" if ours else theirs[part] + name.removeprefix(part)
        cells = [
            f"{line[group]['caught']['above']}/{line[group]['caught']['of']}"
            for group in ("worlds", "footage")
        ]
        for what in ("caught", "false alarms"):
            mean, low, high = (100 * value for value in line["all"][what]["share"])
            cells.append(f"{mean:.0f} % [{low:.0f}, {high:.0f}]")
        lines.append(f"| {part if ours else ''} | {detector} | {line['limit']:.2g} | {' | '.join(cells)} |")
    return "\n".join(lines)


def held_out(content: dict[str, Any]) -> str:
    """Caught faults and false alarms on a kind of video that set no limit."""
    found = content["held out"]
    faults = list(next(iter(found.values())))
    lines = [f"| tested on | {' | '.join(faults)} |", "|---" * (1 + len(faults)) + "|"]
    for source, each in found.items():
        cells = []
        for fault in faults:
            caught, wrong = (100 * each[fault][what]["share"][0] for what in ("caught", "false alarms"))
            cells.append(f"{caught:.0f}, {wrong:.0f}")
        lines.append(f"| {source} | {' | '.join(cells)} |")
    return "\n".join(lines)


def audits(content: dict[str, Any]) -> str:
    """The share of pairs that each verifier orders rightly, a column each."""
    every = content["audits"]
    heads = [f"`{each['verifier']}` on {each['source']}, n = {each['videos']}" for each in every]
    lines = [f"| trap | {' | '.join(heads)} |", "|---" * (1 + len(every)) + "|"]
    for trap in every[0]["traps"]:
        cells = []
        for each in every:
            mean, low, high, _ = each["traps"][trap]
            cells.append("–" if mean is None else f"{mean:.2f} [{low:.2f}, {high:.2f}]")
        lines.append(f"| {trap} | {' | '.join(cells)} |")
    return "\n".join(lines)


def previews(content: dict[str, Any]) -> str:
    """False alarms on previews of videos that end sound, a column for each model and share of its steps."""
    models = content["models"]
    faults = next(iter(models.values()))["alarms"]
    heads = [f"{model}, {at}" for model in models for at in next(iter(faults.values()))]
    lines = [f"| fault | {' | '.join(heads)} |", "|---" * (1 + len(heads)) + "|"]
    for fault in faults:
        found = [each for model in models.values() for each in model["alarms"][fault].values()]
        lines.append(f"| {fault} | " + " | ".join(f"{each['above']}/{each['of']}" for each in found) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    every = (artifacts, "artifacts"), (held_out, "artifacts"), (audits, "audits"), (previews, "previews")
    for table, name in every:
        print(table(read(name)), end="\n\n")
