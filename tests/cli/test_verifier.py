"""`seedbed verifier audit`."""

import json

import pytest

from seedbed.lab.audit import LINES
from tests.training.test_data import write


def test_the_command(seedbed, tmp_path):
    page = tmp_path / "page.html"
    asked = ("verifier", "audit", "artifacts", "--world", "shapes", "--count", "8")
    code, out, err = seedbed(*asked, "--out", str(page), "--json")
    assert (code, err) == (0, "")
    said = json.loads(out)
    assert list(said["traps"]) == list(LINES) and said["verifier"] == "artifacts" and said["videos"] == 8
    assert said["traps"]["another prompt"] == {"right": [0.5, 0.5, 0.5], "equal": 1.0}
    assert "another prompt" in page.read_text()
    for wrong, message in (
        ((), "say which videos are sound"),
        (("--world", "shapes", "--videos", "here"), "say which videos are sound"),
        (("--videos", str(tmp_path / "none")), "cannot read the videos"),
        (("--world", "shapes", "--fps", "8"), "leave --frames, --fps, --height and --width out"),
        (("--world", "digits", "--out", str(tmp_path / "page.txt")), "html"),
    ):
        code, out, err = seedbed("verifier", "audit", "artifacts", *wrong)
        assert code == 2 and out == "" and message in err and err.count("\n") == 1
    code, out, err = seedbed(*asked, "--seed", "-1", "--json")
    assert code == 0 and json.loads(out)["seed"] == int(err.removeprefix("seed ")) != 0
    code, out, err = seedbed("verifier", "audit", "eyes", "--world", "shapes")
    assert code == 2 and "there is no verifier 'eyes'" in err and err.count("\n") == 1


def test_files_count_once_and_one_that_breaks_is_left_out(seedbed, tmp_path):
    for number in range(9):
        path = write(
            tmp_path / f"{number}.mov", 14, 8, "mjpeg", "yuvj420p", options={"movflags": "faststart"}
        )
        path.with_suffix(".txt").write_text("a shape")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    asked = ("--videos", str(tmp_path), "--frames", "6", "--height", "16", "--width", "16", "--count", "20")
    code, out, err = seedbed("verifier", "audit", "artifacts", *asked, "--json")
    assert code == 0 and err.startswith("warning: not used: ") and "8.mov" in err and err.count("\n") == 1
    said = json.loads(out, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert said["videos"] == 8 and said["traps"]["another prompt"] == {"right": [None] * 3, "equal": None}
