"""Attention calls made by hand, as the tap would hand them over."""

import torch

from seedbed.attention.tap import AttentionCall


def attention_call(
    candidates=2, fold=1, heads=2, rows=6, keys=6, width=4, kv_heads=None, mask=None, causal=False,
    kind="self", index=0, step=0, seed=0, sharpness=1.0,
):  # fmt: skip
    draw = torch.Generator().manual_seed(seed)
    batch, kv_heads = candidates * fold, kv_heads or heads
    return AttentionCall(
        layer="blocks.0.attn", index=index, step=step, block=0, kind=kind,
        query=torch.randn(batch, heads, rows, width, generator=draw) * sharpness,
        key=torch.randn(batch, kv_heads, keys, width, generator=draw),
        value=torch.randn(batch, kv_heads, keys, 5, generator=draw),
        mask=mask, scale=width**-0.5, causal=causal, candidates=candidates, _dropout=0.0, _tap=None,
    )  # fmt: skip


def attention_map(call):
    """(batch, heads, rows, keys) float64, the plain way."""
    key = call.key.double().repeat_interleave(call.query.shape[1] // call.key.shape[1], 1)
    logits = call.query.double() @ key.mT * call.scale
    if call.mask is not None:
        boolean = call.mask.dtype == torch.bool
        logits = torch.where(call.mask, logits, -torch.inf) if boolean else logits + call.mask.double()
    if call.causal:
        logits = logits.masked_fill(torch.ones(logits.shape[-2:]).triu(1).bool(), -torch.inf)
    return logits.softmax(-1)
