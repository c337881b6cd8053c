"""Batches: as many candidates as their latent values allow, halved where memory does not suffice."""

from itertools import chain
from types import SimpleNamespace

import pytest
import torch

from seedbed import BadInput
from seedbed.acquisition import Bansa
from seedbed.acquisition.base import rows_that_fit
from seedbed.acquisition.scoring import AttentionScore
from seedbed.attention.tap import SplitBatch
from seedbed.noise import Pool
from seedbed.selection.choosing import select
from tests.acquisition.calls import attention_call
from tests.pipelines import CALLS, PROMPT, cogvideox
from tests.pipelines.images import latent_consistency


class Constant(AttentionScore):
    def observe(self, call):
        return torch.zeros(call.candidates)


def ran(room, candidates=10, batch_size="auto"):
    """The sizes of the batches on a device that holds `room` candidates."""
    done = []

    def evaluate(noises, handler, **_):
        if len(noises) > room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        done.append(noises.flatten().tolist())
        handler(attention_call(len(noises)))

    session = SimpleNamespace(
        layers=[SimpleNamespace(name="layer", kind="self")],
        facts=SimpleNamespace(shares=True),
        asked=SimpleNamespace(compiled=()),
        evaluate=evaluate,
    )
    pool = Pool((None,) * candidates, torch.arange(candidates)[:, None])
    Constant().score(session, pool, batch_size=batch_size)
    assert [*chain(*done)] == list(range(candidates))  # nothing is run twice, or left out
    return [len(batch) for batch in done]


def test_a_batch_that_does_not_fit_is_halved():
    assert ran(10) == [10]
    assert ran(5) == [5, 5]
    assert ran(4) == [2] * 5
    assert ran(1) == [1] * 10


def test_what_does_not_fit_alone_or_was_asked_for_is_an_error():
    with pytest.raises(torch.OutOfMemoryError):
        ran(0)
    with pytest.raises(torch.OutOfMemoryError):
        ran(3, batch_size=4)
    assert ran(4, batch_size=4) == [3, 3, 4]


def test_latent_values_decide():
    assert rows_that_fit("auto", torch.empty(1, 13, 16, 60, 90)) == 2  # CogVideoX at full size
    assert rows_that_fit("auto", torch.empty(1, 16, 21, 90, 160)) == 1
    assert rows_that_fit(7, torch.empty(1, 13, 16, 60, 90)) == 7
    assert rows_that_fit("auto", torch.empty(1, 4, 8, 8)) == 9765


@pytest.mark.parametrize(
    ("candidates", "most", "sizes"), [(10, 3, [2, 2, 3, 3]), (3, 1, [1, 1, 1]), (4, 3, [2, 2])]
)
def test_batches_are_even_and_bounded(candidates, most, sizes):
    assert ran(10, candidates, most) == sizes


@pytest.mark.parametrize("value", [0, -1, True, 2.0, None, "all"])
def test_other_sizes_are_refused(pipe_of, value):
    with pytest.raises(BadInput, match="batch_size must be a whole number of at least 1"):
        select(
            pipe_of("cogvideox"), PROMPT, candidates=2, batch_size=value, progress=False, **CALLS["cogvideox"]
        )


def test_a_pool_that_does_not_fit_chooses_the_same(pipe_of, monkeypatch):
    from seedbed.pipelines.session import Session

    race = Bansa(depth=None, race=((1, 3),))
    options = {"candidates": 5, "acquisition": race, "progress": False, **CALLS["cogvideox"]}
    expected = select(pipe_of("cogvideox"), PROMPT, **options)
    evaluate, sizes = Session.evaluate, []

    def small(self, noises, *args, **kwargs):
        if len(noises) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        sizes.append(len(noises))
        return evaluate(self, noises, *args, **kwargs)

    monkeypatch.setattr(Session, "evaluate", small)
    halved = select(pipe_of("cogvideox"), PROMPT, **options)
    assert max(sizes) == 2 and halved.order == expected.order
    torch.testing.assert_close(halved.scores, expected.scores, rtol=1e-5, atol=0, equal_nan=True)


@pytest.mark.parametrize("error", [SplitBatch("this model splits its batch"), torch.OutOfMemoryError("CUDA")])
def test_what_a_failed_batch_has_scored_is_forgotten(pipe_of, error):
    """A layer's first step must not count twice where the second one shows that the batch is too large."""

    class Fails(Bansa):
        def observe(self, call):
            if call.candidates > 1 and (call.step, call.index) == (1, 1):
                raise error
            return super().observe(call)

    options = {"candidates": 3, "progress": False, **CALLS["cogvideox"]}
    function = dict(depth=None, steps=2, rows=3)
    expected = select(pipe_of("cogvideox"), PROMPT, batch_size=1, acquisition=Bansa(**function), **options)
    found = select(pipe_of("cogvideox"), PROMPT, acquisition=Fails(**function), **options)
    assert torch.equal(found.scores, expected.scores) and found.order == expected.order
    assert found.confidence == expected.confidence < 1


@pytest.mark.gpu
def test_a_cuda_device_chooses_the_same_in_every_batch():
    pipe = cogvideox().to("cuda")
    options = {"candidates": 6, "acquisition": "bansa", "progress": False, **CALLS["cogvideox"]}
    assert select(pipe, PROMPT, **options).order == select(pipe, PROMPT, batch_size=1, **options).order


@pytest.mark.parametrize(("place", "keep"), [("probabilities", 0.2), ("probabilities", 0.8), ("logits", 0.8)])
def test_rounding_by_the_size_of_the_batch_does_not_change_the_order(place, keep):
    """Candidates may differ by 1e-7: scores must not amplify what batches round differently."""
    pipe = latent_consistency()
    bansa = Bansa(depth=None, place=place, keep=keep)
    options = dict(
        acquisition=bansa, candidates=8, progress=False, height=16, width=16, num_inference_steps=2
    )
    one, four = (select(pipe, PROMPT, batch_size=size, **options) for size in (1, 4))
    assert one.order == four.order
    assert (one.totals - four.totals).abs().max() < 1e-7
