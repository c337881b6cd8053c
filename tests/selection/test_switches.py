"""What was switched on beside the call: a record knows it, a replay does it again or tells."""

import dataclasses
import json
import types

import numpy as np
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, FirstBlockCacheConfig
from diffusers.models.attention_dispatch import _AttentionBackendRegistry
from peft import LoraConfig

from seedbed import BadInput, Selection, generate, replay, select
from seedbed.pipelines.loading import changed, load, restore, switches
from seedbed.selection.provenance import Model
from seedbed.selection.record import sealed
from tests.pipelines import CALLS, FAMILIES, PROMPT, animatediff, cogvideox, sdxl, wan

ONE = {"candidates": 1, "progress": False}


def lora(pipe):
    config = LoraConfig(r=2, target_modules=["to_q"], init_lora_weights=False)
    pipe.transformer.add_adapter(config, adapter_name="style")


def casting(pipe):
    pipe.transformer.enable_layerwise_casting(torch.float8_e4m3fn, torch.float32)


def backend(pipe):
    active = _AttentionBackendRegistry.get_active_backend()[0]
    pipe.transformer.set_attention_backend("_native_math")
    _AttentionBackendRegistry.set_active_backend(active)  # it is one for all models


def guider(pipe):
    pipe.guider = pipe.guider.new(guidance_scale=2.5)


def hunyuan_video_15():
    return next(family for family in FAMILIES if family.name == "HunyuanVideo 1.5").built()


# The builder, what switches on, where it is found, and whether a few numbers switch it on again.
SWITCHES = {
    "FreeInit": (
        animatediff,
        lambda p: p.enable_free_init(num_iters=2, method="gaussian"),
        "pipe.free_init",
        True,
    ),
    "FreeNoise": (animatediff, lambda p: p.enable_free_noise(4, 2), "pipe.free_noise", True),
    "FreeU": (sdxl, lambda p: p.enable_freeu(s1=0.9, s2=0.2, b1=1.2, b2=1.4), "unet.freeu", True),
    "tiling": (cogvideox, lambda p: p.vae.enable_tiling(tile_sample_min_height=8), "vae.settings", True),
    "slicing": (cogvideox, lambda p: p.vae.enable_slicing(), "vae.settings", True),
    "attention backend": (
        wan,
        backend,
        "transformer.attention_backends",
        True,
    ),
    "guider": (hunyuan_video_15, guider, "guider.guider", True),
    "attention slicing": (sdxl, lambda p: p.enable_attention_slicing(1), "unet.attention", False),
    "cache": (
        cogvideox,
        lambda p: p.transformer.enable_cache(FirstBlockCacheConfig(threshold=0.3)),
        "transformer.cache",
        False,
    ),
    "casting": (cogvideox, casting, "transformer.hooks", False),
    "LoRA": (cogvideox, lora, "transformer.adapters", False),
}


@pytest.mark.parametrize("name", SWITCHES)
def test_a_record_knows_what_is_on_and_a_replay_what_is_missing(name):
    build, switch, where, again = SWITCHES[name]
    plain, pipe = build(), build()
    before = switches(pipe)
    switch(pipe)
    recorded = json.loads(json.dumps(switches(pipe)))
    assert changed(recorded, switches(pipe)) == [] and recorded != before == switches(plain)
    lines = changed(recorded, before)
    assert lines and all(
        line.startswith((where, where.partition(".")[0] + " ")) or "hooks" in line for line in lines
    )
    restore(plain, recorded)
    assert (switches(plain) == recorded) is again


def test_the_scale_and_the_weights_of_a_lora_are_known():
    one, other, scaled = cogvideox(), cogvideox(), cogvideox()
    for seed, pipe in ((1, one), (2, other), (1, scaled)):
        torch.manual_seed(seed)
        lora(pipe)
    scaled.transformer.set_adapters("style", 0.5)
    known = [switches(pipe)["transformer"]["adapters"]["style"] for pipe in (one, other, scaled)]
    assert known[0]["scales"] == known[1]["scales"] == [4.0] and known[2]["scales"] == [2.0]
    assert known[0]["sha256"] == known[2]["sha256"] != known[1]["sha256"]


