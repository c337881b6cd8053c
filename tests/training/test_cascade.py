"""A cascade: its stages follow its base, are trained, and are held against what costs nothing."""

import json
import math

import numpy as np
import pytest
import torch

import seedbed
from seedbed.errors import BadInput, NotSupported
from seedbed.noise import Mixed
from seedbed.pipelines.cascade import CascadePipeline, augmented, spread
from seedbed.pipelines.loading import load
from seedbed.training.config import World
from seedbed.training.data import Rows, WorldClips
from seedbed.training.diffusion import train
from seedbed.training.stages import Stage, stage_scheduler
from seedbed.worlds import shapes
from seedbed.worlds.verifier import attributes
from tests.pipelines import animatediff as base_pipeline
from tests.pipelines.animatediff import cascade, stage
from tests.pipelines.parts import quiet
from tests.training.test_resume import outcome_of

CALL = {"num_frames": 3, "height": 8, "width": 8, "num_inference_steps": 2, "stage_steps": 2}
NETWORK = {"widths": [8], "heads": 2, "groups": 4, "positions": 16}
WORLD = {"world": "shapes", "count": 8, "side": 16}
STAGE = {
    kind: {"stage": {"kind": kind, "factor": 2, "network": NETWORK}, "frames": frames, "data": WORLD}
    for kind, frames in (("interpolation", 5), ("super-resolution", 2))
}


@pytest.fixture(scope="module")
def whole():
    return cascade()


def noise(seed=0):
    return torch.randn(1, 4, 3, 4, 4, generator=torch.Generator().manual_seed(seed))


def frames_of(pipe, **changes):
    return pipe("a red circle", **{**CALL, "latents": noise(), "output_type": "np", **changes}).frames[0]


def plain_frames():
    call = {name: value for name, value in CALL.items() if name != "stage_steps"}
    return base_pipeline()("a red circle", **call, latents=noise(), output_type="np").frames[0]


