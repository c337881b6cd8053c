"""An audit by verifiers whose answers are known."""

import numpy as np
import pytest
import torch

from seedbed import BadInput
from seedbed.lab.audit import FAULTS, LINES, TRAPS, audit, moving
from seedbed.verifiers import resolve


@pytest.fixture(scope="module")
def clips():
    return moving("shapes", 8, 1)


def test_a_verifier_that_looks_at_nothing_ties_everywhere(clips):
    found = audit(lambda frames, prompts: torch.zeros(len(frames)), clips)
    assert list(found.right) == list(LINES)
    assert all((values == 0.5).all() for values in found.right.values())
    assert all((values == 1).all() for values in found.equal.values())


def test_pairs_are_counted_as_their_scores_say(clips):
    """A verifier that knows the sound videos, likes a prompt's length, and prefers what is large."""
    known = {video.tobytes(): prompt for video, prompt in clips}

    def judge(frames, prompts):
        return torch.tensor(
            [
                float(known.get(video.tobytes()) == prompt) - 2.0 * (video.shape[1] > 32)
                for video, prompt in zip(frames, prompts, strict=True)
            ]
        )

    found = audit(judge, clips)
    names = ["another prompt", *TRAPS, *FAULTS]
    assert all((found.right[name] == 1).all() and not found.equal[name].any() for name in names)
    assert not found.right["twice the size"].any()  # -2 against 0
    assert (found.right["half the rate"] == 0.5).all() and found.equal["half the rate"].all()
    rows = {row[0]: row for row in found.table.rows}
    assert rows["still"][1] == (1, 1, 1) and rows["twice the size"][1] == (0, 0, 0)


def test_the_exact_verifier_knows_the_prompt_and_the_motion(clips):
    found = audit(resolve("shapes"), clips)
    for name in ("another prompt", "still", "backwards"):
        assert (found.right[name] == 1).all()
    again = audit(resolve("shapes"), clips)
    assert all(np.array_equal(found.right[name], again.right[name]) for name in LINES)


def test_one_prompt_alone_has_no_other(clips):
    found = audit(lambda frames, prompts: torch.ones(len(frames)), [(video, "a") for video, _ in clips])
    assert np.isnan(found.right["another prompt"]).all() and (found.right["still"] == 0.5).all()
    assert "–" in found.table.to_text()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda clips: clips[:3], "3 videos are too few for an audit: give at least 8"),
        (lambda clips: [(video[:4], text) for video, text in clips], "at least 6 frames"),
        (lambda clips: [(clips[0][0][:, :16], "a"), *clips], "videos of one shape"),
    ],
)
def test_videos_that_cannot_be_audited(clips, change, message):
    with pytest.raises(BadInput, match=message):
        audit(lambda frames, prompts: torch.zeros(len(frames)), change(clips))
