"""The study's recipe at a tiny size: it runs, goes on, and its correlations are those of the study."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes/attention"))
import attention_page
import study as recipe


@pytest.mark.slow
def test_it_runs_and_goes_on(tmp_path, monkeypatch):
    arguments = ["shapes-cogvideox", "--count", "2", "--noises", "2", "--steps", "2"]
    arguments += ["--out", str(tmp_path / "run"), "--results", str(tmp_path / "results")]
    monkeypatch.setattr(sys, "argv", ["study.py", *arguments])
    recipe.main()
    path = tmp_path / "results/shapes-cogvideox.json"
    found = json.loads(path.read_text())
    assert len(found["layers"]) == 6 and len(found["prompts"]) == 2 and "bansa, high" in found["anse"]
    ssim = [row for row in found["effects"] if row["effect"] == "ssim"]
    assert (
        len(ssim) == 6
        and {row["kind"] for row in ssim} == {"joint"}
        and all(-1 <= row["spearman"][0] <= 1 for row in ssim)
    )
    for row in ssim:
        assert row["difference"][0] == pytest.approx(row["top"][0] - row["bottom"][0])
    assert (tmp_path / "run/shapes-cogvideox.html").is_file()
    monkeypatch.setattr(recipe.seedbed, "study", None)  # everything is kept
    path.unlink()
    recipe.main()
    assert json.loads(path.read_text()) == found


def test_the_page_is_what_the_committed_results_make():
    results = attention_page.read()
    assert [*results] == ["shapes-cogvideox", "shapes-wan", "shapes-animatediff"]
    for path, text in attention_page.pages(results).items():
        assert path.read_text() == text, f"{path} is out of date: run recipes/attention/attention_page.py"
