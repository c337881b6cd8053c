"""BANSA: how much randomly masked versions of an attention row disagree (arXiv 2505.17561, v3, section 3).

Given K random masks of a row, `score = H(mean of the masked rows) - mean of their entropies`: the BALD score
of active learning, a Jensen-Shannon divergence between 0 and log K. `bansa_masked` draws the masks,
`bansa_expected` computes what their scores average to, without any.

Two readings of "masking" are offered, since versions of the paper differ. place="probabilities": an entry
is kept with probability `keep` and the row re-normalised over its kept keys. place="logits": a dropped
entry's logit becomes 0. Keys that the model itself masks stay excluded in both.

A mask that drops every key of a row leaves no distribution. Masks on the probabilities are therefore drawn
conditional on keeping at least one key, which matters only for rows with few keys (with keep = 0.2, half of
all masks would empty a row of three).
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from seedbed.attention.expectation import expected_of_logits, expected_of_probabilities
from seedbed.attention.logits import EXCLUDED, Logits
from seedbed.attention.tap import plain_arithmetic
from seedbed.errors import BadInput, shown

Place = Literal["probabilities", "logits"]

# Entries of the masks of some rows, which all batch entries share.
_MASKS = 2**25


@plain_arithmetic()
def bansa_masked(
    query: Tensor,
    key: Tensor,
    *,
    scale: float | None = None,
    mask: Tensor | None = None,
    causal: bool = False,
    masks: int = 10,
    keep: float = 0.2,
    place: Place = "probabilities",
    rows: Tensor | None = None,
    seed: int = 0,
) -> Tensor:
    """The score of every attention row under `masks` random masks: the definition, as it stands.

    The masks of a row depend on `seed`, the row's index, the head and the number of keys, and on nothing
    else: all batch entries share them, whatever the batch size and `rows`. They are drawn on the
    query's device, and a CPU draws others than a GPU.

    Args:
        query: (batch, heads, rows, width).
        key: (batch, kv_heads, keys, width), kv_heads dividing heads.
        scale: factor on the logits; None means 1 / sqrt(width).
        mask: the model's own: bool (True attends) or additive float, broadcastable to
            (batch, heads, rows, keys).
        causal: row i sees keys 0..i.
        masks: K, at least 2.
        keep: probability that a mask keeps an entry, in (0, 1].
        place: where the mask acts, see the module.
        rows: (n,) indices of the rows wanted; None means all.
        seed: of the masks.

    Returns:
        (batch, heads, rows) in nats, float64 if the query is, else float32. A row that may attend to no
        key scores 0.

    Raises:
        BadInput: masks below 2, keep outside (0, 1], an unknown place, shapes that do not belong together.
    """
    _check(masks, keep, place)
    logits = Logits(query, key, scale, mask, causal, rows)
    scores = torch.empty(logits.shape, dtype=logits.dtype, device=query.device)
    generator = torch.Generator(query.device)
    shape = (masks, query.shape[1], logits.keys)
    chunk = min(logits.rows_per_block(copies=4 + masks), max(1, _MASKS // math.prod(shape)))
    positions = logits.positions.tolist()
    uniform, drawn_for = torch.empty(0), slice(0)
    for at, block in logits.blocks(4, chunk):
        _, heads, some = at
        if some != drawn_for:
            uniform = torch.stack([mask_uniforms(seed, row, shape, generator) for row in positions[some]], 2)
            drawn_for = some
        total = torch.zeros_like(block)
        entropies = torch.zeros(block.shape[:-1], dtype=torch.float64, device=block.device)
        probabilities = block.softmax(-1) if place == "probabilities" else block
        for each in uniform[:, heads]:
            if place == "probabilities":
                masked = _masked_row(probabilities, block, each, keep)
            else:
                dropped = (each >= keep) & (block > EXCLUDED / 2)
                masked = torch.where(dropped, 0, block).softmax(-1)
            entropies += torch.special.entr(masked).sum(-1, dtype=torch.float64)
            total += masked
        score = torch.special.entr(total / masks).sum(-1, dtype=torch.float64) - entropies / masks
        if logits.masked:
            score = score.masked_fill_((block <= EXCLUDED / 2).all(-1), 0)
        # Jensen's inequality bounds the score by 0; rounding does not know it.
        scores[at] = score.clamp_(min=0).to(scores.dtype)
    return scores


def _masked_row(probabilities: Tensor, logits: Tensor, uniform: Tensor, keep: float) -> Tensor:
    """Rows re-normalised over the keys a mask keeps; uniform (heads, rows, keys) decides which."""
    kept = probabilities * (uniform < keep)
    normaliser = kept.sum(-1, keepdim=True)
    masked = kept / normaliser
    # Below the smallest normal number the kept probabilities have lost their digits, if they are not all 0.
    empty = normaliser.squeeze(-1) < torch.finfo(kept.dtype).tiny
    if empty.any():
        # In how many-th round of drawing would each key first be kept? Those of the earliest round are what
        # a mask redrawn until it keeps something keeps. Logits, for what it keeps may have underflowed.
        uniform = uniform.expand_as(logits)[empty]
        left = logits[empty]
        rounds = (torch.log1p(-uniform) / math.log1p(-keep)).floor_()
        rounds = torch.where(left > EXCLUDED / 2, rounds, torch.inf)
        earliest = rounds == rounds.amin(-1, keepdim=True)
        masked[empty] = torch.where(earliest, left, -torch.inf).softmax(-1)
    return masked


def mask_uniforms(seed: int, row: int, shape: tuple[int, int, int], generator: torch.Generator) -> Tensor:
    """(masks, heads, keys) uniforms in [0, 1) that belong to one row: a mask keeps what lies below `keep`."""
    # The finaliser of SplitMix64: the seeds of near rows must not make their masks alike.
    x = (seed * 0x9E3779B97F4A7C15 + (row + 1) * 0xD1B54A32D192ED03) % 2**64
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
    generator.manual_seed((x ^ (x >> 31)) >> 1)
    return torch.rand(shape, generator=generator, device=generator.device, dtype=torch.float32)


@plain_arithmetic()
def bansa_expected(
    query: Tensor,
    key: Tensor,
    *,
    scale: float | None = None,
    mask: Tensor | None = None,
    causal: bool = False,
    masks: int = 10,
    keep: float = 0.2,
    place: Place = "probabilities",
    rows: Tensor | None = None,
) -> Tensor:
    """The expectation of `bansa_masked` over its masks, computed without drawing any.

    Takes the arguments of `bansa_masked`, less `seed`, and returns the same shape. docs/bansa.md derives it
    and shows its error against drawn masks.

    Raises:
        BadInput: as `bansa_masked`.
    """
    _check(masks, keep, place)
    logits = Logits(query, key, scale, mask, causal, rows)
    scores = torch.zeros(logits.shape, dtype=logits.dtype, device=query.device)
    expected = expected_of_probabilities if place == "probabilities" else expected_of_logits
    for at, block in logits.blocks(copies=4):
        if keep > 1 - 1e-6 or logits.keys == 1:  # all masks agree; what is not finite stays so
            scores[at] = block.sum(-1) * 0
            continue
        shape, block = block.shape[:-1], block.flatten(0, -2)
        excluded = block <= EXCLUDED / 2 if logits.masked else None
        score = expected(block, excluded, masks, keep).clamp_(min=0)
        if excluded is not None:
            # In rows of one key, too, all masks agree, and quadrature would only come close.
            score = torch.where((~excluded).sum(-1) <= 1, score * 0, score)
        scores[at] = score.view(shape)
    return scores


def _check(masks: int, keep: float, place: str) -> None:
    if masks < 2:
        raise BadInput(f"masks must be at least 2 (one mask agrees with itself), not {masks}")
    if not 0 < keep <= 1:
        raise BadInput(f"keep must lie in (0, 1], not {keep}")
    if place not in ("probabilities", "logits"):
        raise BadInput(f"place must be 'probabilities' or 'logits', not {shown(place)}")
