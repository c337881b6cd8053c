"""Edits: what is injected where, what is left alone, what is refused, and what is written down."""

import json

import numpy as np
import pytest
import torch

import seedbed
from seedbed.acquisition.signals import call_of_rows
from seedbed.adaptation.editing import flow_edited, injected, injecting
from seedbed.adaptation.layout import Layout, layers_named
from seedbed.adaptation.trajectory import generated
from seedbed.attention import AttentionCall
from seedbed.errors import BadInput, NotSupported
from seedbed.noise import NoiseRecipe
from seedbed.pipelines.session import Session
from seedbed.report.video import read_record
from tests.conftest import slow
from tests.pipelines import BUILDERS, CALLS, FAMILIES, PROMPT

BY_NAME = {each.name: each for each in FAMILIES}
TARGET = "a blue square moving left"
LONGER = "a blue square moving left and down"


def edited(pipe, call, target, *, source=PROMPT, layers="all", stop=1.0):
    """(source frames, plain target, edit) from one noise."""
    one, two = Session(pipe, source, **call), Session(pipe, target, **call)
    noise = torch.randn(one.spec.shape, generator=torch.Generator().manual_seed(0))
    trajectory = generated(one, noise)
    plain = two.generate(noise)
    two.acts.append(injecting(two, one, trajectory, layers_named(two, layers), stop))
    return trajectory.frames.astype(int), plain.astype(int), two.generate(noise).astype(int)


# Mochi attends row by row; Qwen-Image's text is as long as the prompt.
NAMES = ["CogVideoX", "Wan 2.1", "LTX-Video", "AnimateDiff (SD 1.5)", "Mochi"]
MORE = ["HunyuanVideo", "SkyReels-V2", "Helios", "LTX-2", "ModelScope, Zeroscope", "Qwen-Image"]


@pytest.mark.parametrize("name", NAMES + [slow(name) for name in MORE])
def test_a_source_injected_in_itself_changes_nothing_but_rounding(name):
    """To one of 255: the source's row joins the batch, and kernels may round otherwise for another size."""
    family = BY_NAME[name]
    pipe = family.build()
    weights = [value.clone() for value in Session(pipe, PROMPT, **family.call).denoiser.state_dict().values()]
    own, plain, same = edited(pipe, family.call, family.prompt)
    assert np.array_equal(own, plain) and np.abs(same - own).max() <= 1
    session = Session(pipe, PROMPT, **family.call)
    assert all(map(torch.equal, weights, session.denoiser.state_dict().values()))
    assert "forward" not in vars(session.denoiser) and "step" not in vars(pipe.scheduler)


@pytest.mark.parametrize("name", NAMES + [slow(name) for name in MORE])
def test_injection_makes_other_frames(name):
    family = BY_NAME[name]
    pipe = family.build()
    # Of other weights of this size, attention says nothing: larger queries and keys make maps that differ.
    with torch.no_grad():
        for part, weight in Session(pipe, PROMPT, **family.call).denoiser.named_parameters():
            if any(word in part for word in ("to_q.weight", "to_k.weight", "to_qkv")):
                weight.mul_(8)
    _, plain, found = edited(pipe, family.call, TARGET)
    assert np.abs(found - plain).max() > 0


def test_a_text_of_another_length_has_another_place():
    family = BY_NAME["Qwen-Image"]
    source, plain, found = edited(family.build(), family.call, LONGER)
    assert found.shape == source.shape and not np.array_equal(found, plain)


