"""Every intervention against whole maps in float64, on self, cross, joint, grouped and masked attention."""

import dataclasses
import math

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from seedbed.attention import Tap
from seedbed.attention.interventions import (
    WHOLE,
    blur,
    frame_gain,
    identity,
    inject,
    mix,
    temperature,
    uniform,
)
from seedbed.errors import NotSupported

HEADS, WIDTH, FRAMES, HEIGHT, SIDE = 4, 8, 3, 2, 4
VIDEO = FRAMES * HEIGHT * SIDE
GRID = (FRAMES, HEIGHT, SIDE)


class Attend(nn.Module):
    def forward(self, query, key, value, mask, causal):
        return nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, is_causal=causal, enable_gqa=key.shape[1] != query.shape[1]
        )


def call_of(rows, keys, *, kv_heads=HEADS, mask=None, causal=False, kind="self", seed=0, dtype=torch.float64):
    """The call that a tap sees, with its kind set."""
    draw = torch.Generator().manual_seed(seed)
    shapes = (HEADS, rows), (kv_heads, keys), (kv_heads, keys)
    q, k, v = (torch.randn(2, *shape, WIDTH, generator=draw, dtype=torch.float64) for shape in shapes)
    seen = []
    with Tap(Attend(), seen.append) as tap:
        tap.module(q.to(dtype), k.to(dtype), v.to(dtype), mask, causal)
    return dataclasses.replace(seen[0], kind=kind)


def parts(call):
    """Map, logits and values, (batch, heads, ...), made the slow way."""
    share = call.query.shape[1] // call.key.shape[1]
    k, v = (x.double().repeat_interleave(share, 1) for x in (call.key, call.value))
    logits = call.query.double() @ k.mT * call.scale
    return open_to(call, logits).softmax(-1), logits, v


def open_to(call, logits):
    """Logits with what a row may not see taken out."""
    if call.mask is not None:
        if call.mask.dtype == torch.bool:
            logits = logits.masked_fill(~call.mask, -torch.inf)
        else:
            logits = logits + call.mask
    if call.causal:
        logits = logits.masked_fill(torch.ones(logits.shape[-2:]).triu(1).bool(), -torch.inf)
    return logits


def flat(call):
    return open_to(call, torch.zeros(*call.query.shape[:3], call.key.shape[2]).double()).softmax(-1)


def within(call, whole, video, inner):
    """The map in which the video's attention to itself has another shape and the mass that it had."""
    changed = whole.clone()
    block = whole[:, :, video, video]
    mass = block.sum(-1, keepdim=True)
    changed[:, :, video, video] = mass * inner
    return changed


def normalised(block):
    return block / block.sum(-1, keepdim=True)


