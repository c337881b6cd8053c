"""A student of few steps: it resumes where it was interrupted, learns, and is a WanPipeline like others."""

import json
import sys
from pathlib import Path

import pytest
import torch
from diffusers import WanPipeline

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes/shapes"))
import distill
from card import card, curves, sizes
from common import Run, settings
from distill import distil, student_of, student_scheduler, train, trajectories
from evaluate import generate, measure
from export import export
from families import TOKENS, Conditioned, Wan

from seedbed.worlds import shapes

RECIPE = Path(__file__).parents[2] / "recipes/shapes"
OWN = {"noises": 6, "steps": 4, "batch": 4, "warmup": 1, "cooldown": 2}


@pytest.fixture(scope="module")
def whole():
    """The recipe's settings, smaller."""
    whole = json.loads((RECIPE / "config.json").read_text())
    own = whole["models"]["shapes-wan"]
    own["text"] |= {"d_model": 48, "num_layers": 1}
    own["transformer"] |= {"num_attention_heads": 2, "num_layers": 2}
    own["autoencoder"]["model"] |= {"base_dim": 8}
    own["call"] |= {"num_inference_steps": 8}
    own["distillation"] |= OWN
    return whole


@pytest.fixture(scope="module")
def teacher(whole, tmp_path_factory):
    """A model of random weights, exported as the recipe exports it."""
    torch.manual_seed(0)
    config = settings(whole, "shapes-wan")
    shape = config["transformer"] | config["stages"][-1]["transformer"]
    model = Conditioned(config | {"transformer": shape}).eval()
    # Its last layer starts near 0, where steps of any length come to the same.
    torch.nn.init.normal_(model.transformer.proj_out.weight, std=0.3)
    folder = tmp_path_factory.mktemp("teacher") / "shapes-wan"
    export(model, Wan.autoencoder(config["autoencoder"]["model"]), config, folder)
    return folder


def interrupted(monkeypatch, what, whole, teacher, folder):
    """Run until `what` is called a third time, and end there as a user would."""
    owner, name, save = what
    calls, real = [], getattr(owner, name)

    def stop(*args, **kwargs):
        calls.append(args)
        if len(calls) == 3:
            save(*args)
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, stop)
        with pytest.raises(KeyboardInterrupt):
            distil(str(teacher), whole, folder)


