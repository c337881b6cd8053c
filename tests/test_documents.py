"""Every fenced block of README.md and docs/: Python runs, commands are parsed, JSON is read by its schema."""

import importlib.util
import inspect
import json
import re
import shlex
from collections.abc import Callable, Iterator
from functools import partialmethod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from typer.main import get_command

import seedbed
from seedbed.acquisition import Random
from seedbed.cli.app import app
from seedbed.cli.options import shaping
from seedbed.errors import BadInput
from seedbed.lab.experiment import Recipe
from seedbed.noise import NoiseRecipe
from seedbed.report.video import read_record
from seedbed.selection.profile import Profile, Race, acquisition_named
from seedbed.training.config import Config
from seedbed.verifiers import models, resolve
from tests.pipelines import CALLS, PROMPT, cogvideox
from tests.pipelines.animatediff import cascade

ROOT = Path(__file__).parents[1]
PYPROJECT = (ROOT / "pyproject.toml").read_text()
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text()
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
}


class Block(NamedTuple):
    page: str
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}: {self.text.splitlines()[0]}"


BLOCKS = [
    Block(page, *found)
    for page, text in PAGES.items()
    for found in re.findall(r"^```([^\n]*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
]

# What executes all Python of a page, or the block with that line.
ELSEWHERE = {
    ("README.md", ""): "tests/selection/test_docs.py",
    ("docs/index.md", ""): "tests/selection/test_docs.py",
    ("docs/selection.md", ""): "tests/selection/test_docs.py",
    ("docs/preview.md", ""): "tests/selection/test_docs.py",
    ("docs/noise.md", ""): "tests/selection/test_docs.py",
    ("docs/sessions.md", ""): "tests/selection/test_docs.py",
    ("docs/compatibility.md", ""): "tests/compat/test_docs.py",
    ("docs/adding-a-pipeline.md", ""): "tests/breadth/test_docs.py",
    ("docs/pipelines.md", ""): "tests/breadth/test_docs.py",
    ("docs/calibration.md", ""): "tests/lab/test_calibration.py",
    ("docs/minimal-model.md", ""): "tests/refinement/test_shap_e.py",
    ("docs/lab.md", "rows = [row for row in Store("): "tests/lab/test_docs.py",
    ("docs/lab.md", "def brightness("): "tests/lab/test_docs.py",
}
# Commands that no test can try, by how they begin.
UNTRIED = {
    ("README.md", "git clone"): "the repository has no address yet",
    ("docs/comfyui.md", "ln -s"): "needs the folder of a ComfyUI",
    ("docs/tasks.md", "printf"): "makes a file; tests/test_tasks.py runs the whole page",
}


def of(language: str) -> list[Block]:
    return [block for block in BLOCKS if block.language == language]


def test_every_block_says_what_it_is() -> None:
    """So that none escapes: an untagged or an indented one too would be read by nothing here."""
    fences = sum(len(re.findall(r"^\s*(?:```|~~~)", text, re.MULTILINE)) for text in PAGES.values())
    assert fences == 2 * len(BLOCKS) > 100
    assert {block.language for block in BLOCKS} == {"python", "sh", "json", "text"}
    for block in of("text"):  # diagrams and formulas
        assert not re.search(r"^\s*(?:\$ |seedbed |python |pip |import |from \w+ import )", block.text, re.M)


def leaves(nav: Any) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    return [page for part in (nav.values() if isinstance(nav, dict) else nav) for page in leaves(part)]


def test_the_navigation_leads_to_every_page() -> None:
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
    tops = [name for part in nav for name in part]
    assert tops == ["Start here", "Five tasks", "Gallery", "Reference", "Evidence"]
    assert sorted(f"docs/{page}" for page in leaves(nav)) == sorted({*PAGES} - {"README.md"})


Names = dict[str, Any]
Setting = Callable[[Path, pytest.MonkeyPatch], Iterator[Names]]
SETTINGS: dict[str, Setting] = {}


def setting(page: str) -> Callable[[Setting], Setting]:
    """What a page's Python runs in: a generator that gives the names, then looks at what became of them."""

    def register(function: Setting) -> Setting:
        SETTINGS[f"docs/{page}.md"] = function
        return function

    return register


def tiny(folder: Path) -> Any:
    """A pipeline of random weights that takes few small frames and few steps unless asked otherwise."""
    pipe = cogvideox()
    pipe.register_to_config(_name_or_path=str(folder))
    content = {"schema": "seedbed.model/1", "call": CALLS["cogvideox"]}
    (folder / "seedbed.json").write_text(json.dumps(content))
    return pipe


def contrast(frames: Any, prompts: list[str]) -> torch.Tensor:
    return torch.from_numpy(frames.reshape(len(frames), -1).std(1))


@setting("attention")
def attention(folder: Path, patch: pytest.MonkeyPatch) -> Iterator[Names]:
    pipe = tiny(folder)
    choice = seedbed.select(pipe, PROMPT, candidates=2, progress=False)
    # The pipeline's own call takes 49 frames and 50 steps unless asked otherwise.
    patch.setattr(type(pipe), "__call__", partialmethod(type(pipe).__call__, **CALLS["cogvideox"]))
    names = {"pipe": pipe, "prompt": PROMPT, "choice": choice}
    yield names
    assert "circle" in names["maps"].target and len(names["video"]) == 9
    assert {path.name for path in folder.iterdir()} >= {"study.html", "study.parquet", "maps.html"}


@setting("comfyui")
def comfyui(folder: Path, patch: pytest.MonkeyPatch) -> Iterator[Names]:
    recipe, carried = NoiseRecipe(seed=3, candidate=1, shape=(4, 2, 8, 8), frame_axis=1), PngInfo()
    carried.add_text("seedbed", json.dumps(recipe.to_dict()))
    Image.new("RGB", (8, 8)).save(folder / "seedbed_00001_.png", pnginfo=carried)
    names: Names = {}
    yield names
    assert names["recipe"] == recipe and torch.equal(names["noise"], recipe.draw())


@setting("editing")
def editing(folder: Path, patch: pytest.MonkeyPatch) -> Iterator[Names]:
    names = {"pipe": tiny(folder)}
    yield names
    edit = names["edit"]
    assert edit.frames.shape == edit.original.shape
    assert read_record(folder / "blue.mp4")["target"] == "a blue square moving right"
    assert "a blue square moving right" in (folder / "blue.html").read_text()


@setting("enhancement")
def enhancement(folder: Path, patch: pytest.MonkeyPatch) -> Iterator[Names]:
    names = {"pipe": tiny(folder), "prompt": PROMPT, "call": CALLS["cogvideox"]}
    yield names
    acting = names["video"].selection.adaptations
    assert [text.partition(":")[0] for text in acting] == ["enhance", "guide"]


@setting("lab")
def lab(folder: Path, patch: pytest.MonkeyPatch) -> Iterator[Names]:
    def colours(videos: Any) -> torch.Tensor:
        return torch.from_numpy(videos.mean((1, 2, 3)))

    videos = np.random.default_rng(0).integers(0, 256, (60, 2, 4, 4, 3), dtype=np.uint8)
    yield {"real": videos[:40], "made": videos[40:], "network": colours, "classifier": colours}


@setting("speed")
def speed(folder: Path, patch: pytest.MonkeyPatch) -> Iterator[Names]:
    race = Race(((3, 8), (6, 1)), 10, "bansa", (0.1, 0.0, 0.2), 4.0, 20, "measured")
    Profile(Random(), "nothing helped", race=race).save("profile.json")
    yield {}


@setting("training")
def training(folder: Path, patch: pytest.MonkeyPatch) -> Iterator[Names]:
    model = folder / "runs/super-resolution/model"
    cascade().save_pretrained(model)
    call = {"num_frames": 3, "height": 8, "width": 8, "num_inference_steps": 2}
    (model / "seedbed.json").write_text(json.dumps({"schema": "seedbed.model/1", "call": call}))
    names = {"seedbed": seedbed}
    yield names
    assert [names[made].frames.shape for made in ("base", "made")] == [(3, 8, 8, 3), (5, 32, 32, 3)]


@setting("verifiers")
def verifiers(folder: Path, patch: pytest.MonkeyPatch) -> Iterator[Names]:
    """With another verifier than the model, which needs weights and a GPU."""
    asked = inspect.signature(models.Answers)
    patch.setattr(models, "Answers", lambda *given, **named: asked.bind(*given, **named) and contrast)
    names = {"pipe": tiny(folder), "prompt": PROMPT, "seedbed": seedbed}
    yield names
    assert names["video"].selection.acquisition == "previews"


@pytest.mark.parametrize("block", of("python"), ids=str)
def test_python_compiles_and_one_test_runs_it(block: Block) -> None:
    compile(block.text, block.page, "exec")
    others = [where for where in ELSEWHERE if where[0] == block.page and where[1] in block.text]
    assert len(others) + (block.page in SETTINGS and not others) == 1


@pytest.mark.parametrize(("where", "test"), ELSEWHERE.items(), ids=str)
def test_what_is_run_elsewhere_is(where: tuple[str, str], test: str) -> None:
    page, line = where
    assert any(block.page == page and line in block.text for block in of("python"))
    source = (ROOT / test).read_text()
    assert Path(page).name in source and ("exec(" in source or "run_all(" in source)


@pytest.mark.parametrize("page", SETTINGS)
def test_the_python_of_a_page_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = [block for block in of("python") if block.page == page]
    blocks = [b for b in blocks if not any(at == page and line in b.text for at, line in ELSEWHERE)]
    assert blocks
    run = SETTINGS[page](tmp_path, monkeypatch)
    names = next(run)
    for block in blocks:
        exec(compile(block.text, page, "exec"), names)
    assert next(run, None) is None


# (page, command): each line of the shell blocks, continued lines as one.
COMMANDS = [(block.page, line) for block in of("sh") for line in block.text.replace("\\\n", " ").splitlines()]


def untried(page: str, line: str) -> bool:
    return any(page == where and line.startswith(start) for where, start in UNTRIED)


@pytest.mark.parametrize(("page", "line"), [each for each in COMMANDS if not untried(*each)])
def test_a_command_is_one(page: str, line: str) -> None:
    program, *words = shlex.split(line, comments=True)
    match (program, *words[:2]):
        case ("seedbed", *_):
            parsed(words)
        case ("pip", "install", *_):
            extras = [extra for word in words for extra in re.findall(r"\[(\w+)\]$", word)]
            assert all(re.search(rf"^{extra} = \[", PYPROJECT, re.MULTILINE) for extra in extras)
            assert {re.sub(r"\[.*", "", word) for word in words[1:] if word[0] != "-"} <= {"seedbed", "."}
        case ("make", target):
            assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
        case ("python" | ".venv/bin/python", "-m", module):
            assert importlib.util.find_spec(module)
        case ("python", script, *_):
            assert (ROOT / script).is_file()
        case _:
            pytest.fail(f"{page} shows {line!r}, which nothing here can try")


def test_what_is_not_tried_is_there() -> None:
    assert sum(untried(*each) for each in COMMANDS) == len(UNTRIED)


def walked(words: list[str]) -> tuple[Any, list[str], list[str]]:
    """The command that words begin with, its name, and the words that are left."""
    command, path = get_command(app), ["seedbed"]
    while words and (known := getattr(command, "commands", None)):
        assert words[0] in known, f"there is no {' '.join([*path, words[0]])}"
        command, path, words = known[words[0]], [*path, words[0]], words[1:]
    return command, path, words


def parsed(words: list[str]) -> dict[str, Any]:
    """What the command line makes of the words; texts that name methods are read as commands read them."""
    command, path, words = walked(words)
    values = dict(command.make_context(" ".join(path), words).params)
    shaping(*(values.get(name) for name in ("prior", "refine", "enhance", "guide")))
    functions = values.get("acquisition") or []
    for function in [functions] if isinstance(functions, str) else functions:
        if not function.endswith(".json"):
            acquisition_named(function, None)
    judge = values.get("name" if path[1:] == ["verifier", "audit"] else "verifier")
    if judge and "./" in judge:  # a model of the reader's: its name is known, its folder is not here
        with pytest.raises(BadInput, match=r"there is no \w+ model in \./"):
            resolve(judge)
    elif judge:
        resolve(judge)
    return values


INLINE = [
    (page, " ".join(span.split()))
    for page, text in PAGES.items()
    for span in re.findall(r"`(seedbed [a-z][^`]*)`", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S))
]


