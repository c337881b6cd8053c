"""Statistics of attention rows from their log-sum-exp, without ever holding a map of rows x keys.

A row of the map is `A = softmax(s)` over the keys it may see. With `M = max s`, `E = exp(s - M)` and
`Z = sum E`: log-sum-exp `M + log Z`, entropy `log Z - sum E (s - M) / Z`, power sums
`sum A^n = sum E^n / Z^n`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from seedbed.attention.logits import EXCLUDED, Logits
from seedbed.attention.tap import plain_arithmetic
from seedbed.errors import BadInput


@dataclass(frozen=True, slots=True)
class RowStatistics:
    """One number per attention row, each (batch, heads, rows); float64 if the query was, else float32.

    A row that may attend to no key has no distribution: its logsumexp is -inf and all else is 0, as is the
    output that attention gives it. `keys` tells such rows apart.

    Attributes:
        logsumexp: log of the softmax's normaliser.
        entropy: -sum A log A, in nats, between 0 and log(keys).
        normalised_entropy: entropy / log(keys), between 0 and 1 (arXiv 2504.12027 compares layers by it);
            0 for a row of one key.
        keys: the number of keys the row may attend to.
        powers: n -> sum A^n; powers[2] is the collision probability.
    """

    logsumexp: Tensor
    entropy: Tensor
    normalised_entropy: Tensor
    keys: Tensor
    powers: dict[int, Tensor]


def sample_rows(total: int, count: int | None, seed: int = 0) -> Tensor | None:
    """`count` of `total` row indices without replacement, sorted, (count,) int64; None stands for all rows.

    The same arguments give the same rows, so that candidates are compared on common rows. Every row is
    equally likely: a mean over sampled rows is an unbiased estimate of the mean over all.

    Raises:
        BadInput: count below 1.
    """
    if count is not None and count < 1:
        raise BadInput(f"the number of sampled rows must be at least 1, not {count}")
    if count is None or count >= total:
        return None
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(total, generator=generator)[:count].sort().values


@plain_arithmetic()
def row_statistics(
    query: Tensor,
    key: Tensor,
    *,
    scale: float | None = None,
    mask: Tensor | None = None,
    causal: bool = False,
    rows: Tensor | None = None,
    powers: Iterable[int] = (2,),
) -> RowStatistics:
    """Entropy, log-sum-exp and power sums of every attention row.

    Args:
        query: (batch, heads, rows, width).
        key: (batch, kv_heads, keys, width), kv_heads dividing heads.
        scale: factor on the logits; None means 1 / sqrt(width).
        mask: bool (True attends) or additive float, broadcastable to (batch, heads, rows, keys); an additive
            value of -9000 or less excludes its key.
        causal: row i sees keys 0..i.
        rows: (n,) indices of the rows wanted (see `sample_rows`); None means all.
        powers: the n of the power sums, each at least 1.

    Raises:
        BadInput: shapes that do not belong together, a power below 1.
    """
    powers = tuple(powers)
    if any(power < 1 for power in powers):
        raise BadInput(f"powers must be at least 1, not {powers}")
    logits = Logits(query, key, scale, mask, causal, rows)
    empty = torch.empty(logits.shape, dtype=logits.dtype, device=query.device)
    logsumexp, entropy, keys = empty, torch.empty_like(empty), torch.full_like(empty, logits.keys)
    sums = {power: torch.empty_like(empty) for power in powers}
    for at, block in logits.blocks(copies=3):
        if logits.masked:
            keys[at] = (~(block <= EXCLUDED / 2)).sum(-1).to(keys.dtype)  # NaN is no mask, and stays
        top = block.amax(-1, keepdim=True)
        below = block.sub_(top)
        weights = below.exp()
        normaliser = weights.sum(-1)
        logsumexp[at] = top.squeeze(-1) + normaliser.log()
        entropy[at] = normaliser.log() - below.mul_(weights).sum(-1) / normaliser
        for power in powers:
            sums[power][at] = weights.pow(power).sum(-1) / normaliser.pow(power)
    attends = keys > 0
    # Rounding may leave the entropy of a one-hot row a hair below zero, that of equal keys above its bound.
    entropy = torch.where(attends, torch.minimum(entropy.clamp_(min=0), keys.log()), 0)
    return RowStatistics(
        logsumexp=torch.where(attends, logsumexp, -torch.inf),
        entropy=entropy,
        normalised_entropy=entropy / torch.where(keys > 1, keys, 2).log(),
        keys=keys,
        powers={power: torch.where(attends, total, 0) for power, total in sums.items()},
    )


def energy(output: Tensor) -> Tensor:
    """Squared length of every row of an attention output.

    (batch, heads, rows, width) -> (batch, heads, rows). The energy of arXiv 2504.12027, `sum ((A V)_i)^2`;
    float64 if the output is, else float32.
    """
    return output.detach().to(torch.promote_types(output.dtype, torch.float32)).square().sum(-1)
