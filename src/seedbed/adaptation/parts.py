"""Statistics of one attention call head by head, of all its rows and of its blocks of text and video."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from seedbed.acquisition.sampling import counted_rows, drawn_seed
from seedbed.attention import AttentionCall, row_statistics, sample_rows
from seedbed.attention.interventions import WHOLE
from seedbed.attention.logits import Logits

ALL = "all"
BLOCKS = ("text->text", "text->video", "video->text", "video->video")
"""Rows of the one that look at keys of the other."""

# Of a map that is shown: so many rows, evenly spaced, and so many columns, each a mean of keys.
_ROWS, _COLUMNS = 64, 128


def blocks_of(call: AttentionCall, video: slice) -> dict[str, Tensor]:
    """The places of text and of video in a call where it has both, by name; else none.

    Text is all that no noise changes: where a pipeline puts a given picture there, that (Wan 2.2 5B). A
    causal call counts as one: of which keys a row sees, its place among all rows decides.
    """
    total = call.query.shape[2]
    if video == WHOLE or total != call.key.shape[2] or call.causal:
        return {}
    places, inside = torch.arange(total), torch.zeros(total, dtype=torch.bool)
    inside[video] = True
    return {"text": places[~inside], "video": places[inside]}


def head_statistics(
    call: AttentionCall, video: slice, rows: int | None = None
) -> dict[str, dict[str, Tensor]]:
    """Part -> "entropy", "normalised_entropy" and, of blocks, "mass" -> (heads,) float64, means over rows.

    Parts are "all" and, where text and video share the sequence, the `BLOCKS`, whose entropies are those of
    rows re-normalised within the block; "mass" is what rows place there. With a row's mass m on the text, its
    entropy in all is `m H_text + (1 − m) H_video − m log m − (1 − m) log (1 − m)`, so that no row is looked
    at twice. Padding that the model masks counts neither as a row nor as a key.

    Args:
        call: of one candidate.
        video: the rows of the video, as `Layout.of` tells them.
        rows: how many to look at, of text and of video each, at random; None for all.
    """
    blocks, (total, every) = blocks_of(call, video), (call.query.shape[2], call.key.shape[2])
    mask = None if call.mask is None else call.mask.expand(*call.mask.shape[:-2], total, every)
    parts: dict[str, dict[str, Tensor]] = {}
    whole: dict[str, Tensor] = {}
    weights = torch.zeros(call.query.shape[1], dtype=torch.float64)
    for name, own in (blocks or {ALL: torch.arange(total)}).items():
        some = sample_rows(len(own), rows, drawn_seed(call, 0))
        places = own if some is None else own[some]
        halves = [
            row_statistics(
                call.query,
                call.key[:, :, keys],
                scale=call.scale,
                mask=None if mask is None else mask[..., keys],
                causal=call.causal,
                rows=places,
                powers=(),
            )
            for keys in (blocks or {ALL: torch.arange(every)}).values()
        ]
        # A row that may see nothing at all has no distribution: its masses are 0.
        mass = torch.stack([half.logsumexp.double() for half in halves]).softmax(0).nan_to_num(0.0)
        inner = torch.stack([half.entropy.double() for half in halves])
        entropy = (mass * inner).sum(0) - torch.xlogy(mass, mass).sum(0)
        keys = torch.stack([half.keys.double() for half in halves]).sum(0)
        values = {"entropy": entropy, "normalised_entropy": entropy / keys.clamp(min=2).log()}
        counted = counted_rows(call, entropy, places)
        means, share = _means(values, counted)
        weight = len(own) * share
        weights += weight
        for key, mean in means.items():
            whole[key] = whole.get(key, 0) + weight * mean
        for other, half, some_mass in zip(blocks, halves, mass, strict=False):
            values = {"entropy": half.entropy, "normalised_entropy": half.normalised_entropy}
            parts[f"{name}->{other}"] = _means({**values, "mass": some_mass}, counted)[0]
    return {ALL: {key: value / weights.clamp(min=1e-9) for key, value in whole.items()}, **parts}


def logits_of(call: AttentionCall, entry: int, rows: Tensor) -> Logits:
    """The logits of some rows of one entry of a call's batch."""
    pick, mask = slice(entry, entry + 1), call.mask
    if mask is not None and mask.ndim == 4 and len(mask) > 1:
        mask = mask[pick]
    return Logits(call.query[pick], call.key[pick], call.scale, mask, call.causal, rows)


def map_of(call: AttentionCall) -> tuple[Tensor, Tensor]:
    """A picture of a call's map, mean over heads: raw, and what is left above a threshold.

    64 of its rows at most and, of their keys, means of neighbours down to 128 columns; where frames or
    positions are folded into the batch, of the middle one. The threshold of each row is the probability of
    the last of the likeliest keys that together hold half of it.

    Returns:
        (rows, columns) float32 each: probabilities, and shares of keys that are kept.
    """
    total, heads = call.query.shape[2], call.query.shape[1]
    rows = torch.linspace(0, total - 1, min(total, _ROWS)).round().long()
    logits = logits_of(call, call.query.shape[0] // 2, rows)
    raw = torch.zeros(len(rows), logits.keys)
    for (_, _, at), block in logits.blocks(copies=3):
        raw[at] += block.softmax(-1).sum((0, 1)).float().cpu() / heads
    ranked, order = raw.sort(descending=True)
    before = ranked.cumsum(-1) - ranked
    kept = torch.zeros_like(raw).scatter(1, order, (before < 0.5).float())
    columns = min(logits.keys, _COLUMNS)
    return F.adaptive_avg_pool1d(raw[None], columns)[0], F.adaptive_avg_pool1d(kept[None], columns)[0]


def _means(values: dict[str, Tensor], counted: Tensor | None) -> tuple[dict[str, Tensor], Tensor]:
    """Means over the rows (batch, heads, rows) that count, (heads,) float64, and the share that does."""
    one = next(iter(values.values()))
    weight = torch.ones_like(one, dtype=torch.float64) if counted is None else counted.double()
    total = weight.sum((0, 2))
    means = {
        key: ((value.double() * weight).sum((0, 2)) / total.clamp(min=1)).cpu()
        for key, value in values.items()
    }
    return means, weight.mean((0, 2)).cpu()
