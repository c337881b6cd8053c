import json
import re
from pathlib import Path

import pytest
import torch
from diffusers import CogVideoXPipeline

import seedbed
import seedbed.verifiers.clip
from seedbed.noise import prior_named
from seedbed.noise.priors import PRIORS
from seedbed.refinement import REFINERS, refiners_named
from tests.pipelines import CALLS, PROMPT, cogvideox

DOCS = Path(__file__).parents[2] / "docs"


def snippets(page="selection.md"):
    return re.findall(r"^```python\n(.*?)^```$", (DOCS / page).read_text(), re.MULTILINE | re.DOTALL)


def run_all(page, tmp_path, **others):
    """Every snippet of a page in one namespace, with the tiny pipeline; returns the namespace."""
    pipe = cogvideox()
    pipe.register_to_config(_name_or_path=str(tmp_path))
    (tmp_path / "seedbed.json").write_text(
        json.dumps({"schema": "seedbed.model/1", "call": CALLS["cogvideox"]})
    )
    names = {"pipe": pipe, "prompt": PROMPT, **others}
    for snippet in snippets(page):
        exec(compile(snippet, page, "exec"), names)
    return names


def test_the_documented_snippets_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = run_all("selection.md", tmp_path)
    assert names["again"].identical
    assert names["cheap"].ledger.entries["scoring"] == pytest.approx(10 / 3)
    assert names["choice"].acquisition == "first-key"
    assert (tmp_path / "koala.mp4").stat().st_size > 0


def test_the_documented_previews_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = run_all("preview.md", tmp_path)
    assert names["picked"].selection.best == 2 and "started over" not in names["picked"].selection.reason
    assert len(names["previews"].schedule) == 2
    assert names["picked"].sha256 == names["sheet"].finish(2, progress=False).sha256
    for file in ("koala.mp4", "koala.html", "koala-sheet.html", "koala-2.mp4"):
        assert (tmp_path / file).stat().st_size > 0


def test_the_documented_priors_and_refiners_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = run_all("noise.md", tmp_path, torch=torch)
    assert names["video"].selection.best == 2 and len(names["way"].selection.recipes) == 3
    texts = re.findall(r"^\| `(\w[^`]*)`", (DOCS / "noise.md").read_text(), re.MULTILINE)
    assert {text.partition(":")[0] for text in texts} == {*PRIORS, *REFINERS}
    for text in texts:
        prior_named(text) if text.partition(":")[0] in PRIORS else refiners_named(text)


@pytest.mark.parametrize("page", ["../README.md", "index.md"])
def test_the_front_pages_run(tmp_path, monkeypatch, page):
    """On the tiny pipeline, and with another verifier than CLIP."""
    monkeypatch.chdir(tmp_path)

    def contrast(frames, prompts):
        return frames.reshape(len(frames), -1).std(1)

    pipe = cogvideox()
    monkeypatch.setattr(CogVideoXPipeline, "from_pretrained", lambda name, **options: pipe)
    monkeypatch.setattr(CogVideoXPipeline, "to", lambda self, device: self)
    monkeypatch.setattr(seedbed.verifiers.clip, "Clip", lambda folder: contrast)
    seedbed.generate(pipe, PROMPT, candidates=1, progress=False, **CALLS["cogvideox"]).save("koala.mp4")
    pipe.register_to_config(_name_or_path=str(tmp_path))
    names = run_all(page, tmp_path, judge=contrast)
    assert names["choice"].acquisition == "bansa" and names["pipe"] is pipe
    assert page == "index.md" or names["again"].identical


def test_the_documented_session_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = run_all("sessions.md", tmp_path)
    assert len(names["frames"]) == 2 and set(names["session"].ledger.entries) >= {"scoring", "generation"}
    assert "joint" in capsys.readouterr().out


def test_the_users_own_function_takes_fewer_than_twenty_lines():
    (own,) = [snippet for snippet in snippets() if "(AttentionScore)" in snippet]
    assert len(own.strip().splitlines()) < 20
