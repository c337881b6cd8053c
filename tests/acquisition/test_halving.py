"""One grammar of schedules for layers and steps; who is dropped, and in which order candidates come."""

import math

import pytest
import torch

from seedbed import BadInput, zoo
from seedbed.acquisition import Bansa, Entropy, Previews
from seedbed.acquisition.previews import SCHEDULE
from seedbed.halving import planned, ranked, survivors
from seedbed.pipelines.session import Session
from seedbed.pipelines.timesteps import levels_of


def test_whole_numbers_are_layers_or_steps_and_candidates():
    assert planned(((3, 5), (6, 1)), 6, 10) == ((3, 5), (6, 1))
    assert planned([[1, 3]], 30, 4, "steps") == ((1, 3),)


def test_shares_are_of_the_layers_and_candidates_there_are():
    assert planned(((0.1, 0.2), (0.46, 1)), 30, 10) == ((3, 2), (14, 1))
    assert planned(((0.1, 0.2), (0.46, 1)), 42, 10) == ((4, 2), (19, 1))
    assert planned(SCHEDULE, 20, 6, "steps") == ((7, 2), (10, 1))
    # Survivors are rounded up, layers to the nearest; one kind may stand beside the other.
    assert planned(((0.5, 0.31),), 7, 10) == ((round(3.5), 4),)
    assert planned(((2, 0.5), (0.9, 2)), 10, 9) == ((2, 5), (9, 2))


def test_a_rung_of_shares_that_drops_nobody_is_left_out():
    assert planned(((0.1, 0.9), (0.5, 1)), 10, 3) == ((5, 1),)
    assert planned(((0.1, 5), (0.5, 1)), 10, 4) == ((5, 1),)
    assert planned(((0.5, 0.9),), 10, 2) == ()
    # So is one for which there is no layer left, and two of them never meet in one layer.
    assert planned(((0.3, 0.5), (0.4, 1)), 1, 6) == ((1, 3),)
    assert planned(((0.3, 0.5), (0.4, 1)), 2, 6) == ((1, 3), (2, 1))


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ((), "the schedule is empty"),
        (3, "cannot read the schedule 3"),
        ((3, 5), r"cannot read the schedule \(3, 5\)"),
        ("fast", "cannot read the schedule 'fast'"),
        ("ab", "cannot read the schedule 'ab'"),
        (((1, 2, 3),), "cannot read the schedule"),
        (((1, 2.0),), "cannot read the schedule"),
        (((1.5, 2),), "cannot read the schedule"),
        (((1.0, 1),), "cannot read the schedule"),
        (((0.5, 0.0),), "cannot read the schedule"),
        (((math.nan, 1),), "cannot read the schedule"),
        (((True, 1),), "cannot read the schedule"),
        ((("1", 1),), "cannot read the schedule"),
        (((0, 3),), "must rise from 1, but 0 comes after 0"),
        (((1, 3), (1, 2)), "WHAT must rise from 1, but 1 comes after 1"),
        (((2, 3), (1, 2)), "WHAT must rise from 1, but 1 comes after 2"),
        (((5, 1),), "drops candidates after 5 WHAT, but there are only 4"),
        (((1, 6),), "keeps 6 of 6 candidates after 1 WHAT: survivors must fall"),
        (((1, 2), (2, 2)), "keeps 2 of 2 candidates after 2 WHAT"),
        (((1, 0),), "keeps 0 candidates after 1 WHAT: keep at least 1"),
        (((1, -1),), "keeps -1 candidates"),
    ],
)
@pytest.mark.parametrize("what", ["layers", "steps"])
def test_schedules_that_cannot_be_are_refused_in_one_line(schedule, message, what):
    with pytest.raises(BadInput, match=message.replace("WHAT", what)) as caught:
        planned(schedule, 4, 6, what)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("schedule", [(), 3, ((1, 2.0),), ((2, 3), (1, 2)), ((1, 0),)])
def test_a_function_refuses_a_schedule_that_fits_no_model(schedule):
    for make in (
        lambda: Bansa(race=schedule),
        lambda: Entropy(race=schedule),
        lambda: Previews(verifier="shapes", schedule=schedule),
    ):
        with pytest.raises(BadInput, match="the schedule") as caught:
            make()
    assert "1000000" not in str(caught.value)


