"""The cascade's script at a tiny size, and what a cascade of the paper's sizes costs."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes/pyoco"))
import cascade as script
import paper

from seedbed.pipelines.cascade import bicubic
from seedbed.worlds import shapes
from seedbed.worlds.verifier import attributes
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


def test_the_twins_are_exact_where_they_can_be():
    """Interpolation of what is linear, and enlargement of what is flat, are right; halves are means."""
    times = torch.arange(7, dtype=torch.float64)
    clip = times.view(1, 1, 7, 1, 1).expand(1, 2, 7, 2, 2)
    assert (script.linear(clip[:, :, ::3], 3) - clip).abs().max() < 1e-12
    some = torch.randn(1, 2, 4, 3, 3, dtype=torch.float64)
    twice = script.linear(some, 2)
    assert torch.equal(twice[:, :, ::2], some)
    assert torch.allclose(twice[:, :, 1::2], (some[:, :, 1:] + some[:, :, :-1]) / 2)
    flat = torch.full((1, 3, 2, 4, 4), 0.25)
    assert torch.allclose(bicubic(flat, 3), torch.full((1, 3, 2, 12, 12), 0.25))


def held_out(count):
    scenes = [scene for _, scene in zip(range(count), shapes.scenes(5, held=True), strict=False)]
    return np.stack([shapes.render(scene) for scene in scenes]), [shapes.caption(s) for s in scenes]


def test_a_stage_is_held_against_its_twin(monkeypatch):
    """One that makes its twin's output ties; the truth wins; noise loses."""
    pipe = cascade(interpolation=2, super_resolution=2)
    videos, captions = held_out(4)
    score = lambda frames, prompts: attributes(frames, prompts)["score"]  # noqa: E731
    monkeypatch.setattr(pipe, "decode_latents", lambda latents, chunk=16: latents)
    monkeypatch.setattr(script, "latents_of", lambda vae, pixels: pixels)
    true = torch.from_numpy(videos).permute(0, 4, 1, 2, 3).float() / 127.5 - 1
    small = torch.nn.functional.avg_pool3d(true, (1, 2, 2))
    for name, twin in (
        ("interpolation", script.linear(true[:, :, ::2], 2)),
        ("super_resolution", bicubic(small, 2)),
    ):
        method = {"interpolation": "interpolate", "super_resolution": "enlarge"}[name]
        random = torch.randn(true.shape, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
        found = {}
        for what, made in (("twin", twin), ("truth", true), ("noise", random)):
            monkeypatch.setattr(pipe, method, lambda *args, made=made, **options: made)
            found[what] = script.against_twin(pipe, name, videos, captions, score)
        new = slice(1, None, 2) if name == "interpolation" else slice(None)
        expected = ((twin - true)[:, :, new].double() / 2).square().mean()
        assert found["twin"]["error"]["twin"].mean == pytest.approx(float(expected))
        assert found["twin"]["error"]["difference"].mean == 0 and not script.wins(found["twin"])
        assert found["truth"]["error"]["stage"].mean == 0 and found["truth"]["score"]["stage"].mean == 1
        assert script.wins(found["truth"]) and not script.wins(found["noise"])
        assert found["noise"]["score"]["difference"].high < 0


def test_twins_of_real_stages_see_what_the_autoencoder_shows():
    pipe = cascade(interpolation=2, super_resolution=2)
    videos, captions = held_out(3)
    videos = videos[:, :5, ::2, ::2]
    score = lambda frames, prompts: np.arange(len(frames))  # noqa: E731
    for name in ("interpolation", "super_resolution"):
        one = script.against_twin(pipe, name, videos, captions, score, steps=1)
        parts = script.against_twin(pipe, name, videos, captions, score, steps=1, batch=1)
        assert one["error"]["stage"].mean == pytest.approx(parts["error"]["stage"].mean, rel=1e-3)
        assert one["error"]["twin"].mean > 0.01  # of an autoencoder that was not trained
        assert one["error"]["difference"].mean == pytest.approx(
            one["error"]["stage"].mean - one["error"]["twin"].mean
        )
