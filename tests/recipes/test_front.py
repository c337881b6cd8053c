"""The recipes of the front table, and of enhancement and guidance, ask for what there is."""

import sys
from pathlib import Path

import pytest

from seedbed.acquisition import resolve
from seedbed.adaptation import adaptations_named
from seedbed.lab.experiment import TASKS, Recipe
from seedbed.noise import prior_named
from seedbed.refinement import refiners_named

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes/front"))
import page

FOLDERS = (Path(__file__).parents[2] / "recipes" / name for name in ("front", "adaptation"))
RECIPES = sorted(path for folder in FOLDERS for path in folder.glob("*.json") if path.stem != "results")


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_read_and_its_methods_exist(path):
    recipe = Recipe.load(path)
    assert recipe.name == path.stem and recipe.task in TASKS
    # Tuning looks at training captions alone, everything else at held-out ones.
    assert recipe.prompts.held_out is (path.stem != "tuning") and len(recipe.captions()) in (16, 20, 24, 40)
    for name, method in recipe.methods.items():
        if "acquisition" in (method := method.get("choose", method)):
            resolve(method["acquisition"])
            continue
        made = len(refiners_named(method.get("refine"))) + len(adaptations_named(method.get("adaptation")))
        prior_named(method.get("prior", "gaussian"))
        # The first of several is what the others are compared with; of one cost with them, or plain.
        first = name == next(iter(recipe.methods))
        assert (made or "prior" in method or "call" in method) != (first or name == "plain, 20 steps") or (
            first and method == {"call": {"num_inference_steps": 30}}
        )


def test_the_pages_are_what_the_committed_results_make():
    for path, text in page.pages(page.read()).items():
        assert path.read_text() == text, f"{path} is out of date: run recipes/front/page.py"


def test_a_method_that_a_model_lacks_is_a_dash_and_what_is_not_known_too():
    results = page.read()
    lines = page.lines_of(results, "front")
    results["other"] = next(iter(results.values())) | {"front": {}}
    cells = page.cells(results, "front", lines[0], lambda each: page.signed(each["gain"]))
    assert cells[-1] == "–" and page.interval([1.0, None, None]) == "–"
    assert page.share([0.125, -0.25, 1]) == "12 % [−25, 100]"
