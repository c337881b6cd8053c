"""Blind comparisons: which pair is shown, and the ratings that calibration reads."""

import random
from collections import Counter

import pytest

from seedbed.errors import BadInput
from seedbed.noise import NoiseRecipe
from seedbed.ui.comparisons import Comparisons, finished
from seedbed.ui.jobs import Jobs, Request
from seedbed.verifiers.ratings import Ratings


@pytest.fixture
def jobs(tmp_path):
    return Jobs(tmp_path / "folder")


def finish(jobs, *candidates, **asked):
    job = jobs.add(Request(**{"prompt": "a koala", "model": "tiny", "candidates": 3, **asked}))
    for candidate in candidates:
        for ending in (".mp4", ".json"):
            job.file(candidate, ending).write_text(f"{asked} {candidate}")
    return job


def test_takes_of_one_prompt_and_the_same_arguments_are_compared(jobs):
    finish(jobs, 0, 2, seed=1)
    finish(jobs, 1, seed=5, verifier="artifacts")
    finish(jobs, 2, seed=1)  # once more
    finish(jobs, 0, steps=9)
    finish(jobs, 0, noise={"seed": 1, "candidate": 0})  # a variation, which ratings cannot name
    takes = finished(jobs.all())
    assert sorted(map(sorted, takes.values())) == [[(0, 0)], [(1, 0), (1, 2), (5, 1)]]


def test_every_pair_is_shown_equally_often_on_sides_by_chance(jobs):
    finish(jobs, 0, 1, 2)
    takes = finished(jobs.all())
    comparisons = Comparisons(jobs.folder / "comparisons.json")
    draw, sides = random.Random(0), Counter()
    for _ in range(30):
        pair = comparisons.pair(takes, draw)
        comparisons.add(pair, "left" if pair.left > pair.right else "right")
        sides[pair.left] += 1
    met = Counter(frozenset(map(tuple, (each["left"], each["right"]))) for each in comparisons.said)
    assert set(met.values()) == {10} and all(5 <= sides[0, each] <= 15 for each in range(3))
    rows = Comparisons(comparisons.path).table()
    assert [row["comparisons"] for row in rows] == [20, 20, 20]
    assert rows[0]["rating"] < rows[1]["rating"] < rows[2]["rating"]


def test_ratings_are_those_that_calibration_reads(jobs, tmp_path):
    finish(jobs, 0, 1, seed=3, prompt='a "koala", plays')
    comparisons = Comparisons(jobs.folder / "comparisons.json")
    with pytest.raises(BadInput, match="nothing was compared"):
        comparisons.export(tmp_path / "ratings.csv")
    takes = finished(jobs.all())
    pair = comparisons.pair(takes, random.Random(1))
    comparisons.add(pair, "left")
    ratings = Ratings.load(comparisons.export(tmp_path / "ratings.csv"))
    recipes = [NoiseRecipe(*noise, (1, 2, 2)) for noise in (pair.left, pair.right)]
    better, worse = ratings.of('a "koala", plays', recipes).tolist()
    assert better == pytest.approx(-worse) and better > 0


def test_ratings_that_cannot_tell_videos_apart_are_refused(jobs, tmp_path):
    for steps in (3, 4):
        finish(jobs, 0, 1, steps=steps)
    comparisons = Comparisons(jobs.folder / "comparisons.json")
    for _ in range(2):
        comparisons.add(comparisons.pair(finished(jobs.all()), random.Random(0)), "neither")
    with pytest.raises(BadInput, match="cannot tell apart"):
        comparisons.export(tmp_path / "ratings.csv")


def test_without_two_takes_there_is_no_pair(jobs):
    finish(jobs, 0)
    assert Comparisons(jobs.folder / "none.json").pair(finished(jobs.all()), random.Random(0)) is None
