"""`seedbed edit`, from a video that another program made to the edit, its page and its record."""

import json

import numpy as np
import pytest

from seedbed.report.footage import conformed, read_frames
from seedbed.report.video import read_record
from seedbed.worlds.shapes import parse, place, render
from seedbed.worlds.verifier import read
from tests.report.test_footage import write

SOURCE = "a red square moving right and a yellow circle staying still"
TARGET = SOURCE.replace("red", "blue")


@pytest.fixture
def video(tmp_path):
    """448 x 256 at 25 frames per second, 2 s, MPEG-4: the scene in the middle."""
    scene = render(place(parse(SOURCE), np.random.default_rng(1)))
    frames = np.zeros((50, 256, 448, 3), np.uint8)
    for number in range(50):
        frames[number, :, 96:352] = scene[min(8, number * 8 // 25)].repeat(8, 0).repeat(8, 1)
    return write(tmp_path / "in.mp4", frames, 25)


def test_a_video_of_another_program_is_edited(seedbed, video, tmp_path):
    given = [
        "edit",
        video,
        "--source",
        SOURCE,
        "--target",
        TARGET,
        "--steps",
        10,
        "--out",
        "out.mp4",
        "--report",
        "page.html",
    ]
    code, out, err = seedbed(*given)
    assert (code, err) == (0, "")
    told = (
        "448 × 256 at 25 frames per second, taken as its first 9 frames at 8 per second, cropped to 256 × 256"
    )
    assert told in out.splitlines()[0]
    frames, _ = read_frames(tmp_path / "out.mp4", 9, 8)
    (found,) = read(conformed(frames, 32, 32)[0][None])
    assert sorted(map(str, found.objects)) == sorted(TARGET.split(" and "))
    record = read_record(tmp_path / "out.mp4")
    assert record == json.loads((tmp_path / "out.json").read_text()) and record["target"] == TARGET
    assert "://" not in (tmp_path / "page.html").read_text()
    code, out, err = seedbed("replay", "out.mp4", "--video", video)
    assert (code, out, err) == (0, "video   out-replay.mp4 (identical frames)\n", "")
    code, _, err = seedbed("replay", "out.json")
    assert (code, err) == (2, "error: out.json was edited from a video: add --video in.mp4\n")


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--target", SOURCE], "there is nothing to edit"),
        (["--target", TARGET, "--frames", "33"], "in.mp4 is too short"),
        (["--target", TARGET, "--layers", "nothing"], "no layer matches 'nothing'"),
        (["--target", TARGET, "--stop", "1.5"], "from 0 to 1"),
        (["--target", " "], "the target must be a prompt"),
        (["--target", TARGET, "--out", "out.avi"], "the name must end in .mp4 or .webm or .gif or .png"),
    ],
)
def test_bad_input_is_one_line(seedbed, video, model, options, line):
    code, out, err = seedbed(
        "edit", video, "--source", SOURCE, "--out", "out.mp4", "--model", model, *options
    )
    assert (code, out) == (2, "") and line in err and err.count("\n") == 1


def test_what_is_no_video_is_one_line(seedbed, model, tmp_path):
    (tmp_path / "in.mp4").write_text("no video")
    given = ["--source", SOURCE, "--target", TARGET, "--out", "out.mp4", "--model", model]
    code, _, err = seedbed("edit", "in.mp4", *given)
    assert code == 2 and "in.mp4 is not a video that can be read" in err and err.count("\n") == 1
    given[-1] = "no-model"  # the video is looked at first
    code, _, err = seedbed("edit", "none.mp4", *given)
    assert code == 2 and "cannot read the video none.mp4" in err and not (tmp_path / "out.mp4").exists()


def test_the_video_is_given_once(seedbed, video):
    given = ("edit", video, "--source", SOURCE, "--target", TARGET, "--out", "out.mp4")
    code, _, err = seedbed(*given, "--video", video)
    assert code == 2 and "No such option" in err
    code, _, err = seedbed(*given[:-1], "out.gif", "--fps", 200)
    assert code == 2 and "a .gif shows at most 100 frames per second" in err


def test_a_generated_video_is_edited_from_the_noise_in_its_record(seedbed, tmp_path):
    few = ("--steps", "4")
    assert seedbed("generate", SOURCE, "--candidates", "1", *few, "--no-report", "--out", "in.mp4").code == 0
    asked = ("--source", SOURCE, "--target", TARGET, "--out", "out.mp4")
    code, out, _ = seedbed("edit", "in.json", *asked)  # with the recorded number of steps
    assert code == 0 and "not, bit by bit" not in out
    record = json.loads((tmp_path / "out.json").read_text())
    made = json.loads((tmp_path / "in.json").read_text())
    assert record["origin"] == {"recipe": made["recipes"][made["best"]]}
    assert record["original_sha256"] == made["frames_sha256"]  # the video itself, not an inversion of it
    assert record["call"]["num_inference_steps"] == 4
    _, out, _ = seedbed("edit", "in.json", *asked, "--steps", "3")
    assert "the video that was edited is not, bit by bit, the recorded one" in out
    assert seedbed("select", SOURCE, "--candidates", "1", *few, "--out", "chosen.json").code == 0
    code, out, _ = seedbed("edit", "chosen.json", *asked)  # of a noise that nothing was generated from
    assert code == 0 and "not, bit by bit" not in out
    sheet = ("contact-sheet", SOURCE, "--candidates", "2", "--after", "1", *few, "--out", "sheet.json")
    assert seedbed(*sheet).code == 0
    code, _, err = seedbed("edit", "sheet.json", *asked)
    assert code == 2 and err.startswith("error: nobody has chosen from this contact sheet")
    code, _, err = seedbed("edit", "out.json", *asked)
    assert code == 2 and err.startswith("error: out.json: ") and len(err.splitlines()) == 1
