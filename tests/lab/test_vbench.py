"""Videos in VBench's layout, and a stub of the files that it writes."""

import json
import shutil

import numpy as np
import pytest

from seedbed.errors import BadInput, BadRecord
from seedbed.lab import vbench
from seedbed.report.video import write_video
from tests.cli.conftest import seedbed

__all__ = ["seedbed"]  # the fixture

PROMPTS = ["a red circle", "a koala, 3-2"]


@pytest.fixture
def videos(tmp_path):
    folder = tmp_path / "videos"
    folder.mkdir()
    for number in range(4):
        frames = np.full((3, 8, 8, 3), number * 40, np.uint8)
        write_video(folder / f"{number}.mp4", frames, 8, {"prompt": PROMPTS[number // 2]})
    return folder


def stub(folder, scores, name="results_2026-01-02-03:04:05_eval_results.json"):
    """What VBench writes: for each dimension its score, and each video's."""
    content = {}
    for dimension, (score, values) in scores.items():
        paths = [f"/elsewhere/{prompt}-{index}.mp4" for prompt in PROMPTS for index in range(2)]
        pairs = zip(paths, values, strict=True)
        content[dimension] = [score, [{"video_path": path, "video_results": value} for path, value in pairs]]
    (folder / "results").mkdir(parents=True, exist_ok=True)
    (folder / "results" / name).write_text(json.dumps(content))


def test_videos_in_its_layout_and_its_results(seedbed, videos, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    code, out, err = seedbed("lab", "export", videos, "--vbench", "v b")
    assert (code, err) == (0, "") and out.startswith("videos  4 in v b\n") and vbench.INSTALL in out
    folder = tmp_path / "v b"
    assert {path.name for path in folder.iterdir()} == {f"{p}-{i}.mp4" for p in PROMPTS for i in (0, 1)}
    assert (folder / "a koala, 3-2-1.mp4").read_bytes() == (videos / "3.mp4").read_bytes()
    monkeypatch.setattr(shutil, "which", lambda name: "/env/bin/vbench")
    out = seedbed("lab", "export", "--vbench", folder).out
    assert "pip install" not in out and f"vbench evaluate --dimension $d --videos_path '{folder}'" in out

    scores = {"imaging_quality": (0.5, [40, 60, 30, 70]), "dynamic_degree": (0.75, [True, True, False, True])}
    stub(folder, scores)
    stub(folder, {"dynamic_degree": (0.25, [False] * 3 + [True])}, "results_2025-01-01_eval_results.json")
    table = vbench.results(folder)
    (degree, *counts, score, mean), (_, _, _, quality, own) = table.rows
    assert (degree, counts, score, mean.mean) == ("dynamic_degree", [4, 2], 0.75, 0.75)
    assert (mean.low, mean.high) == (0.5, 1.0) and (quality, own.mean) == (0.5, 0.5)
    out = seedbed("lab", "export", "--vbench", folder).out
    assert out.startswith(table.to_text()) and "bootstrap over prompts" in out


def test_what_cannot_be_exported(videos, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(BadInput, match="to export"):
        vbench.export([tmp_path], out)
    with pytest.raises(BadInput, match="one kind of video"):
        vbench.export([tmp_path / "a.webm"], out)
    write_video(tmp_path / "slash.mp4", np.zeros((3, 8, 8, 3), np.uint8), 8, {"prompt": "and/or"})
    with pytest.raises(BadInput, match="'and/or' cannot be one"):
        vbench.export([videos, tmp_path / "slash.mp4"], out)
    assert not out.exists()
    vbench.export([videos], out)
    with pytest.raises(BadInput, match="holds videos already"):
        vbench.export([videos], out)


@pytest.mark.parametrize(
    "text", ["no json", "[1]", '{"color": 0.5}', '{"color": [0.5, [{"video_path": "a.mp4"}]]}']
)
def test_results_that_are_not_its_own(tmp_path, text):
    (tmp_path / "x_eval_results.json").write_text(text)
    with pytest.raises(BadRecord, match="not as VBench writes"):
        vbench.results(tmp_path)
