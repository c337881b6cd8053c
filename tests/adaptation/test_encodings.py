"""Videos as latents: what a pipeline decodes, turned round without code of its own for each pipeline."""

import functools

import numpy as np
import pytest
import torch

from seedbed.adaptation.trajectory import generated
from seedbed.errors import NotSupported
from seedbed.pipelines.encoding import Rehearsal, encoding_of
from seedbed.pipelines.session import Session
from tests.conftest import slow
from tests.pipelines import BUILDERS, CALLS, FAMILIES, PROMPT

# Frames first, packed tokens, frames as rows of a batch, one picture; means and deviations by channel.
BY_NAME = {each.name: each for each in FAMILIES}
KINDS = ["CogVideoX", "LTX-Video", "AnimateDiff (SD 1.5)", "SD 1.5", "Mochi"]
MORE = ["Wan 2.1", "HunyuanVideo", "SkyReels-V2", "Helios", "LTX-2", "Sana-Video", "Stable Video Diffusion"]


def decoder_inputs(session, noise):
    """The latents that the session's own generation ends with, and all that it gives `vae.decode`."""
    given, vae = [], session.pipe.vae
    own = vae.decode

    @functools.wraps(own)
    def decode(z, *args, **kwargs):
        given.append(z.double().flatten())
        return own(z, *args, **kwargs)

    vars(vae)["decode"] = decode
    try:
        return generated(session, noise).latents, torch.cat(given)
    finally:
        del vars(vae)["decode"]


@pytest.mark.parametrize("name", KINDS + [slow(name) for name in MORE[:-1]])
def test_what_a_generation_decodes_is_what_the_encoding_says(name):
    family = BY_NAME[name]
    session = Session(family.build(), family.prompt, **family.call)
    noise = torch.randn(session.spec.shape, generator=torch.Generator().manual_seed(0))
    latents, given = decoder_inputs(session, noise)
    found = encoding_of(session).handed(latents)
    assert torch.allclose(found, given, atol=1e-5 * float(given.abs().max()))


@pytest.mark.parametrize("name", KINDS + [slow(name) for name in MORE])
def test_a_video_comes_back_as_its_autoencoder_has_it(name):
    family = BY_NAME[name]
    pipe = family.build()
    before = {key: value.clone() for key, value in pipe.vae.state_dict().items()}
    session = Session(pipe, family.prompt, **family.call)
    rehearsal = Rehearsal(session)
    encoding = encoding_of(session)
    video = np.random.default_rng(0).integers(0, 256, (*encoding.pixels, 3), dtype=np.uint8)
    latents = encoding.encode(session, video)
    assert latents.shape == session.spec.shape
    given = torch.cat([z.double().flatten() for z in rehearsal.handed(latents)])
    pixels = torch.from_numpy(video).permute(0, 3, 1, 2) / 127.5 - 1
    if len(encoding.shapes[0]) == 5:
        pixels = pixels.transpose(0, 1)[None]
    with torch.no_grad():
        own = pipe.vae.encode(pixels).latent_dist.mode().double().flatten()
    assert torch.allclose(given, own, atol=1e-5 * float(own.abs().max()))
    assert session.ledger.entries == {"inversion": 2}
    assert all(torch.equal(value, before[key]) for key, value in pipe.vae.state_dict().items())
    assert not {"encode", "decode"} & {*vars(pipe.vae)} and "step" not in vars(pipe.scheduler)


def test_half_precision_is_turned_round_too():
    pipe = BUILDERS["wan"]().to(torch.bfloat16)
    session = Session(pipe, PROMPT, **CALLS["wan"])
    rehearsal = Rehearsal(session)
    encoding = encoding_of(session)
    latents = torch.randn(session.spec.shape, generator=torch.Generator().manual_seed(0)).bfloat16()
    given = torch.cat([z.double().flatten() for z in rehearsal.handed(latents)])
    assert torch.allclose(encoding.handed(latents), given, atol=0.02 * float(given.abs().max()))


def test_latents_that_are_stepped_in_another_shape_are_refused():
    family = BY_NAME["ModelScope, Zeroscope"]
    session = Session(family.build(), family.prompt, **family.call)
    with pytest.raises(NotSupported, match="no video can be put in their place"):
        encoding_of(session)
