"""`seedbed train` as a user runs it: the files, what is printed, and one line for each mistake."""

import json

import pytest

DATA = {"world": "shapes", "count": 4}


@pytest.fixture
def config(tmp_path, model):
    """`config(**changes)`: the file of a training of two steps."""

    def written(**changes):
        content = {
            **{
                "schema": "seedbed.training/1",
                "name": "two-steps",
                "model": model,
                "data": DATA,
                "frames": 9,
            },
            **{"steps": 2, "batch": 1, "lr": 0.001, **changes},
        }
        path = tmp_path / "config.json"
        path.write_text(json.dumps(content))
        return path

    return written


def test_a_training_and_a_video_of_its_model(seedbed, config, tmp_path):
    code, out, err = seedbed("train", config(prior="mixed:1"), "-q")
    assert (code, err) == (0, "") and out == "model   runs/two-steps/model\n"
    content = json.loads(seedbed("train", config(prior="mixed:1"), "--json").out)
    assert content == {"files": {"model": "runs/two-steps/model"}, "steps": 2, "unused": ""}
    asked = ("--model", "runs/two-steps/model", "--steps", 1, "--candidates", 1, "--out", "a.mp4")
    code, out, err = seedbed("generate", "a red circle", *asked)
    assert code == 0 and (tmp_path / "a.mp4").is_file()
    assert json.loads((tmp_path / "a.json").read_text())["recipes"][0]["prior"] == "mixed:alpha=1.0"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"prior": "progressive:-2"},
            "config.json: prior: a prior's alpha must be a finite number of at least 0",
        ),
        ({"frames": 10}, "a clip of the shapes world has 9 frames, not 10"),
        ({"model": "nowhere"}, "there is no model at nowhere"),
        ({"data": {"videos": "none", "fps": 8, "height": 8, "width": 8}}, "cannot read the videos none"),
        ({"stepps": 3}, "config.json: stepps: a training has no such key"),
    ],
)
def test_a_mistake_is_one_line(seedbed, config, changes, message):
    code, out, err = seedbed("train", config(**changes))
    assert code == 2 and out == "" and err.startswith("error: ") and message in err and err.count("\n") == 1


def test_a_file_that_is_not_there(seedbed):
    assert seedbed("train", "none.json") == (
        2,
        "",
        "error: cannot read none.json: No such file or directory\n",
    )
