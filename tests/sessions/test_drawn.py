"""How pipelines draw their noise, and that a seed gives it: `tests/breadth` compares on every pipeline."""

import diffusers
import pytest
import torch
from torch import Tensor

from seedbed.errors import NotSupported
from seedbed.noise.packing import Packing
from seedbed.pipelines import discover
from seedbed.pipelines.session import Session
from seedbed.selection.pools import draw_pool
from tests.conftest import slow
from tests.pipelines import BUILDERS, CALLS, FAMILIES, PROMPT, images
from tests.pipelines.parts import quiet
from tests.sessions.test_restoring import snapshot


def of(name):
    (family,) = (family for family in FAMILIES if family.name == name)
    return Session(family.built(), family.prompt, **family.call)


def test_packed_frames_are_found(pipe_of):
    session = Session(pipe_of("ltx"), PROMPT, **CALLS["ltx"])
    drawn = session.drawn
    assert (session.spec.shape, session.spec.frame_axis) == ((12, 8), None)
    assert (drawn.shape, drawn.frame_axis) == ((8, 3, 2, 2), 1)
    noise = torch.randn(drawn.shape)
    assert torch.equal(drawn.packing.pack(noise, (12, 8)), session.pipe._pack_latents(noise[None], 1, 1)[0])
    assert not session.ledger.entries


def test_patches_are_found():
    pipe = images.flux()
    session = Session(pipe, PROMPT, height=16, width=32, num_inference_steps=1, max_sequence_length=8)
    drawn = session.drawn
    noise = torch.randn(drawn.shape)
    expected = pipe._pack_latents(noise[None], 1, *drawn.shape)[0]
    assert torch.equal(drawn.packing.pack(noise, session.spec.shape), expected)
    assert drawn.frame_axis is None


def test_an_image_that_is_drawn_as_a_video_of_one_frame_has_none():
    session = of("Qwen-Image")
    assert len(session.drawn.shape) == 4 and session.drawn.frame_axis is None


@pytest.mark.parametrize("family", ["wan", "sdxl"])
def test_what_stays_as_it_is_has_no_packing(family, pipe_of):
    """Also where the pipeline scales it, as SDXL does."""
    session = Session(pipe_of(family), PROMPT, **CALLS[family])
    drawn, spec = session.drawn, session.spec
    assert (drawn.shape, drawn.frame_axis, drawn.packing) == (spec.shape, spec.frame_axis, None)
    assert (drawn.dtype, drawn.unseeded) == (torch.float32, None)


@pytest.mark.parametrize("family", ["ltx", slow("cogvideox"), slow("sdxl")])
def test_a_seed_is_that_of_a_pipeline_in_half_precision(family):
    """Which draws other numbers than in float32."""
    pipe = BUILDERS[family]().to(torch.bfloat16)
    session = Session(pipe, PROMPT, **CALLS[family])
    noise = draw_pool(session, 1, 7, "torch").noises[0]
    assert noise.dtype == torch.float32
    options = dict(output_type="latent", **CALLS[family])
    own = pipe(PROMPT, generator=torch.Generator().manual_seed(7), **options)[0]
    assert torch.equal(own, pipe(PROMPT, latents=noise[None].to(session.spec.dtype), **options)[0])


def test_it_is_looked_for_when_asked_and_once_for_calls_of_one_structure(monkeypatch):
    pipe, looks, look = BUILDERS["ltx"](), [], discover.look

    def counted(*args, **options):
        looks.append(options.get("numbered", 0))
        return look(*args, **options)

    monkeypatch.setattr("seedbed.pipelines.seeding.look", counted)
    for prompt in (PROMPT, "a koala"):
        session = Session(pipe, prompt, **CALLS["ltx"])
        _ = session.spec
        assert len(looks) == (prompt != PROMPT)
        assert session.drawn.packing == Packing((8, 3, 2, 2), (12, 8), (1, 12))
    assert looks == [96]


