"""Arguments of a pipeline's call from the command line: pictures, videos and --set; replayed."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from seedbed.pipelines.arguments import typed
from seedbed.pipelines.loading import load
from seedbed.report.footage import read_pictures
from seedbed.report.video import read_record, write_video
from tests.cli.test_errors import one_line
from tests.pipelines import FAMILIES
from tests.pipelines.wan import first_last_frame

PROMPT = "a red circle moving left"
FEW = ("--candidates", 1, "--no-report")
FIRST_LAST = "Wan 2.1, first and last frame to video"
_SIZE = dict(height=16, width=16, num_frames=9, num_inference_steps=2)
_WAN = {**_SIZE, "max_sequence_length": 8}
WORDLESS = "Stable Video Diffusion"
CALLS: dict[str, dict[str, Any]] = {
    WORDLESS: dict(height=16, width=16, num_frames=3, num_inference_steps=2),
    FIRST_LAST: {**_SIZE, "max_sequence_length": 512},
    "Wan 2.2 5B, image to video": _WAN,
    "Wan, video to video": {**_WAN, "num_inference_steps": 3, "strength": 0.7},
    "Wan VACE": _WAN,
}
for name in ("Wan, video to video",):
    CALLS[name].pop("num_frames")


@pytest.fixture(scope="module")
def model_named(tmp_path_factory):
    """`model_named(name)`: the folder of a family of the table, its call without pictures beside it."""
    folders: dict[str, Path] = {}

    def saved(name: str) -> Path:
        if name not in folders:
            folder = tmp_path_factory.mktemp("models") / "model"
            builders = {family.name: family.build for family in FAMILIES} | {FIRST_LAST: first_last_frame}
            builders[name]().save_pretrained(folder)
            content = {"schema": "seedbed.model/1", "call": CALLS[name]}
            (folder / "seedbed.json").write_text(json.dumps(content))
            folders[name] = folder
        return folders[name]

    return saved


@pytest.fixture(autouse=True)
def files(tmp_path: Path) -> None:
    """Two pictures, of more pixels than the models make, and a video of eleven frames."""
    pixels = np.random.default_rng(0).integers(0, 256, (2, 24, 40, 3), np.uint8)
    Image.fromarray(pixels[0]).save(tmp_path / "first.png")
    Image.fromarray(pixels[1]).save(tmp_path / "last.jpg")
    still = np.linspace(0, 255, 256 * 256 * 3).reshape(256, 256, 3).astype(np.uint8)
    write_video(tmp_path / "in.mp4", np.stack([np.roll(still, 9 * step, 1) for step in range(11)]), 30)


def made(outcome) -> dict[str, Any]:
    assert (outcome.code, outcome.err) == (0, ""), outcome.err
    return json.loads(outcome.out)


def test_a_video_starts_from_a_picture_which_its_record_holds(seedbed, model_named, tmp_path: Path) -> None:
    model = model_named("Wan 2.2 5B, image to video")
    given = ("--model", model, "--image", "first.png", "--negative-prompt", "a blue square", *FEW)
    record = made(seedbed("generate", PROMPT, *given, "--out", "a.mp4", "--json"))["record"]
    assert record["call"]["negative_prompt"] == "a blue square" and "image" not in record["missing"]
    (tmp_path / "first.png").rename(tmp_path / "gone.png")
    again = made(seedbed("replay", "a.mp4", "--json"))
    assert again["identical"] and again["record"] == record
    one_line(seedbed("replay", "a.mp4", "--image", "gone.png"), "image is not missing from the record")
    # Another picture makes another video.
    (tmp_path / "first.png").write_bytes((tmp_path / "last.jpg").read_bytes())
    other = made(seedbed("generate", PROMPT, *given, "--out", "b.mp4", "--json"))["record"]
    assert other["frames_sha256"] != record["frames_sha256"]


def test_a_model_that_takes_no_prompt_starts_from_its_picture(seedbed, model_named, tmp_path: Path) -> None:
    given = ("--model", model_named(WORDLESS), "--image", "first.png", "--candidates", 2)
    chosen = made(seedbed("select", *given, "--acquisition", "bansa", "--json"))
    assert chosen["files"] == {"record": "from-first-selection.json"} and chosen["record"]["prompt"] is None
    video = made(seedbed("generate", *given, "--acquisition", "bansa", "--json"))
    assert video["files"] == {
        "video": "from-first.mp4",
        "report": "from-first.html",
        "record": "from-first.json",
    }
    assert video["record"]["best"] == chosen["record"]["best"]
    assert video["record"]["totals"] == chosen["record"]["totals"]
    page = (tmp_path / "from-first.html").read_text()
    assert "(no prompt in words)" in page and "prompt: None" not in page
    assert made(seedbed("replay", "from-first.mp4", "--json"))["identical"]
    one_line(seedbed("select", PROMPT, *given), "StableVideoDiffusionPipeline takes no prompt: leave it out")


@pytest.mark.slow
def test_without_a_prompt_noises_are_scored_and_shown(seedbed, model_named) -> None:
    given = ("--model", model_named(WORDLESS), "--image", "first.png")
    totals = made(seedbed("score", *given, "--acquisition", "bansa", "--seeds", "0,1", "--json"))["record"][
        "totals"
    ]
    assert len(totals) == 2 and totals[0] != totals[1]
    sheet = made(seedbed("contact-sheet", *given, "--candidates", 2, "--after", 1, "--json"))
    assert sheet["files"]["page"] == "from-first-sheet.html" and sheet["record"]["prompt"] is None


def test_a_model_that_takes_a_prompt_says_so(seedbed, model_named) -> None:
    model = model_named("Wan 2.2 5B, image to video")
    line = "WanImageToVideoPipeline takes a prompt: pass either a prompt or prompt_embeds"
    one_line(seedbed("generate", "--model", model, "--image", "first.png"), line)
    for command in ("generate", "select", "score", "contact-sheet"):
        one_line(
            seedbed(command, "--model", model), "give a PROMPT, or --image FILE to a model that takes none"
        )


def test_a_picture_of_many_pixels_is_known_by_its_sha256(seedbed, model_named, tmp_path: Path) -> None:
    Image.effect_noise((4096, 1025), 50).save(tmp_path / "large.png")
    given = ("--model", model_named("Wan 2.2 5B, image to video"), "--image", "large.png", *FEW)
    record = made(seedbed("generate", PROMPT, *given, "--out", "a.mp4", "--json"))["record"]
    assert "image" not in record["call"] and record["missing"]["image"].startswith(
        "1 picture, known by sha256"
    )
    one_line(seedbed("replay", "a.mp4"), "the record cannot hold image (1 picture, known by sha256")
    one_line(seedbed("replay", "a.mp4", "--image", "first.png"), "image is another than the record's")
    assert made(seedbed("replay", "a.mp4", "--image", "large.png", "--json"))["identical"]


def test_a_video_ends_at_a_picture(seedbed, model_named) -> None:
    given = ("--model", model_named(FIRST_LAST), "--image", "first.png", *FEW)
    both = made(seedbed("generate", PROMPT, *given, "--last-image", "last.jpg", "--out", "a.webm", "--json"))
    assert {*both["record"]["call"]} >= {"image", "last_image"}
    other = made(seedbed("generate", PROMPT, *given, "--last-image", "first.png", "--out", "b.mp4", "--json"))
    assert both["record"]["frames_sha256"] != other["record"]["frames_sha256"]
    again = made(seedbed("replay", "a.webm", "--json"))
    assert again["identical"] and again["files"]["video"] == "a-replay.webm"


@pytest.mark.parametrize("name", ["Wan, video to video", "Wan VACE"])
def test_a_video_is_made_from_a_video(seedbed, model_named, tmp_path: Path, name: str) -> None:
    given = ("--model", model_named(name), "--video", "in.mp4", "--frames", 9, *FEW)
    record = made(seedbed("generate", PROMPT, *given, "--out", "a.gif", "--json"))["record"]
    assert record["missing"]["video"].startswith("9 pictures, known by sha256 ")
    one_line(seedbed("replay", "a.gif"), "the record cannot hold video (9 pictures, known by sha256")
    one_line(seedbed("replay", "a.gif", "--video", "a.gif"), "video is another than the record's")
    again = made(seedbed("replay", "a.gif", "--video", "in.mp4", "--json"))
    assert again["identical"] and again["files"]["video"] == "a-replay.gif"
    # A contact sheet's candidate needs it too.
    made(seedbed("contact-sheet", PROMPT, *given[:-1], "--out", "s.json", "--json"))
    finished = made(seedbed("replay", "s.json", "--candidate", record["best"], "--video", "in.mp4", "--json"))
    assert finished["record"]["frames_sha256"] == record["frames_sha256"]


def test_pictures_of_other_arguments_are_set_by_name(seedbed, model_named) -> None:
    given = ("--model", model_named("Wan VACE"), *FEW, "--set", "conditioning_scale=0.5")
    given += ("--set", "reference_images=first.png")
    record = made(seedbed("generate", PROMPT, *given, "--out", "a.mp4", "--json"))["record"]
    assert record["call"]["conditioning_scale"] == 0.5
    assert len(record["call"]["reference_images"]["png"]) == 1
    assert made(seedbed("replay", "a.json", "--json"))["identical"]
    page = Path("a.html")
    assert not page.exists()
    made(
        seedbed(
            "generate",
            PROMPT,
            *given[:-1],
            "reference_images=first.png",
            "--report",
            "--json",
            "--out",
            "a.mp4",
        )
    )
    assert 'alt="reference_images"' in page.read_text()


def test_values_are_typed_by_the_signature(seedbed, model) -> None:
    settings = ["eta=1", "use_dynamic_cfg=true", "num_inference_steps=3", "negative_prompt=7"]
    settings += ['attention_kwargs={"scale": 0.5}', "timesteps=null"]
    given = [word for setting in settings for word in ("--set", setting)]
    record = made(seedbed("generate", PROMPT, "--model", model, *FEW, *given, "--out", "a.mp4", "--json"))[
        "record"
    ]
    call = record["call"]
    assert call["eta"] == 1.0 and call["use_dynamic_cfg"] is True and call["num_inference_steps"] == 3
    assert (call["negative_prompt"], call["attention_kwargs"], call["timesteps"]) == (
        "7",
        {"scale": 0.5},
        None,
    )
    assert made(seedbed("replay", "a.mp4", "--json"))["identical"]


@pytest.mark.parametrize(
    ("options", "fragment"),
    [
        (["--image", "none.png"], "cannot read the picture none.png: No such file or directory"),
        (["--last-image", "in.mp4"], "cannot read the picture in.mp4: it is no picture that can be read"),
        (["--video", "none.mp4"], "cannot read the video none.mp4: No such file or directory"),
        (["--video", "text.mp4"], "text.mp4 is not a video that can be read"),
        (["--set", "strength"], "cannot read --set strength: write NAME=VALUE"),
        (["--set", "eta=0", "--set", "eta=1"], "eta is given twice: leave one out"),
        (["--set", "image=last.jpg", "--image", "first.png"], "image is given twice: leave one out"),
        (["--out", "a.gif", "--fps", "101"], "a .gif shows at most 100 frames per second, not 101"),
        (["--seed", "-2"], "--seed"),
        (["--out", "a.avi"], "must end in .mp4 or .webm or .gif or .png"),
        (["--offload", "disk"], "--offload"),
    ],
)
def test_refused_before_a_model_is_looked_for(seedbed, tmp_path: Path, options, fragment: str) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    one_line(seedbed("generate", PROMPT, "--model", "missing", *options), fragment)


@pytest.mark.parametrize(
    ("options", "fragment"),
    [
        (["--image", "first.png"], "CogVideoXPipeline has no argument 'image'"),
        (["--set", "guidance_scal=3"], "has no argument 'guidance_scal': did you mean 'guidance_scale'?"),
        (["--set", "eta=many"], "CogVideoXPipeline's argument eta must be float, not 'many'"),
        (["--set", "num_inference_steps=1.5"], "argument num_inference_steps must be int, not '1.5'"),
        (["--set", "timesteps=[1,true]"], "argument timesteps must be list[int], not '[1,true]'"),
        (["--set", "eta=NaN"], "CogVideoXPipeline's argument eta must be float, not 'NaN'"),
        (["--set", "eta=1e999"], "CogVideoXPipeline's argument eta must be float, not '1e999'"),
        (["--set", 'attention_kwargs={"scale": -Infinity}'], "argument attention_kwargs must be dict"),
        (["--set", f"timesteps={'[' * 20_000}"], "argument timesteps must be list[int], not '[[["),
        (["--set", "eta=null"], "argument eta must be float, not 'null'"),
        (["--set", "generator=3"], "argument generator is a Generator, which a text cannot give"),
        (["--set", "latents=3"], "argument latents is a "),
        (["--frames", "9", "--set", "num_frames=5"], "num_frames is given twice"),
        (["--set", "prompt=x"], "prompt is given twice: leave one out"),
    ],
)
def test_what_the_pipeline_does_not_take(seedbed, model, tmp_path: Path, options, fragment: str) -> None:
    one_line(seedbed("select", PROMPT, "--model", model, *options), fragment)


def test_all_frames_of_a_picture_that_moves_are_taken(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (16, 16), (20 * step, 0, 0)) for step in range(9)]
    for name in ("in.gif", "in.png", "in.webp"):
        lossless = {"lossless": True} if name == "in.webp" else {}
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], duration=125, **lossless)
        found = read_pictures(tmp_path / name, math.inf)
        assert [frame.getpixel((8, 8)) for frame in found] == [(20 * step, 0, 0) for step in range(9)], name
        assert len(read_pictures(tmp_path / name, 5)) == 5
    assert len(read_pictures(tmp_path / "first.png", math.inf)) == 1
    assert len(read_pictures(tmp_path / "in.mp4", 3)) == 3


def test_frames_that_are_set_limit_a_video(model_named, tmp_path: Path) -> None:
    pipe = load(model_named("Wan VACE"), device="cpu")
    for texts in ({"num_frames": "5", "video": "in.mp4"}, {"video": "in.mp4", "num_frames": "5"}):
        texts["video"] = str(tmp_path / "in.mp4")
        given = typed(pipe, texts, {})
        assert given["num_frames"] == len(given["video"]) == 5


def test_damaged_pictures_are_one_line(seedbed, model_named, tmp_path: Path) -> None:
    data = (tmp_path / "first.png").read_bytes()
    (tmp_path / "half.png").write_bytes(data[: len(data) // 2])
    one_line(
        seedbed("generate", PROMPT, "--model", "missing", "--image", "half.png"),
        "cannot read the picture half.png",
    )
    shutil.copy(tmp_path / "first.png", tmp_path / "in.jpg")
    model = model_named("Wan 2.2 5B, image to video")
    made(seedbed("generate", PROMPT, "--model", model, "--image", "in.jpg", *FEW, "--out", "a.mp4", "--json"))
    record = json.loads((tmp_path / "a.json").read_text())
    record["call"]["image"]["png"] = ["AAAA"]
    from seedbed.selection.record import sealed

    (tmp_path / "a.json").write_text(json.dumps(sealed(record)))
    one_line(seedbed("replay", "a.json"), "a picture is damaged")


def test_a_random_seed_is_shown(seedbed, model) -> None:
    code, out, err = seedbed("generate", PROMPT, "--model", model, "--seed", -1, *FEW, "--out", "a.mp4")
    assert code == 0
    seed = int(err.removeprefix("seed "))
    record = read_record("a.mp4")
    assert {recipe["seed"] for recipe in record["recipes"]} == {seed} and f"of seed {seed}" in out
    assert seedbed("select", PROMPT, "--model", model, "--seed", -1, "--candidates", 1).err != err


def test_a_video_without_metadata(seedbed, model) -> None:
    for name in ("a.mp4", "a.webm", "a.gif"):
        made(seedbed("generate", PROMPT, "--model", model, *FEW, "--no-metadata", "--out", name, "--json"))
        one_line(seedbed("replay", name), "carries no record")
    assert b"seedbed" not in Path("a.mp4").read_bytes()
    assert made(seedbed("replay", "a.json", "--no-metadata", "--json"))["identical"]
    one_line(seedbed("replay", "a-replay.mp4"), "carries no record")
