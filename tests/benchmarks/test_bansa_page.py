"""The figures in docs/bansa.md against what `bansa_grid.py` and `mask_free_agreement.py` wrote."""

import csv
import json
import statistics
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGE = " ".join((DOCS / "bansa.md").read_text().split())
with (DOCS / "figures/bansa-grid.csv").open() as file:
    CELLS = [{k: v if k == "place" else float(v) for k, v in cell.items()} for cell in csv.DictReader(file)]
PLACES = ("probabilities", "logits")


def cells(place, low, high):
    return [cell for cell in CELLS if cell["place"] == place and low <= cell["logit_std"] <= high]


def percent(value, digits=1):
    return f"{100 * abs(value):.{digits}f} %"


def largest(some):
    return max(some, key=lambda cell: abs(cell["relative_error"]))


def errors_off(cell):
    """How many standard errors of the drawn masks a cell is off."""
    return abs(cell["relative_error"] / cell["standard_error"])


def test_the_errors_on_the_grid_are_those_of_the_table():
    grids = [cells(place, 0, 6) for place in PLACES]
    assert f"has {len(grids[0])} cells for each place" in PAGE and len(grids[0]) == len(grids[1])
    medians = [
        percent(statistics.median(abs(cell[name]) for cell in grid), 2)
        for name in ("relative_error", "standard_error")
        for grid in grids
    ]
    error, other, drawn, other_drawn = medians
    assert f"error is {error} with masks on the probabilities and {other} with masks on the logits" in PAGE
    assert f"standard error has a median of {drawn} and {other_drawn}" in PAGE
    first, second = (largest(grid) for grid in grids)
    told = (
        f"deviations are {percent(first['relative_error'])} ({errors_off(first):.1f} standard errors) "
        f"and {percent(second['relative_error'])} ({errors_off(second):.1f} standard errors)"
    )
    assert told in PAGE
    certain = largest(cell for cell in grids[0] if errors_off(cell) > 3)
    assert f"on the probabilities is {percent(certain['relative_error'])}, for eight keys" in PAGE
    assert (certain["keys"], certain["logit_std"], certain["masks"]) == (8, 6, 30)


def test_the_errors_beyond_the_grid_are_those_of_the_table():
    for spread in (10, 15, 20):
        found = [largest(cells(place, spread, spread))["relative_error"] for place in PLACES]
        assert f"| {spread} | {percent(found[0])} | {percent(found[1])} |" in PAGE


@pytest.mark.parametrize(("model", "tokens"), [("", 60), ("-shapes-cogvideox-loose", 204)])
def test_the_ranking_and_what_it_costs_are_those_of_the_results(model, tokens):
    result = json.loads((ROOT / f"benchmarks/results/mask_free_agreement{model}.json").read_text())
    for prompt in result["prompts"]:
        for place in PLACES:
            row = prompt[place]
            # What the page promises: drawn masks averaged until their own noise no longer decides.
            assert row["standard_error_over_spread"] < 0.1 and row["spearman"] >= 0.99
            cells = (
                prompt["prompt"],
                str(tokens),
                place,
                str(row["repeats"]),
                f"{row['standard_error_over_spread']:.3f}",
                f"{row['spearman']:.3f}",
                f"{row['single_draw_spearman']:.2f}",
            )
            assert f"| {' | '.join(cells)} |" in PAGE
    cost = {(row["place"], row["noises"]): row for row in result["cost"]}
    for noises in (10, 64):
        ratios = []
        for place in PLACES:
            row = cost[place, noises]
            low, high = row["quartiles"]
            ratios.append(f"{row['masked_over_mask_free']:.1f} [{low:.1f}, {high:.1f}]")
        assert f"| {noises} | {tokens} | {ratios[0]} | {ratios[1]} |" in PAGE
    if model:
        assert cost["probabilities", 10]["masked_over_mask_free"] >= 5
