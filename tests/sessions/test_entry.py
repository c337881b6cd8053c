"""Noises that are added to a picture or video: all of them is the candidate's, and none is made up."""

import pytest
import torch
from diffusers import EulerDiscreteScheduler

from seedbed.errors import NotSupported
from seedbed.pipelines.session import Session
from tests.pipelines import PROMPT, ltx2, sdxl_edits
from tests.pipelines.family import Missing


def test_noise_that_is_added_again_in_every_step_is_that_of_the_candidate(monkeypatch):
    """Inpainting noises the picture anew for what lies outside the mask."""
    added, add_noise = [], EulerDiscreteScheduler.add_noise

    def add(self, original_samples, noise, timesteps):
        added.append(noise)
        return add_noise(self, original_samples, noise, timesteps)

    monkeypatch.setattr(EulerDiscreteScheduler, "add_noise", add)
    session = Session(sdxl_edits.inpainting(), PROMPT, **sdxl_edits.FAMILIES[1].call)
    noise = torch.randn(session.spec.shape, generator=torch.Generator().manual_seed(1))
    added.clear()
    session.generate(noise)
    assert len(added) > 1 and all(torch.equal(each[0], noise) for each in added)


def test_a_picture_to_which_no_noise_is_added_is_refused():
    """As SDXL's refiner takes what the base model left: noises would silently replace it."""
    latents = torch.zeros(1, 4, 8, 8)
    call = dict(image=latents, denoising_start=0.5, num_inference_steps=4)
    with pytest.raises(NotSupported, match="adds no noise to what it is given"):
        _ = Session(sdxl_edits.image_to_image(), PROMPT, **call).spec


def test_latents_that_a_pipeline_prepares_and_refuses_are_drawn():
    family = ltx2.FAMILIES[2]
    try:
        pipe = family.built()
    except Missing as error:
        pytest.skip(str(error))
    session = Session(pipe, PROMPT, **{**family.call, "conditions": None})
    assert session.spec.layout == "b tokens c"
    assert session.evaluate(torch.randn(1, *session.spec.shape)).prediction is not None
