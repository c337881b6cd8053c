"""The page and the README say what the committed results say, and the recipes can be planned."""

import itertools
import statistics as slow
import sys
from pathlib import Path

import numpy as np
import pytest

from seedbed.lab.experiment import Recipe, plan

RECIPES = Path(__file__).parents[2] / "recipes/selection"
sys.path.insert(0, str(RECIPES))


def test_the_page_and_the_readme_are_made_from_the_committed_results():
    from page import pages

    for path, text in pages().items():
        assert path.read_text() == text, f"{path.name} is out of date: run recipes/selection/page.py"


@pytest.mark.parametrize("name", ["evidence", "pool", "terminal-snr", "binding", "loose"])
def test_every_row_of_a_recipe_has_a_key_of_its_own(name):
    units = plan(Recipe.load(RECIPES / f"{name}.json"))
    keys = [draw.key for unit in units for draw in unit.draws]
    assert len(set(keys)) == len(keys) == len(units) * 16
    seeds = [draw.seed for unit in units for draw in unit.draws]
    assert len(set(seeds)) == len(units)


@pytest.mark.parametrize("levels", [2, 3, 1000])
@pytest.mark.parametrize("prefer", ["low", "high"])
@pytest.mark.parametrize("m", range(1, 7))
def test_the_best_of_a_subset_is_the_mean_over_all_subsets(levels, prefer, m):
    """The mean, over all subsets of m noises, of the mean outcome of those that share the best signal."""
    from summarise import best_of_subset

    rng, end = np.random.default_rng(3), min if prefer == "low" else max
    signal, outcome = rng.integers(0, levels, (5, 6)).astype(float), rng.normal(size=(5, 6))
    expected = []
    for s, o in zip(signal, outcome, strict=True):
        subsets = [(each, end(s[list(each)])) for each in itertools.combinations(range(6), m)]
        expected.append(slow.fmean(slow.fmean(o[i] for i in each if s[i] == b) for each, b in subsets))
    np.testing.assert_allclose(best_of_subset(signal, outcome, m, prefer), expected, atol=1e-14)
