"""`generate --prompts FILE`: a video for each line; killed half way, it goes on where it was."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

import seedbed as library
from seedbed.cli.outputs import write_together
from seedbed.cli.prompts import settled
from seedbed.errors import BadInput, BadOutput
from tests.cli.test_errors import one_line

LINES = ["a red circle", "a blue square moving left", "a red circle"]
STEMS = ["001-a-red-circle", "002-a-blue-square-moving-left", "003-a-red-circle"]
FEW = ("--candidates", "1", "--no-report")


@pytest.fixture(autouse=True)
def lines(tmp_path: Path) -> None:
    (tmp_path / "lines.txt").write_text("\n\n".join(LINES) + "\n")


def test_a_video_for_each_line_is_made_once(seedbed, model, tmp_path: Path, monkeypatch) -> None:
    given = ("generate", "--prompts", "lines.txt", "--model", model, *FEW, "--seed", 4)
    code, out, err = seedbed(*given)
    assert (code, err) == (0, "")
    names = {f"{stem}.{end}" for stem in STEMS for end in ("mp4", "json")} | {"options.json"}
    assert {path.name for path in (tmp_path / "lines").iterdir()} == names
    rows = out.splitlines()
    assert len(rows) == 4 and [stem in row for stem, row in zip(STEMS, rows[1:], strict=True)] == [True] * 3
    records = [json.loads((tmp_path / f"lines/{stem}.json").read_text()) for stem in STEMS]
    assert [record["seed"] for record in records] == [4, 5, 6]  # as of a list of prompts in Python
    # The same as alone, and a replay of each.
    assert seedbed("generate", LINES[1], "--model", model, *FEW, "--seed", 5, "--out", "b.mp4").code == 0
    assert json.loads((tmp_path / "b.json").read_text())["frames_sha256"] == records[1]["frames_sha256"]
    assert seedbed("replay", f"lines/{STEMS[2]}.mp4").code == 0
    # All is there: not even the model is loaded.
    monkeypatch.setattr("seedbed.pipelines.loading.load", lambda *args, **named: pytest.fail("loaded"))
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "lines").iterdir()}
    code, again, _ = seedbed(*given)
    assert code == 0 and again == out
    answer = json.loads(seedbed(*given, "--json").out)
    assert [video["record"]["prompt"] for video in answer["videos"]] == LINES
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "lines").iterdir()} == before
    one_line(seedbed(*given[:-1], 5), "lines was begun with other options (seed 4, now 5)")


def test_an_appended_line_and_a_damaged_record_are_made(seedbed, model, tmp_path: Path) -> None:
    (tmp_path / "lines.txt").write_text("\n".join(LINES[:2]))
    given = ("generate", "--prompts", "lines.txt", "--model", model, *FEW, "--seed", -1, "--out", "out")
    code, _, err = seedbed(*given)
    assert code == 0
    seed = int(err.removeprefix("seed "))
    kept = (tmp_path / f"out/{STEMS[0]}.mp4").stat().st_mtime_ns
    (tmp_path / f"out/{STEMS[1]}.json").write_text("{")
    (tmp_path / "lines.txt").write_text("\n".join(LINES))
    code, _, err = seedbed(*given)
    assert (code, err) == (0, f"seed    {seed}\n")  # the first run's
    records = [json.loads((tmp_path / f"out/{stem}.json").read_text()) for stem in STEMS]
    assert [record["seed"] for record in records] == [seed, seed + 1, seed + 2]
    assert (tmp_path / f"out/{STEMS[0]}.mp4").stat().st_mtime_ns == kept
    changed = "out was begun with other prompts (number 2 was 'a blue square moving left', now "
    for lines, now in (([LINES[0], "a ring", LINES[2]], "'a ring')"), (LINES[:1], "missing)")):
        (tmp_path / "lines.txt").write_text("\n".join(lines))
        one_line(seedbed(*given), changed + now)


def test_what_is_not_as_when_the_folder_was_begun(seedbed, model, tmp_path: Path) -> None:
    (tmp_path / "lines.txt").write_text(LINES[0])
    given = ("generate", "--prompts", "lines.txt", "--model", model, *FEW, "--out", "out")
    assert seedbed(*given).code == 0
    (tmp_path / "lines.txt").write_text("\n".join(LINES[:2]))
    options = tmp_path / "out/options.json"
    content = json.loads(options.read_text())
    # As on a GPU, where the dtype is another if none is asked for.
    options.write_text(json.dumps({**content, "dtypes": {**content["dtypes"], "vae": "bfloat16"}}))
    one_line(seedbed(*given), "out was begun with other dtypes (vae bfloat16, now float32): give --dtype")
    assert not (tmp_path / f"out/{STEMS[1]}.json").exists()


def test_files_under_the_same_names_with_other_content(seedbed, tmp_path: Path) -> None:
    for seed in (0, 1):
        Image.effect_noise((16, 16), 50 + seed).save(tmp_path / "a.png")
        asked = {"seed": 0, "image": "a.png"}
        if not seed:
            options = settled(tmp_path / "out", asked, LINES, ["a.png", "0.5", None, "x" * 5000])
            assert {*options["sha256"]} == {"a.png"}
            (tmp_path / "out").mkdir()
            (tmp_path / "out/options.json").write_text(json.dumps({**options, "dtypes": {}}))
            assert settled(tmp_path / "out", asked, LINES, ["a.png"])["prompts"] == LINES
    with pytest.raises(BadInput, match=r"begun with other options \(sha256\.a\.png"):
        settled(tmp_path / "out", asked, LINES, ["a.png"])


def test_a_model_in_the_same_folder_with_other_content(tmp_path: Path, model) -> None:
    place, folder = shutil.copytree(model, tmp_path / "model"), tmp_path / "out"
    begun = settled(folder, {"seed": 0}, LINES, [], [str(place), None])
    assert {*begun["models"]} == {str(place)} and begun["sha256"] == {}
    folder.mkdir()
    (folder / "options.json").write_text(json.dumps({**begun, "dtypes": {}}))
    (place / "README.md").write_text("a card")  # decides nothing, nor do times
    os.utime(next(place.glob("transformer/*.safetensors")), (0, 0))
    assert settled(folder, {"seed": 0}, LINES, [], [str(place)])["models"] == begun["models"]
    with open(next(place.glob("transformer/*.safetensors")), "r+b") as weights:
        weights.seek(-1, os.SEEK_END)
        weights.write(b"\0")
    with pytest.raises(BadInput, match=r"begun with other options \(models\..*model [0-9a-f]{64}, now"):
        settled(folder, {"seed": 0}, LINES, [], [str(place)])
    assert settled(tmp_path / "hub", {"seed": 0}, LINES, [], ["owner/name"])["models"] == {}


def test_large_weights_are_read_in_blocks(tmp_path: Path) -> None:
    place, size = tmp_path / "large.safetensors", 2**33
    with open(place, "wb") as file:
        file.truncate(size)  # which takes no room where nothing was written

    def known() -> str:
        return settled(tmp_path / "out", {"seed": 0}, LINES, [], [str(place)])["models"][str(place)]

    before = known()
    for at in (0, (size - 2**16) * 32 // 63, size - 1):  # the header, a block between, the end
        with open(place, "r+b") as file:
            file.seek(at)
            file.write(b"\1")
        now = known()
        assert now != before
        before = now
    os.truncate(place, size - 1)
    assert known() != before


def test_options_that_a_folder_lacks_are_as_good_as_not_given_but_not_its_models(
    tmp_path: Path, model
) -> None:
    folder = tmp_path / "out"
    given = ({"seed": 0, "acquisition": "auto", "tiles": False}, LINES, [], [model])
    begun = {**settled(folder, *given), "dtypes": {}}
    folder.mkdir()
    (folder / "options.json").write_text(json.dumps({key: begun[key] for key in begun if key != "tiles"}))
    settled(folder, *given)
    with pytest.raises(BadInput, match=r"begun with other options \(tiles off, now True\)"):
        settled(folder, {**given[0], "tiles": True}, *given[1:])
    (folder / "options.json").write_text(
        json.dumps({name: begun[name] for name in begun if name != "models"})
    )
    with pytest.raises(BadInput, match="was begun by an earlier version: give another --out"):
        settled(folder, *given)


def test_a_prompt_that_cannot_be_judged(seedbed, tmp_path: Path) -> None:
    (tmp_path / "lines.txt").write_text("a red circle moving left\na koala plays the piano\n")
    given = ("generate", "--prompts", "lines.txt", "--verifier", "shapes", "--device", "cpu")
    one_line(seedbed(*given), "prompt 2: ", "koala")
    assert not (tmp_path / "lines").exists()


def test_an_error_on_the_way_says_what_is_kept(seedbed, model, tmp_path: Path, monkeypatch) -> None:
    own = library.generate

    def broken(pipe, prompt, **named):
        if prompt == LINES[1]:
            raise BadOutput("the denoiser returned values that are not finite")
        return own(pipe, prompt, **named)

    monkeypatch.setattr(library, "generate", broken)
    one_line(
        seedbed("generate", "--prompts", "lines.txt", "--model", model, *FEW),
        "prompt 2: the denoiser returned values that are not finite; 1 of 3 videos are kept in lines",
    )


def begun(folder: Path, *options: str) -> subprocess.Popen:
    """The command in a process of its own, whose model takes a while, once its first video is there."""
    command = ["generate", "--prompts", "lines.txt", "--out", "out", *FEW, *options]
    process = subprocess.Popen(
        [sys.executable, "-c", "from seedbed.cli import main; main()", *command],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 120
    while not (folder / f"out/{STEMS[0]}.json").exists() and time.monotonic() < deadline:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    return process


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_what_was_finished_before_a_kill_is_not_made_again(seedbed, model, tmp_path: Path, how) -> None:
    options = ("--model", model, "--steps", "60")
    process = begun(tmp_path, *options)
    while process.poll() is None:  # again, as an interrupt while files are moved is let pass
        process.send_signal(how)
        time.sleep(0.2)
    out, err = process.communicate(timeout=60)
    assert process.returncode == (-signal.SIGKILL if how == signal.SIGKILL else 130) and out == b""
    if how == signal.SIGINT:
        line = r"interrupted: [12] of 3 videos are kept in out; run again to go on\n"
        assert re.fullmatch(line, err.decode()), err
    records = [tmp_path / f"out/{stem}.json" for stem in STEMS]
    there = [path.exists() for path in records]
    assert there[0] and not there[2]
    before = {path: path.stat().st_mtime_ns for path in records if path.exists()}
    assert seedbed("generate", "--prompts", "lines.txt", "--out", "out", *FEW, *options).code == 0
    assert all(path.exists() and path.with_suffix(".mp4").exists() for path in records)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert seedbed("replay", f"out/{STEMS[2]}.json").code == 0


def test_an_interrupt_right_after_a_video_counts_it(seedbed, model, monkeypatch) -> None:
    def interrupted(writers) -> None:
        write_together(writers)
        raise KeyboardInterrupt

    monkeypatch.setattr("seedbed.cli.app.write_together", interrupted)
    code, out, err = seedbed("generate", "--prompts", "lines.txt", "--model", model, *FEW, "--out", "out")
    assert (code, out) == (130, "")
    assert err == "interrupted: 1 of 3 videos are kept in out; run again to go on\n"


def test_images_are_written_as_png(seedbed, model_of, tmp_path: Path) -> None:
    given = ("generate", "--prompts", "lines.txt", "--model", model_of("sdxl"), *FEW)
    first = seedbed(*given)
    assert first.code == 0 and (tmp_path / f"lines/{STEMS[0]}.png").exists()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "lines").iterdir()}
    assert seedbed(*given).out == first.out
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "lines").iterdir()} == before


@pytest.mark.parametrize(
    ("options", "fragment"),
    [
        (["--prompts", "none.txt"], "cannot read the prompts none.txt: No such file or directory"),
        (["--prompts", "empty.txt"], "empty.txt has no prompt: write one on each line"),
        (["--prompts", "lines.txt", "a prompt"], "either a PROMPT, or --prompts FILE"),
        ([], "say what to generate: give a PROMPT, or --image FILE to a model that takes none"),
        (["--prompts", "lines.txt", "--out", "lines.txt"], "lines.txt is no folder: name one with --out"),
        (["--prompts", "lines.txt", "--out", "vids.webm"], "vids.webm is the name of a video, and --prompts"),
        (["--prompts", "lines.txt", "--unconditional"], "--unconditional is for an empty PROMPT"),
        (["--prompts", "lines.txt", "--acquisition", "bonsai"], "bonsai"),
        (["--prompts", "lines.txt"], "there is no model at missing"),
        (["--prompts", "lines.txt", "--out", "foreign"], "options.json is not the file of a run"),
    ],
)
def test_bad_input_is_one_line(seedbed, tmp_path: Path, options, fragment: str) -> None:
    (tmp_path / "empty.txt").write_text("\n  \n")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "options.json").write_text("[]")
    one_line(seedbed("generate", *options, "--model", "missing"), fragment)
    assert not (tmp_path / "lines").exists()
