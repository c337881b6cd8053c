"""Pipelines in half precision: scores are computed in float32, and what was chosen is rebuilt."""

import pytest
import torch

import seedbed
from seedbed.acquisition import Bansa
from seedbed.attention.disagreement import bansa_expected
from seedbed.pipelines.session import Session
from tests.conftest import slow
from tests.pipelines import BUILDERS, CALLS, PROMPT

HALF = (torch.bfloat16, torch.float16)
QUIET = {"candidates": 3, "progress": False}


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("family", ["cogvideox", slow("wan"), slow("animatediff"), slow("sdxl")])
def test_half_precision_is_selected_and_replayed(family, dtype):
    pipe = BUILDERS[family]().to(dtype)
    made = seedbed.generate(pipe, PROMPT, **QUIET, **CALLS[family])
    choice = made.selection
    assert choice.scores.dtype == torch.float64 and choice.scores.isfinite().all()
    assert choice.totals.std() > 0
    # Wan keeps its latents in float32, whatever its weights are.
    assert choice.noise.dtype == (torch.float32 if family == "wan" else dtype)
    assert choice.recipe.draw().dtype == torch.float32
    again = seedbed.replay(made.record(), pipe, progress=False)
    assert again.identical and again.selection.order == choice.order
    single = seedbed.select(pipe, PROMPT, batch_size=1, **QUIET, **CALLS[family])
    # Half-precision kernels round otherwise in another batch, and have three digits at most.
    torch.testing.assert_close(single.scores, choice.scores, rtol=5e-3, atol=1e-6)


@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_scores_are_computed_in_float32(dtype):
    pipe = BUILDERS["cogvideox"]().to(dtype)
    session = Session(pipe, PROMPT, **CALLS["cogvideox"])
    noises = torch.randn(2, *session.spec.shape, generator=torch.Generator().manual_seed(0))
    calls = []
    session.evaluate(noises, calls.append)
    assert {call.query.dtype for call in calls} == {dtype}
    choice = seedbed.score(pipe, PROMPT, noises, acquisition=Bansa(depth=None), progress=False,
                           **CALLS["cogvideox"])  # fmt: skip
    exact = [
        bansa_expected(call.query.double(), call.key.double(), scale=call.scale).mean((1, 2))
        for call in calls
    ]
    torch.testing.assert_close(choice.scores, torch.stack(exact, 1).double(), rtol=1e-5, atol=0)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("family", ["cogvideox", "wan", "animatediff", "sdxl"])
def test_half_precision_on_a_gpu(family, dtype):
    pipe = BUILDERS[family]().to("cuda", dtype)
    made = seedbed.generate(pipe, PROMPT, **QUIET, **CALLS[family])
    assert made.selection.scores.isfinite().all()
    assert seedbed.replay(made.record(), pipe, progress=False).identical
