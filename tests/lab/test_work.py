"""Running recipes in this process: keys, growth, models, tasks and their mistakes."""

import json
import sys
import zlib

import dask
import numpy as np
import pytest
from distributed import LocalCluster

from seedbed.errors import BadInput, SeedbedError
from seedbed.lab.experiment import TASKS, Recipe, files_sha256, find_task, plan
from seedbed.lab.work import Store, run
from tests.pipelines import BUILDERS, CALLS

IDENTITY = ("key", "model", "prompt", "method", "seed", "candidate")


@pytest.fixture
def recipe(write):
    """`recipe(**changes)`: the toy recipe, read."""
    return lambda **changes: Recipe.load(write(**changes))


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The folder of a tiny pipeline, with the call it needs beside it."""
    folder = tmp_path_factory.mktemp("models") / "cogvideox"
    BUILDERS["cogvideox"]().save_pretrained(folder)
    content = {"schema": "seedbed.model/1", "call": CALLS["cogvideox"]}
    (folder / "seedbed.json").write_text(json.dumps(content))
    return folder


def test_rows_come_in_the_recipes_order_with_what_names_them(recipe, out):
    rows = run(recipe(prompts={"list": ["b", "a"]}), out)
    found = [(row["prompt"], row["seed"], row["candidate"]) for row in rows]
    # Prompt n has the noises of seed + n: no two prompts share one.
    assert found == [(prompt, 7 + n, candidate) for n, prompt in enumerate("ba") for candidate in range(3)]
    for row in rows:
        assert (row["model"], row["method"], row["word"]) == ("", "toy:work", row["prompt"] * 2)
        text = f"{row['prompt']} {row['seed']} {row['candidate']}".encode()
        assert row["value"] == zlib.crc32(text) / 2**32


def test_progress_counts_rows(recipe, out):
    seen = []
    run(recipe(prompts={"list": ["a", "b"]}), out, progress=lambda *counts: seen.append(counts))
    assert seen == [(0, 6), (3, 6), (6, 6)]
    seen.clear()
    run(recipe(prompts={"list": ["a", "b"]}), out, progress=lambda *counts: seen.append(counts))
    assert seen == [(6, 6)]


@pytest.mark.slow
def test_two_workers_bring_the_same_rows_as_none(recipe, out, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", sys.path[0])
    assert run(recipe(), out, workers=2) == run(recipe(), tmp_path / "alone")


def test_a_recipe_grows_in_its_folder_without_doing_anything_again(recipe, out, tmp_path):
    log = tmp_path / "log"
    options = {"log": str(log)}
    first = run(recipe(prompts={"list": ["a"]}, options=options), out)
    grown = recipe(prompts={"list": ["a", "b"]}, options=options)
    rows = run(grown, out)
    assert log.read_text().split() == ["a", "b"]
    assert [row for row in rows if row["prompt"] == "a"] == first
    more = run(recipe(prompts={"list": ["a", "b"]}, options=options, noises={"seed": 7, "count": 5}), out)
    assert len(more) == 10 and [row for row in more if row["candidate"] < 3] == rows


@pytest.mark.parametrize(
    "changes",
    [
        {"options": {"other": 1}},
        {"noises": {"seed": 8, "count": 3}},
        {"prompts": {"list": ["a"]}},
        {"prompts": {"list": ["b", "a"]}},
        {"task": "toy:odd"},
        {"methods": {"mine": {}}},
    ],
)
def test_rows_of_another_recipe_are_not_mixed_in(recipe, out, changes):
    before = run(recipe(prompts={"list": ["a", "b"]}), out)
    with pytest.raises(BadInput, match="rows that this recipe does not ask for") as error:
        run(recipe(**{"prompts": {"list": ["a", "b"]}, **changes}), out)
    assert "\n" not in str(error.value)
    assert Store(out).rows() == before


def test_another_version_of_the_task_is_another_table(recipe, out, monkeypatch):
    run(recipe(), out)
    monkeypatch.setattr(sys.modules["toy"], "VERSION", 3)
    with pytest.raises(BadInput, match="version of the task"):
        run(recipe(), out)


def test_methods_lay_their_options_over_the_recipes(recipe, out):
    one, two = [{"x": 1.0}], [{"x": 2.0}]
    found = recipe(
        task="toy:odd",
        noises={"seed": 0, "count": 1},
        prompts={"list": ["a"]},
        options={"rows": one},
        methods={"plain": {}, "other": {"rows": two}},
    )
    assert [(row["method"], row["x"]) for row in run(found, out)] == [("plain", 1.0), ("other", 2.0)]


def test_a_key_depends_on_everything_that_decides_a_row_and_on_nothing_else(
    recipe, model, monkeypatch, tmp_path
):
    def key(**changes):
        return plan(recipe(**{"prompts": {"list": ["a"]}, **changes}))[0].draws[0].key

    keys = {
        key(),
        key(task="toy:odd"),
        key(models=[str(model)]),
        key(prompts={"list": ["b"]}),
        key(noises={"seed": 8, "count": 1}),
        key(options={"x": 1}),
        key(methods={"mine": {}}),
    }
    assert len(keys) == 7
    same = key(options={"a": 1, "b": [2.5]})
    assert same == key(options={"b": [2.5], "a": 1})
    assert key() == key(name="other", prompts={"list": ["a", "b"]}, noises={"seed": 7, "count": 9})


def test_a_models_content_is_what_it_computes_with(model, tmp_path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(model, copy)
    (copy / "README.md").write_text("a card")
    (copy / "seedbed-profile.json").write_text("{}")
    assert files_sha256(copy) == files_sha256(model)
    weights = copy / "transformer" / "diffusion_pytorch_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert files_sha256(copy) != files_sha256(model)
    weights.write_bytes((model / "transformer" / "diffusion_pytorch_model.safetensors").read_bytes())
    (copy / "seedbed.json").write_text("{}")
    assert files_sha256(copy) != files_sha256(model)
    (copy / "model_index.json").write_text("{")
    with pytest.raises(BadInput, match=r"no model_index\.json that can be read"):
        files_sha256(copy)


def test_the_same_model_twice_is_refused(recipe, model, tmp_path, out):
    (tmp_path / "link").symlink_to(model)
    for other in (model, tmp_path / "link"):
        with pytest.raises(BadInput, match="two of the recipe's models are the same files"):
            run(recipe(models=[str(model), str(other)]), out)


@pytest.mark.parametrize("task", ["generatoin", "toy:wrk", "nothere:work", "toy:VERSION", ":", "toy:"])
def test_an_unknown_task_is_one_line_before_anything_is_written(recipe, out, task):
    with pytest.raises(BadInput, match="there is no task") as error:
        run(recipe(task=task), out)
    assert "generation" in str(error.value) and "\n" not in str(error.value)
    assert not out.exists()


def test_a_task_whose_own_import_fails_says_so(recipe, out, tmp_path, monkeypatch):
    (tmp_path / "needy.py").write_text("import a_package_that_is_not_there")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModuleNotFoundError, match="a_package_that_is_not_there"):
        run(recipe(task="needy:work"), out)


def test_an_unknown_model_is_one_line_before_anything_is_written(recipe, out):
    with pytest.raises(BadInput, match=r"there is no model at shapes-cogvideo: .*shapes-cogvideox"):
        run(recipe(models=["shapes-cogvideo"]), out)
    assert not out.exists()


def test_a_model_on_the_hub_is_refused_for_its_files_name_the_rows(recipe, out):
    with pytest.raises(BadInput, match=r"there is no folder THUDM/CogVideoX-2b: .*download them"):
        run(recipe(models=["THUDM/CogVideoX-2b"]), out)
    assert not out.exists()


@pytest.mark.parametrize(
    "rows, message",
    [
        ([], "returned 0 rows for 1 noises"),
        ([{"seed": 3}], "column 'seed', which every row has already"),
        ([{"x": [1, 2]}], r"x = \[1, 2\], not a plain number"),
    ],
)
def test_a_task_that_returns_something_else_is_told_where(recipe, out, rows, message):
    content = recipe(
        task="toy:odd", prompts={"list": ["a cat"]}, noises={"seed": 0, "count": 1}, options={"rows": rows}
    )
    with pytest.raises(BadInput, match=f"toy:odd, 'a cat': .*{message}"):
        run(content, out)


def test_arrays_numbers_are_not_taken_for_plain_ones(recipe, out, monkeypatch):
    monkeypatch.setattr(
        sys.modules.get("toy") or __import__("toy"), "work", lambda *_: [{"x": np.int64(3)}] * 3
    )
    with pytest.raises(BadInput, match="not a plain number"):
        run(recipe(), out)


@pytest.mark.slow
def test_an_error_in_a_worker_reaches_the_caller(recipe, out):
    with pytest.raises(BadInput, match=r"toy:odd, '\d': the task returned 0 rows"):
        run(recipe(task="toy:odd", options={"rows": []}), out, workers=2)


@pytest.mark.slow
def test_a_bug_in_a_worker_reaches_the_caller(recipe, out):
    with pytest.raises(ZeroDivisionError, match="a bug of the task"):
        run(recipe(task="toy:broken"), out, workers=2)


@pytest.mark.parametrize("resources", [{}, {"GPU": 1}])
def test_the_workers_of_a_cluster_do_the_same(recipe, out, tmp_path, resources):
    with LocalCluster(
        n_workers=1,
        threads_per_worker=2,
        processes=False,
        protocol="tcp",
        host="127.0.0.1",
        dashboard_address=None,
        resources=resources,
    ) as cluster:
        rows = run(recipe(options={"log": str(tmp_path / "log")}), out, cluster=cluster.scheduler_address)
    assert rows == run(recipe(options={"log": str(tmp_path / "log")}), tmp_path / "alone")


def test_a_cluster_that_is_not_there_is_one_line(recipe, out):
    with (
        dask.config.set({"distributed.comm.timeouts.connect": "1s"}),
        pytest.raises(BadInput, match=r"no dask scheduler answers at tcp://127\.0\.0\.1:9") as error,
    ):
        run(recipe(), out, cluster="tcp://127.0.0.1:9")
    assert "\n" not in str(error.value)


def test_no_worker_is_no_way_to_work(recipe, out):
    with pytest.raises(BadInput, match="workers must be at least 1"):
        run(recipe(), out, workers=0)


def test_generation_judges_the_videos_that_the_noises_give(recipe, out, model):
    from seedbed.noise import NoiseRecipe
    from seedbed.pipelines.loading import load
    from seedbed.pipelines.session import Session
    from seedbed.worlds.verifier import attributes

    prompt = "a red circle moving left"
    content = recipe(
        task="generation",
        models=[str(model)],
        prompts={"list": [prompt]},
        noises={"seed": 5, "count": 2},
        options={"verifier": "shapes"},
    )
    rows = run(content, out)
    session = Session(load(model), prompt)
    for row in rows:
        noise = NoiseRecipe(5, row["candidate"], tuple(session.spec.shape)).draw()
        frames = session.generate(noise)
        expected = attributes(frames[None], [prompt])
        assert row["outcome.score"] == float(expected["score"][0])
        assert set(row) == {*IDENTITY, "cost.generation", *(f"outcome.{name}" for name in expected)}
        assert row["cost.generation"] == 2 * CALLS["cogvideox"]["num_inference_steps"]


def test_noises_have_the_shape_that_the_option_call_asks_for(recipe, out, model, monkeypatch):
    shapes = []

    def seen(pipe, prompt, recipes, options):
        shapes.append(recipes[0].shape)
        return [{"x": 0.0}]

    monkeypatch.setattr("seedbed.lab.measurement.measure_noises", seen)
    content = recipe(
        task="generation",
        models=[str(model)],
        prompts={"list": ["a cat"]},
        noises={"seed": 5, "count": 1},
        methods={"plain": {}, "tall": {"call": {"height": 2 * CALLS["cogvideox"]["height"]}}},
    )
    run(content, out)
    assert shapes[1] == (*shapes[0][:-2], 2 * shapes[0][-2], shapes[0][-1])


@pytest.mark.parametrize(
    ("options", "message"),
    [({}, "option verifier is missing"), ({"verifier": "shapes", "stpes": 3}, "no option 'stpes'")],
)
def test_options_that_are_unknown_or_missing_are_refused(recipe, out, model, options, message):
    with pytest.raises(BadInput, match=message):
        run(recipe(task="generation", models=[str(model)], options=options), out)


def test_a_broken_model_is_one_line(recipe, out, tmp_path):
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "model_index.json").write_text(
        '{"_class_name": "CogVideoXPipeline", "vae": ["diffusers", "No"]}'
    )
    with pytest.raises(SeedbedError, match="does not load as a diffusers pipeline") as error:
        run(recipe(task="generation", models=[str(broken)], options={"verifier": "shapes"}), out)
    assert "\n" not in str(error.value)


def test_every_registered_task_is_there():
    for task in TASKS:
        assert callable(find_task(task)[1])
