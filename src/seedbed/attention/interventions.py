"""What may answer an attention call in the model's place; exact, and no map is ever held.

With `A` the map and `V` the values, a call's output is `A V`. On a sequence that holds text beside the video
only the attention of the video to itself is changed: with `m_i` the mass that row i puts on the text, `T_i`
its output from the text alone and `P_i` what stands in for its output from the video,
`out_i = m_i T_i + (1 − m_i) P_i`. Both `m_i T_i = Σ_text A_ij V_j` and `m_i = Σ_text A_ij` are attention
calls with other values. Rows of the text stay as they are.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from seedbed.attention.tap import AttentionCall
from seedbed.errors import NotSupported

Grid = tuple[int, int, int]
"""Frames, height and width of the tokens of a video."""

Change = Callable[[AttentionCall, slice, Grid | None], Tensor]
"""(call, video, grid) -> the output (batch, heads, rows, width_v) to answer with.

`video` are the rows and keys of the video in a sequence that has text beside it, `slice(None)` where it has
none; `grid` is how its rows lie in the video, None where that cannot be told.
"""

WHOLE = slice(None)

Rule = Literal["mix", "temperature", "frames"]
RANGES: dict[str, tuple[float, float]] = {"mix": (0, 1), "temperature": (-0.99, 100), "frames": (0, 100)}
"""Least and greatest strength of each rule of `enhancement`."""

# Sides of the patches that transformers cut latents in, and the factors by which U-Nets shrink them.
_SIDES = (1, 2, 4, 8, 16, 32)


def grid_of(tokens: int, sizes: Grid, folded: bool = False) -> Grid | None:
    """How so many tokens lie in latents of these sizes: frames, height and width of the tokens.

    None where they are not of the video alone.

    Args:
        folded: whether frames are folded into the batch, so that these tokens are of one. Four frames in
            patches of 2 x 2 are as many tokens as one frame in single ones.
    """
    frames, height, width = sizes
    for lengths in ((1,),) if folded else ((frames, -(-frames // 2)), (1,)):
        for side in _SIDES:
            rows, columns = -(-height // side), -(-width // side)
            for length in lengths:
                if length * rows * columns == tokens:
                    return length, rows, columns
    return None


def identity(call: AttentionCall, video: slice = WHOLE, grid: Grid | None = None) -> Tensor:
    """Every token attends to itself alone: `out = V`, entropy 0 (PAG, arXiv 2403.17377).

    Raises NotSupported where rows and keys are not the same tokens.
    """
    if call.query.shape[2] != call.key.shape[2] or call.kind == "cross":
        raise NotSupported(
            f"{call.layer} attends from {call.query.shape[2]} rows to {call.key.shape[2]} other keys "
            f"({call.kind}): the identity is defined where tokens attend to themselves; choose other layers"
        )
    return _beside_text(call, video, _per_head(call, call.value)[:, :, video])


def uniform(call: AttentionCall, video: slice = WHOLE, grid: Grid | None = None) -> Tensor:
    """Every token attends to all that it may see alike: `out = mean_j V_j`, entropy log N."""
    if video == WHOLE or call.query.shape[2] != call.key.shape[2]:
        return _flat(call, WHOLE)
    return _beside_text(call, video, _flat(call, video))


def mix(strength: float) -> Change:
    """`A' = (1 − λ) A + λ U`, with U uniform; λ is the strength, from 0 to 1."""

    def change(call: AttentionCall, video: slice = WHOLE, grid: Grid | None = None) -> Tensor:
        return torch.lerp(call.output(), uniform(call, video), strength)

    return change


def temperature(degree: float) -> Change:
    """Logits divided by a temperature: above 1 the map is flatter, below 1 sharper."""

    def change(call: AttentionCall, video: slice = WHOLE, grid: Grid | None = None) -> Tensor:
        query = call.query / degree
        if video == WHOLE or call.query.shape[2] != call.key.shape[2]:
            return call.output(query=query)
        return _beside_text(call, video, _within(call, query, video))

    return change


def blur(sigma: float) -> Change:
    """Queries blurred by a Gaussian of so many tokens within every frame (SEG, arXiv 2408.00760).

    At an infinite sigma every query of a frame is their mean. Of a sequence of frames, its queries are
    blurred along it. What a blurred query attends to is not uniform.
    """

    def change(call: AttentionCall, video: slice = WHOLE, grid: Grid | None = None) -> Tensor:
        queries = call.query[:, :, video]
        if call.kind == "temporal":
            shape: Grid = (1, 1, queries.shape[2])
        elif grid is not None and math.prod(grid) == queries.shape[2]:
            shape = grid
        else:
            raise NotSupported(
                f"{call.layer} attends from {queries.shape[2]} rows, and how these lie in the video cannot "
                "be told: its queries cannot be blurred"
            )
        planes = (
            queries.to(torch.promote_types(queries.dtype, torch.float32))
            .movedim(-1, 2)
            .reshape(-1, *shape[1:])
        )
        blurred = _blurred(planes, sigma).reshape(*queries.shape[:2], queries.shape[3], -1).movedim(2, -1)
        query = call.query.clone()
        query[:, :, video] = blurred.to(query.dtype)
        out = call.output(query=query)
        if video == WHOLE:
            return out
        # Rows of the video see the text too, through blurred queries, as SEG has it on joint attention.
        kept = call.output()
        kept[:, :, video] = out[:, :, video]
        return kept

    return change


def inject(source: Tensor, key: Tensor) -> Change:
    """Attention by another call's queries and keys over this call's values: `softmax(Q_s K_sᵀ) V`.

    Args:
        source: its queries, (batch, heads, rows, width); key: its keys, (batch, kv_heads, keys, width).
    """

    def change(call: AttentionCall, video: slice = WHOLE, grid: Grid | None = None) -> Tensor:
        if video == WHOLE or call.query.shape[2] != call.key.shape[2]:
            return call.output(query=source, key=key)
        # The source's text is another one: only where the video looks within itself is taken from it.
        return _beside_text(call, video, _within(call, source, video, key))

    return change


def enhancement(rule: Rule, strength: float, weight: float) -> Change:
    """What `seedbed.adaptation.Enhance` answers with; see there. A strength s of 0 changes nothing."""

    def frames(call: AttentionCall, video: slice = WHOLE, grid: Grid | None = None) -> Tensor:
        output = call.output()
        gain = 1 + strength * (frame_gain(call, video, grid, weight) - 1)
        output[:, :, video] = output[:, :, video] * gain.to(output.dtype)
        return output

    return {"mix": mix(strength), "temperature": temperature(1 + strength), "frames": frames}[rule]


def frame_gain(call: AttentionCall, video: slice, grid: Grid | None, weight: float) -> Tensor:
    """The factor of Enhance-A-Video (arXiv 2502.07508): `max(1, m (F + w))`, (batch, 1, 1, 1).

    m is the mean attention that the same place of a frame pays to other frames, over places and heads.

    Raises NotSupported where the rows of the call are not frames of a video, several of them.
    """
    query, key = call.query[:, :, video], _per_head(call, call.key)[:, :, video]
    if grid is None or math.prod(grid) != query.shape[2] or key.shape[2] != query.shape[2] or grid[0] < 2:
        raise NotSupported(
            f"{call.layer} does not attend over several frames of a video: no attention between frames"
        )
    frames = grid[0]
    dtype = torch.promote_types(query.dtype, torch.float32)
    q, k = (x.to(dtype).unflatten(2, (frames, -1)).transpose(2, 3) for x in (query, key))
    rows = (q @ k.mT * call.scale).softmax(-1)
    own = rows.diagonal(dim1=-2, dim2=-1).sum(-1)
    m = ((frames - own) / (frames * (frames - 1))).flatten(1).mean(1)
    gain: Tensor = (m * (frames + weight)).clamp(min=1)
    return gain.view(-1, 1, 1, 1)


def _per_head(call: AttentionCall, tensor: Tensor) -> Tensor:
    """Keys or values of grouped-query attention, (batch, kv_heads, ...), one for each head of the queries."""
    return tensor.repeat_interleave(call.query.shape[1] // tensor.shape[1], 1)


def _flat(call: AttentionCall, video: slice) -> Tensor:
    """The mean of the values of the video that each row of it may see, (batch, heads, rows, width_v)."""
    rows = call.query[:, :, video]
    if call.mask is None and not call.causal:
        mean = call.value[:, :, video].mean(2, keepdim=True)
        return _per_head(call, mean).expand(-1, -1, rows.shape[2], -1)
    # Equal logits for all keys, to which the call adds its mask: the softmax is uniform over what is left.
    return _within(call, torch.zeros_like(call.query), video)


def _within(call: AttentionCall, query: Tensor, video: slice, key: Tensor | None = None) -> Tensor:
    """The output for rows of the video from its own keys, (batch, heads, rows of the video, width_v)."""
    keys = call.key if key is None else key
    mask = call.mask
    if mask is not None:
        full = mask.expand(*mask.shape[:-2], call.query.shape[2], call.key.shape[2])
        mask = full[..., video, video]
    query, keys, value = query[:, :, video], keys[:, :, video], call.value[:, :, video]
    return dataclasses.replace(call, query=query, key=keys, value=value, mask=mask).output()


def _beside_text(call: AttentionCall, video: slice, inside: Tensor) -> Tensor:
    """`inside` for the video's attention to itself, the model's own for all that has to do with the text."""
    if video == WHOLE:
        return inside
    text = torch.ones(call.key.shape[2], dtype=torch.bool, device=call.key.device)
    text[video] = False
    value = call.value
    shown = text[:, None].to(value.dtype)
    told = call.output(value=value * shown)[:, :, video]  # m T
    # In every channel m; contiguous, since of other values torch forms a map instead of its fused kernels.
    mass = call.output(value=shown.expand_as(value).contiguous())[:, :, video]
    answer = call.output()
    answer[:, :, video] = told + (1 - mass) * inside
    return answer


def _blurred(planes: Tensor, sigma: float) -> Tensor:
    """(n, height, width), blurred along both axes with reflected borders; their means at infinity."""
    if math.isinf(sigma):
        return planes.mean((1, 2), keepdim=True).expand_as(planes)
    for axis in (1, 2):
        size = planes.shape[axis]
        reach = min(size - 1, math.ceil(3 * sigma))
        if not reach:
            continue
        offsets = torch.arange(-reach, reach + 1, device=planes.device, dtype=planes.dtype)
        kernel = (-0.5 * (offsets / sigma) ** 2).exp()
        rows = planes.movedim(axis, -1)
        shape = rows.shape
        padded = F.pad(rows.reshape(-1, 1, size), (reach, reach), mode="reflect")
        planes = F.conv1d(padded, (kernel / kernel.sum()).view(1, 1, -1)).view(shape).movedim(-1, axis)
    return planes
