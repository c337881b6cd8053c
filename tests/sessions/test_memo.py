"""A model's layers are found once, until its structure or the shapes change."""

import gc
import weakref

import pytest

from seedbed.pipelines import layers
from seedbed.pipelines.session import Session
from tests.pipelines import BUILDERS, CALLS, PROMPT


@pytest.fixture
def asked(monkeypatch):
    """How often a forward without data was run."""
    runs, plain = [], layers._run_without_data
    monkeypatch.setattr(
        layers, "_run_without_data", lambda *args, **options: runs.append(0) or plain(*args, **options)
    )
    return runs


def test_the_second_probe_of_a_model_asks_nothing(asked):
    pipe = BUILDERS["wan"]()
    first = Session(pipe, PROMPT, **CALLS["wan"])
    layers, facts = first.layers, first.facts
    ran = len(asked)
    assert ran == 1 and facts.shares
    second = Session(pipe, PROMPT, **CALLS["wan"])
    assert second.layers == layers and second.facts is facts and len(asked) == ran
    _ = Session(pipe, PROMPT, **CALLS["wan"] | {"num_frames": 13}).layers
    assert len(asked) == ran + 1


def test_another_structure_is_asked_anew(asked):
    pipe = BUILDERS["wan"]()
    layers = Session(pipe, PROMPT, **CALLS["wan"]).layers
    del pipe.transformer.blocks[1]
    assert len(Session(pipe, PROMPT, **CALLS["wan"]).layers) == len(layers) // 2
    kept = pipe.transformer.blocks[0].attn1
    kept.processor = type("Other", (type(kept.processor),), {})()
    ran = len(asked)
    _ = Session(pipe, PROMPT, **CALLS["wan"]).layers
    assert len(asked) == ran + 1


def test_another_setting_is_asked_anew(asked):
    """FreeNoise attends once for every window of frames."""
    pipe, layers = BUILDERS["animatediff"](), []
    for length in (4, 6):
        pipe.enable_free_noise(context_length=length, context_stride=2)
        layers.append(Session(pipe, PROMPT, **CALLS["animatediff"] | {"num_frames": 8}).layers)
        pipe.disable_free_noise()
    assert len(asked) == 2 and len(layers[0]) > len(layers[1])


def test_nothing_is_kept_of_a_model_that_is_gone(asked):
    pipe = BUILDERS["cogvideox"]()
    _ = Session(pipe, PROMPT, **CALLS["cogvideox"]).layers
    model = weakref.ref(pipe.transformer)
    del pipe
    gc.collect()
    assert asked and model() is None