def test_the_pipeline_is_as_before():
    pipe = BUILDERS["ltx"]()
    pipe(PROMPT, output_type="latent", **CALLS["ltx"])
    before, random = snapshot(pipe), torch.get_rng_state()
    generator = torch.Generator().manual_seed(3)
    state = generator.get_state()
    _ = Session(pipe, PROMPT, generator=generator, **CALLS["ltx"]).drawn
    assert before == snapshot(pipe)
    assert torch.equal(torch.get_rng_state(), random) and torch.equal(generator.get_state(), state)


def drawing(monkeypatch, change):
    """A pipeline whose `prepare_latents` returns what `change` makes of its own."""
    pipe = BUILDERS["wan"]()
    prepare = type(pipe).prepare_latents
    monkeypatch.setattr(type(pipe), "prepare_latents", lambda self, *a, **k: change(prepare(self, *a, **k)))
    return Session(pipe, PROMPT, **CALLS["wan"])


def repeated(latents: Tensor) -> Tensor:
    """As FreeNoise does."""
    return latents[:, :, [0, 1, 0]]


def halved(latents: Tensor) -> Tensor:
    return latents.to(torch.bfloat16)


def test_latents_that_are_no_packed_noise_are_refused(monkeypatch):
    with pytest.raises(NotSupported, match="latents of WanPipeline are not one drawn noise in another order"):
        _ = drawing(monkeypatch, repeated).drawn


def test_numbers_that_were_rounded_away_are_refused(monkeypatch):
    session = drawing(monkeypatch, halved)
    session = Session(session.pipe, PROMPT, **CALLS["wan"] | {"height": 64, "width": 64})
    with pytest.raises(NotSupported, match="not one drawn noise"):
        _ = session.drawn


@pytest.mark.parametrize("change", ["before", "elsewhere"])
def test_a_seed_that_does_not_name_the_noise_is_refused(monkeypatch, change):
    pipe = BUILDERS["wan"]()
    prepare = type(pipe).prepare_latents

    def changed(self, *args, **options):
        names = ["batch_size", "num_channels_latents", "height", "width", "num_frames", "dtype", "device"]
        options |= dict(zip([*names, "generator"], args, strict=False))
        generator = options["generator"]
        if change == "before":
            torch.rand(2, generator=generator)
        else:
            options["generator"] = None
        return prepare(self, **options)

    monkeypatch.setattr(type(pipe), "prepare_latents", changed)
    session = Session(pipe, PROMPT, **CALLS["wan"])
    why = "something else is drawn first" if change == "before" else "its noise is not drawn"
    assert session.drawn.packing is None
    with pytest.raises(NotSupported, match=f'no prior="torch" for WanPipeline: {why} from the generator'):
        draw_pool(session, 1, 0, "torch")


def test_a_picture_that_is_sampled_first_is_told_from_the_noise():
    """CogVideoXVideoToVideoPipeline samples the video from as many numbers as its noise has."""
    drawn = of("CogVideoX, video to video").drawn
    assert (drawn.shape, drawn.packing) == ((3, 4, 4, 4), None)
    assert "something else is drawn first" in drawn.unseeded


def test_a_noise_that_is_drawn_after_the_preparation_is_found():
    """LTXI2VLongMultiPromptPipeline prepares zeros, as only a run shows."""
    if not hasattr(diffusers, "LTXI2VLongMultiPromptPipeline"):
        pytest.skip("this diffusers is older than the pipeline")
    parts = {**BUILDERS["ltx"]().components, "scheduler": diffusers.LTXEulerAncestralRFScheduler()}
    call = CALLS["ltx"] | dict(decode_horizontal_tiles=1, decode_vertical_tiles=1, guidance_scale=3.0)
    session = Session(quiet(diffusers.LTXI2VLongMultiPromptPipeline(**parts)), PROMPT, **call)
    drawn = session.drawn
    assert session.facts.entry == "drawn later" and not session.ledger.entries
    assert (drawn.shape, drawn.frame_axis) == (session.spec.shape, session.spec.frame_axis)
