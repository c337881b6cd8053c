"""Recipes: what is read, and what is refused in one line."""

import json

import pytest

from seedbed.errors import BadInput
from seedbed.lab.experiment import Recipe
from seedbed.worlds.shapes import captions
from tests.lab.conftest import recipe_of

WORLD = {"world": "shapes", "objects": 1, "count": 4, "seed": 3, "held_out": True}


def loaded(tmp_path, **changes):
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps(recipe_of(**changes)))
    return Recipe.load(path)


def test_listed_prompts_keep_their_order(tmp_path):
    assert loaded(tmp_path, prompts={"list": ["b", "a"]}).captions() == ["b", "a"]


def test_prompts_of_the_world_are_its_captions(tmp_path):
    assert loaded(tmp_path, prompts=WORLD).captions() == captions(4, objects=1, seed=3, held=True)


def test_a_written_recipe_reads_back(tmp_path):
    recipe = loaded(tmp_path, prompts=WORLD, options={"a": [1, {"b": 0.5}]}, methods={"one": {"c": None}})
    (tmp_path / "again.json").write_text(recipe.to_json())
    assert Recipe.load(tmp_path / "again.json") == recipe


REFUSED = {
    "a misspelt key": (dict(modles=["x"]), "modles: a recipe has no such key"),
    "a misspelt key further in": (
        dict(noises={"sed": 0, "count": 1}),
        "noises.sed: a recipe has no such key",
    ),
    "a misspelt key of a world": (dict(prompts={**WORLD, "held": 1}), "held: a recipe has no such key"),
    "an unknown world": (dict(prompts={**WORLD, "world": "flowers"}), "world: Input should be 'shapes'"),
    "a missing count": (dict(noises={"seed": 0}), "noises.count: Field required"),
    "no noise": (dict(noises={"seed": 0, "count": 0}), "noises.count: Input should be greater"),
    "a number as text": (
        dict(noises={"seed": 0, "count": "4"}),
        "noises.count: Input should be a valid integer",
    ),
    "no prompt": (dict(prompts={"list": []}), "list: Tuple should have at least 1 item"),
    "an empty prompt": (dict(prompts={"list": [""]}), "String should have at least 1 character"),
    "a prompt alone": (dict(prompts="a cat"), "prompts: write {"),
    "another schema": (dict(schema="seedbed.recipe/2"), "schema: Input should be 'seedbed.recipe/1'"),
    "a name with a slash": (dict(name="../home"), "name: String should match pattern"),
}


@pytest.mark.parametrize("changes, message", REFUSED.values(), ids=REFUSED)
def test_a_mistake_is_one_line_that_says_where(tmp_path, changes, message):
    with pytest.raises(BadInput) as error:
        loaded(tmp_path, **changes)
    assert message in str(error.value)
    assert "\n" not in str(error.value) and str(tmp_path / "recipe.json") in str(error.value)


def test_a_misspelt_key_is_named_before_the_one_it_stands_for(tmp_path):
    content = recipe_of(modles=["a"])
    del content["models"]
    (tmp_path / "recipe.json").write_text(json.dumps(content))
    with pytest.raises(BadInput, match="modles: a recipe has no such key"):
        Recipe.load(tmp_path / "recipe.json")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"schema": "seedbed.recipe/1"}', "\x00"])
def test_what_is_no_recipe_is_one_line(tmp_path, content):
    path = tmp_path / "recipe.json"
    path.write_text(content)
    with pytest.raises(BadInput) as error:
        Recipe.load(path)
    assert "\n" not in str(error.value)


def test_a_missing_file_is_one_line(tmp_path):
    with pytest.raises(BadInput, match=r"cannot read .*none\.json: No such file or directory"):
        Recipe.load(tmp_path / "none.json")


def test_more_captions_than_the_world_has_are_refused(tmp_path):
    recipe = loaded(tmp_path, prompts={**WORLD, "count": 61})
    with pytest.raises(BadInput, match="asks for 61 captions, there are"):
        recipe.captions()


def test_a_prompt_twice_is_refused(tmp_path):
    with pytest.raises(BadInput, match="there twice"):
        loaded(tmp_path, prompts={"list": ["a", "b", "a"]}).captions()
