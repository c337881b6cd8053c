"""The scaled logits of an attention call, made block by block: the only place where rows meet keys."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
from torch import Tensor

from seedbed.errors import BadInput

# A finite stand-in for minus infinity: exp() of it is 0, and 0 times it is 0 instead of NaN.
EXCLUDED = -1e30
# diffusers writes "masked" as -10000 (-9984 in bfloat16) where it adds the mask, others the dtype's minimum.
MASKED_FROM = -9000.0

# Entries of a block and its copies: few enough for a CPU's cache, enough to outweigh a GPU's kernel launch.
_BUDGET_CPU = 2**20
_BUDGET_ELSEWHERE = 2**26
# Fewer rows than this per block and reading the keys costs more than the products with them.
_LEAST_ROWS = 64


class Logits:
    """What one attention call compares, before its softmax.

    Half-precision queries and keys are multiplied in float32, since bfloat16 logits lose the third digit
    of every statistic; float64 stays float64.

    Args:
        query: (batch, heads, rows, width).
        key: (batch, kv_heads, keys, width), kv_heads dividing heads (grouped-query attention).
        scale: factor on the logits; None means 1 / sqrt(width).
        mask: bool (True attends) or additive float, broadcastable to (batch, heads, rows, keys). An additive
            value of -9000 or less excludes its key.
        causal: row i sees keys 0..i.
        rows: (n,) indices of the query rows wanted; None means all.

    Attributes:
        shape: (batch, heads, rows), the rows wanted.
        positions: (rows,) the index of each of them among all of the query's.
        keys: how many there are.
        masked: whether some may be excluded.
        dtype: of the logits, float64 or float32.

    Raises:
        BadInput: shapes that do not belong together, row indices out of range.
    """

    def __init__(
        self,
        query: Tensor,
        key: Tensor,
        scale: float | None = None,
        mask: Tensor | None = None,
        causal: bool = False,
        rows: Tensor | None = None,
    ) -> None:
        if query.dim() != 4 or key.dim() != 4:
            shapes = f"{tuple(query.shape)}, {tuple(key.shape)}"
            raise BadInput(f"query and key must be (batch, heads, tokens, width); got {shapes}")
        batch, heads, total, width = query.shape
        key_batch, kv_heads, keys, key_width = key.shape
        if (key_batch, key_width) != (batch, width) or not kv_heads or heads % kv_heads:
            raise BadInput(f"query {tuple(query.shape)} and key {tuple(key.shape)} do not belong together")
        if not keys:
            raise BadInput(f"query {tuple(query.shape)} attends to no key at all")
        if rows is not None:
            whole = rows.dim() == 1 and rows.dtype in (torch.int32, torch.int64)
            if not whole or not all(0 <= row < total for row in rows.tolist()):
                raise BadInput(f"rows must be a vector of indices below {total}")
            rows = rows.to(query.device)
        if mask is not None:
            full = (batch, heads, total, keys)
            try:
                mask = mask.expand(full)
            except RuntimeError:
                raise BadInput(f"mask {tuple(mask.shape)} does not broadcast to {full}") from None
        self.query, self.key, self.mask, self.causal, self.rows = query, key, mask, causal, rows
        self.scale = width**-0.5 if scale is None else scale
        self.dtype = torch.promote_types(query.dtype, torch.float32)
        self.positions = torch.arange(total, device=query.device) if rows is None else rows
        self.shape = (batch, heads, len(self.positions))
        self.keys = keys
        self.masked = causal or mask is not None
        self._shared = heads // kv_heads
        self._budget = _BUDGET_CPU if query.device.type == "cpu" else _BUDGET_ELSEWHERE

    def block(self, batch: slice, groups: slice, rows: slice) -> Tensor:
        """(batch, heads, rows, keys) of some batch entries, key heads and rows; EXCLUDED where masked."""
        heads = self._heads(groups)
        query = self._some_rows(self.query[batch, heads], rows).to(self.dtype)
        key = self.key[batch, groups].to(self.dtype).flatten(0, 1)
        # Heads that share a key stand below one another, so that keys are never repeated.
        stacked = query.reshape(len(key), -1, query.shape[3])
        logits = torch.baddbmm(key.new_zeros(1, 1, 1), stacked, key.mT, beta=0, alpha=self.scale)
        logits = logits.view(*query.shape[:3], self.keys)
        if self.mask is not None:
            mask = self._some_rows(self.mask[batch, heads], rows)
            if mask.dtype == torch.bool:
                logits = logits.masked_fill_(~mask, EXCLUDED)
            else:
                logits = logits.add_(mask).masked_fill_(mask <= MASKED_FROM, EXCLUDED)
        if self.causal:
            later = torch.arange(self.keys, device=query.device) > self.positions[rows, None]
            logits = logits.masked_fill_(later, EXCLUDED)
        return logits

    def _heads(self, groups: slice) -> slice:
        return slice(groups.start * self._shared, groups.stop * self._shared)

    def _some_rows(self, tensor: Tensor, rows: slice) -> Tensor:
        return tensor[:, :, rows] if self.rows is None else tensor.index_select(2, self.rows[rows])

    def rows_per_block(self, copies: int) -> int:
        """Rows of all batch entries and heads that fill a block, and at least 64.

        Args:
            copies: how many tensors of the size of the logits the caller makes at once.
        """
        batch, heads, total = self.shape
        return max(min(total, _LEAST_ROWS), self._budget // copies // max(1, batch * heads * self.keys))

    def blocks(
        self, copies: int, chunk: int | None = None
    ) -> Iterator[tuple[tuple[slice, slice, slice], Tensor]]:
        """Yields ((batch, heads, rows), logits) until everything was seen once; rows vary slowest.

        Args:
            copies: see `rows_per_block`.
            chunk: rows of a block; None chooses, so that the caller's copies of a block have at most 2^20
                entries on a CPU and 2^26 elsewhere, or 64 rows of the heads of one key if these have more.
        """
        batch, _, total = self.shape
        groups = self.key.shape[1]
        chunk = chunk or self.rows_per_block(copies)
        units = max(1, self._budget // copies // max(1, self._shared * min(chunk, total) * self.keys))
        for rows, entries, some in itertools.product(
            _slices(total, chunk), _slices(batch, max(1, units // groups)), _slices(groups, units)
        ):
            yield (entries, self._heads(some), rows), self.block(entries, some, rows)


def _slices(total: int, step: int) -> list[slice]:
    return [slice(first, min(first + step, total)) for first in range(0, total, step)]