def test_what_a_stage_is_given():
    latents = torch.randn(2, 4, 3, 2, 2, dtype=torch.float64)
    given = spread(latents, 3)
    assert given.shape == (2, 5, 7, 2, 2)
    for frame in range(7):
        known = frame % 3 == 0
        expected = latents[:, :, frame // 3] if known else torch.zeros(2, 4, 2, 2)
        assert torch.equal(given[:, :4, frame], expected.double()) and (given[:, 4, frame] == known).all()
    large, other = torch.randn(2, 2, 3, 2, 4, 4, dtype=torch.float64)
    mixed = augmented(large, other, torch.tensor([0.0, 0.6]))
    assert torch.equal(mixed[0, :3], large[0]) and (mixed[0, 3] == 0).all()
    assert torch.allclose(mixed[1, :3], 0.8 * large[1] + 0.6 * other[1], atol=1e-7)
    assert torch.allclose(mixed[1, 3], torch.tensor(0.6).double())


def test_each_stage_changes_its_size_alone_and_keeps_what_it_was_given(whole):
    assert whole.sizes(3, 8, 8) == {
        "unet": (3, 8, 8),
        "interpolation": (5, 8, 8),
        "super_resolution": (5, 16, 16),
        "super_resolution_2": (5, 32, 32),
    }
    assert frames_of(whole, stage_steps=1).shape == (5, 32, 32, 3)
    base = plain_frames()
    assert np.array_equal(frames_of(whole, base_only=True), base)
    without = quiet(CascadePipeline(**base_pipeline().components))
    assert np.array_equal(frames_of(without), base)
    slow = frames_of(cascade(interpolation=2))
    assert slow.shape == (5, 8, 8, 3) and np.allclose(slow[::2], base, atol=1e-5)
    assert np.abs(slow[1::2] - base[:2]).max() > 1e-2
    assert frames_of(cascade(super_resolution=2)).shape == (3, 16, 16, 3)


def test_stages_follow_from_their_seed_whatever_the_batch():
    pipe = cascade(interpolation=2, super_resolution=2)
    state = torch.get_rng_state()
    one = frames_of(pipe)
    assert torch.equal(state, torch.get_rng_state())
    assert np.array_equal(one, frames_of(pipe, augmentation=0.2))  # half of 0.4
    for change in ({"stage_seed": 1}, {"augmentation": 0.0}, {"stage_steps": 1}):
        assert not np.allclose(one, frames_of(pipe, **change), atol=1e-4), change
    noises = torch.cat([noise(1), noise(0)])
    both = pipe(["a red circle"] * 2, **CALL, latents=noises, output_type="np").frames
    assert np.allclose(both[1], one, atol=1e-4) and not np.allclose(both[0], one, atol=1e-2)


def test_the_noise_of_a_stage_is_of_its_prior():
    pipe = cascade(interpolation=2)
    pipe.interpolation_scheduler = stage_scheduler()
    pipe.config.stages["interpolation"]["prior"] = "mixed:1000000"
    seen = []
    handle = pipe.interpolation.register_forward_pre_hook(lambda module, args: seen.append(args[0].clone()))
    frames_of(pipe, stage_steps=1)
    handle.remove()
    drawn = seen[0][0, :4]
    assert torch.allclose(drawn, drawn[:, :1].expand_as(drawn), atol=1e-4)  # the same in all frames
    assert 0.7 < float(drawn.std()) < 1.3


def test_what_is_saved_is_loaded_and_seedbed_works_on_its_base(whole, tmp_path):
    whole.save_pretrained(tmp_path / "cascade")
    again = load(tmp_path / "cascade", device="cpu")
    again.set_progress_bar_config(disable=True)
    assert type(again) is CascadePipeline and again.config.stages == whole.config.stages
    # Weights lie elsewhere in memory, and kernels round accordingly.
    assert np.allclose(frames_of(again, stage_steps=1), frames_of(whole, stage_steps=1), atol=1e-5)
    call = {"candidates": 2, "progress": False, **CALL, "stage_steps": 1}
    choice = seedbed.generate(again, "a red circle", acquisition="bansa", **call)
    base = seedbed.generate(base_pipeline(), "a red circle", acquisition="bansa", **_base(call))
    assert choice.frames.shape == (5, 32, 32, 3)
    assert torch.equal(choice.selection.scores, base.selection.scores)
    assert choice.selection.ledger == base.selection.ledger  # evaluations of the base alone
    alone = seedbed.generate(again, "a red circle", acquisition="bansa", base_only=True, **call)
    assert np.array_equal(alone.frames, base.frames)
    sheet = seedbed.contact_sheet(again, "a red circle", after=1, **call)
    shown = seedbed.contact_sheet(base_pipeline(), "a red circle", after=1, **_base(call))
    for preview, expected in zip(sheet.selection.previews, shown.selection.previews, strict=True):
        assert np.array_equal(preview, expected)
    assert sheet.finish(0).frames.shape == (5, 32, 32, 3)
    choice.save(tmp_path / "one.json")
    assert seedbed.replay(tmp_path / "one.json", progress=False).identical


def _base(call):
    return {name: value for name, value in call.items() if name != "stage_steps"}


def test_mistakes_are_one_line(whole):
    parts = base_pipeline().components
    scheduler = stage_scheduler()
    with pytest.raises(BadInput, match=r"^interpolation needs interpolation_scheduler, and its factor in"):
        CascadePipeline(**parts, interpolation=stage(4), stages={"interpolation": {"factor": 2}})
    given = {**parts, "interpolation": stage(3), "interpolation_scheduler": scheduler}
    with pytest.raises(BadInput, match=r"^interpolation must make 4 channels of 9, not 3 of 7$"):
        CascadePipeline(**given, stages={"interpolation": {"factor": 2}})
    given["interpolation"] = stage(4)
    with pytest.raises(BadInput, match=r"^the factor of interpolation must be a whole number of at least 2"):
        CascadePipeline(**given, stages={"interpolation": {"factor": 1}})
    for changes, line in [
        ({"num_frames": 20}, r"^interpolation would make 39 frames, but has 32 positions: ask for fewer$"),
        ({"stage_steps": 0}, r"^stage_steps must be"),
        ({"stage_seed": -1}, r"^stage_seed must be"),
        ({"augmentation": 0.5}, r"^augmentation must be a finite number from 0 to 0.4"),
    ]:
        with pytest.raises(BadInput, match=line):
            frames_of(whole, **changes)


@pytest.mark.parametrize("kind", STAGE)
def test_a_stage_is_trained_resumed_and_left_in_a_cascade(config_of, tmp_path, kind):
    config = config_of(
        "motion", prior="mixed:1", steps=3, log_every=10, save_every=1, **STAGE[kind],
        samples={"prompts": ["a red circle"], "every": 9, "call": _sizes(kind)},
    )  # fmt: skip
    straight = outcome_of(config, tmp_path / "straight")

    def interrupt(what, done, total):
        if what == "steps" and done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "broken", interrupt)
    assert outcome_of(config, tmp_path / "broken") == straight
    before, after = load(config.model, device="cpu"), load(tmp_path / "straight/model", device="cpu")
    for name in ("unet", "vae", "text_encoder"):
        old, new = (getattr(pipe, name).state_dict() for pipe in (before, after))
        assert all(torch.equal(new[key], value) for key, value in old.items())
    name = kind.replace("-", "_")
    assert after.config.stages[name]["prior"] == "mixed:alpha=1.0"
    settings = json.loads((tmp_path / "straight/model/seedbed.json").read_text())
    assert "prior" not in settings and settings["call"] == _sizes(kind)  # of the base, which has none
    assert f"its {kind} alone" in (tmp_path / "straight/model/README.md").read_text()
    settings["prior"] = "mixed:1"  # as of a base that was trained under it
    (tmp_path / "straight/model/seedbed.json").write_text(json.dumps(settings))
    again = config_of("motion", **{**STAGE[kind], "model": str(tmp_path / "straight/model")}, steps=1)
    if kind == "interpolation":
        with pytest.raises(BadInput, match=r"^stage: .* has interpolation already$"):
            train(again, tmp_path / "again", False)
    else:
        made = train(again, tmp_path / "again", False)
        assert [*load(made.model, device="cpu").config.stages] == [name, "super_resolution_2"]
        assert json.loads((made.model / "seedbed.json").read_text()) == settings


