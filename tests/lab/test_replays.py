"""Halving replayed on measured scores does what races and previews do."""

import itertools

import numpy as np
import pytest
import torch

from seedbed.acquisition import Bansa, Previews
from seedbed.errors import BadInput
from seedbed.halving import planned, ranked
from seedbed.lab import replays
from seedbed.lab.evidence import Evidence
from seedbed.lab.replays import Halving, best_halving, cost, crossed_gain, every_halving, previewed


def scores(prompts=40, candidates=8, layers=6, own=1.0, seed=0):
    """Layers that share a part for each candidate, and have one of their own."""
    draw = np.random.default_rng(seed)
    shared = draw.normal(size=(prompts, candidates, 1))
    return shared + own * draw.normal(size=(prompts, candidates, layers))


@pytest.mark.parametrize("rungs", [((2, 3), (4, 1)), ((1, 5), (3, 2)), ((6, 1),)])
def test_a_replay_chooses_as_the_race_does(rungs):
    table = scores()
    for prompt, chosen in zip(table, replays.raced(table, rungs), strict=True):
        seen, alive, before = np.full(prompt.shape, np.nan), list(range(8)), 0
        for after, left in (*rungs, (6, 1)):
            seen[alive, before:after] = prompt[alive, before:after]
            alive = sorted(alive, key=lambda i, after=after: prompt[i, :after].mean())[:left]
            before = after
        assert chosen == alive[0]
        raced = torch.tensor(seen[alive, : rungs[-1][0]]).nanmean(1)
        assert alive[ranked(raced, "low")[0]] == chosen or rungs[-1][1] > 1


def test_regret_is_nought_for_the_best_and_one_for_the_median():
    table = np.zeros((1, 5, 2))
    table[0, :, 0] = [4, 3, 2, 1, 0]
    table[0, :, 1] = [0, 2, 4, 6, 8]
    # Full scores 2, 2.5, 3, 3.5, 4: the first layer alone prefers the worst.
    assert replays.regret(table, ((2, 1),)) == [0]
    assert replays.regret(table, ((1, 1),)) == [2]
    assert replays.regret(np.ones((1, 5, 2)), ((1, 1),)) == [0]


def test_cost_counts_the_layers_each_candidate_sees():
    assert cost(((3, 5), (5, 2), (6, 1)), 10, 6, finish=False) == (30 + 10 + 2) / 6
    assert cost(((2, 3),), 10, 6, finish=False) == (20 + 3 * 4) / 6
    assert cost((), 10, 6, finish=False) == 10


def test_every_schedule_can_be_raced():
    found = list(replays.every_race(10, 30))
    assert len(found) == len(set(found)) > 100
    assert all(planned(rungs, 30, 10) == rungs for rungs in found)


def test_the_cheapest_is_within_the_limit_and_nothing_cheaper_is():
    table = scores(own=0.5)
    found = replays.cheapest(table)
    assert replays.regret(table, found).mean() <= replays.REGRET
    price = cost(found, 8, 6, finish=False)
    assert price < 8
    for rungs in replays.every_race(8, 6):
        assert (
            cost(rungs, 8, 6, finish=False) >= price or replays.regret(table, rungs).mean() > replays.REGRET
        )


def test_layers_that_agree_are_raced_early_and_layers_that_do_not_never():
    agreeing, strangers = replays.fitted_race(scores(own=0.01)), replays.fitted_race(scores(own=100.0))
    assert agreeing.schedule == ((1, 1),) and agreeing.cost == pytest.approx(8 / 6)
    assert strangers is None or strangers.cost > 4
    assert agreeing.regret[1] <= agreeing.regret[0] <= agreeing.regret[2] < replays.REGRET
    assert (agreeing.prompts, agreeing.candidates) == (40, 8) and "40 prompts x 8 noises" in agreeing.why
    assert eval(agreeing.why.partition(" with")[0]) == Bansa(depth=None, race=agreeing.schedule)


