"""BANSA-D: the disagreement of whole forwards with dropout on their attention."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from seedbed.acquisition.base import AttentionScore
from seedbed.acquisition.sampling import drawn_seed, mean_over_rows
from seedbed.attention import AttentionCall
from seedbed.attention.logits import EXCLUDED, Logits
from seedbed.errors import fraction, whole

# Elements of one chunk of attention maps, 256 MB in float32: the map of a whole layer need not fit.
_CHUNK = 2**26


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
