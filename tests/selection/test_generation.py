import json
from functools import partial

import numpy as np
import pytest
import torch
from diffusers import CogVideoXDPMScheduler

from seedbed import BadInput, BadRecord, Selection, generate, replay, score, select
from seedbed.acquisition import Bansa
from seedbed.selection.record import sealed
from tests.pipelines import CALLS, PROMPT, cogvideox

CALL = {**CALLS["cogvideox"], "guidance_scale": 3.0}
ALL = Bansa(depth=None)


@pytest.fixture
def pipe(pipe_of):
    return pipe_of("cogvideox")


def make(pipe, **options):
    settings = {"acquisition": ALL, "candidates": 3, "progress": False, **CALL, **options}
    return generate(pipe, PROMPT, **settings)


@pytest.fixture(scope="module")
def video(pipe_of):
    return make(pipe_of("cogvideox"), seed=3)


def test_the_frames_are_those_of_the_pipelines_own_call(pipe, video):
    assert video.frames.dtype == np.uint8
    assert video.frames.shape == (9, 16, 16, 3)
    own = pipe(PROMPT, latents=video.selection.noise, output_type="np", **CALL).frames[0]
    assert np.abs(own * 255 - video.frames).max() <= 0.51
    choice = select(pipe, PROMPT, acquisition=ALL, candidates=3, seed=3, progress=False, **CALL)
    assert video.selection.order == choice.order


def test_the_generation_is_paid_for(video):
    ledger = video.selection.ledger.entries
    assert ledger["scoring"] == pytest.approx(3)
    assert ledger["generation"] == 4  # two steps, with guidance
    assert set(video.selection.seconds) == {"scoring", "generation"}


def test_a_record_rebuilds_the_video(pipe, video):
    again = replay(video.record(), pipe)
    assert again.identical is True
    assert np.array_equal(again.frames, video.frames)
    assert again.record() == video.record()


@pytest.mark.parametrize("name", ["video.mp4", "video.json"])
def test_a_file_rebuilds_the_video(pipe, video, tmp_path, name):
    path = video.save(tmp_path / name)
    again = replay(path, pipe)
    assert again.identical
    assert np.array_equal(again.frames, video.frames)
    assert again.save(tmp_path / f"again-{name}").read_bytes() == path.read_bytes()
    assert Selection.load(path).order == video.selection.order


def test_a_selection_alone_can_be_generated_later(pipe, video, tmp_path):
    again = replay(video.selection.save(tmp_path / "choice.json"), pipe)
    assert again.identical is None
    assert np.array_equal(again.frames, video.frames)


def test_another_model_is_not_identical_and_says_so(video):
    other = cogvideox()
    with torch.no_grad():
        other.transformer.proj_out.bias.add_(1.0)
    assert replay(video.record(), other).identical is False


def test_frames_of_another_shape_are_not_identical(pipe, video):
    record = {**video.record(), "frames_shape": [3, 16, 48, 3]}
    assert replay(sealed(record), pipe).identical is False


def test_the_model_is_loaded_from_where_the_record_says(tmp_path):
    pipe = cogvideox(layers=1)
    pipe.save_pretrained(tmp_path / "model")
    pipe = type(pipe).from_pretrained(tmp_path / "model", torch_dtype=torch.bfloat16)
    pipe.text_encoder.float()
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, set_alpha_to_one=False)
    embeds, negative = pipe.encode_prompt(PROMPT, max_sequence_length=8)
    embeds, negative = embeds.bfloat16(), negative.bfloat16()
    call = {**CALL, "prompt_embeds": embeds, "negative_prompt_embeds": negative}
    video = generate(pipe, candidates=2, progress=False, **call)
    record = video.record()
    assert record["model"] == str(tmp_path / "model")
    assert (record["dtypes"]["transformer"], record["dtypes"]["text_encoder"]) == ("bfloat16", "float32")
    again = replay(record, prompt_embeds=embeds, negative_prompt_embeds=negative)
    assert again.identical
    (tmp_path / "model").rename(tmp_path / "gone")
    with pytest.raises(BadInput, match="is not on this machine"):
        replay(record, prompt_embeds=embeds, negative_prompt_embeds=negative)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": ""}, "built in memory"),
        ({"model": "/nowhere/at-all"}, "not on this machine"),
        (
            {"model": "seedbed:models/koala"},
            "cannot load the record's model: no embedded model is called",
        ),
        (
            {"model": "seedbed:zoo/models/shapes-cogvideox"},
            "cannot load the record's model: .* no longer has: check out commit 7adb95a",
        ),
        ({"pipeline": "WanPipeline"}, "made with a WanPipeline, not with a CogVideoXPipeline"),
        ({"call": {**CALL, "num_frames": 1}}, r"noise has shape \(3, 4, 4, 4\).*have shape \(1, 4, 4, 4\)"),
    ],
)
def test_a_replay_that_cannot_be_is_refused(pipe, video, change, message):
    record = sealed({**video.record(), **change})
    with pytest.raises(BadInput, match=message) as caught:
        replay(record, None if "model" in change else pipe)
    assert "\n" not in str(caught.value)


