"""What the cost model counts is what an independent count, and a run of the real thing, comes to."""

import dataclasses
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from architectures import ARCHITECTURES
from bare import Watching, bare_pipeline, rows_of_selection
from cost_model import RACE, methods, published_depth, scoring
from counting import ALSO, count_forward, operations, peak_bytes, score_operations
from scoring_memory import LiveBytes

from seedbed.acquisition import Bansa
from seedbed.attention import bansa_expected
from seedbed.pipelines.session import Session
from seedbed.selection.pools import draw_pool

# One of every class, with fewer layers, but enough for a race.
SHORT = [
    dataclasses.replace(architecture, config=architecture.config | layers)
    for architecture, layers in (
        (ARCHITECTURES[0], {"num_layers": 13}),
        (ARCHITECTURES[2], {"num_layers": 7}),
        (ARCHITECTURES[5], {"num_layers": 4, "num_single_layers": 7}),
    )
]
NAMES = ["cogvideox", "wan", "hunyuan"]


@cache
def counted(architecture):
    """The forward of its narrow sibling, and a session on that."""
    narrow = SHORT[architecture].narrow()
    session = Session(bare_pipeline(narrow), prompt_embeds=torch.zeros(1, *narrow.text))
    session.shrinking(len(session.layers))  # discovered in forwards that torch's counter would count too
    return count_forward(narrow.build, narrow.inputs), session


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda each: each.name)
def test_the_configurations_have_as_many_parameters_as_was_published(architecture):
    with FakeTensorMode():
        parameters = sum(parameter.numel() for parameter in architecture.build().parameters())
    low, high = architecture.billions
    assert low <= parameters / 1e9 <= high


def test_a_forward_costs_what_adding_up_its_products_by_hand_gives():
    small = ARCHITECTURES[0].narrow()
    heads, head, layers, time, text = 2, 16, 5, 8, 8
    small = dataclasses.replace(
        small, config=small.config | {"num_attention_heads": heads, "num_layers": layers}
    )
    width = heads * head
    frames, channels, high, wide = small.latents
    video, words = frames * (high // 2) * (wide // 2), small.text[0]
    tokens = video + words

    before = 2 * width * time + 2 * time * time  # of the timestep
    before += 2 * video * (4 * channels) * width + 2 * words * text * width
    modulation = 2 * time * 6 * width
    qkv = 3 * 2 * tokens * width * width
    attention = 4 * tokens * tokens * width
    after = 2 * tokens * width * width + modulation + 2 * 2 * tokens * width * 4 * width
    block = modulation + qkv + attention + after
    end = 2 * time * 2 * width + 2 * video * width * 4 * channels

    found = count_forward(small.build, small.inputs)
    assert found.operations == before + layers * block + end
    assert [layer.shape for layer in found.layers] == [(heads, tokens, tokens, head)] * layers
    for index, layer in enumerate(found.layers):
        assert layer.entered == before + index * block
        assert layer.operations == before + index * block + modulation + qkv
    # Two rows to the second layer, then one from the third block on, stopped at its attention.
    expected = 2 * (before + 2 * block) + modulation + qkv
    assert found.operations_of([2, 2, 1]) == expected


@pytest.mark.parametrize(
    "architecture", [0, *(pytest.param(i, marks=pytest.mark.slow) for i in (1, 2))], ids=NAMES
)
@pytest.mark.parametrize("race", [None, RACE], ids=["default", "raced"])
def test_a_selection_runs_what_the_model_counts(architecture, race):
    forward, session = counted(architecture)
    watching = Watching(depth=None if race else Bansa().depth, race=race)
    before = session.ledger.total
    with FlopCounterMode(display=False, custom_mapping=ALSO) as counter:
        watching.score(session, draw_pool(session, 10, 0), batch_size=3)
    rows = watching.rows
    assert rows_of_selection(SHORT[architecture], 10, 3, depth=watching.depth, race=race) == rows
    if race:
        # Those that stay start over, and are dropped within the forward once they fit into one.
        assert max(rows, key=len)[-1] == 2 and sum(len(run) < len(max(rows, key=len)) for run in rows) >= 4
    else:
        assert [run[0] for run in rows] == [2, 2, 3, 3] and len({len(run) for run in rows}) == 1
    found = scoring(forward, rows, Bansa())
    assert found["evaluations"] == pytest.approx(session.ledger.total - before)
    assert found["operations"] == counter.get_total_flops()


@pytest.mark.parametrize("architecture", SHORT, ids=NAMES)
def test_the_peak_on_tensors_without_data_is_that_of_a_real_forward(architecture):
    narrow = architecture.narrow()
    model, given = narrow.build(), narrow.inputs(2)
    held = [*model.parameters(), *model.buffers(), *given.values()]
    with torch.no_grad(), LiveBytes(held) as tracker:
        model(**given)
    real = tracker.peak + sum(tensor.untyped_storage().nbytes() for tensor in held)
    assert peak_bytes(narrow.build, narrow.inputs, 2) == pytest.approx(real, rel=0.01)


def test_scoring_a_few_rows_of_one_head_tells_what_all_rows_of_all_heads_cost():
    query, key = torch.randn(2, 1, 3, 256, 16, generator=torch.Generator().manual_seed(1))
    real = operations(lambda: bansa_expected(query, key))
    assert score_operations("expected", (3, 256, 256, 16), None) == pytest.approx(real, rel=0.1)
    sampled = score_operations("expected", (3, 256, 256, 16), 64)
    assert sampled == score_operations("expected", (3, 256, 256, 16), None) / 4
    # Each of ten masks passes over the row several times.
    assert score_operations("masked", (3, 256, 256, 16), None) > real + 10 * 3 * 3 * 256 * 256


@pytest.mark.slow
def test_the_published_depth_counts_blocks():
    found = [published_depth(architecture, counted(i)[0]) for i, architecture in enumerate(SHORT)]
    # All of the short ones. Wan attends twice in each block, and HunyuanVideo refines the text in two layers
    # before its first block; its later ones are of another kind.
    assert found == [13, 14, 2 + 4]


@pytest.mark.slow
def test_ours_costs_less_than_the_published_method_and_both_less_than_a_generation():
    narrow = SHORT[0].narrow()
    found = methods(narrow, counted(0)[0], 1)
    assert found["raced"]["evaluations"] < 2 < found["ours"]["evaluations"] < 5
    assert found["published"]["evaluations"] == 10
    assert found["plain"]["evaluations"] == 100
    assert found["best of 10"]["operations"] == 10 * found["plain"]["operations"]
