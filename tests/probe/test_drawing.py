"""Pipelines that mix a picture into their noise: a candidate goes in where they draw theirs."""

import numpy as np
import pytest
import torch

from seedbed.probe import Probe
from seedbed.probe.drawing import replace_draws
from tests.pipelines import FAMILIES

MIXING = ["LTX-Video, image to video", "LTX-Video, conditions", "Kandinsky 5"]


@pytest.fixture(params=MIXING)
def family(request):
    return next(family for family in FAMILIES if family.name == request.param)


def generator():
    return torch.Generator().manual_seed(5)


def test_generates_what_the_pipeline_makes_of_the_same_noise(family):
    pipe, drawn = family.built(), []

    def see(noise):
        drawn.append(noise)
        return noise

    replace_draws(pipe, see)
    expected = pipe(prompt=family.prompt, **family.call, generator=generator(), output_type="np").frames[0]
    del pipe.prepare_latents
    probe = Probe(pipe, family.prompt, **family.call, generator=generator())
    (noise,) = next(noise for noise in drawn if noise.shape[1:] == probe.spec.shape)
    assert probe.spec.frame_axis == probe.spec.layout.split().index("f") - 1
    assert np.array_equal(probe.generate(noise), (expected * 255).round().astype(np.uint8))


@pytest.mark.parametrize("family", MIXING[:2], indirect=True)
def test_the_picture_goes_in(family):
    probe = Probe(family.built(), family.prompt, **family.call)
    other = Probe(family.built(), family.prompt, **{**family.call, "image": family.call["image"].rotate(90)})
    noise = torch.randn(probe.spec.shape, generator=generator())
    assert not np.array_equal(probe.generate(noise), other.generate(noise))
