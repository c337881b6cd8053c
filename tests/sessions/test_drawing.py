"""Pipelines that mix a picture into their noise: a candidate goes in where they draw theirs."""

import numpy as np
import pytest
import torch

from seedbed.pipelines.session import Session
from tests.pipelines import FAMILIES

MIXING = ["LTX-Video, image to video", "LTX-Video, conditions", "Kandinsky 5"]


@pytest.fixture(params=MIXING)
def family(request):
    return next(family for family in FAMILIES if family.name == request.param)


def generator():
    return torch.Generator().manual_seed(5)


def test_generates_what_the_pipeline_makes_of_the_same_noise(family, monkeypatch):
    pipe, drawn, draw = family.built(), [], torch.randn

    def see(*args, **options):
        drawn.append(draw(*args, **options))
        return drawn[-1].clone()

    with monkeypatch.context() as watching:
        watching.setattr(torch, "randn", see)
        output = pipe(prompt=family.prompt, **family.call, generator=generator(), output_type="np")
    session = Session(pipe, family.prompt, **family.call, generator=generator())
    (noise,) = next(noise for noise in drawn if noise.shape[1:] == session.spec.shape)
    assert session.spec.frame_axis == session.spec.layout.split().index("f") - 1
    assert np.array_equal(session.generate(noise), (output.frames[0] * 255).round().astype(np.uint8))


@pytest.mark.parametrize("family", MIXING[:2], indirect=True)
def test_the_picture_goes_in(family):
    session = Session(family.built(), family.prompt, **family.call)
    other = Session(
        family.built(), family.prompt, **{**family.call, "image": family.call["image"].rotate(90)}
    )
    noise = torch.randn(session.spec.shape, generator=generator())
    assert not np.array_equal(session.generate(noise), other.generate(noise))
