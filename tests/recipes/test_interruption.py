"""A training stage that was interrupted ends where an uninterrupted one ends."""

import json
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes/shapes"))
import vae as autoencoder
from common import Run, settings, shape_of
from diffusers import AutoencoderKLCogVideoX
from export import export
from families import CogVideoX, Conditioned

RECIPE = Path(__file__).parents[2] / "recipes/shapes"


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


def test_a_gradient_that_is_no_number_ends_the_run_and_the_checkpoint_stays(tmp_path):
    """A compiled model in bfloat16 gave such a one on a processor with AMX, and the run went on."""
    run = go_on(begin(tmp_path), 2)
    run.save()
    before = run.path.read_bytes()
    with pytest.raises(SystemExit, match="step 2 is not finite"):
        run.advance(run.model(torch.full((1, 6), torch.inf)).sum(), 1.0, {})
    assert run.path.read_bytes() == before and run.step == 2


@pytest.fixture(scope="module")
def tiny():
    model = {
        "block_out_channels": [8, 8, 8],
        "latent_channels": 8,
        "layers_per_block": 1,
        "norm_num_groups": 4,
    }
    return CogVideoX.autoencoder({**model, "sample_height": 32, "sample_width": 32})


def test_an_autoencoder_is_saved_whole_or_not_at_all(tiny, tmp_path, monkeypatch):
    """Its folder says that the first stage is done: half of it ended every later run in an error."""

    def killed(folder):
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(tiny, "save_pretrained", killed)
        with pytest.raises(KeyboardInterrupt):
            autoencoder.keep(tiny, tmp_path / "vae")
    assert not (tmp_path / "vae").exists()
    autoencoder.keep(tiny, tmp_path / "vae")
    assert {path.name for path in tmp_path.iterdir()} == {"vae"}
    assert AutoencoderKLCogVideoX.from_pretrained(tmp_path / "vae").config.latent_channels == 8


def test_an_export_does_not_say_whether_training_was_interrupted(tiny, tmp_path):
    config = settings(json.loads((RECIPE / "config.json").read_text()), "shapes-cogvideox")
    config["transformer"] |= {"num_attention_heads": 1, "num_layers": 1, "patch_size": 1}
    model = Conditioned(config)
    autoencoder.keep(tiny, tmp_path / "vae")
    resumed = AutoencoderKLCogVideoX.from_pretrained(tmp_path / "vae")
    for name, vae in (("straight", tiny), ("resumed", resumed)):
        export(model, vae, config, tmp_path / name)
    for path in (tmp_path / "straight").rglob("*.json"):
        assert (
            path.read_bytes() == (tmp_path / "resumed" / path.relative_to(tmp_path / "straight")).read_bytes()
        )


def test_the_learning_rate_rises_stays_and_falls():
    shape = [shape_of(step, 10, 2, 4) for step in range(10)]
    assert shape == [0.5, 1, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25]
