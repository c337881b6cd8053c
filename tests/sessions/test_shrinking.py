"""Dropping candidates within a running forward: exact, counted, refused where it cannot be, no trace left."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from seedbed.attention.tap import Tap
from seedbed.pipelines.layers import CannotShrink, Recorder, Shrinking
from seedbed.pipelines.session import Session
from tests.pipelines import CALLS, PROMPT, cogvideox


def statistic(call):
    logits = call.query @ call.key.mT * call.scale
    if call.mask is not None and call.mask.dtype != torch.bool:
        logits = logits + call.mask
    return call.by_candidate(call.query.square().mean(-1)) + call.by_candidate(logits.logsumexp(-1))


def dropping(session, noises, keep):
    """Per attention call the candidates in its batch and their statistics; `keep` maps layer -> survivors."""
    shrinking, seen = session.shrinking(len(noises)), []

    def handler(call):
        assert call.candidates == len(shrinking.present)
        seen.append((shrinking.present, statistic(call)))
        if call.index in keep:
            shrinking.keep(keep[call.index])

    session.evaluate(noises, handler, depth=len(session.layers), shrinking=shrinking)
    return seen


@pytest.fixture
def session(pipe_of, family):
    return Session(pipe_of(family), PROMPT, **CALLS[family])


def noises_for(session, count):
    return torch.randn(count, *session.spec.shape, generator=torch.Generator().manual_seed(0))


def test_survivors_go_on_as_if_nobody_had_been_dropped(session):
    noises, whole = noises_for(session, 5), []
    session.evaluate(noises, lambda call: whole.append(statistic(call)))
    before, layers = session.ledger.total, len(session.layers)
    seen = dropping(session, noises, {0: (1, 2, 4), (layers - 1) // 2: (2, 4)})
    present = [candidates for candidates, _ in seen]
    assert present[0] == (0, 1, 2, 3, 4) and present[-1] == (2, 4)
    assert all(len(later) <= len(earlier) for earlier, later in pairwise(present))
    for (candidates, values), full in zip(seen, whole, strict=True):
        torch.testing.assert_close(values, full[list(candidates)], rtol=1e-5, atol=0)
    spent = sum(len(candidates) for candidates in present) / layers
    assert session.ledger.total - before == pytest.approx(spent)
    assert spent < 5


def test_the_denoiser_is_as_before(session):
    noises = noises_for(session, 4)
    expected = session.evaluate(noises).prediction
    hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in session.denoiser.modules())
    dropping(session, noises, {0: (0, 3)})
    with pytest.raises(ZeroDivisionError):
        dropping(session, noises, {0: (0, 3), 1: (1 / 0 for _ in range(1))})
    assert torch.equal(session.evaluate(noises).prediction, expected)
    assert hooks == sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in session.denoiser.modules())


def test_a_tap_asks_before_direct_calls_alone():
    asked = []
    model = nn.Sequential(nn.Sequential(nn.Linear(2, 2)), nn.Linear(2, 2))

    def inputs(name, args, kwargs):
        asked.append(name)
        return ((args[0] * 0,), kwargs) if name == "1" else None

    with Tap(model, lambda call: None, inputs):
        output = model(torch.ones(1, 2))
    assert asked == ["0", "1"]
    assert torch.equal(output[0], model[1].bias)


class Block(nn.Module):
    def forward(self, x, *others, **more):
        query = x[:, None]
        return x + nn.functional.scaled_dot_product_attention(query, query, query)[:, 0]


class Toy(nn.Module):
    """Two blocks; `between` is what the model's own forward does with the batch of the first."""

    def __init__(self, between, extra=lambda x: ()):
        super().__init__()
        self.first, self.second = Block(), Block()
        self.between, self.extra = between, extra

    def forward(self, x):
        y = self.first(x, *self.extra(x))
        return self.second(self.between(x, y), *self.extra(x))


def toy(between, extra=lambda x: (), candidates=6, keep=(1, 4)):
    """What the second block's attention sees once the first has dropped all but `keep`."""
    model, one, seen = Toy(between, extra), Recorder(), []
    x = torch.randn(candidates, 3, 4, generator=torch.Generator().manual_seed(0))
    with Tap(model, one.attention, one.inputs):
        model(x[:1])
    shrinking = Shrinking(one, candidates)

    def handler(call):
        shrinking.attention(call)
        seen.append(call.query)
        shrinking.keep(keep)

    with Tap(model, handler, shrinking.inputs) as tap:
        shrinking.tap = tap
        model(x)
    expected = between(x, model.first(x))[list(keep)][:, None]
    return seen[1], expected


def test_what_every_candidate_shares_is_left_alone():
    seen, expected = toy(lambda x, y: y, lambda x: (torch.ones(1, 7), 3, "text", None, [x]))
    torch.testing.assert_close(seen, expected)


def test_rows_folded_into_the_batch_are_dropped_together():
    seen, expected = toy(lambda x, y: y, lambda x: (x.flatten(0, 1),))
    torch.testing.assert_close(seen, expected)


@pytest.mark.parametrize(
    ("between", "extra", "message"),
    [
        (lambda x, y: y, lambda x: (len(x),), "second is given 6 for 2 candidates and 1 for one"),
        (
            lambda x, y: y,
            lambda x: (torch.ones(2, len(x)),),
            r"is given \(2, 6\) for 2 .* and \(2, 1\) for one",
        ),
        (lambda x, y: y, lambda x: (torch.ones(len(x) // 2 + 1),), r"given \(4,\) for 2 candidates"),
        (lambda x, y: y, lambda x: (1,) * len(x), "called in another way for several candidates"),
        (lambda x, y: y, lambda x: (torch.ones(1) if len(x) == 1 else 1,), r"given 1 for 2 .* and \(1,\)"),
    ],
)
def test_what_does_not_scale_with_the_candidates_is_refused(between, extra, message):
    with pytest.raises(CannotShrink, match=message):
        toy(between, extra)


def test_a_batch_that_hides_from_the_arguments_is_refused():
    class Hidden(Block):
        def forward(self, x, *others):
            return super().forward(self.kept)

    def between(x, y):
        return y

    model, one = Toy(between), Recorder()
    model.second = Hidden()
    x = torch.randn(4, 3, 4)
    model.second.kept = x[:1]
    with Tap(model, one.attention, one.inputs):
        model(x[:1])
    model.second.kept = x
    shrinking = Shrinking(one, 4)

    def handler(call):
        shrinking.attention(call)
        shrinking.keep((0, 1))

    tap = Tap(model, handler, shrinking.inputs)
    shrinking.tap = tap
    with pytest.raises(CannotShrink, match="second still attends over candidates that were dropped"), tap:
        model(x)


def test_a_forward_that_mixes_its_batches_says_so():
    pipe = cogvideox()
    block = pipe.transformer.transformer_blocks[1]
    plain = block.forward

    def mixing(hidden_states, *args, **kwargs):
        return plain(hidden_states + torch.zeros(3, 1, 1), *args, **kwargs)

    session = Session(pipe, PROMPT, **CALLS["cogvideox"])
    assert session.shrinking(3).present == (0, 1, 2)  # what one candidate looks like is known from here on
    block.forward = mixing
    with pytest.raises(CannotShrink, match="CogVideoXTransformer3DModel mixes its blocks' batch"):
        dropping(session, noises_for(session, 3), {0: (0, 2)})
