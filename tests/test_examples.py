"""The examples run as they stand, on the embedded model."""

import runpy
import sys
from pathlib import Path

from seedbed.selection import Selection

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(monkeypatch, name, *arguments):
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    return runpy.run_path(str(EXAMPLES / name), run_name="__main__")


def test_select_cogvideox(monkeypatch, tmp_path, capsys):
    out = tmp_path / "video.mp4"
    arguments = ["a red circle moving left", "--candidates", "3", "--out", str(out)]
    choice = run(monkeypatch, "select_cogvideox.py", *arguments)["choice"]
    assert out.stat().st_size > 1000
    assert Selection.load(f"{out}.json").best == choice.best
    assert capsys.readouterr().out.startswith(f"candidate {choice.best}: ")


def test_custom_acquisition(monkeypatch, capsys):
    choice = run(monkeypatch, "custom_acquisition.py", "a blue square moving up")["choice"]
    assert choice.best == int(choice.totals.argmax())
    assert choice.acquisition == "output-energy"
    assert len(capsys.readouterr().out.splitlines()) == 8