def test_an_altered_record_is_refused(pipe, video):
    with pytest.raises(BadRecord, match="altered"):
        replay({**video.record(), "prompt": "a cat"}, pipe)


def test_noise_that_is_only_its_owners_cannot_be_replayed(pipe, tmp_path):
    table = score(pipe, PROMPT, torch.randn(2, 3, 4, 4, 4), progress=False, **CALL)
    with pytest.raises(BadRecord, match="was the caller's own"):
        replay(table.to_dict(), pipe)


def test_what_json_cannot_hold_is_asked_for(pipe):
    embeds, negative = pipe.encode_prompt(PROMPT, max_sequence_length=8)
    call = {**CALL, "prompt_embeds": embeds, "negative_prompt_embeds": negative}
    video = generate(pipe, candidates=2, progress=False, **call)
    record = json.loads(json.dumps(video.record()))
    assert record["prompt"] is None
    with pytest.raises(BadInput, match=r"cannot hold prompt_embeds \(tensor \(1, 8, 16\)\): pass it, replay"):
        replay(record, pipe)
    with pytest.raises(BadInput, match="height is not missing"):
        replay(record, pipe, prompt_embeds=embeds, negative_prompt_embeds=negative, height=16)
    assert replay(record, pipe, prompt_embeds=embeds, negative_prompt_embeds=negative).identical


@pytest.fixture
def stochastic():
    pipe = cogvideox()
    config = dict(prediction_type="v_prediction", timestep_spacing="trailing")
    pipe.scheduler = CogVideoXDPMScheduler(**config)
    return pipe


def test_a_stochastic_scheduler_is_replayed_too(stochastic):
    # Two evaluations per score, so that scoring itself meets the scheduler's noise.
    video = make(stochastic, num_inference_steps=3, acquisition="entropy:steps=2")
    assert replay(video.record(), stochastic).identical
    assert "generator" not in {**video.record()["call"], **video.record()["missing"]}
    single = make(stochastic, num_inference_steps=3, acquisition="entropy:steps=2", batch_size=1)
    torch.testing.assert_close(single.selection.scores, video.selection.scores, rtol=1e-5, atol=0)


def test_the_callers_generator_is_used_and_asked_for(stochastic):
    generator = torch.Generator().manual_seed(8)
    video = make(stochastic, num_inference_steps=3, generator=generator)
    assert video.record()["missing"] == {"generator": "Generator"}
    assert replay(video.record(), stochastic, generator=generator).identical
    other = torch.Generator().manual_seed(9)
    assert replay(video.record(), stochastic, generator=other).identical is False


@pytest.mark.parametrize("fps", [0, -1, "8", True, float("nan"), float("inf")])
def test_fps_is_a_positive_number(video, tmp_path, fps):
    for write in (video.record, *(partial(video.save, tmp_path / f"a{end}") for end in (".mp4", ".json"))):
        with pytest.raises(BadInput, match="fps must be a number above 0"):
            write(fps=fps)
    assert list(tmp_path.iterdir()) == []


def test_fps_belongs_to_the_file(pipe, video, tmp_path):
    path = video.save(tmp_path / "fast.mp4", fps=16)
    again = replay(path, pipe, progress=False)
    assert again.identical and (video.record()["fps"], video.record(16)["fps"]) == (8, 16)
    assert again.save(tmp_path / "again.mp4", fps=16).read_bytes() == path.read_bytes()
    assert path.read_bytes() != video.save(tmp_path / "slow.mp4").read_bytes()


def test_a_video_has_the_suffix_of_one(video, tmp_path):
    with pytest.raises(BadInput, match="avi"):
        video.save(tmp_path / "video.avi")
    assert list(tmp_path.iterdir()) == []


def test_the_report_shows_the_video_and_how_to_replay_it(video, tmp_path):
    page = video.report(tmp_path / "video.html", replay="seedbed replay video.mp4").read_text()
    assert "data:video/mp4" in page
    assert "seedbed replay video.mp4" in page
    assert PROMPT in page


def test_every_family_is_generated_and_replayed(pipe_of, family):
    pipe = pipe_of(family)
    video = generate(pipe, PROMPT, candidates=2, progress=False, **CALLS[family])
    assert video.frames.ndim == 4
    assert replay(video.record(), pipe).identical
