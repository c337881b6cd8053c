"""Plain entropy of the attention maps."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from seedbed.acquisition.base import AttentionScore, whole
from seedbed.acquisition.sampling import contributions, drawn_rows
from seedbed.attention import AttentionCall, row_statistics


@dataclass(frozen=True, kw_only=True)
class Entropy(AttentionScore):
    """Mean entropy of the attention rows, in nats; low entropy is sharp attention.

    One of the acquisition functions that ANSE compares (arXiv 2505.17561), which minimises it as it does
    BANSA: low is better unless `prefer` says otherwise.

    Args:
        rows: how many query rows per head are looked at, as in `Bansa`; None means all.
        seed: of the sampled rows. For `layers`, `depth`, `race`, `prefer` and `steps` see `AttentionScore`.

    Raises:
        BadInput: rows below 1; and as `AttentionScore`.
    """

    name = "entropy"
    unit = "nats"

    rows: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rows is not None:
            whole("rows", self.rows)
        whole("seed", self.seed, least=0)

    def observe(self, call: AttentionCall) -> Tensor:
        """(call.candidates, rows) float64, between 0 and log(keys)."""
        rows = drawn_rows(call, self.rows, self.seed)
        statistics = row_statistics(
            call.query, call.key, scale=call.scale, mask=call.mask, causal=call.causal, rows=rows, powers=()
        )
        return contributions(call, statistics.entropy, rows)
