"""The recipes of the front table ask for what there is."""

from pathlib import Path

import pytest

from seedbed.lab.experiment import TASKS, Recipe
from seedbed.noise import prior_named
from seedbed.refinement import refiners_named

RECIPES = sorted((Path(__file__).parents[2] / "recipes/front").glob("*.json"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_read_and_its_methods_exist(path):
    recipe = Recipe.load(path)
    assert recipe.name == path.stem and recipe.task in TASKS
    # Tuning looks at training captions alone, everything else at held-out ones.
    assert recipe.prompts.held_out is (path.stem != "tuning") and len(recipe.captions()) in (40, 150)
    for name, method in recipe.methods.items():
        made = len(refiners_named(method.get("refine")))
        prior_named(method.get("prior", "gaussian"))
        # The first of several is what the others are compared with.
        assert (made or "prior" in method or "call" in method) == (name != next(iter(recipe.methods)))
