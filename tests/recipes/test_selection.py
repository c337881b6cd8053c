"""The page and the README say what the committed results say, and the recipes can be planned."""

import sys
from pathlib import Path

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
