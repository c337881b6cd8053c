"""From a video to a noise, and back by the pipeline's own unguided call."""

import numpy as np
import pytest

from seedbed import zoo
from seedbed.adaptation.trajectory import inverted
from seedbed.errors import NotSupported
from seedbed.pipelines.encoding import Rehearsal, encoding_of
from seedbed.pipelines.session import Session
from seedbed.pipelines.timesteps import denoise
from seedbed.worlds.shapes import caption, render, scenes
from tests.conftest import slow
from tests.pipelines import BUILDERS, CALLS, FAMILIES, PROMPT

BY_NAME = {each.name: each for each in FAMILIES}


def without_guidance(pipe, prompt, **call):
    off = Session(pipe, prompt, **call).facts.off
    return Session(pipe, prompt, **{**call, **off})


# v-prediction with zero terminal SNR; flow matching, packed; epsilon; other channels beside the latents. Of
# a model without training, long steps of the last two do not contract.
KINDS = [("CogVideoX", 1e-4), ("LTX-Video", 1e-4), ("AnimateDiff (SD 1.5)", None)]
KINDS += [("CogVideoX, image to video", None), slow(("SDXL", None))]


@pytest.mark.parametrize("kind", KINDS)
def test_steps_are_the_pipelines_own_and_many_passes_turn_them_round_to_rounding(kind):
    name, error = kind
    family = BY_NAME[name]
    session = without_guidance(family.build(), family.prompt, **{**family.call, "num_inference_steps": 4})
    video = np.random.default_rng(0).integers(0, 256, (*encoding_of(session).pixels, 3), dtype=np.uint8)
    trajectory = inverted(session, video, passes=1 if error is None else 30)
    assert trajectory.note == "" and len(trajectory.calls) == 4
    if error is not None:
        back = denoise(session, trajectory.noise).float().cpu()
        largest = float(trajectory.latents.abs().max())
        assert float((back - trajectory.latents).abs().max()) < error * largest


def test_a_rendered_video_comes_back_from_its_inversion():
    """On the embedded model: latents to 5 % of their deviation, pixels to half a grey level on average."""
    pipe, scene = zoo.load(), next(scenes(3))
    session = Session(pipe, caption(scene), guidance_scale=1.0, num_inference_steps=10)
    trajectory = inverted(session, render(scene))
    assert session.ledger.entries["inversion"] == 2 * 10 + 2
    assert trajectory.note == "" and len(trajectory.calls) == 10
    back = denoise(session, trajectory.noise).float().cpu()
    kept = trajectory.latents.cpu()
    assert float((back - kept).square().mean().sqrt() / kept.std()) < 0.05
    decoded = Rehearsal(session).frames(kept).astype(float)
    again = session.generate(trajectory.noise).astype(float)
    assert np.abs(again - decoded).mean() < 0.5


def test_more_passes_come_back_nearer():
    pipe, scene = zoo.load(), next(scenes(4))
    session = Session(pipe, caption(scene), guidance_scale=1.0, num_inference_steps=6)
    errors = []
    for passes in (1, 8):
        trajectory = inverted(session, render(scene), passes=passes)
        errors.append(float((denoise(session, trajectory.noise) - trajectory.latents).abs().mean()))
    assert errors[1] < 0.7 * errors[0]


def test_a_solver_of_higher_order_is_said_to_be_one():
    pipe, call = BUILDERS["wan"](), {**CALLS["wan"], "num_inference_steps": 5}
    session = without_guidance(pipe, PROMPT, **call)
    video = np.zeros((9, 16, 16, 3), np.uint8)
    assert "UniPCMultistepScheduler takes other steps" in inverted(session, video).note


def test_a_scheduler_of_second_order_is_said_to_be_one():
    from diffusers import HeunDiscreteScheduler

    pipe = BUILDERS["sdxl"]()
    pipe.scheduler = HeunDiscreteScheduler.from_config(pipe.scheduler.config)
    session = without_guidance(pipe, PROMPT, **CALLS["sdxl"])
    note = inverted(session, np.zeros((1, 16, 16, 3), np.uint8)).note
    assert "HeunDiscreteScheduler takes other steps" in note


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("CogVideoX, video to video", "no inversion gives noise alone"),
        pytest.param("ChronoEdit", "does not run with one output", marks=pytest.mark.slow),
    ],
)
def test_what_cannot_be_inverted_says_so(name, line):
    family = BY_NAME[name]
    session = Session(family.build(), family.prompt, **family.call)
    with pytest.raises(NotSupported, match=line):
        inverted(session, np.zeros((9, 16, 16, 3), np.uint8))
