"""Where words and places look, against whole maps."""

import numpy as np
import pytest
import torch

import seedbed
from seedbed.adaptation.maps import _places, _Tokens
from seedbed.attention.interventions import grid_of
from seedbed.errors import BadInput, NotSupported
from seedbed.noise import NoiseRecipe
from seedbed.pipelines.rollout import Rollout
from seedbed.pipelines.session import Session
from tests.pipelines import BUILDERS, CALLS

PROMPT = "a red circle moving left"

QUIET = {"progress": False}


def whole_maps(pipe, call, layer):
    """The map (batch, heads, rows, keys) of a layer at each step, rows with the prompt alone, in float64."""
    session = Session(pipe, PROMPT, **call)
    noise = NoiseRecipe(0, 0, tuple(session.spec.shape), frame_axis=session.spec.frame_axis).draw()
    found = {}

    def look(seen, candidates, rows):
        if seen.layer == layer:
            fold = len(seen.query) // seen.candidates
            own = slice(rows[0] * fold, (rows[0] + 1) * fold)
            logits = seen.query[own].double() @ seen.key[own].double().mT * seen.scale
            if seen.mask is not None:
                mask = seen.mask[own] if len(seen.mask) > 1 else seen.mask
                logits = logits.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else logits + mask
            found[seen.step] = logits.softmax(-1)

    Rollout(session, noise[None]).advance(session.facts.steps, look)
    return found


def word_places(pipe, count):
    """Of "circle" among the tokens of the prompt, padded to `count`."""
    ids = pipe.tokenizer(PROMPT, padding="max_length", max_length=count).input_ids
    return [i for i in range(count) if "circle" in pipe.tokenizer.decode(ids[i : i + 1])]


def test_a_word_in_joint_attention_is_a_column_and_a_row_of_the_map(pipe_of):
    pipe, call = pipe_of("cogvideox"), CALLS["cogvideox"]
    maps = seedbed.maps(pipe, PROMPT, word="Circle", call=call, steps=[1], **QUIET)
    layer = maps.maps[0].layer
    whole = whole_maps(pipe, call, layer)[1][0]
    column, row = (each for each in maps.maps if each.layer == layer)
    assert (column.part, row.part) == ("video -> word", "word -> video")
    video = column.values[0].size
    text = whole.shape[-1] - video
    places = word_places(pipe, text)
    assert places
    expected = whole[:, text:, places].sum(-1)
    assert np.allclose(column.values.reshape(len(expected), -1), expected, atol=1e-6)
    expected = whole[:, places, text:].mean(1)
    assert np.allclose(row.values.reshape(len(expected), -1), expected, atol=1e-6)


def test_a_word_in_cross_attention_is_a_column_of_the_map(pipe_of):
    pipe, call = pipe_of("wan"), CALLS["wan"]
    maps = seedbed.maps(pipe, PROMPT, word="circle", call=call, steps=[0], **QUIET)
    assert {(each.kind, each.part) for each in maps.maps} == {("cross", "video -> word")}
    whole = whole_maps(pipe, call, maps.maps[0].layer)[0][0]
    expected = whole[:, :, word_places(pipe, whole.shape[-1])].sum(-1)
    assert np.allclose(maps.maps[0].values.reshape(len(expected), -1), expected, atol=1e-6)


@pytest.mark.parametrize("name", ["wan", pytest.param("animatediff", marks=pytest.mark.slow)])
def test_a_place_is_a_row_of_the_map(pipe_of, name):
    """In the last frame, the first row and the last column."""
    pipe, call = pipe_of(name), CALLS[name]
    maps = seedbed.maps(pipe, PROMPT, place=(1, 0, 1), call=call, steps=[0], **QUIET)
    for kind in {each.kind for each in maps.maps}:
        found = next(each for each in maps.maps if each.kind == kind)
        heads, frames, height, width = found.values.shape
        whole = whole_maps(pipe, call, found.layer)[0]
        if kind == "temporal":  # folded by position
            assert np.allclose(found.values[:, :, 0, -1], whole[width - 1, :, -1], atol=1e-6)
            assert found.values.sum() == pytest.approx(heads, abs=1e-4)
        elif len(whole) > 1:  # folded by frame
            row = whole[-1, :, width - 1].reshape(heads, height, width)
            assert np.allclose(found.values[:, -1], row, atol=1e-6) and not found.values[:, :-1].any()
        else:
            row = whole[0, :, (frames - 1) * height * width + width - 1]
            assert np.allclose(found.values.reshape(heads, -1), row, atol=1e-6)


def test_words_of_several_tokens_and_of_padded_texts():
    class Letters:
        def decode(self, ids):
            return "".join(map(chr, ids))

    assert _places(Letters(), list(map(ord, "a car, a CAR")), "car") == [2, 3, 4, 9, 10, 11]
    tokens = _Tokens(8, (0, 1, 2, 5), (2, 5))
    assert tokens.among(8) == [2, 5] and tokens.among(4) == [2, 3] and tokens.among(7) == []


def test_bad_input_is_one_line(pipe_of):
    pipe, call = pipe_of("cogvideox"), {"call": CALLS["cogvideox"], **QUIET}
    with pytest.raises(BadInput, match=r"no word 'square': it has a, red, circle, moving, left$"):
        seedbed.maps(pipe, PROMPT, word="square", **call)
    for noise in (torch.zeros(2), "x"):
        with pytest.raises(BadInput, match="noise must be a recipe"):
            seedbed.maps(pipe, PROMPT, word="red", noise=noise, **call)
    for asked in ({}, {"word": "red", "place": (0, 0, 0)}):
        with pytest.raises(BadInput, match="one of the two"):
            seedbed.maps(pipe, PROMPT, **asked, **call)
    with pytest.raises(BadInput, match=r"from 0 to 1, not 1\.5"):
        seedbed.maps(pipe, PROMPT, place=(0, 1.5, 0), **call)
    with pytest.raises(BadInput, match="each a share"):
        seedbed.maps(pipe, PROMPT, place=(0, 1), **call)
    with pytest.raises(BadInput, match="maps' steps"):
        seedbed.maps(pipe, PROMPT, word="red", steps=[9], **call)
    with pytest.raises(NotSupported, match=r"tokens of 'red' cannot be told .* \(cross, self\): no map"):
        seedbed.maps(pipe_of("wan"), PROMPT, word="red", layers="self", **QUIET, call=CALLS["wan"])


def test_the_page_and_the_picture(pipe_of, tmp_path):
    maps = seedbed.maps(pipe_of("wan"), PROMPT, place=(0, 0.5, 0.5), call=CALLS["wan"], **QUIET)
    page = maps.save(tmp_path / "maps.html").read_text()
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org", "")
    assert maps.save(tmp_path / "maps.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(BadInput, match=r"\.html or \.png"):
        maps.save(tmp_path / "maps.jpg")


def test_four_frames_in_patches_are_not_one_frame_of_single_places():
    """WanPipeline at 13 frames: 4 x 2 x 2 patches are as many tokens as 1 x 4 x 4 places."""
    pipe, call = BUILDERS["wan"](), {**CALLS["wan"], "num_frames": 13, "num_inference_steps": 1}
    found = seedbed.maps(pipe, PROMPT, place=(0.5, 0.5, 0.5), layers="self", call=call, progress=False)
    frames = {each.values.shape[1] for each in found.maps}
    assert frames == {tuple(Session(pipe, PROMPT, **call).spec.shape)[1]} == {4}
    assert grid_of(16, (4, 4, 4)) == (4, 2, 2) and grid_of(16, (4, 4, 4), folded=True) == (1, 4, 4)
