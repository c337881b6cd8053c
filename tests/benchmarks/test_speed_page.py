"""The numbers of docs/speed.md are those of benchmarks/results/racing.json and row_sampling.json."""

import json
from pathlib import Path

from seedbed.lab.replays import cost
from seedbed.selection.racing import budgeted

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/speed.md").read_text()


def load(name):
    return json.loads((ROOT / f"benchmarks/results/{name}.json").read_text())


def percent(interval, digits=0):
    mean, low, high = (f"{100 * value:.{digits}f}" for value in interval)
    return f"{mean} % [{low}, {high}]"


def cells(row):
    mean, low, high = (100 * value for value in row["regret"])
    share = 100 * row["share of 50 guided steps"]
    kept = f"{100 * row['best kept']:.0f} %"
    return f"| {row['evaluations']:.1f} | {share:.1f} % | {mean:.0f} % [{low:.0f}, {high:.0f}] | {kept} |"


def test_the_table_is_that_of_the_results():
    result = load("racing")
    shown = [result["truncation"][2], result["truncation"][4], result["budget default"], result["fitted"]]
    for row in shown:
        assert cells(row) in PAGE


def test_what_is_said_of_races_is_that_of_the_results():
    result, twin = load("racing"), load("racing-shapes-cogvideox-snr")
    agreement = [f"{value:.2f}"[1:] for value in result["correlation of each layer with the mean"]]
    assert ", ".join(agreement) in " ".join(PAGE.split())
    halves = [f"{100 * half['regret'][0]:.0f} %" for half in result["held out"]]
    assert [halves[0] in PAGE, halves[1] in PAGE] == [True, True]
    assert f"up to {100 * result['fitted']['crossed regret'][2]:.1f} %" in PAGE
    assert f"regret {100 * twin['budget default']['regret'][0]:.0f} % for the default's shares" in PAGE
    assert percent(twin["fitted"]["crossed regret"], 1) in PAGE
    assert f"for {twin['fitted']['evaluations']:.1f} evaluations" in PAGE
    loose = load("racing-shapes-cogvideox-loose")
    regret, fitted = loose["budget default"]["regret"][0], percent(loose["fitted"]["crossed regret"], 1)
    words = f"it is {100 * regret:.0f} % and {fitted} for {loose['fitted']['evaluations']:.1f}."
    assert words in " ".join(PAGE.split())


def test_the_default_race_costs_what_is_said_at_every_depth():
    """Together, and where those who stay start over."""
    spent = {}
    for layers in range(12, 100):
        rungs = budgeted(layers, 10)
        again = (10 * rungs[0][0] + rungs[0][1] * rungs[1][0]) / layers
        spent[layers] = cost(rungs, 10, layers, finish=False), again
    assert [f"{value:.2f}" for layers in (30, 42) for value in spent[layers]] == [
        "1.73",
        "1.93",
        "1.67",
        "1.86",
    ]
    assert "1.73 evaluations on 30 layers and 1.67 on 42, or 1.93 and 1.86" in PAGE
    assert max(again for _, again in spent.values()) < 2  # of 100


def test_the_table_of_rows_is_that_of_the_results():
    lines = {
        (line["rows"], line["more rows"]): line
        for line in load("row_sampling")["lines"]
        if line["finalists"] > 2
    }
    total = max(rows for rows, _ in lines)
    for rows in sorted({rows for rows, _ in lines}):
        one, more = lines[rows, False], lines[rows, True]
        cells = [
            "all 1,020" if rows == total else str(rows),
            percent(one["regret against all rows"]),
            f"{100 * one['stated confidence']:.0f} %",
            percent(one["choice of all rows"]),
            f"{100 * more['stated confidence']:.1f} %",
            percent(more["choice of all rows"], 1),
            f"{more['evaluations again, each pool']:.1f}",
        ]
        assert f"| {' | '.join(cells)} |" in PAGE


def test_what_is_said_of_samples_in_a_race_and_of_their_price_is_that_of_the_results():
    result = load("row_sampling")
    raced = next(
        line
        for line in result["lines"]
        if (line["rows"], line["finalists"], line["more rows"]) == (512, 2, False)
    )
    share = percent(raced["choice of all rows"]).split(" % ")
    page = " ".join(PAGE.split())
    assert f"512 rows chose as a race on all rows in {share[0]} % of the pools {share[1]}" in page
    assert f"the stated confidence was {100 * raced['stated confidence']:.0f} % there" in page
    price = result["scoring over attention, 17,776 tokens"]
    assert f"takes {100 * price['512'][0]:.0f} % of the attention" in page
    assert f"1,024 rows {100 * price['1024'][0]:.0f} %" in page
