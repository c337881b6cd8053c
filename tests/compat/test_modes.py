"""The modes of torch that the caller is in are the model's: what is computed about it is the same in all."""

from contextlib import contextmanager

import numpy as np
import pytest
import torch

import seedbed
from seedbed.acquisition import Bansa, Entropy
from seedbed.acquisition.signals import measure
from seedbed.attention import row_statistics
from seedbed.attention.disagreement import bansa_expected, bansa_masked
from seedbed.attention.expectation import _grid
from seedbed.noise import NoiseRecipe
from seedbed.pipelines.rollout import Rollout
from seedbed.pipelines.session import Session
from seedbed.worlds import verifier
from tests.conftest import slow
from tests.pipelines import BUILDERS, CALLS, PROMPT


@contextmanager
def switched(switch, value, before):
    switch(value)
    try:
        yield
    finally:
        switch(before)


MODES = {
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "inference": torch.inference_mode,
    "gradients": torch.enable_grad,
    "float64": lambda: switched(torch.set_default_dtype, torch.float64, torch.float32),
    "bfloat16": lambda: switched(torch.set_default_dtype, torch.bfloat16, torch.float32),
    "deterministic": lambda: switched(torch.use_deterministic_algorithms, True, False),
    "another device": lambda: torch.device("meta"),
    "the CPU": lambda: torch.device("cpu"),
}
mode = pytest.mark.parametrize("mode", MODES)


def forget_grids():
    """What the expectation remembers of an earlier test may be right where its own would not."""
    _grid.cache_clear()


@pytest.fixture
def attended():
    draw = torch.Generator().manual_seed(0)
    return [torch.randn(2, 2, 40, 8, generator=draw) for _ in range(2)]


FUNCTIONS = {
    "expected, probabilities": bansa_expected,
    "expected, logits": lambda q, k: bansa_expected(q, k, place="logits"),
    "masked, probabilities": lambda q, k: bansa_masked(q, k, masks=3),
    "masked, logits": lambda q, k: bansa_masked(q, k, masks=3, place="logits"),
    "entropy": lambda q, k: row_statistics(q, k).entropy,
    "power sums": lambda q, k: row_statistics(q, k).powers[2],
}


@mode
@pytest.mark.parametrize("name", FUNCTIONS)
def test_statistics_of_rows_are_the_same_in_every_mode(attended, name, mode):
    forget_grids()
    expected = FUNCTIONS[name](*attended)
    forget_grids()
    with MODES[mode]():
        found = FUNCTIONS[name](*attended)
    assert found.dtype == torch.float32 and torch.equal(found, expected)
    assert torch.equal(FUNCTIONS[name](*attended), expected)  # and what it remembered is right outside


@mode
def test_noises_and_verdicts_are_the_same_in_every_mode(mode):
    recipe = NoiseRecipe(seed=3, candidate=1, shape=(4, 3, 6, 6)).sealed()
    videos = np.random.default_rng(0).integers(0, 255, (2, 8, 32, 32, 3), np.uint8)
    videos[0, :, 8:20, 8:20] = (255, 0, 0)
    prompts = ["a red square moving left"] * 2
    expected = verifier.attributes(videos, prompts)
    with MODES[mode]():
        noise, verdicts = recipe.draw(), verifier.attributes(videos, prompts)
    assert torch.equal(noise, recipe.draw()) and noise.dtype == torch.float32
    assert all(torch.equal(verdicts[name], values) for name, values in expected.items())


@pytest.mark.parametrize("mode", [name for name in MODES if name != "another device"])
@pytest.mark.parametrize("family", ["cogvideox", slow("wan")])
def test_scores_are_those_of_what_the_model_attended_with(mode, family):
    """Compared with float64 of the very queries and keys that the model has in that mode."""
    pipe, call = BUILDERS[family](), CALLS[family]
    with MODES[mode]():
        session = Session(pipe, PROMPT, **call)
        draw = torch.Generator().manual_seed(0)
        noises = torch.randn(3, *session.spec.shape, generator=draw, dtype=torch.float32)
        calls = []
        session.evaluate(noises, calls.append)
        options = dict(noises=noises, progress=False, **call)
        chosen = seedbed.score(pipe, PROMPT, acquisition=Bansa(depth=None), **options)
        entropies = seedbed.score(pipe, PROMPT, acquisition=Entropy(depth=None), **options)
        signals = measure(Rollout(session, noises, batch_size=3), [0])
    exact, entropy = [], []
    for seen in calls:
        q, k = seen.query.double(), seen.key.double()
        options = dict(scale=seen.scale, mask=seen.mask)
        exact.append(seen.by_candidate(bansa_expected(q, k, **options)))
        entropy.append(seen.by_candidate(row_statistics(q, k, **options).entropy))
    torch.testing.assert_close(chosen.scores, torch.stack(exact, 1), rtol=1e-5, atol=1e-9)
    if family == "cogvideox":  # Wan's entropies are of rows without padding
        torch.testing.assert_close(entropies.scores, torch.stack(entropy, 1), rtol=1e-5, atol=1e-9)
    assert chosen.noise.dtype == noises.dtype and all(
        np.isfinite(values).all() for values in signals.values()
    )


def test_autocast_is_the_models(pipe_of):
    """It attends in bfloat16 there, also where a handler asks for its own attention."""
    session = Session(pipe_of("cogvideox"), PROMPT, **CALLS["cogvideox"])
    noises = torch.randn(2, *session.spec.shape, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        plain = session.evaluate(noises).prediction
        outputs = []
        answered = session.evaluate(noises, lambda call: outputs.append(call.output()) or outputs[-1])
    assert {output.dtype for output in outputs} == {torch.bfloat16}
    assert torch.equal(answered.prediction, plain)
    assert not torch.equal(plain, session.evaluate(noises).prediction)


def test_the_choice_under_autocast_is_replayed(pipe_of):
    pipe, call = pipe_of("cogvideox"), CALLS["cogvideox"]
    with torch.autocast("cpu", torch.bfloat16):
        made = seedbed.generate(pipe, PROMPT, candidates=3, progress=False, **call)
        single = seedbed.select(pipe, PROMPT, candidates=3, batch_size=1, progress=False, **call)
        assert seedbed.replay(made.record(), pipe, progress=False).identical
    torch.testing.assert_close(single.scores, made.selection.scores, rtol=5e-3, atol=1e-6)