@pytest.mark.parametrize("words", [3, 2])
def test_the_video_attends_with_the_sources_map_and_the_text_is_kept(words):
    """Joint attention against its maps, float64: 3 words of the target, 3 or 2 of the source, 4 places."""
    draw = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, 2, 7, 4, generator=draw, dtype=torch.float64) for _ in range(3))
    own_query, own_key = (
        torch.randn(1, 2, words + 4, 4, generator=draw, dtype=torch.float64) for _ in range(2)
    )
    call = AttentionCall("a", 0, 0, 0, "joint", query, key, value, None, 0.5, False, 2, 0.0, None)
    layouts = Layout({7: slice(3, 7)}), Layout({words + 4: slice(words, words + 4)})
    found = call.output()
    found[1:] = injected(call_of_rows(call, [1]), own_query, own_key, *layouts)
    maps = (query @ key.mT * 0.5).softmax(-1)
    expected = maps @ value
    video = (own_query[:, :, words:] @ own_key[:, :, words:].mT * 0.5).softmax(-1) @ value[1:, :, 3:]
    text = maps[1:, :, 3:, :3]
    expected[1:, :, 3:] = text @ value[1:, :, :3] + (1 - text.sum(-1, keepdim=True)) * video
    assert torch.allclose(found, expected, atol=1e-12, rtol=0)


def outputs_of(pipe, call, act=None, target=TARGET):
    """The denoiser's output of the first evaluation of a guided call, its rows."""
    seen, session = [], Session(pipe, target, **call)
    noise = torch.randn(session.spec.shape, generator=torch.Generator().manual_seed(0))
    session.acts += [act] * (act is not None)
    hook = session.denoiser.register_forward_hook(
        lambda module, args, output: seen.append(
            (output if isinstance(output, torch.Tensor) else output[0]).clone()
        )
    )
    session.generate(noise)
    hook.remove()
    return seen


def test_rows_without_the_prompt_and_steps_after_the_window_are_left_alone():
    pipe, call = BUILDERS["cogvideox"](), {**CALLS["cogvideox"], "num_inference_steps": 4}
    one, two = Session(pipe, PROMPT, **call), Session(pipe, TARGET, **call)
    noise = torch.randn(one.spec.shape, generator=torch.Generator().manual_seed(0))
    trajectory = generated(one, noise)
    names = layers_named(two, "all")
    plain = outputs_of(pipe, call)
    found = outputs_of(pipe, call, injecting(two, one, trajectory, names, 0.5))
    assert [len(each) for each in found] == [2] * 4
    assert torch.allclose(found[0][0], plain[0][0], atol=1e-6)  # without the prompt
    assert not torch.allclose(found[0][1], plain[0][1], atol=1e-6)
    assert two.ledger.entries["source"] == 2 and one.ledger.entries["source"] == 8


