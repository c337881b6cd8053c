"""The recipes of the front table, and of enhancement and guidance, ask for what there is."""

from pathlib import Path

import pytest

from seedbed.acquisition.registry import resolve
from seedbed.adaptation import adaptations_named
from seedbed.lab.experiment import TASKS, Recipe
from seedbed.noise import prior_named
from seedbed.refinement import refiners_named

FOLDERS = (Path(__file__).parents[2] / "recipes" / name for name in ("front", "adaptation"))
RECIPES = sorted(path for folder in FOLDERS for path in folder.glob("*.json"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_read_and_its_methods_exist(path):
    recipe = Recipe.load(path)
    assert recipe.name == path.stem and recipe.task in TASKS
    # Tuning looks at training captions alone, everything else at held-out ones.
    assert recipe.prompts.held_out is (path.stem != "tuning") and len(recipe.captions()) in (20, 24, 40)
    for name, method in recipe.methods.items():
        if "acquisition" in (method := method.get("choose", method)):
            resolve(method["acquisition"])
            continue
        made = len(refiners_named(method.get("refine"))) + len(adaptations_named(method.get("adaptation")))
        prior_named(method.get("prior", "gaussian"))
        # The first of several is what the others are compared with; of one cost with them, or plain. That of
        # drafts is in `base`.
        first = name == next(iter(recipe.methods)) and path.stem != "drafts"
        assert (made or "prior" in method or "call" in method) != (first or name == "plain, 20 steps") or (
            first and method == {"call": {"num_inference_steps": 30}}
        )
