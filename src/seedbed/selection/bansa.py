"""BANSA: the disagreement of randomly masked attention maps, and its reversal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from seedbed.attention.disagreement import bansa_expected, bansa_masked
from seedbed.attention.tap import AttentionCall
from seedbed.errors import BadInput
from seedbed.selection.acquisitions import Acquisition, fraction, positive
from seedbed.selection.rows import ROWS, contributions, drawn_rows, drawn_seed


@dataclass(frozen=True)
class Bansa(Acquisition):
    """Bayesian Active Noise Selection by Attention (arXiv 2505.17561).

    For each attention row, the entropy of the mean of `masks` randomly masked maps minus the mean of their
    entropies; averaged over rows and heads. The masks only score: the model continues with its own output.

    Args:
        estimator: "expected" integrates the masks out (no randomness, no maps in memory);
            "masked" draws them, as the paper does.
        masks: K, at least 2.
        keep: the probability that a mask keeps an entry, in (0, 1].
        place: "probabilities" drops entries of the map and re-normalises the row (the paper's third
            version); "logits" sets logits to 0 (its first).
        rows: how many query rows per head are looked at, drawn for each layer and the same for every
            candidate; None means all, as in a model with no more of them. Without a race, candidates that
            these do not tell apart are scored again with more.
        seed: of the masks and of the sampled rows, both common to all candidates.
        steps: the mean over this many denoiser evaluations (the paper tries 1, 25 and 50).

    Raises:
        BadInput: an unknown estimator or place, masks below 2, keep outside (0, 1], rows or steps below 1.
    """

    name = "bansa"
    unit = "nats"

    estimator: Literal["expected", "masked"] = "expected"
    masks: int = 10
    keep: float = 0.2
    place: Literal["probabilities", "logits"] = "probabilities"
    rows: int | None = ROWS
    seed: int = 0
    steps: int = 1

    def __post_init__(self) -> None:
        if self.estimator not in ("expected", "masked"):
            raise BadInput(f"estimator must be 'expected' or 'masked', not {self.estimator!r}")
        if self.place not in ("probabilities", "logits"):
            raise BadInput(f"place must be 'probabilities' or 'logits', not {self.place!r}")
        positive("masks", self.masks, least=2)
        fraction("keep", self.keep)
        if self.rows is not None:
            positive("rows", self.rows)
        positive("steps", self.steps)
        positive("seed", self.seed, least=0)

    def by_row(self, call: AttentionCall) -> Tensor:
        """(call.candidates, rows) float64, between 0 and log(masks)."""
        rows = drawn_rows(call, self.rows, self.seed)
        if self.estimator == "expected":
            scores = bansa_expected(
                call.query,
                call.key,
                scale=call.scale,
                mask=call.mask,
                causal=call.causal,
                masks=self.masks,
                keep=self.keep,
                place=self.place,
                rows=rows,
            )
        else:
            scores = bansa_masked(
                call.query,
                call.key,
                scale=call.scale,
                mask=call.mask,
                causal=call.causal,
                masks=self.masks,
                keep=self.keep,
                place=self.place,
                rows=rows,
                seed=drawn_seed(call, self.seed),
            )
        return contributions(call, scores, rows)


@dataclass(frozen=True)
class Reversed(Bansa):
    """BANSA at its other end: the candidate with the highest score (the paper's control)."""

    name = "reversed"
    prefer = "high"
