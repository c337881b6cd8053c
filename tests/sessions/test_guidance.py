"""Guidance is off while scoring by the means of each pipeline, and on for what the caller asks for."""

import numpy as np
import pytest
import torch

from seedbed.pipelines.session import Session
from tests.pipelines import CALLS, PROMPT, hunyuan, wan

HUNYUAN, HUNYUAN_15 = (
    next(family for family in hunyuan.FAMILIES if family.name == name)
    for name in ("HunyuanVideo", "HunyuanVideo 1.5")
)
MEANS = {
    "arguments": (wan, CALLS["wan"], "off by guidance_scale=1"),
    "input": (HUNYUAN.build, HUNYUAN.call, "embedded, kept; off by true_cfg_scale=1"),
    "guider": (HUNYUAN_15.build, HUNYUAN_15.call, "off by guider.disable()"),
}


@pytest.mark.parametrize("name", MEANS)
def test_guidance_is_off_for_scoring_and_on_for_generation(name):
    build, call, means = MEANS[name]
    pipe = build()
    session = Session(pipe, PROMPT, **call)
    assert session.guidance == means
    noise = torch.randn(1, *session.spec.shape, generator=torch.Generator().manual_seed(0))
    session.evaluate(noise, steps=2)
    assert session.ledger.to_dict() == {"scoring": 2}
    made = session.generate(noise[0])
    assert session.ledger.entries["generation"] == (2 if name == "input" else 4)
    frames = pipe(PROMPT, latents=noise, output_type="np", **call).frames[0]
    assert np.array_equal(made, (np.asarray(frames).clip(0, 1) * 255).round().astype(np.uint8))


def test_the_callers_guider_is_left_alone():
    pipe = HUNYUAN_15.build()
    before = repr(vars(pipe.guider))
    session = Session(pipe, PROMPT, **HUNYUAN_15.call)
    noise = torch.zeros(1, *session.spec.shape)
    session.evaluate(noise)
    session.generate(noise[0])
    assert repr(vars(pipe.guider)) == before


def test_an_embedded_scale_is_the_callers():
    pipe = HUNYUAN.build()
    scales = []
    pipe.transformer.register_forward_pre_hook(
        lambda module, args, given: scales.append(given["guidance"].tolist()), with_kwargs=True
    )
    session = Session(pipe, PROMPT, guidance_scale=3.0, **HUNYUAN.call)
    session.evaluate(torch.zeros(2, *session.spec.shape))
    assert scales[-1] == [3000.0, 3000.0]
