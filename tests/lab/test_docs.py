"""What docs/lab.md shows runs as it stands there."""

import json
import re
from pathlib import Path

from seedbed.lab.experiment import Recipe
from seedbed.lab.presentation import tables_of
from seedbed.lab.work import run
from tests.pipelines import BUILDERS, CALLS

GUIDE = (Path(__file__).parents[2] / "docs" / "lab.md").read_text()


def block(language, containing):
    (found,) = (
        text for text in re.findall(rf"```{language}\n(.*?)```", GUIDE, re.DOTALL) if containing in text
    )
    return found


def test_the_recipe_and_the_reading_of_its_rows(tmp_path, monkeypatch, capsys):
    (tmp_path / "seeds.json").write_text(block("json", '"seeds"'))
    recipe = Recipe.load(tmp_path / "seeds.json")
    assert len(recipe.captions()) == 20 and recipe.noises.count == 8
    small = {
        **json.loads(recipe.to_json()),
        "prompts": {**recipe.prompts.model_dump(), "count": 2},
        "noises": {"seed": 0, "count": 2},
        "methods": {"20 steps": {"call": {"num_inference_steps": 1}}},
    }
    (tmp_path / "small.json").write_text(json.dumps(small))
    monkeypatch.chdir(tmp_path)
    run(Recipe.load("small.json"), "runs/seeds")
    exec(block("python", "Store("), {})
    assert capsys.readouterr().out.startswith("Interval(mean=")


def test_the_task_of_ones_own(tmp_path, monkeypatch):
    folder = tmp_path / "model"
    BUILDERS["cogvideox"]().save_pretrained(folder)
    content = {"schema": "seedbed.model/1", "call": CALLS["cogvideox"]}
    (folder / "seedbed.json").write_text(json.dumps(content))
    (tmp_path / "looks.py").write_text(block("python", "def brightness"))
    monkeypatch.syspath_prepend(str(tmp_path))
    recipe = {
        "schema": "seedbed.recipe/1",
        "name": "looks",
        "task": "looks:brightness",
        "models": [str(folder)],
        "prompts": {"list": ["a red circle", "a koala"]},
        "noises": {"seed": 0, "count": 2},
    }
    (tmp_path / "recipe.json").write_text(json.dumps(recipe))
    rows = run(Recipe.load(tmp_path / "recipe.json"), tmp_path / "out")
    assert len(rows) == 4
    (table,) = tables_of("looks:brightness", rows)
    ((prompts, noises, mean),) = table.rows
    assert (prompts, noises) == (2, 2)
    assert abs(mean.mean - sum(row["brightness"] for row in rows) / 4) < 1e-9