@pytest.mark.slow
def test_a_schedule_holds_its_promise_on_other_prompts():
    table = scores(own=100.0)
    within, lost = replays.promised(table)
    assert within < replays.REGRET and lost.mean() <= replays.REGRET
    assert replays.fitted_race(table).regret[0] == lost.mean()
    assert replays.fitted_race(table).schedule == replays.cheapest(table, within)
    assert replays.promised(scores(own=0.01))[0] == replays.REGRET


def evidence(prompts=6, noises=4, seed=0, blur=(3.0, 1.0)):
    """Previews after 2 and 5 steps that see the outcome through less and less noise."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=(prompts, noises))
    columns = {"outcome.score": truth, "outcome.look": -truth}
    for at, sigma in zip((2, 5), blur, strict=True):
        columns[f"{at - 1}/judge.score"] = truth + sigma * rng.normal(size=truth.shape)
    return Evidence(tuple(map(str, range(prompts))), columns)


@pytest.mark.parametrize("schedule", [((2, 1),), ((2, 2), (5, 1)), ((5, 2),)])
def test_a_whole_pool_is_halved_as_preview_halves_it(schedule):
    found = evidence()
    truth = found.outcome()
    expected = []
    for p in range(len(truth)):
        alive = list(range(truth.shape[1]))
        for at, left in Previews(verifier="shapes", schedule=schedule).rungs(truth.shape[1], 10):
            scores = truth if at == 10 else found.columns[f"{at - 1}/judge.score"]
            alive = sorted(alive, key=lambda i: -scores[p, i])[:left]
        expected.append(truth[p, alive[0]])
    np.testing.assert_allclose(previewed(found, Halving(schedule, truth.shape[1]), draws=3), expected)


def test_smaller_pools_are_drawn_evenly():
    found = evidence(prompts=2)
    truth, marks = found.outcome(), found.columns["4/judge.score"]
    exact = [
        np.mean(
            [truth[p][max(pair, key=lambda i: marks[p][i])] for pair in itertools.combinations(range(4), 2)]
        )
        for p in range(2)
    ]
    np.testing.assert_allclose(previewed(found, Halving(((5, 1),), 2), draws=2000), exact, atol=0.08)


def test_another_number_of_the_verifier_may_choose():
    found = evidence()
    columns = {**found.columns, "4/judge.look": -found.outcome()}
    worst = previewed(Evidence(found.prompts, columns), Halving(((5, 1),), 4), judge="look")
    np.testing.assert_allclose(worst, found.outcome().min(1))


def test_the_cost_is_what_every_candidate_walks():
    assert cost(((5, 1),), 4, 10) == pytest.approx((4 * 5 + 5) / 10)
    assert cost(((2, 3), (5, 2)), 6, 10) == pytest.approx((6 * 2 + 3 * 3 + 2 * 5) / 10)


def test_the_best_schedule_keeps_the_budget_and_looks_where_there_is_something_to_see():
    found = evidence(prompts=60, noises=7, blur=(50.0, 0.1))
    choice = best_halving(found, 3.0, steps=10)
    assert 2.7 <= cost(choice.schedule, choice.candidates, 10) <= 3.0
    assert choice.schedule[-1][0] == 5
    assert {each.candidates for each in every_halving(found)} == set(range(2, 8))
    with pytest.raises(BadInput, match="no schedule"):
        best_halving(found, 40.0, steps=10)


def test_the_gain_of_a_choice_is_measured_on_other_prompts():
    blind = evidence(prompts=60, noises=6, blur=(1e6, 1e6))
    gains, chosen = crossed_gain(blind, 2.0, steps=10)
    assert len(chosen) == 2 and gains.shape == (60,)
    assert abs(gains.mean()) < 4 * gains.std() / 60**0.5
    seeing, _ = crossed_gain(evidence(prompts=60, noises=6, blur=(0.1, 0.1)), 2.0, steps=10)
    assert seeing.mean() > 0.7


def test_a_pool_larger_than_what_was_measured_is_refused():
    with pytest.raises(BadInput, match="cannot draw 5 candidates of 4"):
        previewed(evidence(), Halving(((5, 1),), 5))
