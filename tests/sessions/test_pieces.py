"""Videos whose frames are not all denoised together: previews where they can be, else one line."""

import logging

import numpy as np
import pytest
import torch

from seedbed.errors import NotSupported
from seedbed.pipelines.rollout import Rollout
from seedbed.pipelines.session import Session
from tests.pipelines import PROMPT, skyreels
from tests.pipelines.parts import picture
from tests.sessions.previews import preview

CALL = dict(height=16, width=16, num_frames=9, num_inference_steps=3, max_sequence_length=8)


@pytest.fixture(scope="module")
def forcing():
    return skyreels.diffusion_forcing()


@pytest.fixture(scope="module")
def forcing_from_image():
    return skyreels.diffusion_forcing_from_image()


def rollout_of(pipe, count=2, **call):
    session = Session(pipe, PROMPT, **{**CALL, **call})
    noises = torch.randn(count, *session.spec.shape, generator=torch.Generator().manual_seed(0))
    return Rollout(session, noises), session


@pytest.mark.parametrize("last", [{}, {"last_image": picture(16, 1)}])
def test_frames_that_are_given_do_not_wait_for_a_step(forcing_from_image, last):
    rollout, session = rollout_of(forcing_from_image, image=picture(16), **last)
    for step in (1, 2):
        shown = rollout.advance(step)
        assert all(map(np.array_equal, shown, preview(session, rollout.noises, steps=step)))
        assert rollout.spent(0) == 2 * step  # guided; nothing is evaluated after the pause
    assert all(map(np.array_equal, rollout.finish(), [session.generate(z) for z in rollout.noises]))
    assert rollout.spent(0) == 2 * 3


@pytest.mark.parametrize("step", [1, 2])
def test_frames_that_begin_later_than_others_have_no_preview(forcing, step):
    rollout, session = rollout_of(forcing, 1, ar_step=1, causal_block_size=1)
    with pytest.raises(NotSupported, match=r"no preview: .* begins some frames later than others"):
        rollout.advance(step)
    with pytest.raises(NotSupported, match=r"no preview: .* begins some frames later than others"):
        preview(session, rollout.noises, steps=step)
    rollout, session = rollout_of(forcing, 1, ar_step=1, causal_block_size=1)
    assert np.array_equal(rollout.finish()[0], session.generate(rollout.noises[0]))


def test_a_video_in_pieces_has_no_preview(forcing):
    rollout, session = rollout_of(forcing, 1, num_frames=13, base_num_frames=9, overlap_history=5)
    with pytest.raises(NotSupported, match=r"no preview: .* makes this video in pieces"):
        rollout.advance(1)
    assert np.array_equal(rollout.finish()[0], session.generate(rollout.noises[0]))


def test_what_is_tried_without_data_is_not_logged(forcing, caplog):
    """Two candidates in a forward are too many for this model: torch logs that as an error of its own."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    logger.addHandler(caplog.handler)
    try:
        assert rollout_of(forcing)[1].facts.shares is False
        assert not caplog.records and not logger.filters
    finally:
        logger.removeHandler(caplog.handler)
