"""Each kind of model takes ten steps, learns, and leaves a folder that draws the right noise by itself."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline, EulerAncestralDiscreteScheduler
from safetensors.torch import load_file

import seedbed
from seedbed.errors import BadInput, NotSupported
from seedbed.lab.experiment import Recipe
from seedbed.pipelines.loading import load
from seedbed.training.config import Config
from seedbed.training.denoisers import Model
from seedbed.training.diffusion import train
from tests.pipelines import CALLS, sdxl, wan
from tests.training.conftest import MODELS

LORA = {"rank": 2}


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("image", {"min_snr": 5, "prediction": "v_prediction"}),
        ("image", {"inflate": {"heads": 2, "positions": 16}, "frames": 4, "prior": "mixed:1"}),
        ("motion", {"prediction": "flow_prediction", "shift": 3}),
        ("cogvideox", {"train": LORA, "checkpointing": True}),
        ("wan", {"prior": "progressive:2", "stills": {"share": 0.3}}),
        ("wan", {"train": LORA, "cache": True, "precision": "bfloat16"}),
    ],
    ids=str,
)
def test_ten_steps_change_what_is_trained_and_nothing_else(config_of, tmp_path, kind, changes):
    steps = 10 if kind in ("cogvideox", "wan") else 4
    config = config_of(kind, steps=steps, ema=0.5, log_every=5, **changes)
    made = train(config, tmp_path / "run", False)
    assert made.complaint == ""
    before, after = load(config.model), load(made.model)
    part = "transformer" if hasattr(after, "transformer") else "unet"
    weights = getattr(after, part).state_dict()
    changed = {
        name
        for name, value in getattr(before, part).state_dict().items()
        if not torch.equal(weights[name], value)
    }
    if config.train == "all":
        assert len(changed) > 0.9 * len(getattr(before, part).state_dict())
    else:
        assert changed and all(".to_" in name for name in changed), changed
        adapters = load_file(tmp_path / "run/pytorch_lora_weights.safetensors")
        assert all(name.startswith("transformer.") and "lora" in name for name in adapters)
    for name in ("vae", "text_encoder"):
        old, new = (getattr(pipe, name).state_dict() for pipe in (before, after))
        assert all(torch.equal(new[key], value) for key, value in old.items())
    configs = [*made.model.glob("*.json"), *made.model.glob("*/config.json")]
    assert configs and not [each for each in configs if str(tmp_path.parent.parent) in each.read_text()]
    settings = json.loads((made.model / "seedbed.json").read_text())
    assert settings.get("prior") == (None if config.frames == 1 else config.prior)
    frames = seedbed.generate(after, "a red circle", candidates=1, progress=False, num_inference_steps=1)
    assert frames.frames.shape == (config.frames, 32, 32, 3)
    expected = config.prior if config.frames > 1 else "gaussian"
    assert frames.selection.recipe.prior == expected


def test_the_adapters_by_themselves_make_the_model_that_they_were_merged_into(config_of, tmp_path):
    lora = {"rank": 2, "alpha": 8}
    config = config_of("cogvideox", train=lora, steps=2, ema=0.0, lr=0.1)
    made = train(config, tmp_path / "run", False)
    before, after, pipe = load(config.model), load(made.model), load(config.model)
    pipe.load_lora_weights(tmp_path / "run/pytorch_lora_weights.safetensors")
    pipe.fuse_lora()
    pipe.unload_lora_weights()
    start, merged, added = (each.transformer.state_dict() for each in (before, after, pipe))
    assert any(not torch.equal(merged[name], start[name]) for name in start)
    for name in start:
        torch.testing.assert_close(added[name], merged[name])


def test_adapters_of_convolutions_are_kept(config_of, tmp_path):
    lora = {"rank": 2, "targets": ["conv1"]}
    made = train(config_of("motion", train=lora, steps=2, ema=0.0), tmp_path / "run", False)
    kept = load_file(tmp_path / "run/pytorch_lora_weights.safetensors")
    assert kept and all("conv1.lora" in name for name in kept)
    before, after = (load(folder).unet.state_dict() for folder in (config_of().model, made.model))
    assert {name for name in before if not torch.equal(before[name], after[name])} <= {
        name for name in before if "conv1.weight" in name
    }


def test_only_motion_modules_are_trained(config_of, tmp_path):
    made = train(config_of("motion", train="motion", steps=2, ema=0.0), tmp_path / "run", False)
    before, after = (load(folder).unet.state_dict() for folder in (config_of().model, made.model))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all("motion_modules" in name for name in changed)


def test_a_loss_falls(config_of, tmp_path):
    config = config_of("cogvideox", steps=40, batch=2, lr=0.01, log_every=20)
    train(config, tmp_path / "run", False)
    losses = [json.loads(line)["loss"] for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert losses[-1] < 0.75 * losses[0]


def test_samples_and_a_card(config_of, tmp_path):
    samples = {"prompts": ["a red circle", "a"], "every": 2, "call": {"num_inference_steps": 1}}
    plain = train(config_of("cogvideox", steps=3), tmp_path / "plain", False)
    made = train(config_of("cogvideox", steps=3, samples=samples), tmp_path / "run", False)
    assert sorted(path.name for path in (tmp_path / "run/samples").iterdir()) == [
        *("0000002-0.mp4", "0000002-1.mp4", "0000003-0.mp4", "0000003-1.mp4")
    ]
    weights = "transformer/diffusion_pytorch_model.safetensors"
    assert (made.model / weights).read_bytes() == (plain.model / weights).read_bytes()
    card = (made.model / "README.md").read_text()
    assert "under the prior `gaussian`" in card and '"lr": 0.001' in card and "Loss at the end" in card
    assert json.loads((made.model / "seedbed.json").read_text())["call"] == {
        **{"num_frames": 9, "height": 32, "width": 32, "max_sequence_length": 8, "num_inference_steps": 1}
    }


class TestPriorBesideAModel:
    """A model that says what it was trained under is sampled from that, and warns of another."""

    @pytest.fixture
    def pipe(self, model_of, tmp_path):
        pipe = DiffusionPipeline.from_pretrained(model_of("motion"))
        pipe.save_pretrained(tmp_path / "model")
        content = {"schema": "seedbed.model/1", "prior": "progressive:2"}
        (tmp_path / "model/seedbed.json").write_text(json.dumps(content))
        pipe = load(tmp_path / "model")
        pipe.scheduler = EulerAncestralDiscreteScheduler.from_config(pipe.scheduler.config)
        return pipe

    def test_every_way_to_choose_draws_from_it(self, pipe, model_of):
        call = dict(**CALLS["animatediff"], progress=False)
        made = seedbed.generate(pipe, "a", candidates=1, **call)
        assert (
            made.selection.recipe.prior == "progressive:alpha=2.0" and "warning" not in made.selection.reason
        )
        # Noise in the steps of a stochastic sampler too: as when the prior is asked for.
        plain = load(model_of("motion"))
        plain.scheduler = pipe.scheduler
        asked = seedbed.generate(plain, "a", candidates=1, prior="progressive:2", **call)
        independent = seedbed.generate(plain, "a", noises=[made.selection.noise[0]], **call)
        assert made.identical is None and made.sha256 == asked.sha256 != independent.sha256
        chosen = seedbed.select(pipe, "a", candidates=2, acquisition="random", **call)
        assert chosen.recipe.prior == "progressive:alpha=2.0"

    @pytest.mark.parametrize("prior", ["gaussian", "torch", "mixed:1"])
    def test_another_one_warns(self, pipe, prior):
        call = dict(**CALLS["animatediff"], progress=False)
        made = seedbed.select(pipe, "a", candidates=2, acquisition="random", prior=prior, **call)
        named = made.recipe.prior
        expected = "warning: the model was trained under the prior progressive:alpha=2.0, and is off its "
        assert f"{expected}distribution under {named}" in made.reason

    def test_a_damaged_file_is_one_line(self, pipe, tmp_path):
        path = tmp_path / "model/seedbed.json"
        for prior, message in ((3, "`prior` must be a text"), ("mixed:-1", "alpha must be a finite number")):
            path.write_text(json.dumps({"schema": "seedbed.model/1", "prior": prior}))
            with pytest.raises(seedbed.BadRecord, match=message):
                seedbed.select(pipe, "a", candidates=1, progress=False, **CALLS["animatediff"])


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("motion", {"frames": 33}, "a clip of the shapes world has 9 frames, not 33"),
        ("image", {"frames": 4}, "4 frames are 4 in latents, but the model has 1 positions"),
        (
            "cogvideox",
            {"frames": 4},
            "frames must be 1 more than a multiple of 8 for this autoencoder, not 4",
        ),
        ("image", {"inflate": {"heads": 2, "positions": 3}, "frames": 4}, "but the model has 3 positions"),
        ("cogvideox", {"train": "motion"}, "there are no motion modules in this model"),
        ("cogvideox", {"train": {"targets": ["to_z"]}}, "no layer is called to_z"),
        ("wan", {"min_snr": 5}, "min_snr is for the targets epsilon and v_prediction"),
        ("cogvideox", {"inflate": {}}, "CogVideoXPipeline has no unet"),
    ],
)
def test_a_config_that_does_not_fit_its_model_is_one_line(config_of, tmp_path, kind, changes, message):
    with pytest.raises((BadInput, NotSupported), match=message) as raised:
        train(config_of(kind, **changes), tmp_path / "run", False)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prior": "mixed:-1"}, "prior: a prior's alpha must be a finite number of at least 0"),
        ({"prior": "torch"}, "prior: noise for training is drawn by numpy: write gaussian"),
        ({"priors": "mixed"}, "priors: a training has no such key"),
        ({"steps": 0}, "steps: Input should be greater than or equal to 1"),
        ({"data": {"folder": "x"}}, "data.videos.folder: a training has no such key"),
        ({"data": 3}, 'data: write {"world": "shapes", ...} or {"videos": "FOLDER", ...}'),
        ({"frames": 1}, "frames: a video model is trained on more than 1 frame"),
        ({"train": {"rank": 1}}, "adapters leave the new motion modules as they are"),
        ({"lr": ...}, "lr: Field required"),
    ],
)
def test_a_config_with_a_mistake_is_one_line(config_of, changes, message):
    with pytest.raises(BadInput) as raised:
        config_of("motion", **{"inflate": {}, **changes})
    assert message in str(raised.value) and "\n" not in str(raised.value)


def test_a_config_is_read_back(config_of):
    config = config_of("motion", train=LORA, prior="mixed:1", stills={"share": 0.5})
    again = Config.model_validate_json(config.to_json())
    assert again == config and again.prior == "mixed:alpha=1.0"


def test_models_that_cannot_be_trained_are_refused():
    with pytest.raises(NotSupported, match="StableDiffusionXLPipeline cannot be trained"):
        Model(sdxl(), {})
    with pytest.raises(NotSupported, match="Wan with two transformers"):
        Model(wan(two_denoisers=True), {})


@pytest.mark.parametrize("kind", MODELS)
@torch.no_grad()
def test_latents_are_those_that_the_pipeline_decodes(kind):
    """What encodes clips is the inverse of what the pipeline itself undoes before it decodes."""
    model = Model(MODELS[kind](), {})
    clips = torch.randint(0, 256, (2, 5, 16, 16, 3), dtype=torch.uint8)
    vae, latents = model.pipe.vae, model.encode(clips)
    if kind == "cogvideox":
        raw = latents.transpose(1, 2) / model.pipe.vae_scaling_factor_image
    elif kind == "wan":
        raw = latents  # of mean 0 and deviation 1 here
    else:
        raw = latents.transpose(1, 2).flatten(0, 1) / vae.config.scaling_factor
    pixels = clips.permute(0, 4, 1, 2, 3) / 127.5 - 1
    given = pixels.transpose(1, 2).flatten(0, 1) if kind in ("image", "motion") else pixels
    assert (vae.encode(given).latent_dist.mean - raw).abs().max() < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["cogvideox", "motion"])
def test_two_processes_are_one_with_twice_the_batch(config_of, tmp_path, kind):
    # Adam divides by the size of the gradient, so that where it is rounding, a step is as large as elsewhere.
    same = dict(steps=6, stills={"share": 0.3}, prior="progressive:2", lr=0.0001)
    one = train(config_of(kind, batch=4, **same), tmp_path / "one", False).model
    config_of(kind, batch=2, **same)  # writes tmp_path/config.json
    command = [
        sys.executable,
        "-c",
        "from seedbed.cli import main; main()",
        "train",
        tmp_path / "config.json",
    ]
    subprocess.run([*command, "--processes", "2", "--out", tmp_path / "two"], check=True, timeout=300)
    lines = [(tmp_path / name / "metrics.jsonl").read_text().splitlines() for name in ("one", "two")]
    for single, double in zip(*lines, strict=True):
        assert abs(json.loads(single)["loss"] - json.loads(double)["loss"]) < 1e-5
    name = "unet" if kind == "motion" else "transformer"
    file = f"{name}/diffusion_pytorch_model.safetensors"
    mine, theirs = load_file(one / file), load_file(tmp_path / "two/model" / file)
    config_of(kind, batch=2, frames=10)
    failed = subprocess.run([*command, "--processes", "2"], capture_output=True, text=True, timeout=300)
    assert failed.returncode == 2 and failed.stdout == ""
    assert failed.stderr == "error: a clip of the shapes world has 9 frames, not 10\n"
    assert max((mine[key] - theirs[key]).abs().max().item() for key in mine) < 1e-5


def test_the_page_shows_a_config_that_is_read_and_the_defaults_that_there_are():
    page = (Path(__file__).parents[2] / "docs/training.md").read_text()
    example, *_stages = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
    config = Config.model_validate_json(example)
    assert config.prior == "progressive:alpha=2.0" and config.train == "motion"
    said = {
        "accumulate": 1,
        **{"warmup": 0, "cooldown": 0, "weight_decay": 0.01, "clip": 1, "ema": 0.999},
        **{"caption_dropout": 0.1, "min_snr": None, "shift": None, "precision": "float32"},
        "checkpointing": False,
    }
    fields = Config.model_fields
    assert {name: fields[name].default for name in said} == said
    assert [name for name in fields if not re.search(f'[`"]{name}[`"]', page)] == ["seed", "schema_"]


@pytest.mark.parametrize("path", sorted((Path(__file__).parents[2] / "recipes/pyoco").glob("*.json")))
def test_the_configs_of_the_recipe_are_read(path):
    content = json.loads(path.read_text())
    if content.get("schema") == "seedbed.training/1":
        assert Config.load(path).name == f"pyoco-{path.stem}"
    elif "schema" in content:
        recipe = Recipe.load(path)
        assert recipe.name == f"pyoco-{path.stem}" and len(recipe.captions()) == recipe.prompts.count
    else:
        assert path.stem in ("start", "digits-start", "real-start", "paper")
