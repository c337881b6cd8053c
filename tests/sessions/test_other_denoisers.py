"""Rollouts where a denoiser returns two tensors, a pipeline calls its scheduler twice, or in its own way."""

import numpy as np
import pytest
import torch

from seedbed.pipelines.rollout import Rollout
from seedbed.pipelines.session import Session
from tests.pipelines import FAMILIES
from tests.sessions.previews import preview

# The rows that one step evaluates for a candidate, guidance included.
ROWS = {
    "LTX-2": 4,  # both halves, then one without a block and one without the other modality
    "Cosmos 1, text to world": 2,
    "Kandinsky 5": 2,
    "Mochi": 2,
    "LTX-Video, conditions": 2,
}


@pytest.fixture(params=ROWS)
def family(request):
    return next(family for family in FAMILIES if family.name == request.param)


def session_of(family, **more):
    return Session(family.built(), family.prompt, **{**family.call, **more})


def noises_for(session, count=2):
    return torch.randn(count, *session.spec.shape, generator=torch.Generator().manual_seed(0))


def test_a_pause_changes_nothing_and_costs_nothing(family):
    session = session_of(family, num_inference_steps=3)
    noises = noises_for(session)
    expected = [session.generate(noise) for noise in noises]
    previews = preview(session, noises, steps=1)
    session.ledger.entries.clear()
    rollout = Rollout(session, noises)
    first = rollout.advance(1)
    rollout.advance(2)
    finished = rollout.finish()
    assert session.ledger.entries == {"preview": 2 * 3 * ROWS[family.name]}
    for got, wanted in ((first, previews), (finished, expected)):
        assert all(np.array_equal(*frames) for frames in zip(got, wanted, strict=True))


def test_the_prompts_rows_are_told(family):
    """The conditional output is what an evaluation without guidance gives."""
    session = session_of(family)
    noises, seen = noises_for(session), []
    Rollout(session, noises).advance(1, outputs=lambda *told: seen.append(told))
    expected = [session.evaluate(noise[None]).prediction for noise in noises]
    assert [(step, candidates) for step, candidates, *_ in seen] == [(0, [0]), (0, [1])]
    for (*_, conditional, unconditional, clean), prediction in zip(seen, expected, strict=True):
        torch.testing.assert_close(conditional, prediction, rtol=1e-4, atol=1e-5)
        assert not torch.equal(unconditional, prediction)
        assert len(clean) == 1 and clean.isfinite().all()


def test_the_last_preview_is_nearly_the_video(family):
    """What the scheduler gives back after its last step is x0-hat, up to the schedule's last noise level."""
    session = session_of(family, num_inference_steps=4)
    (noise,) = noises_for(session, 1)
    cleans = []
    rollout = Rollout(session, noise[None])
    rollout.advance(
        3, outputs=lambda step, candidates, conditional, unconditional, clean: cleans.append(clean)
    )
    finished = session.generate(noise).astype(float)
    early, late = (preview(session, noise[None], steps=step)[0].astype(float) for step in (1, 4))
    assert np.abs(late - finished).mean() <= min(0.5, np.abs(early - finished).mean())
    assert len(cleans) == 3


def test_a_split_batch_shows_the_rows_of_the_prompt_alone():
    """Against what the denoiser attends with where guidance is off: the same noise, the same prompt."""
    mochi = next(family for family in FAMILIES if family.name == "Mochi")
    session = session_of(mochi)
    noises, alone, seen = noises_for(session, 1), {}, {}
    session.evaluate(noises, lambda call: alone.update({call.layer: call.query}))

    def look(call, candidates, rows):
        if call.kind == "joint":  # pooling the text keeps the batch whole
            assert (candidates, rows, call.candidates, call.step) == ([0], [0], 1, 0)
            assert seen.setdefault(call.layer, call.query) is call.query

    Rollout(session, noises).advance(1, look)
    joint = [layer.name for layer in session.layers if layer.kind == "joint"]
    assert joint and set(joint) == set(seen)
    for layer in joint:
        assert seen[layer].shape == alone[layer].shape
        assert torch.allclose(seen[layer], alone[layer], atol=1e-4)