def test_a_replay_switches_on_what_was_and_says_what_it_cannot(tmp_path):
    cogvideox(layers=1).save_pretrained(tmp_path / "model")
    pipe = load(tmp_path / "model", device="cpu")
    pipe.set_progress_bar_config(disable=True)
    lora(pipe)
    pipe.vae.enable_tiling()
    video = generate(pipe, PROMPT, **ONE, **CALLS["cogvideox"])
    record = json.loads(json.dumps(video.record()))
    assert replay(record, pipe, progress=False).changes == ()
    again = replay(record, progress=False)
    assert not again.identical
    (line,) = again.changes
    assert line.startswith("switches.transformer.adapters") and line.endswith("now off")
    pipe.vae.disable_tiling()
    pipe.text_encoder.half()
    pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, set_alpha_to_one=False)
    other = Selection.from_dict(sealed({**record, "versions": {**record["versions"], "torch": "99.0"}}))
    assert other.model.changes(pipe, other.versions) == [
        f"torch 99.0, now {torch.__version__}",
        "dtypes.text_encoder float32, now float16",
        "scheduler.config.set_alpha_to_one True, now False",
        "switches.vae.settings.use_tiling True, now False",
    ]


def test_a_record_before_switches_says_nothing_of_them(pipe_of):
    pipe = pipe_of("cogvideox")
    record = generate(pipe, PROMPT, **ONE, **CALLS["cogvideox"]).record()
    old = sealed({k: v for k, v in record.items() if k != "switches"} | {"schema": "seedbed.selection/1"})
    again = replay(old, pipe, progress=False)
    assert again.identical and again.changes == ()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dtypes": {"vae": "float99"}}, "'float99' is no dtype"),
        ({"scheduler": {"class": "NewScheduler", "config": {}}}, "has no scheduler NewScheduler"),
        ({"scheduler": {"class": "UNet2DModel", "config": {}}}, "has no scheduler UNet2DModel"),
        (
            {"scheduler": {"class": "DDIMScheduler", "config": {"beta_schedule": "new"}}},
            "DDIMScheduler cannot be made here: new is not implemented",
        ),
        (
            {"scheduler": {"class": "DDIMScheduler", "config": {"prediction_type": "new"}}},
            "does not run as recorded: ValueError",
        ),
        ({"switches": {"pipe": {"free_init": {"num_iters": 2}}}}, "cannot switch on in"),
        ({"switches": {"transformer": {"freeu": {"s9": 2}}}}, "cannot switch on in"),
        ({"switches": {"transformer": {"settings": 3}}}, "cannot switch on in"),
        ({"call": {**CALLS["cogvideox"], "guidance_scale": "much"}}, "does not run as recorded: TypeError"),
    ],
)
def test_what_this_machine_does_not_know_is_one_line(folder_of_cogvideox, change, message):
    """Records of a newer torch or diffusers."""
    record = {**folder_of_cogvideox, **change}
    with pytest.raises(BadInput, match=message) as caught:
        replay(sealed(record), progress=False)
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def folder_of_cogvideox(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "one"
    cogvideox(layers=1).save_pretrained(folder)
    pipe = load(folder, device="cpu")
    record = generate(pipe, PROMPT, **ONE, **CALLS["cogvideox"]).record()
    return json.loads(json.dumps(record))


def test_a_bound_that_json_cannot_hold_comes_back(folder_of_cogvideox):
    """DPMSolverMultistepScheduler keeps an infinite one, which the record has as text."""
    pipe = load(folder_of_cogvideox["model"], device="cpu")
    pipe.scheduler = DPMSolverMultistepScheduler()
    video = generate(pipe, PROMPT, **ONE, **CALLS["cogvideox"])
    again = replay(json.loads(json.dumps(video.record())), progress=False)
    assert again.identical and again.changes == ()


def test_a_local_name_is_recorded_as_a_folder(tmp_path, monkeypatch):
    """From another folder it would be taken for a name on the Hub."""
    cogvideox(layers=1).save_pretrained(tmp_path / "some" / "model")
    monkeypatch.chdir(tmp_path)
    pipe = cogvideox()
    pipe = type(pipe).from_pretrained("some/model")
    assert pipe.name_or_path == "some/model"
    assert Model.of(pipe).model == str(tmp_path / "some" / "model")
    record = select(pipe, PROMPT, **ONE, **CALLS["cogvideox"]).to_dict()
    (tmp_path / "some").rename(tmp_path / "gone")
    with pytest.raises(BadInput, match="is not on this machine"):
        replay(record, progress=False)


def test_a_tuple_is_replayed_as_one():
    """SDXL's own check of `original_size` refuses a list."""
    pipe = sdxl()
    call = {**CALLS["sdxl"], "original_size": (16, 16), "crops_coords_top_left": (np.int64(0), 0)}
    video = generate(pipe, PROMPT, **ONE, **call)
    record = json.loads(json.dumps(video.record()))
    assert record["call"]["original_size"] == {"python": "(16, 16)"}
    assert Selection.from_dict(record).call["original_size"] == (16, 16)
    assert replay(record, pipe, progress=False).identical


def test_the_device_is_that_of_the_computation(monkeypatch):
    """Under offloading the models wait on another: `pipe.device` is then "meta" or "cpu"."""
    pipe = cogvideox()
    monkeypatch.setattr(type(pipe), "_execution_device", property(lambda pipe: torch.device("cuda", 1)))
    made = Model.of(pipe)
    assert made.device == "cuda"
    monkeypatch.undo()
    choice = select(pipe, PROMPT, **ONE, **CALLS["cogvideox"])
    there = dataclasses.replace(choice, model=made)
    assert choice.model.changes(pipe, choice.versions) == []
    assert there.model.changes(pipe, there.versions) == ["device cuda, now cpu"]


@pytest.mark.parametrize(
    ("recorded", "there", "expected"),
    [
        ("cuda", ("cpu", "cuda"), "cuda"),
        ("cuda", ("cpu",), None),
        ("cpu", ("cpu", "cuda"), "cpu"),
        ("mps", ("cpu", "cuda"), None),
        ("meta", ("cpu",), None),
    ],
)
def test_a_replay_goes_to_the_recorded_device_where_there_is_one(monkeypatch, recorded, there, expected):
    monkeypatch.setattr("seedbed.selection.provenance.has_device", lambda device: device in there)
    made = dataclasses.replace(Model.of(cogvideox(layers=1)), device=recorded)
    assert made.loading()["device"] == expected


@pytest.mark.parametrize(
    "record", [3, None, b"x", [1], np.zeros(3), types, "no\0where", "x" * 5000], ids=range(8)
)
def test_what_is_no_record_is_one_line(record):
    for read in (replay, Selection.load):
        with pytest.raises(BadInput) as caught:
            read(record)
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


def test_numbers_of_numpy_are_numbers_everywhere(pipe_of):
    """In the arguments of ours and of the pipeline's call: the same record as with Python's own."""
    pipe, call = pipe_of("cogvideox"), CALLS["cogvideox"]
    own = generate(pipe, PROMPT, candidates=2, seed=3, batch_size=1, progress=False, **call)
    theirs = generate(
        pipe, PROMPT, candidates=np.int64(2), seed=torch.tensor(3), batch_size=np.uint8(1), progress=False,
        **{name: np.int64(value) if type(value) is int else value for name, value in call.items()},
    )  # fmt: skip
    one, other = ({**made.record(np.float32(8)), "seconds": 0, "digest": 0} for made in (own, theirs))
    assert json.dumps(one) == json.dumps(other)
