"""The prose of docs/speed.md and docs/cost.md says what the results say; tables are in test_pages.py."""

import json
from pathlib import Path

import pytest

from seedbed.halving import planned
from seedbed.lab.replays import cost

ROOT = Path(__file__).resolve().parents[2]
SPEED, COST = (" ".join((ROOT / f"docs/{name}.md").read_text().split()) for name in ("speed", "cost"))
SHARES = ((0.1, 0.2), (0.46, 1))


def load(name):
    return json.loads((ROOT / f"benchmarks/results/{name}.json").read_text())


def test_what_is_said_of_races_is_that_of_the_results():
    result = load("racing")
    agreement = [f"{value:.2f}"[1:] for value in result["correlation of each layer with the mean"]]
    assert ", ".join(agreement) in SPEED
    fitted = result["fitted"]
    assert f"loses {100 * result['shares']['regret'][0]:.0f} % of the way" in SPEED
    assert f"loses {100 * fitted['crossed regret'][0]:.1f} %, for {fitted['evaluations']:.1f}" in SPEED
    assert f"up to {100 * fitted['crossed regret'][2]:.1f} %" in SPEED


def test_the_shares_cost_what_is_said():
    """Together, and where those who stay start over."""
    together, apart = [], []
    for layers in (30, 42):
        rungs = planned(SHARES, layers, 10)
        together.append(cost(rungs, 10, layers, finish=False))
        apart.append((10 * rungs[0][0] + rungs[0][1] * rungs[1][0]) / layers)
    assert "1.73 evaluations on 30 layers and 1.67 on 42, or 1.93 and 1.86" in SPEED
    assert [*together, *apart] == pytest.approx([1.73, 1.67, 1.93, 1.86], abs=0.005)


def test_all_rows_are_the_default_because_nine_tenths_are_needed():
    result = load("row_sampling")
    mean, low, high = result["sizes"][-1]["share needed"]
    assert low < 0.9 < high and round(mean, 1) == 0.9
    assert round(result["tokens"] * mean, -3) == 16_000 and "some 16,000 rows" in SPEED
    ratios = [size["r"][0] for size in result["sizes"]]
    assert ratios == sorted(ratios, reverse=True) and "r falls slowly with the tokens" in SPEED


def test_the_price_of_all_rows_is_that_of_the_results():
    prices = load("row_sampling")["scoring over attention"]
    whole = prices["17776"]
    times = f"{whole['median']:.1f} [{whole['low']:.1f}, {whole['high']:.1f}] times"
    some = f"half of them {prices['8888']['median']:.1f}, 1,024 rows {100 * prices['1024']['median']:.0f} %"
    assert times in SPEED and f"{some} and 512 rows {100 * prices['512']['median']:.0f} %" in SPEED
    assert f"{whole['median']:.1f} times as long as the attention" in COST
    methods = load("cost_model")["models"][0]["methods"]
    scores, forwards = (
        100 * methods["ours"][name] / methods["plain"]["operations"]
        for name in ("scoring_operations", "operations")
    )
    assert f"scoring ten noises adds {scores:.1f} %, on top of {forwards:.1f} % for their forwards" in SPEED


def test_the_cost_that_is_said_first_is_that_of_the_results():
    shares = []
    for model in load("cost_model")["models"]:
        methods = model["methods"]
        spent = methods["ours"]["operations"] + methods["ours"]["scoring_operations"]
        shares.append(100 * spent / methods["plain"]["operations"])
        assert 4.5 <= round(methods["ours"]["evaluations"], 1) <= 4.7
    *others, hunyuan = shares
    assert f"{min(others):.1f} to {max(others):.1f} % in counted operations" in COST
    assert f"{hunyuan:.0f} % on HunyuanVideo" in COST
    ours = load("overhead")["subjects"][0]["methods"]["ours"]["overhead"]["median"]
    assert f"{100 * ours:.1f} % of processor time on an earlier embedded model" in COST
