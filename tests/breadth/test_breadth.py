"""Every pipeline of the table: selection, previews and replay work, and it is as before afterwards."""

from functools import cache

import numpy as np
import pytest
import torch
from torch import nn

import seedbed
from tests.pipelines import FAMILIES, Family
from tests.pipelines.family import Missing


@cache
def built(family):
    try:
        return family.built()
    except Missing as error:
        pytest.skip(str(error))


def weights(pipe):
    modules = {n: m for n, m in pipe.components.items() if isinstance(m, nn.Module)}
    return {f"{n}.{k}": v.clone() for n, m in modules.items() for k, v in m.state_dict().items()}


def first(video, prompts):
    """A verifier that likes what comes first, so that the test knows who wins."""
    return -np.arange(len(video), dtype=float)


@pytest.fixture(params=FAMILIES, ids=lambda family: family.name)
def family(request) -> Family:
    return request.param


def test_selects_by_attention_and_replays(family, tmp_path):
    pipe = built(family)
    before = weights(pipe)
    made = seedbed.generate(
        pipe, family.prompt, candidates=3, acquisition="bansa", progress=False, **family.call
    )
    chosen = made.selection
    assert chosen.scores.shape == (3, len(chosen.layers)) and chosen.layers
    assert (chosen.scores.std(0) > 0).any()
    assert (len(made.frames) == 1) == (family.kind == "image")
    after = weights(pipe)
    assert before.keys() == after.keys() and all(torch.equal(before[k], after[k]) for k in before)
    path = made.save(tmp_path / "record.json")
    missing = {name: family.call[name] for name in chosen.missing}
    assert seedbed.replay(path, pipe, progress=False, **missing).identical


def test_scores_are_the_same_in_every_batch(family):
    scores = [
        seedbed.select(
            built(family),
            family.prompt,
            candidates=3,
            acquisition="bansa",
            batch_size=size,
            progress=False,
            **family.call,
        ).scores
        for size in (1, 3)
    ]
    torch.testing.assert_close(*scores, rtol=1e-4, atol=1e-6)


def test_chooses_by_previews(family):
    made = seedbed.preview(
        built(family),
        family.prompt,
        verifier=first,
        candidates=2,
        schedule=((1, 1),),
        progress=False,
        **family.call,
    )
    assert made.selection.best == 0 and made.frames.dtype == np.uint8
