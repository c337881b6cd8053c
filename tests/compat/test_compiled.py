"""Denoisers that went through `torch.compile`: scored in eager mode, and generating as they are."""

import numpy as np
import pytest
import torch
from torch._dynamo.utils import counters

import seedbed
from seedbed import NotSupported
from seedbed.attention.tap import Tap
from seedbed.pipelines.rollout import Rollout
from seedbed.pipelines.session import Session
from seedbed.report.page import selection_page
from tests.conftest import slow
from tests.pipelines import BUILDERS, CALLS, PROMPT, wan

CALL = CALLS["wan"]


class Backend:
    """Compiles to the very same operations, and counts what it compiled and what was run of it."""

    def __init__(self):
        self.graphs = self.runs = 0

    def __call__(self, graph, inputs):
        self.graphs += 1

        def run(*args):
            self.runs += 1
            return graph.forward(*args)

        return run


def wrapped(pipe, backend):
    pipe.transformer = torch.compile(pipe.transformer, backend=backend)


def in_place(pipe, backend):
    pipe.transformer.compile(backend=backend)


def repeated_blocks(pipe, backend):
    pipe.transformer.compile_repeated_blocks(backend=backend)


def wrapped_blocks(pipe, backend):
    for index, block in enumerate(pipe.transformer.blocks):
        pipe.transformer.blocks[index] = torch.compile(block, backend=backend)


def forward(pipe, backend):
    pipe.transformer.forward = torch.compile(pipe.transformer.forward, backend=backend)


@pytest.fixture(autouse=True)
def forgetful():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture(params=[slow(wrapped), in_place, slow(repeated_blocks), slow(wrapped_blocks), forward])
def compiled(request):
    pipe, backend = wan(), Backend()
    request.param(pipe, backend)
    return pipe, backend


def choose(pipe, **options):
    return seedbed.select(pipe, PROMPT, **{"candidates": 3, "progress": False, **CALL, **options})


def set_on(pipe):
    """What compiling sets on the instances, and what hooks there are."""
    parts = pipe.transformer.modules()
    return [
        (type(p), vars(p).get("_compiled_call_impl"), vars(p).get("forward"), [*p._forward_pre_hooks])
        for p in parts
    ]


def test_scores_are_those_of_the_eager_model_and_generation_is_compiled(compiled, pipe_of):
    pipe, backend = compiled
    plain = pipe_of("wan")
    expected = choose(plain)
    before = set_on(pipe)
    choice = choose(pipe)
    assert backend.runs == 0
    torch.testing.assert_close(choice.scores, expected.scores, rtol=1e-6, atol=0)
    assert choice.layers == expected.layers and choice.ledger.entries == expected.ledger.entries
    assert set_on(pipe) == before

    own = pipe(PROMPT, latents=choice.noise, output_type="np", **CALL).frames[0]
    graphs, breaks, runs = backend.graphs, dict(counters["graph_break"]), backend.runs
    assert graphs and runs
    made = seedbed.generate(pipe, PROMPT, candidates=3, progress=False, **CALL)
    assert backend.runs == 2 * runs
    assert np.abs(own * 255 - made.frames).max() <= 0.51
    assert seedbed.replay(made.record(), pipe, progress=False).identical
    # Nothing of ours was traced: no graph was compiled again, and none broke that had not before.
    assert backend.graphs == graphs and dict(counters["graph_break"]) == breaks
    assert set_on(pipe) == before


def test_the_fallback_is_said_in_reason_record_and_report(compiled, pipe_of):
    pipe, _ = compiled
    choice = choose(pipe)
    said = "scored in eager mode, as the transformer is compiled"
    assert said in choice.reason and said in choice.to_dict()["reason"]
    assert said in selection_page(choice.to_dict())
    assert said not in choose(pipe, candidates=1).reason
    assert said not in choose(pipe, acquisition="random").reason
    assert said not in choose(pipe_of("wan")).reason


def test_rollouts_run_compiled_unless_their_attention_is_looked_at(compiled):
    pipe, backend = compiled
    before = set_on(pipe)
    session = Session(pipe, PROMPT, **CALL)
    noises = torch.randn(2, *session.spec.shape, generator=torch.Generator().manual_seed(0))
    seen = []
    Rollout(session, noises).advance(1, lambda call, *rows: seen.append(call.layer))
    assert seen and backend.runs == 0
    rollout = Rollout(session, noises)
    rollout.advance(1)
    runs, graphs = backend.runs, backend.graphs
    assert runs
    assert np.array_equal(rollout.finish()[0], session.generate(noises[0]))
    assert backend.graphs == graphs
    assert set_on(pipe) == before


def test_the_fallback_ends_with_an_error_too(compiled):
    pipe, _ = compiled
    before = set_on(pipe)
    session = Session(pipe, PROMPT, **CALL)

    def handler(call):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        session.evaluate(torch.zeros(1, *session.spec.shape), handler)
    assert set_on(pipe) == before


@pytest.mark.slow
@pytest.mark.parametrize("family", ["cogvideox", slow("sdxl")])
def test_other_denoisers(family, pipe_of):
    pipe, call = BUILDERS[family](), CALLS[family]
    name = "unet" if family == "sdxl" else "transformer"
    setattr(pipe, name, torch.compile(getattr(pipe, name), backend="aot_eager"))
    choice = seedbed.select(pipe, PROMPT, candidates=3, progress=False, **call)
    plain = seedbed.select(pipe_of(family), PROMPT, candidates=3, progress=False, **call)
    torch.testing.assert_close(choice.scores, plain.scores, rtol=1e-6, atol=0, equal_nan=True)
    assert f"as the {name} is compiled" in choice.reason


@pytest.mark.parametrize("way", [wrapped, in_place, repeated_blocks, wrapped_blocks])
def test_a_tap_refuses_a_compiled_module_in_one_line(way):
    pipe = wan()
    way(pipe, Backend())
    before = set_on(pipe)
    with pytest.raises(NotSupported, match="is compiled: no tap sees inside its graph") as caught:
        Tap(pipe.transformer, lambda call: None).__enter__()
    assert "\n" not in str(caught.value) and set_on(pipe) == before


@pytest.mark.gpu
def test_a_compiled_denoiser_may_be_offloaded():
    pipe = wan()
    pipe.enable_model_cpu_offload()
    pipe.transformer.compile()
    made = seedbed.generate(pipe, PROMPT, candidates=3, progress=False, **CALL)
    assert seedbed.replay(made.record(), pipe, progress=False).identical
    assert pipe.transformer.device.type == "cpu"
