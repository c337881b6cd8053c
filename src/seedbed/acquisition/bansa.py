"""BANSA, the disagreement of randomly masked attention maps, and the plain entropy of the maps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from seedbed.acquisition.base import AttentionScore
from seedbed.acquisition.sampling import contributions, drawn_rows, drawn_seed
from seedbed.attention import AttentionCall, bansa_expected, bansa_masked, row_statistics
from seedbed.errors import BadInput, fraction, shown, whole

# The published depth of CogVideoX: 14 of 30 layers, 19 of 42.
DEPTH = 0.46


@dataclass(frozen=True, kw_only=True)
class Bansa(AttentionScore):
    """Bayesian Active Noise Selection by Attention (arXiv 2505.17561).

    For each attention row, the entropy of the mean of `masks` randomly masked maps minus the mean of their
    entropies; averaged over rows and heads. The masks only score: the model continues with its own output.

    The defaults are the published method with its masks integrated out. It had no measured gain on our
    earlier models: calibrate before you rely on it (docs/earlier-models.md).

    Args:
        estimator: "expected" integrates the masks out (no randomness, no maps in memory);
            "masked" draws them, as the paper does.
        masks: K, at least 2.
        keep: the probability that a mask keeps an entry, in (0, 1].
        place: "probabilities" drops entries of the map and re-normalises the row (the paper's third
            version); "logits" sets logits to 0 (its first).
        rows: how many query rows per head are looked at, drawn for each layer and the same for every
            candidate; None, the default, means all. Noises differ by little more than chance, so that a
            sample chooses as all rows only where it is nearly all of them (docs/speed.md).
        seed: of the masks and of the sampled rows, both common to all candidates.
        depth: see `AttentionScore`; the published share of the layers by default. `layers`, `race`, `prefer`
            and `steps` are described there too (the paper tries 1, 25 and 50 steps).

    Raises:
        BadInput: an unknown estimator or place, masks below 2, keep outside (0, 1], rows below 1; and as
            `AttentionScore`.
    """

    name = "bansa"
    unit = "nats"

    estimator: Literal["expected", "masked"] = "expected"
    masks: int = 10
    keep: float = 0.2
    place: Literal["probabilities", "logits"] = "probabilities"
    rows: int | None = None
    seed: int = 0
    depth: int | float | None = DEPTH

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.estimator not in ("expected", "masked"):
            raise BadInput(f"estimator must be 'expected' or 'masked', not {shown(self.estimator)}")
        if self.place not in ("probabilities", "logits"):
            raise BadInput(f"place must be 'probabilities' or 'logits', not {shown(self.place)}")
        whole("masks", self.masks, least=2)
        fraction("keep", self.keep)
        whole("rows", self.rows, optional=True)
        whole("seed", self.seed, least=0)

    def observe(self, call: AttentionCall) -> Tensor:
        """(call.candidates, rows) float64, between 0 and log(masks)."""
        rows = drawn_rows(call, self.rows, self.seed)
        settings: dict[str, Any] = {
            "scale": call.scale,
            "mask": call.mask,
            "causal": call.causal,
            "masks": self.masks,
            "keep": self.keep,
            "place": self.place,
            "rows": rows,
        }
        if self.estimator == "expected":
            scores = bansa_expected(call.query, call.key, **settings)
        else:
            scores = bansa_masked(call.query, call.key, **settings, seed=drawn_seed(call, self.seed))
        return contributions(call, scores, rows)


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
        whole("rows", self.rows, optional=True)
        whole("seed", self.seed, least=0)

    def observe(self, call: AttentionCall) -> Tensor:
        """(call.candidates, rows) float64, between 0 and log(keys)."""
        rows = drawn_rows(call, self.rows, self.seed)
        statistics = row_statistics(
            call.query, call.key, scale=call.scale, mask=call.mask, causal=call.causal, rows=rows, powers=()
        )
        return contributions(call, statistics.entropy, rows)
