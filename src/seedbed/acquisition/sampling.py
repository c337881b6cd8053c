"""From a number per query row to a number per candidate, from all rows or from a sample of them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from seedbed.attention import AttentionCall, sample_rows
from seedbed.attention.logits import MASKED_FROM


def drawn_seed(call: AttentionCall, seed: int) -> int:
    """What is drawn differs between layers and evaluations, so that its noise averages out over both."""
    return seed * 1_000_003 + call.step * 10_007 + call.index


def drawn_rows(call: AttentionCall, count: int | None, seed: int) -> Tensor | None:
    """The query rows of this call to look at, common to all candidates; None stands for all."""
    return sample_rows(call.query.shape[-2], count, drawn_seed(call, seed))


def contributions(call: AttentionCall, values: Tensor, rows: Tensor | None = None) -> Tensor:
    """Each query row's part in `mean_over_rows`, which is their mean: (call.candidates, rows) float64.

    Where rows of padding do not count, a row's part is that of the linearised ratio: the spread of the parts
    is that of the mean.
    """
    counted = counted_rows(call, values, rows)
    if counted is None:
        return _by_candidate(call, values)
    kept = _by_candidate(call, torch.where(counted, values.double(), 0.0))
    weight = _by_candidate(call, counted)
    share = weight.mean(1, keepdim=True)
    mean = kept.mean(1, keepdim=True) / share
    return kept / share - mean * (weight / share - 1)


def mean_over_rows(call: AttentionCall, values: Tensor, rows: Tensor | None = None) -> Tensor:
    """The mean over heads and query rows, (batch, heads, rows) -> (call.candidates,) float64.

    Padding does not count: neither a row that may attend to nothing, nor, where a sequence attends to
    itself, a token that nobody may attend to.

    Args:
        values: one number for every query row of `call`, or for those in `rows`.
        rows: the indices of the sampled rows, (rows,).
    """
    return contributions(call, values, rows).mean(1)


def _by_candidate(call: AttentionCall, values: Tensor) -> Tensor:
    """(batch, heads, rows) -> (call.candidates, rows)."""
    call.by_candidate(values[:, :1, :1])  # refuses a model that splits its batch
    return values.double().reshape(call.candidates, -1, values.shape[-1]).mean(1)


def counted_rows(call: AttentionCall, values: Tensor, rows: Tensor | None) -> Tensor | None:
    """Which query rows are no padding: bool like `values`; None means all."""
    if call.mask is None:
        return None
    allowed = call.mask if call.mask.dtype == torch.bool else call.mask > MASKED_FROM
    allowed = allowed.reshape((1,) * (4 - allowed.dim()) + allowed.shape)
    counted = allowed.any(-1) if allowed.shape[-2] > 1 else None
    total, keys = call.query.shape[-2], call.key.shape[-2]
    if call.kind != "cross" and total == keys and allowed.shape[-1] == keys:
        attended = allowed.any(-2)
        counted = attended if counted is None else counted & attended
    if counted is not None and rows is not None:
        counted = counted[..., rows.to(counted.device)]
    return None if counted is None else counted.expand_as(values)


Sample = list[tuple[Tensor, int]]
"""The rows behind a candidate's scores: of each sampled layer (rows,) values, and how many rows it has."""


def confidence(order: Sequence[int], totals: Tensor, samples: Sequence[Sample]) -> float:
    """The chance that all rows would choose the same, by a union bound over the rivals of the first.

    Candidates are scored on the same rows, so what tells two of them apart is the mean of paired differences.
    Its standard error comes from their spread over the sampled rows, with the finite-population correction
    for rows drawn without replacement; layers, whose rows are drawn independently, add up.

    Args:
        order: candidates, best first.
        totals: (candidates,), each the sum of its scores over layers and evaluations.
        samples: for each candidate; 1.0 comes out where no rows were left out.
    """
    first = order[0]
    doubt = 0.0
    for rival in order[1:]:
        variance = 0.0
        for (ours, of), (theirs, _) in zip(samples[first], samples[rival], strict=True):
            rows = len(ours)
            spread = float((ours - theirs).var()) if rows > 1 else math.inf
            variance += spread / rows * (1 - rows / of)
        if variance:
            doubt += math.erfc(abs(float(totals[rival] - totals[first])) / math.sqrt(2 * variance)) / 2
    return max(0.0, 1 - doubt)
