import io
import json
from pathlib import Path

import av
import numpy as np
import pytest

PROMPT = "a red circle moving left"


def frames_of(path: Path) -> np.ndarray:
    with av.open(io.BytesIO(path.read_bytes())) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def test_generate_then_replay_of_record_and_video(seedbed, model, tmp_path: Path) -> None:
    code, out, err = seedbed("generate", PROMPT, "--model", model, "--candidates", 3, "--seed", 5)
    assert (code, err) == (0, "")
    stem = "a-red-circle-moving-left"
    assert {path.name for path in tmp_path.iterdir()} == {
        f"{stem}.{kind}" for kind in ("mp4", "html", "json")
    }
    assert all(f"{stem}.{kind}" in out for kind in ("mp4", "html", "json"))
    record = json.loads((tmp_path / f"{stem}.json").read_text())
    assert [recipe["seed"] for recipe in record["recipes"]] == [5, 5, 5]
    page = (tmp_path / f"{stem}.html").read_text()
    assert PROMPT in page and f"seedbed replay {stem}.mp4" in page and page.count("<video") == 1

    for source in (f"{stem}.json", f"{stem}.mp4"):
        code, out, err = seedbed("replay", source, "--json", "--out", "again.mp4")
        assert (code, err) == (0, "")
        answer = json.loads(out)
        assert answer["identical"] is True
        assert answer["record"]["frames_sha256"] == record["frames_sha256"]
        np.testing.assert_array_equal(frames_of(tmp_path / "again.mp4"), frames_of(tmp_path / f"{stem}.mp4"))


def test_replay_says_when_the_frames_differ(seedbed, model, tmp_path: Path, monkeypatch) -> None:
    seedbed("generate", PROMPT, "--model", model, "--candidates", 1, "--no-report", "--out", "a.mp4")
    from seedbed.pipelines.session import Session

    # Another machine rounds differently: stand in for it by one value of one frame.
    generate = Session.generate

    def rounded(self, *arguments, **named):
        frames = generate(self, *arguments, **named).copy()
        frames[0, 0, 0, 0] ^= 1
        return frames

    monkeypatch.setattr(Session, "generate", rounded)
    code, out, err = seedbed("replay", "a.json")
    assert code == 1
    assert "(other frames)" in out and "a-replay.mp4" in out
    assert err.startswith("warning: ") and err.count("\n") == 1 and "torch" in err
    assert (tmp_path / "a-replay.mp4").exists()


def test_json_is_one_object_and_options_arrive(seedbed, model, tmp_path: Path) -> None:
    arguments = ["--candidates", 2, "--steps", 1, "--guidance-scale", 2.5, "--frames", 5, "--height", 16]
    arguments += [
        "--width",
        32,
        "--acquisition",
        "bansa:estimator=masked,keep=0.5,masks=4,layers=joint,depth=2",
    ]
    arguments += ["--fps", 4, "--no-report", "--out", "x.mp4", "--json"]
    code, out, err = seedbed("generate", PROMPT, "--model", model, *arguments)
    assert (code, err) == (0, "")
    answer = json.loads(out)
    assert answer["files"] == {"video": "x.mp4", "record": "x.json"}
    assert {path.name for path in tmp_path.iterdir()} == {"x.mp4", "x.json"}
    record = answer["record"]
    assert record == json.loads((tmp_path / "x.json").read_text())
    given = {"num_inference_steps": 1, "guidance_scale": 2.5, "num_frames": 5, "height": 16, "width": 32}
    assert given.items() <= record["call"].items()
    assert {"keep": 0.5, "masks": 4, "estimator": "masked", "depth": 2}.items() <= record["options"].items()
    assert record["frames_shape"][1:] == [16, 32, 3] and record["fps"] == 4
    assert len(record["recipes"]) == 2 and len(record["layers"]) == 2


def test_select_then_replay_generates_the_chosen_noise(seedbed, model, tmp_path: Path) -> None:
    code, out, err = seedbed("select", PROMPT, "--model", model, "--candidates", 3)
    assert (code, err) == (0, "")
    (path,) = tmp_path.iterdir()
    assert path.name == "a-red-circle-moving-left-selection.json"
    record = json.loads(path.read_text())
    rows = [line.split() for line in out.splitlines()[1:4]]
    assert [int(row[2]) for row in rows] == record["order"]
    assert [row[-1] == "chosen" for row in rows] == [True, False, False]

    assert seedbed("replay", path.name, "--out", "chosen.mp4").code == 0
    assert seedbed("generate", PROMPT, "--model", model, "--candidates", 3, "--out", "direct.mp4").code == 0
    np.testing.assert_array_equal(frames_of(tmp_path / "chosen.mp4"), frames_of(tmp_path / "direct.mp4"))


def test_score_of_seeds_and_of_earlier_records(seedbed, model) -> None:
    assert (
        seedbed("select", PROMPT, "--model", model, "--candidates", 3, "--seed", 4, "--out", "a.json").code
        == 0
    )
    with open("a.json") as file:
        selected = json.load(file)
    code, out, err = seedbed(
        "score", PROMPT, "--model", model, "--seeds", "4,9", "--noise", "a.json", "--json"
    )
    assert (code, err) == (0, "")
    record = json.loads(out)["record"]
    assert [recipe["seed"] for recipe in record["recipes"]] == [4, 9, 4]
    assert record["totals"][0] == pytest.approx(selected["totals"][0], rel=1e-5)
    assert record["totals"][2] == pytest.approx(selected["totals"][selected["best"]], rel=1e-5)
    code, out, _ = seedbed("score", PROMPT, "--model", model, "--seeds", "4,9")
    assert code == 0 and [int(line.split()[1]) for line in out.splitlines()[1:3]] in ([4, 9], [9, 4])


def test_image_pipeline_writes_a_png_that_replays(seedbed, model_of, tmp_path: Path) -> None:
    code, _, err = seedbed("generate", PROMPT, "--model", model_of("sdxl"), "--candidates", 2)
    assert (code, err) == (0, "")
    stem = "a-red-circle-moving-left"
    assert {path.name for path in tmp_path.iterdir()} == {
        f"{stem}.{kind}" for kind in ("png", "html", "json")
    }
    code, out, _ = seedbed("replay", f"{stem}.png", "--json")
    assert code == 0 and json.loads(out)["identical"] is True
    np.testing.assert_array_equal(
        frames_of(tmp_path / f"{stem}-replay.png"), frames_of(tmp_path / f"{stem}.png")
    )


@pytest.mark.parametrize(
    ("prompt", "stem"),
    [
        ("A  Red, circle!", "a-red-circle"),
        ("../../etc/passwd", "etc-passwd"),
        ("красный круг", "красный-круг"),
        ("!!!", "video"),
        ("word " * 40, "word-word-word-word-word-word-word-word-word-word-word-word"),
    ],
)
def test_files_are_named_after_the_prompt(prompt: str, stem: str) -> None:
    from seedbed.cli.outputs import named_after

    assert named_after(prompt, ".mp4") == Path(f"{stem}.mp4")
