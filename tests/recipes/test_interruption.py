"""A training stage that was interrupted ends where an uninterrupted one ends."""

import json
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes/shapes"))
from common import Run, shape_of


def begin(folder):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 6, bias=False), torch.nn.LayerNorm(6))
    muon = torch.optim.Muon([model[0].weight], lr=0.01)
    adam = torch.optim.AdamW(model[1].parameters(), lr=0.01)
    muon.param_groups[0]["base_lr"] = adam.param_groups[0]["base_lr"] = 0.01
    return Run(folder, "stage", model, [muon, adam], ema=0.9)


def go_on(run, until):
    while run.step < until:
        x = torch.randn(4, 6, generator=torch.Generator().manual_seed(run.step))
        loss = (run.model(x) - x).square().mean()
        run.advance(loss, shape_of(run.step, 8, 2, 4), {"loss": loss.item()}, every=2)
    return run


def test_resuming_changes_nothing(tmp_path):
    for name in ("straight", "broken"):
        (tmp_path / name).mkdir()
    straight = go_on(begin(tmp_path / "straight"), 8)
    go_on(begin(tmp_path / "broken"), 3).save()
    resumed = begin(tmp_path / "broken")
    assert resumed.step == 3
    go_on(resumed, 8)
    for key, value in straight.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[key])
        assert torch.equal(straight.average[key], resumed.average[key])
    logged = [
        json.loads(line)["step"] for line in (tmp_path / "broken/stage.log.jsonl").read_text().splitlines()
    ]
    assert logged == [2, 4, 6, 8]


def test_a_checkpoint_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    run = go_on(begin(tmp_path), 2)
    run.save()
    before = run.path.read_bytes()

    def full(tensors, path, metadata):
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("common.save_file", full)
    with pytest.raises(OSError, match="No space left"):
        go_on(run, 3).save()
    assert run.path.read_bytes() == before


def test_the_learning_rate_rises_stays_and_falls():
    shape = [shape_of(step, 10, 2, 4) for step in range(10)]
    assert shape == [0.5, 1, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25]
