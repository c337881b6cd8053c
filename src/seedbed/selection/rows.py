"""From a number per query row to a number per candidate."""

from __future__ import annotations

import torch
from torch import Tensor

from seedbed.attention.logits import MASKED_FROM
from seedbed.attention.tap import AttentionCall


def mean_over_rows(call: AttentionCall, values: Tensor, rows: Tensor | None = None) -> Tensor:
    """The mean over heads and query rows, (batch, heads, rows) -> (call.candidates,) float64.

    Padding does not count: neither a row that may attend to nothing, nor, where a sequence attends to
    itself, a token that nobody may attend to.

    Args:
        values: one number for every query row of `call`, or for those in `rows`.
        rows: the indices of the sampled rows, (rows,).
    """
    counted = _counted_rows(call)
    if counted is None:
        return call.by_candidate(values)
    if rows is not None:
        counted = counted[..., rows.to(counted.device)]
    counted = counted.expand_as(values)
    kept = torch.where(counted, values.double(), 0.0)
    return call.by_candidate(kept) / call.by_candidate(counted.double())


def _counted_rows(call: AttentionCall) -> Tensor | None:
    """Which query rows are no padding: bool, broadcastable to (batch, heads, rows); None means all."""
    if call.mask is None:
        return None
    allowed = call.mask if call.mask.dtype == torch.bool else call.mask > MASKED_FROM
    allowed = allowed.reshape((1,) * (4 - allowed.dim()) + allowed.shape)
    if allowed.shape[-2] > 1:
        return allowed.any(-1)
    total, keys = call.query.shape[-2], call.key.shape[-2]
    if call.kind != "cross" and total == keys and allowed.shape[-1] == keys:
        return allowed[..., 0, :]
    return None
