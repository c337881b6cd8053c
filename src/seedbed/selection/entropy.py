"""Plain entropy of the attention maps."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from seedbed.attention.rows import row_statistics
from seedbed.attention.tap import AttentionCall
from seedbed.selection.acquisitions import Acquisition, positive
from seedbed.selection.rows import ROWS, contributions, drawn_rows


@dataclass(frozen=True)
class Entropy(Acquisition):
    """Mean entropy of the attention rows, in nats; low entropy is sharp attention.

    One of the acquisition functions that ANSE compares (arXiv 2505.17561), which minimises it as it does
    BANSA: low is better unless `prefer` says otherwise.

    Args:
        rows: how many query rows per head are looked at, as in `Bansa`; None means all.
        seed: of the sampled rows.
        steps: the mean over this many denoiser evaluations.

    Raises:
        BadInput: rows or steps below 1.
    """

    name = "entropy"
    unit = "nats"

    rows: int | None = ROWS
    seed: int = 0
    steps: int = 1

    def __post_init__(self) -> None:
        if self.rows is not None:
            positive("rows", self.rows)
        positive("steps", self.steps)
        positive("seed", self.seed, least=0)

    def by_row(self, call: AttentionCall) -> Tensor:
        """(call.candidates, rows) float64, between 0 and log(keys)."""
        rows = drawn_rows(call, self.rows, self.seed)
        statistics = row_statistics(
            call.query, call.key, scale=call.scale, mask=call.mask, causal=call.causal, rows=rows, powers=()
        )
        return contributions(call, statistics.entropy, rows)