@pytest.mark.slow
def test_an_interrupted_student_ends_as_another_and_generates_as_it_was_taught(
    whole, teacher, tmp_path, monkeypatch
):
    monkeypatch.setattr(distill, "PIECE", 2)
    straight = distil(str(teacher), whole, tmp_path / "straight")
    broken = tmp_path / "broken"
    interrupted(monkeypatch, (distill, "draw_pool", lambda *args: None), whole, teacher, broken)
    assert len([*broken.glob("teacher-*.safetensors")]) == 2
    interrupted(monkeypatch, (Run, "advance", lambda run, *args: run.save()), whole, teacher, broken)
    resumed = distil(str(teacher), whole, broken)
    for path in straight.rglob("*.*"):
        assert path.read_bytes() == (resumed / path.relative_to(straight)).read_bytes(), path.name

    pipe = WanPipeline.from_pretrained(straight, torch_dtype=torch.float32)
    assert pipe.scheduler.config.flow_shift == 3
    config = settings(whole, "shapes-wan")
    call = json.loads((straight / "seedbed.json").read_text())["call"]
    assert (call["num_inference_steps"], call["guidance_scale"]) == (4, 1.0)
    caption, noise = "a red circle moving left", torch.randn(1, 8, 3, 8, 8)
    ends = pipe(caption, latents=noise, output_type="latent", **call).frames
    schedule = student_scheduler(WanPipeline.from_pretrained(teacher).scheduler, 4)
    assert torch.equal(pipe.scheduler.timesteps, schedule.timesteps)
    assert torch.equal(pipe.scheduler.sigmas, schedule.sigmas)
    student, x = student_of(pipe, config).eval(), noise
    ids = pipe.tokenizer([caption], padding="max_length", max_length=TOKENS, return_tensors="pt").input_ids
    with torch.no_grad():
        for n, t in enumerate(schedule.timesteps):
            x = x - (schedule.sigmas[n] - schedule.sigmas[n + 1]) * student(x, ids, t.float()[None])
    torch.testing.assert_close(ends, x, rtol=1e-4, atol=1e-4)
    video = pipe(caption, **call, output_type="np").frames
    assert video.shape == (1, shapes.FRAMES, shapes.SIDE, shapes.SIDE, 3)

    assert not any("_name_or_path" in path.read_text() for path in straight.rglob("*.json"))

    pipe.set_progress_bar_config(disable=True)
    captions = shapes.captions(2, objects=2, seed=0, held=True)
    found = measure(generate(pipe, call, captions, noises=2), captions) | {"shown": captions}
    result = {"call": call, "noises": 2, "single": found, "pairs": found}
    result["reconstruction"] = {"videos": 4, "psnr": 30.0, "rendered": 1.0, "reconstructed": 0.5}
    text = card("shapes-wan-fast", config, result, sizes(straight))
    assert "a student of `shapes-wan` that needs fewer steps" in text and "On 6 noises" in text
    assert "num_inference_steps=4, guidance_scale=1.0" in text and "exchanged an attribute" not in text
    rows = [{"step": n, "seconds": 1, "step 1": 0.2, "step 2": 0.1, "end": 1 / n} for n in (1, 2)]
    (tmp_path / "shapes-wan-fast").mkdir()
    log = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "shapes-wan-fast/distillation.log.jsonl").write_text(log)
    curves(tmp_path, "shapes-wan-fast", tmp_path / "loss.png")
    assert (tmp_path / "loss.png").stat().st_size > 1000

    one = json.loads(json.dumps(whole))
    one["models"]["shapes-wan"]["distillation"]["call"]["num_inference_steps"] = 3
    with pytest.raises(SystemExit, match="8 steps of the teacher do not divide into 3"):
        distil(str(teacher), one, tmp_path / "three")
    with pytest.raises(SystemExit, match="is of another teacher"):
        distil(str(straight.rename(tmp_path / "shapes-wan")), whole, broken)


@pytest.mark.slow
def test_a_student_comes_nearer_to_its_teachers_ends_from_noises_it_never_saw(whole, teacher, tmp_path):
    config = settings(whole, "shapes-wan")
    config["distillation"] |= {"noises": 40, "steps": 60, "batch": 8, "cooldown": 30}
    pipe = WanPipeline.from_pretrained(teacher, torch_dtype=torch.float32)
    call = json.loads((teacher / "seedbed.json").read_text())["call"]
    states, captions = trajectories(pipe, call, config, tmp_path)
    assert states.shape == (40, 5, 8, 3, 8, 8) and len(captions) == 40
    # The teacher's own time and guidance decide where its trajectory is.
    found = pipe(captions[:2], latents=states[:2, 0].clone(), output_type="latent", **call).frames
    torch.testing.assert_close(found, states[:2, -1], rtol=1e-4, atol=1e-4)
    student = train(pipe, config, states[:32], captions[:32], tmp_path)
    schedule = student_scheduler(pipe.scheduler, 4)
    ids = pipe.tokenizer(captions, padding="max_length", max_length=TOKENS, return_tensors="pt").input_ids

    @torch.no_grad()
    def error(model):
        x = states[32:, 0]
        for n, t in enumerate(schedule.timesteps):
            x = x - (schedule.sigmas[n] - schedule.sigmas[n + 1]) * model(x, ids[32:], t.float().expand(8))
        return (x - states[32:, -1]).square().mean().item()

    assert error(student) < 0.5 * error(student_of(pipe, config).eval())
