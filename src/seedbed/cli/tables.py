"""What the commands print for people."""

import math
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text


def print_ranking(console: Console, record: dict[str, Any]) -> None:
    """The candidates of a record, best first."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in ("rank", "seed", "noise", "score"):
        table.add_column(heading, justify="right")
    table.add_column("")
    totals = [math.nan if total is None else total for total in record["totals"]]
    seen = [sum(score is not None for score in row) for row in record["scores"]]
    finite = [total for total in totals if math.isfinite(total)]
    spread = max(finite) - min(finite) if finite else 0.0
    digits = 2 - math.floor(math.log10(spread)) if spread else 4
    for rank, index in enumerate(record["order"], 1):
        recipe, total = record["recipes"][index], totals[index]
        score = f"{total:.{min(max(digits, 0), 9)}f}" if math.isfinite(total) else "–"
        seed = "–" if recipe["seed"] is None else str(recipe["seed"])
        chosen = index == record["best"]
        dropped = f"dropped after layer {seen[index]}" if seen[index] < max(seen) else ""
        table.add_row(
            str(rank),
            seed,
            str(recipe["candidate"]),
            score,
            "chosen" if chosen else dropped,
            style="bold green" if chosen else "",
        )
    console.print(table)


def print_summary(console: Console, record: dict[str, Any], files: dict[str, str]) -> None:
    """One line on how the noise was chosen, one on the cost, one per file."""
    from seedbed.report.page import amount  # loads more than --help needs

    recipe, ledger = record["recipes"][record["best"]], record["ledger"]
    seed = f" of seed {recipe['seed']}" if recipe["seed"] is not None else ""
    end = "lowest" if record["prefer"] == "low" else "highest"
    if "picked" in record["options"]:
        end = "one"
    items = ", ".join(f"{what} {amount(evaluations)}" for what, evaluations in ledger.items())
    sure = record.get("confidence", 1)
    lines = [
        f"noise {recipe['candidate']}{seed}, {end} of {len(record['recipes'])} by {record['acquisition']} "
        f"({record['reason']})",
        *([f"{sure:.0%} sure that all query rows would choose the same"] if sure < 1 else []),
        f"{amount(sum(ledger.values()))} NFE ({items or 'none'}) in {sum(record['seconds'].values()):.1f} s",
        *(f"{what:<7} {path}" for what, path in files.items()),
    ]
    for line in lines:
        console.print(Text(line), soft_wrap=True)