def _sizes(kind):
    side = 16 if kind == "interpolation" else 8
    return {"num_frames": 3, "height": side, "width": side, "num_inference_steps": 1, "stage_steps": 1}


@pytest.mark.slow
@pytest.mark.parametrize("kind", STAGE)
def test_a_stage_learns(config_of, tmp_path, kind):
    config = config_of("motion", steps=40, lr=0.01, log_every=20, **STAGE[kind])
    train(config, tmp_path / "run", False)
    losses = [json.loads(line)["loss"] for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert losses[-1] < 0.8 * losses[0]


def test_in_training_a_stage_is_given_what_the_one_before_makes(config_of):
    pipe, name = base_pipeline(), "super-resolution"
    model = Stage(pipe, {}, None, config_of("motion", **STAGE[name]), stage_scheduler())
    clips = torch.randint(256, (2, 2, 16, 16, 3), dtype=torch.uint8)
    clean = model.encode(clips)
    assert torch.allclose(clean, clips.permute(0, 4, 1, 2, 3) / 127.5 - 1)
    speckle = torch.randn(clean.shape)
    batch = {"level": torch.tensor([0.0, 0.6]), "speckle": speckle}
    given = model.given(torch.zeros_like(clean), clean, batch)
    small = clean.reshape(2, 3, 2, 8, 2, 8, 2).mean((4, 6))
    for row, level in enumerate((0.0, 0.6)):
        for frame in range(2):
            latent = pipe.vae.encode(small[row, :, frame][None]).latent_dist.mode()
            shown = pipe.vae.decode(latent).sample.clamp(-1, 1)
            large = torch.nn.functional.interpolate(shown, scale_factor=2, mode="bicubic").clamp(-1, 1)[0]
            expected = math.sqrt(1 - level**2) * large + level * speckle[row, :, frame]
            assert torch.allclose(given[row, 3:6, frame], expected, atol=1e-5)
            assert torch.allclose(given[row, 6, frame], torch.tensor(level))


def test_a_stage_is_given_what_an_autoencoder_in_half_precision_shows(config_of):
    pipe = base_pipeline()
    config = config_of("motion", **STAGE["super-resolution"])
    model = Stage(pipe, {}, None, config, stage_scheduler())
    clean = model.encode(torch.randint(256, (1, 2, 16, 16, 3), dtype=torch.uint8))
    exact = model.given(torch.zeros_like(clean), clean, {})
    pipe.vae.to(torch.bfloat16)
    rounded = model.given(torch.zeros_like(clean), clean, {})
    assert rounded.dtype == torch.float32 and 0 < (rounded - exact).abs().max() < 0.1


def test_latents_are_noised_in_full_precision(config_of):
    model = Stage(base_pipeline(), {}, None, config_of("motion", **STAGE["interpolation"]), stage_scheduler())
    clips = torch.randint(256, (1, 5, 16, 16, 3), dtype=torch.uint8)
    with torch.autocast("cpu", torch.bfloat16):
        assert model.encode(clips).dtype == torch.float32


def test_rows_have_a_level_of_their_own():
    clips = WorldClips(World(world="shapes", count=4), 2)
    rows = Rows(clips, 2, 0, 4, (3, 2, 32, 32), 1, Mixed(2.0), augmentation=0.3)
    drawn = [rows[index] for index in range(16)]
    assert torch.equal(drawn[5]["speckle"], rows[5]["speckle"]) and drawn[5]["level"] == rows[5]["level"]
    levels = np.array([row["level"] for row in drawn])
    assert 0 <= levels.min() < 0.1 and 0.2 < levels.max() < 0.3
    first, second = torch.stack([row["speckle"] for row in drawn])[:, :, :2].unbind(2)
    assert abs(float((first * second).mean())) < 0.02  # not of the prior, which would say 0.8
    plain = Rows(clips, 2, 0, 4, (3, 2, 32, 32), 1, Mixed(2.0))[5]
    assert torch.equal(plain["noise"], drawn[5]["noise"]) and "level" not in plain


def test_clips_of_the_world_in_other_sizes():
    world = {"world": "shapes", "count": 3}
    plain, slow = (WorldClips(World(**world, every=n), f) for n, f in ((1, 9), (2, 5)))
    large = WorldClips(World(**world, side=64), 9)
    for number in range(3):
        clip = plain.read(number, 9, 0.0)
        assert np.array_equal(slow.read(number, 5, 0.0), clip[::2])
        small = large.read(number, 9, 0.0).astype(float).reshape(9, 32, 2, 32, 2, 3).mean((2, 4))
        assert np.abs(small - clip).mean() < 1 and np.abs(small - clip).max() < 80
    with pytest.raises(BadInput, match="has 5 frames, not 6"):
        WorldClips(World(**world, every=2), 6)
    scene = next(shapes.scenes(3))
    assert attributes(shapes.render(scene, 64)[None], [shapes.caption(scene)])["all_right"] == 1


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({**STAGE["interpolation"], "frames": 4}, "1 more than a multiple of 2 to be interpolated, not 4"),
        ({**STAGE["interpolation"], "stills": {"share": 0.2}}, "nothing to interpolate in single frames"),
        ({**STAGE["interpolation"], "train": "motion"}, "a stage is a new network, trained whole"),
        ({**STAGE["interpolation"], "prediction": "epsilon"}, "begins without signal, of which epsilon"),
        (
            {**STAGE["super-resolution"], "stage": {**STAGE["super-resolution"]["stage"], "factor": 3}},
            "the clips' height must be a multiple of 6, not 16",
        ),
        (
            {"stage": {"kind": "super-resolution", "factor": 2, "network": {**NETWORK, "heads": 3}}},
            "heads and groups must divide every one of the widths",
        ),
        ({**STAGE["interpolation"], "frames": 17, "data": {"world": "shapes", "count": 1}}, "not 17"),
    ],
)
def test_a_training_that_cannot_be(config_of, tmp_path, changes, line):
    with pytest.raises(BadInput, match=line) as error:
        train(config_of("motion", **changes), tmp_path / "run", False)
    assert "\n" not in str(error.value)


def test_only_animatediff_is_followed(config_of, tmp_path):
    with pytest.raises(NotSupported, match="a stage follows an AnimateDiffPipeline, not a WanPipeline"):
        train(config_of("wan", **STAGE["interpolation"]), tmp_path / "run", False)
