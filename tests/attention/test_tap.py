"""The tap: what it reports on every family, that it can answer and stop, and that it leaves no trace."""

import contextlib
import gc
import threading
import weakref
from collections import Counter

import pytest
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention as attend

import seedbed
from seedbed.attention.tap import AttentionCall, Tap
from seedbed.errors import BadInput, NotSupported
from tests.pipelines import BUILDERS, CALLS, PROMPT


class Processor:
    """Chooses its backend as diffusers' dispatcher does; one of them bypasses torch's function."""

    _attention_backend = None

    def __init__(self):
        self.used = []

    def __call__(self, query, key, value, **options):
        self.used.append(self._attention_backend)
        if self._attention_backend == "flash":
            return torch.softmax(query @ key.mT / query.shape[-1] ** 0.5, -1) @ value
        return attend(query, key, value, **options)


class Attention(nn.Module):
    def __init__(self, heads=2, kv_heads=2, width=4):
        super().__init__()
        self.heads, self.kv_heads = heads, kv_heads
        self.to_q = nn.Linear(8, heads * width)
        self.to_k = nn.Linear(8, kv_heads * width)
        self.to_v = nn.Linear(8, kv_heads * width)
        self.to_out = nn.Linear(heads * width, 8)
        self.processor = Processor()

    def forward(self, hidden_states, encoder_hidden_states=None):
        source = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query = self.to_q(hidden_states).unflatten(2, (self.heads, -1)).transpose(1, 2)
        key, value = (
            layer(source).unflatten(2, (self.kv_heads, -1)).transpose(1, 2)
            for layer in (self.to_k, self.to_v)
        )
        options = {"enable_gqa": True} if self.heads != self.kv_heads else {}
        return self.to_out(self.processor(query, key, value, **options).transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.attn1 = Attention(**options)
        self.attn2 = Attention(**options)

    def forward(self, hidden_states, encoder_hidden_states):
        hidden_states = hidden_states + self.attn1(hidden_states)
        return hidden_states + self.attn2(hidden_states, encoder_hidden_states)


class Model(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.blocks = nn.ModuleList(Block(**options) for _ in range(2))

    def forward(self, hidden_states, encoder_hidden_states):
        for block in self.blocks:
            hidden_states = block(hidden_states, encoder_hidden_states)
        return hidden_states


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Model().requires_grad_(False)


@pytest.fixture
def inputs():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(3, 6, 8, generator=generator), torch.randn(3, 5, 8, generator=generator)


def snapshot(module):
    """All that a tap touches: hooks, processors' own attributes, instance attributes, weights."""
    return {
        name: (
            {k: v for k, v in vars(sub).items() if not k.startswith("_")},
            [
                dict(getattr(sub, hooks))
                for hooks in vars(sub)
                if hooks.endswith(("_hooks", "_always_called"))
            ],
            dict(vars(sub.processor), used=None)
            if isinstance(getattr(sub, "processor", None), Processor)
            else None,
            {k: p.clone() for k, p in sub.named_parameters(recurse=False)},
        )
        for name, sub in module.named_modules()
    }


def assert_untouched(before, after):
    assert before.keys() == after.keys()
    for name, (attributes, hooks, processor, weights) in before.items():
        assert (attributes, hooks, processor) == after[name][:3], name
        for key, weight in weights.items():
            assert torch.equal(weight, after[name][3][key])


def test_reports_layers_in_order(model, inputs):
    calls: list[AttentionCall] = []
    with Tap(model, calls.append) as tap:
        model(*inputs)
        model(*inputs)
    assert [c.layer for c in calls[:4]] == [f"blocks.{i}.attn{j}" for i in (0, 1) for j in (1, 2)]
    assert [c.kind for c in calls[:4]] == ["self", "cross"] * 2
    assert [c.index for c in calls] == [0, 1, 2, 3] * 2
    assert [c.step for c in calls] == [0] * 4 + [1] * 4
    assert [c.block for c in calls[:4]] == [0, 0, 1, 1]
    assert {c.candidates for c in calls} == {3}
    assert (tap.steps, tap.calls, tap.stopped) == (2, 8, False)
    cross = calls[1]
    assert cross.query.shape == (3, 2, 6, 4) and cross.key.shape == cross.value.shape == (3, 2, 5, 4)
    assert cross.scale == pytest.approx(0.5) and cross.mask is None and cross.causal is False


def test_observing_changes_nothing(model, inputs):
    before, plain = snapshot(model), model(*inputs)
    with Tap(model, lambda call: None):
        assert torch.equal(model(*inputs), plain)
    assert_untouched(before, snapshot(model))
    assert torch.equal(model(*inputs), plain)


def test_the_models_own_output_is_that_of_the_call(model, inputs):
    plain = model(*inputs)
    with Tap(model, lambda call: call.output()):
        assert torch.equal(model(*inputs), plain)


def test_answers_in_place_of_the_model(model, inputs):
    def uniform(call):
        return call.value.mean(2, keepdim=True).expand(*call.query.shape[:3], -1)

    plain = model(*inputs)
    with Tap(model, uniform):
        answered = model(*inputs)
    # A query of zeros attends uniformly: the same answer through the model's own attention.
    with Tap(model, lambda call: call.output(query=torch.zeros_like(call.query))):
        torch.testing.assert_close(model(*inputs), answered)
    assert not torch.allclose(answered, plain)
    assert torch.equal(model(*inputs), plain)


def test_an_answer_of_another_shape_is_refused(model, inputs):
    message = r"blocks\.0\.attn1.*\(3, 2, 5, 4\).*expected \(3, 2, 6, 4\)"
    with pytest.raises(BadInput, match=message), Tap(model, lambda call: call.value[:, :, :5]):
        model(*inputs)


def test_stop_ends_the_forward_and_the_body(model, inputs):
    before, seen, after = snapshot(model), [], []

    def handler(call):
        seen.append(call.layer)
        if call.index == 2:
            call.stop()

    with Tap(model, handler) as tap:
        model(*inputs)
        after.append("not reached")
    assert tap.stopped and seen == ["blocks.0.attn1", "blocks.0.attn2", "blocks.1.attn1"] and not after
    assert_untouched(before, snapshot(model))


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_errors_pass_and_leave_no_trace(model, inputs, error):
    def handler(call):
        raise error("from the handler")

    before, plain = snapshot(model), model(*inputs)
    with pytest.raises(error, match="from the handler"), Tap(model, handler) as tap:
        model(*inputs)
    assert not tap.stopped
    assert_untouched(before, snapshot(model))
    assert torch.overrides._get_current_function_mode_stack() == []
    assert torch.equal(model(*inputs), plain)


def test_goes_on_after_an_error_inside_the_body(model, inputs):
    calls = []

    def handler(call):
        calls.append((call.step, call.layer))
        if len(calls) == 2:
            raise RuntimeError

    with Tap(model, handler):
        for _ in range(2):
            with contextlib.suppress(RuntimeError):
                model(*inputs)
    assert calls == [(0, "blocks.0.attn1"), (0, "blocks.0.attn2")] + [
        (1, f"blocks.{i}.attn{j}") for i in (0, 1) for j in (1, 2)
    ]


def test_only_the_tapped_modules_forward_is_seen(model, inputs):
    other, calls = Attention(), []
    with Tap(model.blocks[1], calls.append):
        model(*inputs)
        other(inputs[0])
        attend(*(torch.randn(1, 1, 2, 2) for _ in range(3)))
    assert [c.layer for c in calls] == ["attn1", "attn2"]


def test_nested_taps_ask_the_innermost_first(model, inputs):
    asked = []

    def inner(call):
        asked.append(("inner", call.index))
        # Attention inside a handler is no call of the model's.
        attend(call.query, call.query, call.query)
        call.output()
        return (
            call.value.mean(2, keepdim=True).expand(*call.query.shape[:3], -1)
            if call.kind == "cross"
            else None
        )

    with Tap(model, lambda call: asked.append(("outer", call.layer))), Tap(model, inner):
        model(*inputs)
    assert asked == [
        ("inner", 0),
        ("outer", "blocks.0.attn1"),
        ("inner", 1),
        ("inner", 2),
        ("outer", "blocks.1.attn1"),
        ("inner", 3),
    ]


def test_stop_ends_only_its_own_tap(model, inputs):
    before, seen, reached = snapshot(model), [], []
    with Tap(model, lambda call: seen.append(call.step)) as outer:
        with Tap(model, lambda call: call.stop()) as inner:
            model(*inputs)
        reached.append("after the inner tap")
        model(*inputs)
    assert inner.stopped and not outer.stopped and reached
    assert seen == [1] * 4
    with Tap(model, lambda call: call.stop()) as outer:
        with Tap(model, lambda call: None) as inner:
            model(*inputs)
        reached.append("never")
    assert outer.stopped and not inner.stopped and len(reached) == 1
    assert_untouched(before, snapshot(model))


def test_a_tap_can_be_opened_again_but_not_twice_at_once(model, inputs):
    calls = []
    tap = Tap(model, calls.append)
    for _ in range(2):
        with tap:
            model(*inputs)
        assert tap.steps == 1
    with tap, pytest.raises(BadInput, match="already open"):
        tap.__enter__()
    assert len(calls) == 8


def test_backends_that_bypass_torch_are_made_native_and_restored(model, inputs):
    flash, inherited = model.blocks[0].attn1.processor, model.blocks[0].attn2.processor
    flash._attention_backend = "flash"
    plain, calls = model(*inputs), []
    with Tap(model, calls.append):
        torch.testing.assert_close(model(*inputs), plain)
    assert len(calls) == 4
    assert flash.used == ["flash", "native"] and inherited.used == [None, "native"]
    assert flash._attention_backend == "flash" and "_attention_backend" not in vars(inherited)


def test_a_model_that_needs_its_backend_is_refused(model, inputs):
    """As sparse attention does, whose masks no other backend knows."""

    class Sparse(Processor):
        def __call__(self, query, key, value):
            if self._attention_backend == "native":
                raise AttributeError("'BlockMask' object has no attribute 'ndim'")
            return super().__call__(query, key, value)

    sparse = model.blocks[1].attn1.processor = Sparse()
    sparse._attention_backend = "flex"
    with pytest.raises(NotSupported, match="needs the attention backend flex"), Tap(model, lambda call: None):
        model(*inputs)
    assert sparse._attention_backend == "flex"
    with pytest.raises(AttributeError, match="mine"), Tap(model.blocks[0], lambda call: None):
        raise AttributeError("mine")
    with pytest.raises(AttributeError, match="no_such"), Tap(model, lambda call: call.no_such):
        model(*inputs)


def test_diffusers_backends_are_made_native_and_restored(pipe_of, family):
    from diffusers.models.attention_dispatch import AttentionBackendName, _AttentionBackendRegistry

    denoiser = getattr(pipe_of(family), "transformer", None) or pipe_of(family).unet
    processors = [
        p for m in denoiser.modules() if hasattr(p := getattr(m, "processor", None), "_attention_backend")
    ]
    active = _AttentionBackendRegistry._active_backend
    for processor in processors:
        processor._attention_backend = AttentionBackendName.FLEX
    try:
        with Tap(denoiser, lambda call: None):
            assert {p._attention_backend for p in processors} <= {"native"}
        assert {p._attention_backend for p in processors} <= {AttentionBackendName.FLEX}
    finally:
        for processor in processors:
            del processor._attention_backend
    assert _AttentionBackendRegistry._active_backend is active


def test_grouped_queries_keep_their_heads(inputs):
    model, calls = Model(heads=4, kv_heads=2), []
    plain = model(*inputs)
    with Tap(model, calls.append):
        model(*inputs)
    assert calls[0].query.shape[1] == 4 and calls[0].key.shape[1] == calls[0].value.shape[1] == 2
    with Tap(model, lambda call: call.output()):
        assert torch.equal(model(*inputs), plain)


def test_masks_scales_and_flat_calls_are_reported():
    class Flat(nn.Module):
        def forward(self, x):
            mask = torch.ones(x.shape[0], x.shape[1], x.shape[1], dtype=torch.bool).tril()
            first = attend(x, x, x, attn_mask=mask, scale=0.25)
            return attend(first, first, first, is_causal=True)

    x, calls = torch.randn(4, 3, 8, generator=torch.Generator().manual_seed(2)), []
    plain = Flat()(x)
    model = Flat()
    with Tap(model, calls.append):
        model(x)
    assert [(c.query.shape, c.scale, c.causal) for c in calls] == [
        ((4, 1, 3, 8), 0.25, False),
        ((4, 1, 3, 8), pytest.approx(8**-0.5), True),
    ]
    assert calls[0].mask.shape == (4, 1, 3, 3) and calls[0].layer == "" and calls[0].block == -1
    with Tap(model, lambda call: call.output()):
        torch.testing.assert_close(model(x), plain)


def test_by_candidate_averages_rows_of_one_candidate(model, inputs):
    call = None

    def keep(seen):
        nonlocal call
        call = seen

    with Tap(model, keep):
        model(*inputs)
    values = torch.arange(12.0).reshape(6, 2)
    assert call.by_candidate(values).tolist() == [1.5, 5.5, 9.5]
    assert call.by_candidate(values).dtype == torch.float64
    with pytest.raises(NotSupported, match="batch_size=1"):
        call.by_candidate(torch.zeros(4, 2))


def test_threads_do_not_see_each_other(inputs):
    models = [Model().requires_grad_(False) for _ in range(2)]
    shared, seen = Model().requires_grad_(False), {0: [], 1: []}
    barrier = threading.Barrier(2, timeout=30)

    def work(me):
        with Tap(models[me], seen[me].append):
            for _ in range(5):
                barrier.wait()
                models[me](*inputs)
                # Not tapped in this thread, though it may be in the other.
                if me == 1:
                    shared(*inputs)

    with Tap(shared, lambda call: pytest.fail("another thread's forward was seen")):
        threads = [threading.Thread(target=work, args=(me,)) for me in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert [len(calls) for calls in seen.values()] == [20, 20]
    assert torch.overrides._get_current_function_mode_stack() == []


def test_nothing_keeps_the_model_alive(inputs):
    model = Model().requires_grad_(False)
    alive = weakref.ref(model)
    with Tap(model, lambda call: None) as tap:
        model(*inputs)
    with Tap(model, lambda call: call.stop()):
        model(*inputs)
    del model, tap
    gc.collect()
    assert alive() is None


KINDS = {
    "cogvideox": {"joint": 3},
    "wan": {"self": 2, "cross": 2},
    "ltx": {"self": 2, "cross": 2},
    "animatediff": {"self": 4, "cross": 4, "temporal": 8},
    "sdxl": {"self": 8, "cross": 8},
}


def assert_kinds(pipe, family, temporal=None, **changes):
    calls = []
    denoiser = getattr(pipe, "transformer", None) or pipe.unet
    with Tap(denoiser, calls.append):
        pipe([PROMPT] * 2, guidance_scale=1, output_type="latent", **(CALLS[family] | changes))
    calls = [c for c in calls if c.step == 0]
    assert Counter(c.kind for c in calls) == KINDS[family] | ({"temporal": temporal} if temporal else {})
    for c in calls:
        spatial = "joint" if family == "cogvideox" else "cross" if c.layer.endswith("attn2") else "self"
        assert c.kind == ("temporal" if "motion_modules" in c.layer else spatial), c.layer
    assert all(c.candidates == 2 and c.query.shape[0] % 2 == 0 for c in calls)


def test_kinds_of_real_models(pipe_of, family):
    assert_kinds(pipe_of(family), family)


@pytest.mark.parametrize("changes", [{"num_frames": 16}, {"num_frames": 4, "height": 8, "width": 8}])
def test_kinds_where_there_are_as_many_frames_as_positions(changes):
    """16 frames of 4 x 4 positions at the coarser level; 4 frames of 2 x 2."""
    assert_kinds(BUILDERS["animatediff"]((8, 16)), "animatediff", temporal=14, **changes)


@pytest.mark.parametrize("own, other", [(6, 6), (6, 5)])
def test_kinds_where_text_is_as_long_as_the_video(own, other):
    calls = []
    model = Model()
    with Tap(model, calls.append):
        model(torch.zeros(1, own, 8), torch.zeros(1, other, 8))
    assert [c.kind for c in calls] == ["self", "cross"] * 2


def test_no_attention_of_text_encoder_or_decoder_is_seen(family):
    pipe, calls = BUILDERS[family](), []
    denoiser = getattr(pipe, "transformer", None) or pipe.unet
    with Tap(denoiser, calls.append) as tap:
        pipe(PROMPT, output_type="np", **CALLS[family])
    names = dict(denoiser.named_modules())
    assert calls and all(c.layer in names for c in calls)
    assert tap.calls == len(calls) == tap.steps * sum(KINDS[family].values())


def in_sparse_backend(model, error):
    """A model that takes no backend but its own."""

    class Sparse(Processor):
        def __call__(self, query, key, value):
            if self._attention_backend == "native":
                raise error
            return super().__call__(query, key, value)

    processor = model.blocks[1].attn1.processor = Sparse()
    processor._attention_backend = "flex"
    return processor


@pytest.mark.parametrize("error", [AttributeError, TypeError, ValueError])
def test_whichever_error_a_missing_backend_is_told_by(model, inputs, error):
    """AnyFlow's processor says it by a ValueError."""
    in_sparse_backend(model, error("flex alone"))
    tap = Tap(model, lambda call: None)
    for _ in range(2):
        with pytest.raises(NotSupported, match="Model needs the attention backend flex"), tap:
            model(*inputs)


@pytest.mark.parametrize("error", [AttributeError, TypeError, ValueError])
def test_a_handlers_own_error_is_no_missing_backend(model, inputs, error):
    """Also where a processor needs its backend, and when the tap is opened again after such an error."""
    in_sparse_backend(model, error("flex alone"))
    fails = True

    def handler(call):
        if fails:
            raise error("the handler's")

    tap = Tap(model, handler)
    for outer in (contextlib.nullcontext(), Tap(model, lambda call: None)):
        with pytest.raises(error, match="the handler's"), outer, tap:
            model(*inputs)
    fails = False
    with pytest.raises(NotSupported, match="needs the attention backend flex"), tap:
        model(*inputs)
    fails = True
    with pytest.raises(error, match="the handler's"), tap:
        model(*inputs)


def theirs(query, key, value, attn_mask=None, **options):
    """As SageAttention, which hands on to torch what it cannot do itself."""
    if attn_mask is None:
        return torch.softmax(query @ key.mT / query.shape[-1] ** 0.5, -1) @ value
    return attend(query, key, value, attn_mask, **options)


def test_a_replaced_attention_is_noticed(model, inputs, monkeypatch):
    before = snapshot(model)
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", theirs)
    message = (
        r"scaled_dot_product_attention was replaced by tests\.attention\.test_tap\.theirs.*put torch's own"
    )
    with pytest.raises(NotSupported, match=message) as raised, Tap(model, lambda call: None):
        pytest.fail("never run")
    assert "\n" not in str(raised.value)
    assert_untouched(before, snapshot(model))


def test_a_layer_that_goes_round_the_tap_is_noticed(monkeypatch):
    """Its kernels replaced where diffusers keeps them: LTX would be scored by half of its layers."""
    from diffusers.models.transformers import transformer_ltx

    def dispatched(query, key, value, attn_mask=None, **options):
        own = theirs(*(part.transpose(1, 2) for part in (query, key, value)), attn_mask)
        return own.transpose(1, 2)

    monkeypatch.setattr(transformer_ltx, "dispatch_attention_fn", dispatched)
    message = (
        r"blocks\.0\.attn1 attends by LTXVideoAttnProcessor without torch's scaled_dot_product_attention"
    )
    with pytest.raises(NotSupported, match=message) as raised:
        seedbed.select(BUILDERS["ltx"](), PROMPT, candidates=2, progress=False, **CALLS["ltx"])
    assert "\n" not in str(raised.value)


def test_a_processor_that_goes_round_the_tap_is_noticed(model, inputs):
    model.blocks[1].attn2.processor = theirs
    with (
        pytest.raises(NotSupported, match=r"blocks\.1\.attn2 attends by function"),
        Tap(model, lambda c: None),
    ):
        model(*inputs)


def test_a_layer_that_an_inner_tap_answers_is_no_missing_one(model, inputs):
    with Tap(model, lambda call: pytest.fail("asked")), Tap(model, lambda call: call.output()) as inner:
        model(*inputs)
    assert inner.calls == 4
