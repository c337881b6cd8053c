"""The cascade's script at a tiny size, and what a cascade of the paper's sizes costs."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes/pyoco"))
import cascade as script
import paper

from tests.pipelines.animatediff import cascade


def test_every_stage_is_held_against_its_twin(tmp_path, capsys):
    cascade(interpolation=2, super_resolution=2).save_pretrained(tmp_path / "model")
    call = {"num_frames": 3, "height": 16, "width": 16}
    (tmp_path / "model/seedbed.json").write_text(json.dumps({"schema": "seedbed.model/1", "call": call}))
    out = tmp_path / "results.json"
    script.main([str(tmp_path / "model"), "--out", str(out), "--count", "2", "--steps", "1"])
    found = json.loads(out.read_text())["stages"]
    assert found["interpolation"]["size"] == [5, 16, 16]
    assert found["super_resolution"]["size"] == [5, 32, 32]
    printed = capsys.readouterr().out
    for name, stage in found.items():
        difference = stage["error"]["stage"][0] - stage["error"]["twin"][0]
        assert stage["error"]["difference"][0] == pytest.approx(difference)
        lost = stage["error"]["difference"][2] >= 0 or stage["score"]["difference"][2] < 0
        assert stage["wins"] is not lost
        assert f"{name}: error {difference:+.2e}" in printed


def test_the_papers_sizes_and_what_they_cost():
    config = json.loads(paper.CONFIG.read_text())
    found = paper.costs(config)
    sizes = [(16, 64, 64), (76, 64, 64), (76, 256, 256), (76, 1024, 1024)]
    assert [row["size"] for row in found] == sizes
    for row, (frames, height, width) in zip(found, sizes, strict=True):
        latent = row["network"] in ("unet", "interpolation")
        channels, height, width = (4, height // 2, width // 2) if latent else (3, height, width)
        assert row["makes"] == (channels, frames, height, width)
        # A convolution of 3 x 3 multiplies and adds once for each weight and place.
        stage = config["stages"].get(row["network"])
        first = stage["network"]["widths"][0] if stage else config["base"]["block_out_channels"][0]
        given = 2 * channels + 1 if stage else channels
        assert sum(row["first layer"].values()) == 2 * 9 * given * first * frames * height * width
        assert row["operations"] > sum(row["first layer"].values())
    assert paper.table(found) in paper.CONFIG.with_name("README.md").read_text()
