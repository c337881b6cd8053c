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
    finite = [total for total in totals if math.isfinite(total)]
    spread = max(finite) - min(finite) if finite else 0.0
    digits = 2 - math.floor(math.log10(spread)) if spread else 4
    for rank, index in enumerate(record["order"], 1):
        recipe, total = record["recipes"][index], totals[index]
        score = f"{total:.{min(max(digits, 0), 9)}f}" if math.isfinite(total) else "–"
        seed = "–" if recipe["seed"] is None else str(recipe["seed"])
        chosen = index == record["best"]
        table.add_row(
            str(rank),
            seed,
            str(recipe["candidate"]),
            score,
            "chosen" if chosen else "",
            style="bold green" if chosen else "",
        )
    console.print(table)


def print_summary(console: Console, record: dict[str, Any], files: dict[str, str]) -> None:
    """One line on how the noise was chosen, one on the cost, one per file."""
    count = len(record["recipes"])
    console.print(
        Text(
            f"noise {record['recipes'][record['best']]['candidate']} of {count} by {record['acquisition']}, "
            f"{'lowest' if record['prefer'] == 'low' else 'highest'} score ({record['reason']})"
        )
    )
    items = ", ".join(f"{what} {evaluations:.4g}" for what, evaluations in record["ledger"].items())
    seconds = sum(record["seconds"].values())
    console.print(Text(f"{sum(record['ledger'].values()):.4g} NFE ({items}) in {seconds:.1f} s"))
    for what, path in files.items():
        console.print(Text(f"{what:<7} {path}"), soft_wrap=True)
