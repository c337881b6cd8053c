"""BANSA, the disagreement of masked attention maps, of one forward or of several with dropout; entropy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from seedbed.acquisition.sampling import contributions, drawn_rows, drawn_seed, mean_over_rows
from seedbed.acquisition.scoring import AttentionScore
from seedbed.attention import AttentionCall, bansa_expected, bansa_masked, row_statistics
from seedbed.attention.logits import EXCLUDED, Logits
from seedbed.errors import BadInput, fraction, shown, whole

# The published depth of CogVideoX: 14 of 30 layers, 19 of 42.
DEPTH = 0.46
# Elements of one chunk of attention maps, 256 MB in float32: the map of a whole layer need not fit.
_CHUNK = 2**26


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
class BansaDropout(AttentionScore):
    """BANSA with Monte Carlo dropout (BANSA-D, arXiv 2505.17561): `masks` full forwards per candidate.

    As in `Bansa`, a row's score is the entropy of the mean map minus the mean entropy. Here the maps come
    from different forwards, so that what dropout did in earlier layers counts too. The paper leaves open, and
    this implementation chooses:

    - every scored layer gets dropout, the others are left alone; `layers` and `depth` say which;
    - the model continues with ordinary dropout, as in training: kept entries divided by `keep`, rows not
      re-normalised. The score needs distributions, so it re-normalises the same rows;
    - a row that would lose all its keys keeps them;
    - keep is 0.8: the paper's p = 0.2 read as a dropout rate. Dropping 80 % of the entries in every layer
      would leave little of what a model trained without dropout computes.

    All candidates meet the same masks, drawn on the model's device: they differ between kinds of device. Maps
    are computed in chunks of rows, for all copies at once: this is by far the costliest function here.

    Args:
        masks: forwards per candidate, at least 2.
        keep: the probability that an entry of the attention map is kept, in (0, 1].
        seed: of the masks. For `layers`, `depth`, `prefer` and `steps` see `AttentionScore`.

    Raises:
        BadInput: masks below 2, keep outside (0, 1]; and as `AttentionScore`.
    """

    name = "bansa-dropout"
    unit = "nats"

    masks: int = 10
    keep: float = 0.8
    seed: int = 0

    def __post_init__(self) -> None:
        whole("masks", self.masks, least=2)
        super().__post_init__()
        fraction("keep", self.keep)
        whole("seed", self.seed, least=0)

    @property
    def copies(self) -> int:  # type: ignore[override]
        return self.masks

    def attend(self, call: AttentionCall) -> tuple[Tensor, Tensor | None]:
        """Scores (candidates,) float64 in [0, log(masks)], and the output under dropout."""
        batch, heads, total, _ = call.query.shape
        call.by_candidate(call.query[:, :1, :1, :1])  # refuses a model that splits its batch
        logits = Logits(call.query, call.key, call.scale, call.mask, call.causal)
        value = call.value.repeat_interleave(heads // call.value.shape[1], 1).to(logits.dtype)
        # candidates, copies, and whatever else the layer folds into its batch
        split = (call.candidates // self.masks, self.masks, batch // call.candidates)
        generator = torch.Generator(call.query.device)
        generator.manual_seed(drawn_seed(call, self.seed))

        outputs, scores = [], []
        chunk = max(1, _CHUNK // (batch * heads * logits.keys))
        for start in range(0, total, chunk):
            rows = slice(start, min(start + chunk, total))
            block = logits.block(slice(0, batch), slice(0, call.key.shape[1]), rows)
            attends = ~(block <= EXCLUDED / 2).all(-1, keepdim=True)  # true of a row of NaN, which stays NaN
            maps = torch.where(attends, block.softmax(-1), 0.0).unflatten(0, split)
            # Rows first, so that the masks do not depend on how many rows a chunk has.
            shape = (rows.stop - start, self.masks, heads, logits.keys)
            kept = torch.rand(shape, generator=generator, device=block.device) < self.keep
            dropped = maps * kept.permute(1, 2, 0, 3)[None, :, None]
            dropped = torch.where(dropped.sum(-1, keepdim=True) > 0, dropped, maps)
            outputs.append((dropped / self.keep).flatten(0, 2) @ value)
            sums = dropped.sum(-1, keepdim=True)
            normalised = dropped / torch.where(sums > 0, sums, 1.0)
            mean_entropy = torch.special.entr(normalised).sum(-1).mean(1)
            scores.append(torch.special.entr(normalised.mean(1)).sum(-1) - mean_entropy)
        score = torch.cat(scores, -1)[:, None].expand(*split, heads, total).flatten(0, 2)
        of_copies = mean_over_rows(call, score).view(split[0], self.masks)
        return of_copies[:, 0], torch.cat(outputs, -2).to(call.query.dtype)


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
