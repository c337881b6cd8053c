"""Priors, refiners and the look at a noise, on the command line."""

import json
from pathlib import Path

import av
import pytest
from PIL import Image, PngImagePlugin

from seedbed.noise import NoiseRecipe
from seedbed.noise.gaussianity import gaussianity
from tests.pipelines import PROMPT


def test_the_record_holds_what_was_asked_and_replays(seedbed, model, tmp_path: Path) -> None:
    asked = ("--prior", "mixed:1", "--refine", "erasure:n=2", "--refine", "variation:0.2")
    code, out, err = seedbed(
        "generate", PROMPT, "--model", model, "--candidates", 2, *asked, "--out", "a.mp4"
    )
    assert (code, err) == (0, "")
    made = "mixed:alpha=1.0, erasure:n=2, variation:strength=0.2,index=1"
    assert f"of seed 0 ({made})" in " ".join(out.split())
    assert made in Path("a.html").read_text()
    recipe = json.loads(Path("a.json").read_text())["recipes"][0]
    assert recipe["prior"] == "mixed:alpha=1.0" and len(recipe["refinements"]) == 2
    assert "identical frames" in seedbed("replay", "a.mp4").out


def test_seeds_of_torch_are_shown_as_they_are_typed(seedbed, model) -> None:
    asked = ("--prior", "torch", "--seed", 7, "--candidates", 3, "--acquisition", "random", "--out", "a.json")
    code, out, _ = seedbed("select", PROMPT, "--model", model, *asked)
    record = json.loads(Path("a.json").read_text())
    assert code == 0 and record["torch_seed"] == 7 + record["best"]
    assert f"torch seed {record['torch_seed']} (torch), lowest of 3" in " ".join(out.split())
    assert all(f"torch seed {number}" in out for number in (7, 8, 9))


def test_a_sheet_of_refined_noises(seedbed, model) -> None:
    asked = ("--candidates", 2, "--prior", "torch", "--refine", "erasure:2", "--out", "a.json")
    assert seedbed("contact-sheet", PROMPT, "--model", model, *asked).code == 0
    assert "torch seed 1, torch, erasure:n=2" in Path("a.html").read_text()
    assert seedbed("replay", "a.json", "--candidate", 1).code == 0
    assert len(json.loads(Path("a-1.json").read_text())["recipes"][0]["refinements"]) == 1


def test_inspect_prints_the_statistics_of_a_record_and_of_a_recipe(seedbed, model) -> None:
    seedbed(
        "select", PROMPT, "--model", model, "--candidates", 2, "--acquisition", "random", "--out", "a.json"
    )
    record = json.loads(Path("a.json").read_text())
    recipe = NoiseRecipe.from_dict(record["recipes"][1])
    found = gaussianity(recipe.draw(), recipe.frame_axis)
    code, out, err = seedbed("noise", "inspect", "a.json", "--candidate", 1)
    assert (code, err) == (0, "") and len(out.splitlines()) == 1 + len(found)
    assert all(one.name in out and f"{one.value:.4g}" in out for one in found)
    recipe.save("noise.json")
    shown = json.loads(seedbed("noise", "inspect", "noise.json", "--json").out)
    assert shown["statistics"] == [vars(one) for one in found] and shown["recipe"] == recipe.to_dict()
    code, _, err = seedbed("noise", "inspect", "noise.json", "--candidate", 3)
    assert (code, err) == (2, "error: noise.json is the recipe of one noise: leave --candidate out\n")
    best = json.loads(seedbed("noise", "inspect", "a.json", "--json").out)
    assert best["recipe"] == record["recipes"][record["best"]]


def test_inspect_reads_the_recipe_in_what_comfyui_saved(seedbed) -> None:
    recipe = NoiseRecipe(3, 1, (4, 5, 6), "torch").sealed()
    text = json.dumps(recipe.to_dict())
    told = PngImagePlugin.PngInfo()
    told.add_text("seedbed", text)
    Image.new("RGB", (8, 8)).save("a.png", pnginfo=told)
    with av.open("a.mp4", "w", options={"movflags": "use_metadata_tags"}) as container:
        container.metadata["seedbed"] = text
        stream = container.add_stream("libx264", rate=8)
        stream.height = stream.width = 16
        container.mux(stream.encode(av.VideoFrame(16, 16, "yuv420p")))
        container.mux(stream.encode())
    for name in ("a.png", "a.mp4"):
        assert json.loads(seedbed("noise", "inspect", name, "--json").out)["recipe"] == recipe.to_dict()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("select", PROMPT, "--prior", "mixed:-1"), "alpha must be a finite number of at least 0"),
        (("generate", PROMPT, "--prior", "pink"), "no noise prior 'pink'"),
        (("generate", PROMPT, "--refine", "sharpen"), "no refiner 'sharpen'"),
        (("contact-sheet", PROMPT, "--refine", "erasure:n=0"), "erasure's n must be a whole number"),
        (("noise", "inspect", "a.json"), "a.json"),
        (("noise", "inspect", "b.json"), "not a noise recipe"),
    ],
)
def test_bad_input_is_one_line(seedbed, arguments, message) -> None:
    Path("b.json").write_text("{}")
    code, out, err = seedbed(*arguments)
    assert (code, out) == (2, "") and message in err and len(err.splitlines()) == 1


def test_the_empty_prompt_has_to_be_meant(seedbed, model) -> None:
    code, _, err = seedbed("select", "", "--model", model)
    assert code == 2 and "--unconditional" in err
    asked = ("--acquisition", "random", "--candidates", 2, "--unconditional")
    assert seedbed("select", *asked, "", "--model", model, "--out", "a.json").code == 0
    assert json.loads(Path("a.json").read_text())["prompt"] == ""
    assert seedbed("replay", "a.json").code == 0