@pytest.mark.parametrize(("page", "span"), sorted({*INLINE}))
def test_a_command_in_a_sentence_has_the_options_it_names(page: str, span: str) -> None:
    """It may leave out what it needs."""
    command, _, words = walked(shlex.split(span)[1:])
    known = {name for option in command.params for name in (*option.opts, *option.secondary_opts)}
    assert {word for word in words if word.startswith("--")} <= known


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("contact-sheet P --candidate 3", "candidate"),
        ("generate P --prior mixd:1", "mixd"),
        ("generate P --refine erasure:m=8", "'m'"),
        ("generate P --enhance power=1", "power"),
        ("generate P --verifier clap:./here", "clap"),
        ("generate P --steps few", "integer"),
        ("score P --acquisition bansa:kept=1", "kept"),
        ("edit in.mp4 --source a --target b --out o.mp4 --method p2p", "p2p"),
        ("noise look x.json", "noise look"),
    ],
)
def test_a_command_that_is_none_is_noticed(line: str, wrong: str) -> None:
    with pytest.raises(Exception, match=re.escape(wrong)):
        parsed(shlex.split(line))


READERS = {"seedbed.recipe/1": Recipe, "seedbed.training/1": Config}


@pytest.mark.parametrize("block", [block for block in of("json") if block.page != "docs/cli.md"], ids=str)
def test_json_is_read_by_its_schema(block: Block, tmp_path: Path) -> None:
    """A part of a file, without braces, is put into the whole one that the page shows before it."""
    content = json.loads(block.text if block.text.startswith("{") else f"{{{block.text}}}")
    if "schema" not in content:
        whole = next(b for b in of("json") if b.page == block.page and '"schema"' in b.text)
        kept = json.loads(whole.text)
        if "stage" in content:  # trains its own network, on clips alone
            kept = {name: kept[name] for name in ("schema", "name", "prior", "steps", "batch", "lr")}
        content = kept | content
    path = tmp_path / "file.json"
    path.write_text(json.dumps(content))
    read = READERS[content["schema"]].load(path)
    assert read.name == content["name"]
    if isinstance(read, Recipe):
        assert [*read.methods] == [*content["methods"]]
    elif "stage" in content:
        assert read.stage is not None and read.stage.kind == content["stage"]["kind"]


def test_what_json_prints_is_as_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    (shown,) = (json.loads(block.text) for block in of("json") if block.page == "docs/cli.md")
    monkeypatch.chdir(tmp_path)
    words = ["generate", PROMPT, "--candidates", "1", "--steps", "1", "--out", "koala.mp4", "--json"]
    app(words, standalone_mode=False)
    printed = json.loads(capsys.readouterr().out)
    assert printed.keys() == shown.keys() and printed["files"] == shown["files"]
    assert {*shown["record"]} - {"…"} <= {*printed["record"]}