def masks(rows, keys, text):
    draw = torch.Generator().manual_seed(5)
    keep = torch.rand(2, 1, 1, keys, generator=draw) > 0.3
    keep[..., 0] = keep[..., -1] = keep[..., keys // 2] = True
    yield None
    yield keep
    yield torch.zeros(2, 1, 1, keys).double().masked_fill(~keep, -1e4)
    if text is None and rows == keys:
        yield "causal"


JOINT = [(slice(5, None), 5), (slice(0, VIDEO), 5)]
CASES = [(VIDEO, VIDEO, WHOLE, "self"), (VIDEO, 7, WHOLE, "cross")] + [
    (VIDEO + text, VIDEO + text, video, "joint") for video, text in JOINT
]


def calls():
    for rows, keys, video, kind in CASES:
        for kv_heads in (HEADS, 2):
            for mask in masks(rows, keys, None if kind == "self" else kind):
                causal = isinstance(mask, str)
                given = None if causal else mask
                made = call_of(rows, keys, kv_heads=kv_heads, mask=given, causal=causal, kind=kind)
                name = f"{kind}{'' if video == WHOLE else video.start}-{kv_heads}-{type(mask).__name__}"
                yield pytest.param(made, video, id=f"{name}-{getattr(mask, 'dtype', mask)}")


@pytest.mark.parametrize(("call", "video"), [*calls()])
def test_equals_the_map_based_reference(call, video):
    whole, logits, v = parts(call)
    block = whole[:, :, video, video]
    even = flat(call)
    inner = {
        "uniform": normalised(even[:, :, video, video]),
        "temperature": open_to(call, logits / 1.7).softmax(-1),
    }
    expected = {"uniform": even, "temperature": inner["temperature"]}
    found = {"uniform": uniform(call, video), "temperature": temperature(1.7)(call, video)}
    if video != WHOLE:
        expected["uniform"] = within(call, whole, video, inner["uniform"])
        part = dataclasses.replace(
            call,
            mask=None if call.mask is None else call.mask[..., video],
            query=call.query[:, :, video],
            key=call.key[:, :, video],
        )
        expected["temperature"] = within(
            call, whole, video, open_to(part, logits[:, :, video, video] / 1.7).softmax(-1)
        )
    expected["mix"] = 0.7 * whole + 0.3 * expected["uniform"]
    found["mix"] = mix(0.3)(call, video)
    if call.kind != "cross":
        own = torch.eye(block.shape[-1]).double().expand_as(block)
        expected["identity"] = own if video == WHOLE else within(call, whole, video, own)
        found["identity"] = identity(call, video)
    for name, answer in found.items():
        torch.testing.assert_close(answer, expected[name] @ v, rtol=0, atol=1e-9, msg=name)
        if video != WHOLE:
            text = [row for row in range(call.query.shape[2]) if row not in range(call.query.shape[2])[video]]
            torch.testing.assert_close(answer[:, :, text], (whole @ v)[:, :, text], rtol=0, atol=1e-12)


@pytest.mark.parametrize(("call", "video"), [*calls()])
def test_injection_is_attention_by_the_sources_queries_and_keys(call, video):
    source = call_of(call.query.shape[2], call.key.shape[2], kv_heads=call.key.shape[1], seed=9)
    whole, _, v = parts(call)
    other = dataclasses.replace(call, query=source.query, key=source.key)
    theirs = parts(other)[0]
    expected = theirs
    if video != WHOLE:
        expected = within(call, whole, video, normalised(theirs[:, :, video, video]))
    answer = inject(source.query, source.key)(call, video)
    torch.testing.assert_close(answer, expected @ v, rtol=0, atol=1e-9)


@pytest.mark.parametrize("sigma", [0.8, 3.0, math.inf])
@pytest.mark.parametrize("video", [WHOLE, slice(5, None)])
def test_blurred_queries(sigma, video):
    text = 0 if video == WHOLE else 5
    call = call_of(VIDEO + text, VIDEO + text, kind="self" if video == WHOLE else "joint")
    query = call.query.clone()
    own = query[:, :, video].unflatten(2, GRID)
    blurred = torch.empty_like(own)
    for y in range(HEIGHT):
        for x in range(SIDE):
            weight = torch.zeros(HEIGHT, SIDE).double()
            if math.isinf(sigma):
                weight[:] = 1 / (HEIGHT * SIDE)
            else:
                for axis, (at, size) in enumerate(((y, HEIGHT), (x, SIDE))):
                    line = torch.zeros(size).double()
                    reach = min(size - 1, math.ceil(3 * sigma))
                    for offset in range(-reach, reach + 1):
                        place = abs(at + offset)
                        place = place if place < size else 2 * (size - 1) - place  # reflected
                        line[place] += math.exp(-0.5 * (offset / sigma) ** 2)
                    line /= line.sum()
                    weight = line[:, None].expand(HEIGHT, SIDE) if axis == 0 else weight * line
            blurred[:, :, :, y, x] = (own * weight[:, :, None]).sum((3, 4))
    query[:, :, video] = blurred.flatten(2, 4)
    expected = dataclasses.replace(call, query=query).output()
    expected[:, :, :text] = call.output()[:, :, :text]
    torch.testing.assert_close(blur(sigma)(call, video, GRID), expected, rtol=0, atol=1e-6)


def test_along_frames_the_whole_sequence_is_blurred():
    call = call_of(6, 6, kind="temporal")
    query = call.query.mean(2, keepdim=True).expand_as(call.query)
    expected = dataclasses.replace(call, query=query).output()
    torch.testing.assert_close(blur(math.inf)(call), expected, rtol=0, atol=1e-6)


def test_the_gain_between_frames():
    call = call_of(VIDEO, VIDEO)
    q, k = (x.unflatten(2, (FRAMES, HEIGHT * SIDE)).transpose(2, 3) for x in (call.query, call.key))
    rows = (q @ k.mT * call.scale).softmax(-1)
    others = rows[..., ~torch.eye(FRAMES).bool()].flatten(1).mean(1)
    expected = (others * (FRAMES + 4)).clamp(min=1)
    torch.testing.assert_close(
        frame_gain(call, WHOLE, GRID, 4.0).flatten().double(), expected, rtol=1e-6, atol=0
    )
    assert (frame_gain(call, WHOLE, GRID, 0.0) >= 1).all()


def test_half_precision_keeps_its_dtype_and_comes_close():
    call = call_of(VIDEO + 5, VIDEO + 5, kind="joint", dtype=torch.bfloat16)
    exact = call_of(VIDEO + 5, VIDEO + 5, kind="joint")
    for change in (identity, uniform, mix(0.5), temperature(2.0), blur(1.0)):
        answer = change(call, slice(5, None), GRID)
        assert answer.dtype == torch.bfloat16
        torch.testing.assert_close(answer.double(), change(exact, slice(5, None), GRID), rtol=0, atol=0.03)


def test_what_is_not_defined_is_refused_in_one_line():
    cross = call_of(VIDEO, 7, kind="cross")
    with pytest.raises(NotSupported, match=r"attends from 24 rows to 7 other keys .*identity.*other layers"):
        identity(cross)
    with pytest.raises(NotSupported, match="cannot be blurred"):
        blur(1.0)(call_of(VIDEO, VIDEO), WHOLE, None)
    for grid in (None, (1, 6, 4)):
        with pytest.raises(NotSupported, match="no attention between frames"):
            frame_gain(call_of(VIDEO, VIDEO), WHOLE, grid, 4.0)


class Largest(TorchDispatchMode):
    """The greatest number of elements that an operation returns."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        sizes = [each.numel() for each in tree_leaves(output) if isinstance(each, torch.Tensor)]
        self.elements = max([self.elements, *sizes])
        return output


@pytest.mark.parametrize("change", [identity, uniform, mix(0.5), temperature(2.0), blur(1.0), "inject"])
@pytest.mark.parametrize("video", [WHOLE, slice(5, None)])
def test_no_map_is_formed(change, video):
    """Neither here nor in torch, whose fused kernels refuse some layouts of values and fall back to a map."""
    rows = 256 + (0 if video == WHOLE else 5)
    call = call_of(rows, rows, kind="self" if video == WHOLE else "joint", dtype=torch.float32)
    if change == "inject":
        change = inject(call.query.flip(2), call.key.flip(2))
    with Largest() as largest:
        change(call, video, (16, 4, 4))
    assert largest.elements < rows * rows  # less than the map of one of eight heads