@pytest.mark.parametrize("candidates", range(1, 13))
def test_the_default_previews_end_with_one_candidate(candidates):
    function = Previews(verifier="shapes")
    for steps in range(1, 61):
        rungs = function.rungs(candidates, steps)
        if candidates > 1:
            assert 1 <= len(rungs) <= 2 and planned(rungs, steps, candidates, "steps") == rungs
        assert rungs[-1][1] == 1 and rungs[-1][0] <= steps


def test_the_default_previews_by_number():
    rungs = Previews(verifier="shapes").rungs
    assert rungs(6, 20) == ((7, 2), (10, 1))
    assert rungs(10, 20) == ((7, 4), (10, 1))
    assert rungs(3, 20) == ((7, 1),)
    assert rungs(6, 1) == ((1, 1),)


@pytest.mark.parametrize("steps", range(1, 31))
def test_the_default_previews_look_where_little_enough_is_noise(steps):
    rungs = Previews(verifier="shapes").rungs
    even = [1 - step / steps for step in range(steps)]
    shifted = [3 * level / (1 + 2 * level) for level in even]
    if steps >= 10:
        (first, few), (last, one) = rungs(6, steps, shifted)
        assert (few, one) == (2, 1)
        assert shifted[first] <= 0.77 < shifted[first - 1] and shifted[last] <= 0.65 < shifted[last - 1]
        assert rungs(6, steps, even)[0][0] < first
    for levels in ([1.0] * steps, [0.1] * steps):  # that never fall so low, or start below
        found = rungs(6, steps, levels)
        assert found[-1][1] == 1 and 1 <= found[0][0] <= found[-1][0] <= steps
        assert found[-1][0] < steps or steps == 1 or levels[0] < 1
    assert rungs(6, steps, [0.5, *even[1:]]) == rungs(6, steps, [math.nan] * steps) == rungs(6, steps)


@pytest.mark.parametrize(("name", "wanted"), [(zoo.DEFAULT, (7, 10)), ("shapes-wan", (10, 13))])
def test_the_default_previews_of_an_embedded_model(name, wanted):
    levels = levels_of(Session(zoo.load(name), "a red circle moving left"))
    noise = [level.sigma / (level.alpha + level.sigma) for level in levels]
    assert Previews(verifier="shapes").rungs(6, len(noise), noise) == ((wanted[0], 2), (wanted[1], 1))


def test_previews_of_ones_own_end_with_one_candidate_too():
    rungs = lambda *pairs: Previews(verifier="shapes", schedule=pairs).rungs  # noqa: E731
    assert rungs((1, 4), (3, 2))(6, 4) == ((1, 4), (3, 2), (4, 1))
    assert rungs((0.5, 0.5))(2, 4) == ((2, 1),)
    # Where no rung drops anybody, the finished videos are judged.
    assert rungs((0.5, 0.9))(2, 4) == ((4, 1),)
    with pytest.raises(BadInput, match="after all 4 steps one video is returned: let the last rung keep 1"):
        rungs((4, 2))(6, 4)


def test_near_ties_go_to_the_lower_index():
    assert ranked(torch.tensor([3.0, 1.0 + 5e-7, 1.0, 2.0]), "low") == (1, 2, 3, 0)
    assert ranked(torch.tensor([3.0, 1.0 + 5e-6, 1.0, 2.0]), "low") == (2, 1, 3, 0)
    assert ranked(torch.tensor([3.0, 1.0, 3.0, 2.0]), "high") == (0, 2, 3, 1)
    assert ranked(torch.tensor([torch.nan]), "low") == (0,)
    assert ranked(torch.zeros(3), "high") == (0, 1, 2)


def test_the_best_stay_in_the_order_of_their_indices():
    assert survivors(torch.tensor([3.0, 2.0, 1.0]), [0, 1, 3], 2, "low") == [1, 3]
    assert survivors(torch.tensor([3.0, 2.0, 1.0]), [0, 1, 3], 2, "high") == [0, 1]


def test_a_rung_of_ties_drops_nobody():
    tied = torch.tensor([3.0, 3.0, 3.0 + 1e-9])
    assert survivors(tied, [0, 1, 2], 2, "low") == [0, 1, 2]
    assert survivors(tied, [0, 1, 2], 1, "low") == [0]
    assert survivors(torch.tensor([2.5, 2.0, 3.5]), [0, 1, 2], 2, "low") == [0, 1]
