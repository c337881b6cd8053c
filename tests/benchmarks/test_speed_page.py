"""The table of races in docs/speed.md holds the numbers of benchmarks/results/racing.json."""

import json
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def cells(row):
    mean, low, high = (100 * value for value in row["regret"])
    share = 100 * row["share of 50 guided steps"]
    kept = f"{100 * row['best kept']:.0f} %"
    return f"| {row['evaluations']:.1f} | {share:.1f} % | {mean:.0f} % [{low:.0f}, {high:.0f}] | {kept} |"


def test_the_table_is_that_of_the_results():
    result = json.loads((ROOT / "benchmarks/results/racing.json").read_text())
    page = (ROOT / "docs/speed.md").read_text()
    shown = [result["truncation"][2], result["truncation"][4], result["budget default"], result["fitted"]]
    for row in shown:
        assert cells(row) in page