def test_flowedit_from_a_prompt_to_itself_stays_where_it_is():
    pipe, call = BUILDERS["ltx"](), {**CALLS["ltx"], "num_inference_steps": 4}
    one, two = Session(pipe, PROMPT, **call), Session(pipe, PROMPT, **call)
    latents = torch.randn(one.spec.shape, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(flow_edited(one, two, latents), latents, atol=1e-5)
    moved = flow_edited(one, Session(pipe, TARGET, **call), latents)
    assert float((moved - latents).abs().max()) > 1e-3


@pytest.fixture(scope="module")
def found():
    pipe, call = BUILDERS["cogvideox"](), CALLS["cogvideox"]
    recipe = NoiseRecipe(0, 3, tuple(Session(pipe, PROMPT, **call).spec.shape))
    given = dict(source=PROMPT, target=TARGET, progress=False, call=call)
    return pipe, call, recipe, given, seedbed.edit(pipe, recipe, **given)


def test_an_edit_knows_where_it_comes_from(found, tmp_path):
    pipe, call, recipe, given, edit = found
    own = seedbed.generate(pipe, PROMPT, noises=[recipe], progress=False, call=call)
    assert np.array_equal(edit.original, own.frames)
    assert np.array_equal(seedbed.edit(pipe, own, **given).frames, edit.frames)
    assert np.array_equal(seedbed.edit(pipe, recipe.draw(), **given).frames, edit.frames)
    assert len(edit.options["layers"]) == 1 and edit.options["stop"] == 0.8
    for name in ("edit.mp4", "edit.json"):
        assert read_record(edit.save(tmp_path / name)) == json.loads(json.dumps(edit.record()))
    assert edit.record()["schema"] == "seedbed.edit/1" and edit.record()["target"] == TARGET
    page = edit.report(tmp_path / "edit.html").read_text()
    assert page.count("data:video/mp4") == 2 and PROMPT in page and TARGET in page and "://" not in page
    assert "NFE: finding the layers" in page and "Stop, share of steps" in page and "Up to that share" in page
    again = seedbed.replay(tmp_path / "edit.json", pipe, progress=False)
    assert again.identical and again.changes == () and again.origin == edit.origin
    record = {**edit.record(), "target": "another"}
    with pytest.raises(seedbed.BadRecord, match="edit record was altered"):
        seedbed.replay(record, pipe)


def test_a_video_is_edited_by_inversion_and_by_flowedit():
    pipe, call = BUILDERS["ltx"](), {**CALLS["ltx"], "num_inference_steps": 3}
    video = np.random.default_rng(0).integers(0, 256, (9, 32, 32, 3), dtype=np.uint8)
    for method in ("inject", "flowedit"):
        edit = seedbed.edit(
            pipe, video, source=PROMPT, target=TARGET, method=method, progress=False, call=call
        )
        assert np.array_equal(edit.original, video) and edit.frames.shape == video.shape
        assert edit.options["method"] == method and edit.origin["name"] == "array"
        assert seedbed.replay(edit.record(), pipe, original=video, progress=False).identical
        with pytest.raises(BadInput, match=r"cannot hold original \(array, known by its sha256\): pass it"):
            seedbed.replay(edit.record(), pipe)
        with pytest.raises(BadInput, match="another video, or noise, than the record's array"):
            seedbed.replay(edit.record(), pipe, original=video + 1)


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        (dict(target=PROMPT), "nothing to edit"),
        (dict(target=f" {PROMPT} "), "nothing to edit"),
        (dict(source=" "), "the source must be a prompt"),
        (dict(target=""), "the target must be a prompt"),
        (dict(target=["a", "b"]), "the target must be a prompt"),
        (dict(layers="nothing"), "no layer matches 'nothing'"),
        (dict(stop=0), "above 0"),
        (dict(stop=1.2), "from 0 to 1"),
        (dict(stop="late"), "must be a finite number"),
        (dict(method="paint"), "inject, flowedit"),
        (dict(seed=-1), "whole number"),
        (dict(fps=0), "fps must be"),
        (dict(heigth=16), "did you mean 'height'"),
        (dict(given=torch.zeros(3)), "the noise must be of shape"),
        (dict(given=np.zeros((9, 8, 8, 3), np.uint8)), "the video must be uint8"),
        (dict(given=np.zeros((4, 16, 16, 3), np.uint8)), "too short"),
        (dict(given=17), "a video's file or frames, or a noise"),
        (dict(given="missing.mp4"), "cannot read the video missing.mp4"),
    ],
)
def test_bad_input_is_one_line(found, changed, line):
    pipe, _, recipe, given, _ = found
    noise = changed.pop("given", recipe)
    with pytest.raises(BadInput, match=line) as error:
        seedbed.edit(pipe, noise, **{**given, **changed})
    assert "\n" not in str(error.value)


def test_flowedit_needs_flow_matching(found):
    pipe, _, recipe, given, _ = found
    with pytest.raises(NotSupported, match="FlowEdit is for flow matching"):
        seedbed.edit(pipe, recipe, **given, method="flowedit")


def test_a_denoiser_that_cannot_take_another_row_says_so():
    family = BY_NAME["AnimateDiff, PAG"]
    with pytest.raises(NotSupported, match="cannot be run for the rows of the prompt alone"):
        edited(family.build(), family.call, TARGET)


def test_what_a_controlnet_made_of_the_sources_latents_is_the_sources():
    family = BY_NAME["AnimateDiff, controlled by a video"]
    own, plain, same = edited(family.build(), family.call, family.prompt)
    assert np.array_equal(own, plain) and np.abs(same - own).max() <= 1
