"""Schedules replayed on measured previews do what `seedbed.preview` does."""

import itertools

import numpy as np
import pytest

from seedbed.errors import BadInput
from seedbed.lab.evidence import Evidence
from seedbed.lab.schedules import Choice, best, cost, crossed, every, previewed
from seedbed.selection.rungs import planned


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
        for at, left in planned(schedule, truth.shape[1], 10):
            scores = truth if at == 10 else found.columns[f"{at - 1}/judge.score"]
            alive = sorted(alive, key=lambda i: -scores[p, i])[:left]
        expected.append(truth[p, alive[0]])
    np.testing.assert_allclose(previewed(found, schedule, truth.shape[1], draws=3), expected)


def test_smaller_pools_are_drawn_evenly():
    found = evidence(prompts=2)
    truth, marks = found.outcome(), found.columns["4/judge.score"]
    exact = [
        np.mean(
            [truth[p][max(pair, key=lambda i: marks[p][i])] for pair in itertools.combinations(range(4), 2)]
        )
        for p in range(2)
    ]
    np.testing.assert_allclose(previewed(found, ((5, 1),), 2, draws=2000), exact, atol=0.08)


def test_another_number_of_the_verifier_may_choose():
    found = evidence()
    columns = {**found.columns, "4/judge.look": -found.outcome()}
    worst = previewed(Evidence(found.prompts, columns), ((5, 1),), 4, judge="look")
    np.testing.assert_allclose(worst, found.outcome().min(1))


def test_the_cost_is_what_every_candidate_walks():
    assert cost(Choice(((5, 1),), 4), 10) == pytest.approx((4 * 5 + 5) / 10)
    assert cost(Choice(((2, 3), (5, 2)), 6), 10) == pytest.approx((6 * 2 + 3 * 3 + 2 * 5) / 10)


def test_the_best_schedule_keeps_the_budget_and_looks_where_there_is_something_to_see():
    found = evidence(prompts=60, noises=7, blur=(50.0, 0.1))
    choice = best(found, 3.0, steps=10)
    assert 2.7 <= cost(choice, 10) <= 3.0
    assert choice.schedule[-1][0] == 5
    assert all(c.candidates == 6 for c in every(found, candidates=[6]))
    with pytest.raises(BadInput, match="no schedule"):
        best(found, 40.0, steps=10)


def test_the_gain_of_a_choice_is_measured_on_other_prompts():
    blind = evidence(prompts=60, noises=6, blur=(1e6, 1e6))
    gains, chosen = crossed(blind, 2.0, steps=10)
    assert len(chosen) == 2 and gains.shape == (60,)
    assert abs(gains.mean()) < 4 * gains.std() / 60**0.5
    seeing, _ = crossed(evidence(prompts=60, noises=6, blur=(0.1, 0.1)), 2.0, steps=10)
    assert seeing.mean() > 0.7


def test_a_pool_larger_than_what_was_measured_is_refused():
    with pytest.raises(BadInput, match="cannot draw 5 candidates of 4"):
        previewed(evidence(), ((5, 1),), 5)
