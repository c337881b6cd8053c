"""What docs/pipelines.md and docs/adding-a-pipeline.md show runs, and the errors they name exist."""

import re
from pathlib import Path

import pytest

import seedbed
from tests.breadth.facts import facts
from tests.pipelines import PROMPT, cogvideox_, images

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "adding-a-pipeline.md").read_text()


def snippets(text):
    return re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def test_the_snippets_of_the_guide_run_and_its_family_works(capsys):
    names = {"pipe": images.sd3()}
    for snippet in snippets(GUIDE):
        exec(compile(snippet, "adding-a-pipeline.md", "exec"), names)
    printed = capsys.readouterr().out.splitlines()
    assert "b c h w None" in printed and "transformer_blocks.0.attn joint" in printed
    assert [line for line in printed if line in ("b f c h w", "None")] == ["b f c h w", "None", "b f c h w"]
    assert set(names["choice"].layers) == {
        "transformer_blocks.0.attn",
        "transformer_blocks.0.attn2",
        "transformer_blocks.1.attn",
        "transformer_blocks.2.attn",
    }
    (family,) = names["FAMILIES"]
    found = facts(family)
    assert (found.selection, found.previews, found.replay) == ("yes", "yes", "yes")
    assert found.attention == "1 joint, 1 self"


@pytest.mark.parametrize("page", ["adding-a-pipeline.md", "sessions.md"])
def test_the_errors_of_the_guides_exist(page):
    """Every phrase of a guide's table is in the sources, where lines of a string are joined."""
    rooms = [ROOT / "src" / "seedbed" / room for room in ("attention", "pipelines")]
    sources = " ".join(path.read_text() for room in rooms for path in room.glob("*.py"))
    sources = re.sub(r'"\s+(\+ )?f?"', "", sources)
    table = (ROOT / "docs" / page).read_text().split("## What the errors mean")[1]
    lines = re.findall(r"^\| (.*?) \|", table, re.MULTILINE)[1:]
    assert len(lines) >= 6
    for line in lines:
        for phrase in filter(None, map(str.strip, line.split("…"))):
            assert phrase in sources, phrase


def test_the_snippet_of_the_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (snippet,) = snippets((ROOT / "docs" / "pipelines.md").read_text())
    from_image, from_video = (
        next(family for family in cogvideox_.FAMILIES if what in family.call) for what in ("image", "video")
    )
    call = {name: from_image.call[name] for name in from_image.call.keys() & from_video.call.keys()}
    names = {
        "prompt": PROMPT,
        "call": call,
        "image_pipe": from_image.built(),
        "image": from_image.call["image"],
        "video_pipe": from_video.built(),
        "video": from_video.call["video"],
    }
    exec(compile(snippet, "pipelines.md", "exec"), names)
    assert names["again"].identical and isinstance(names["made"], seedbed.Generation)
    assert len(names["frames"]) == len(names["choice"].noise[0]) * 4 - 3
