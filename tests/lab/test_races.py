"""Races replayed on scores of every layer, against races by hand."""

import numpy as np
import pytest
import torch

from seedbed.lab import races
from seedbed.selection.racing import planned, standing


def scores(prompts=40, candidates=8, layers=6, own=1.0, seed=0):
    """Layers that share a part for each candidate, and have one of their own."""
    draw = np.random.default_rng(seed)
    shared = draw.normal(size=(prompts, candidates, 1))
    return shared + own * draw.normal(size=(prompts, candidates, layers))


@pytest.mark.parametrize("rungs", [((2, 3), (4, 1)), ((1, 5), (3, 2)), ((6, 1),)])
def test_a_replay_chooses_as_the_race_does(rungs):
    table = scores()
    for prompt, chosen in zip(table, races.choices(table, rungs), strict=True):
        seen, alive, before = np.full(prompt.shape, np.nan), list(range(8)), 0
        for after, left in (*rungs, (6, 1)):
            seen[alive, before:after] = prompt[alive, before:after]
            alive = sorted(alive, key=lambda i, after=after: prompt[i, :after].mean())[:left]
            before = after
        assert chosen == alive[0]
        assert standing(torch.tensor(seen[:, : rungs[-1][0]]), "low")[0] == chosen or rungs[-1][1] > 1


def test_regret_is_nought_for_the_best_and_one_for_the_median():
    table = np.zeros((1, 5, 2))
    table[0, :, 0] = [4, 3, 2, 1, 0]
    table[0, :, 1] = [0, 2, 4, 6, 8]
    # Full scores 2, 2.5, 3, 3.5, 4: the first layer alone prefers the worst.
    assert races.regret(table, ((2, 1),)) == [0]
    assert races.regret(table, ((1, 1),)) == [2]
    assert races.regret(np.ones((1, 5, 2)), ((1, 1),)) == [0]


def test_cost_counts_the_layers_each_candidate_sees():
    assert races.cost(((3, 5), (5, 2), (6, 1)), 10, 6) == (30 + 10 + 2) / 6
    assert races.cost(((2, 3),), 10, 6) == (20 + 3 * 4) / 6
    assert races.cost((), 10, 6) == 10


def test_every_schedule_can_be_raced():
    found = list(races.every(10, 30))
    assert len(found) == len(set(found)) > 100
    assert all(planned(rungs, 30, 10) == rungs for rungs in found)


def test_the_cheapest_is_within_the_limit_and_nothing_cheaper_is():
    table = scores(own=0.5)
    found = races.cheapest(table)
    assert races.regret(table, found).mean() <= races.REGRET
    price = races.cost(found, 8, 6)
    assert price < 8
    for rungs in races.every(8, 6):
        assert races.cost(rungs, 8, 6) >= price or races.regret(table, rungs).mean() > races.REGRET


def test_layers_that_agree_are_raced_early_and_layers_that_do_not_never():
    agreeing, strangers = races.fitted(scores(own=0.01)), races.fitted(scores(own=100.0))
    assert agreeing.schedule == ((1, 1),) and agreeing.cost == pytest.approx(8 / 6)
    assert strangers is None or strangers.cost > 4
    assert agreeing.regret[1] <= agreeing.regret[0] <= agreeing.regret[2] < races.REGRET
    assert (agreeing.prompts, agreeing.candidates) == (40, 8) and "40 prompts x 8 noises" in agreeing.why


def test_a_schedule_holds_its_promise_on_other_prompts():
    table = scores(own=100.0)
    assert races.crossed(table).mean() > races.REGRET
    within = races.limit(table)
    assert within < races.REGRET and races.crossed(table, within).mean() <= races.REGRET
    assert races.fitted(table).regret[0] <= races.REGRET
    assert races.fitted(table).schedule == races.cheapest(table, within)
    assert races.limit(scores(own=0.01)) == races.REGRET


def test_layers_come_in_their_order():
    columns = {f"0/bansa/{layer}": np.full((2, 3), layer) for layer in (10, 2, 0)}
    columns["0/bansa.again/0"] = np.full((2, 3), 7)
    assert races.scores_of(columns, "0/bansa")[0, 0].tolist() == [0, 2, 10]
