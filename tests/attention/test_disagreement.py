"""The masked score against slow float64 references written from its definition."""

import itertools
import math

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seedbed.attention import disagreement
from seedbed.attention.disagreement import bansa_masked, mask_uniforms
from seedbed.errors import BadInput
from tests.attention.blocks import blocks_of

PLACES = ("probabilities", "logits")


def logits_of(query, key, scale=None):
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    shared = query.shape[1] // key.shape[1]
    return scale * query.double() @ key.double().repeat_interleave(shared, 1).mT


def softmax(logits):
    weights = [math.exp(s - max(logits)) for s in logits]
    return [w / sum(weights) for w in weights]


def masked_row(logits, uniforms, keep, place):
    """One masked version of a row, as `disagreement` defines it; without the keys that the model masks."""
    if place == "logits":
        return softmax([s if u < keep else 0.0 for s, u in zip(logits, uniforms, strict=True)])
    first_kept = [math.floor(math.log1p(-u) / math.log1p(-keep)) if u >= keep else 0 for u in uniforms]
    chosen = [rounds == min(first_kept) for rounds in first_kept]
    kept = iter(softmax([s for s, c in zip(logits, chosen, strict=True) if c]))
    return [next(kept) if c else 0.0 for c in chosen]


def bald(rows):
    """Predictive entropy minus expected entropy of equally likely predictive distributions (Houlsby 2011)."""
    return scipy.stats.entropy(np.mean(rows, 0)) - np.mean([scipy.stats.entropy(row) for row in rows])


def mutual_information(rows):
    """The same quantity from the joint distribution of which mask and which key."""
    joint = np.asarray(rows) / len(rows)
    independent = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    return np.sum(joint[joint > 0] * np.log(joint[joint > 0] / independent[joint > 0]))


@given(
    seed=st.integers(0, 2**31),
    spread=st.sampled_from([0.1, 1.0, 5.0]),
    masks=st.integers(2, 6),
    keep=st.sampled_from([0.05, 0.2, 0.5, 0.9]),
    place=st.sampled_from(PLACES),
    masked=st.booleans(),
)
@settings(max_examples=25, deadline=None)
def test_the_score_is_bald_of_the_masked_rows(seed, spread, masks, keep, place, masked):
    generator = torch.Generator().manual_seed(seed)
    query = spread * torch.randn(2, 4, 3, 5, generator=generator, dtype=torch.float64)
    key = torch.randn(2, 2, 6, 5, generator=generator, dtype=torch.float64)
    mask = torch.rand(2, 1, 3, 6, generator=generator) < 0.6 if masked else None
    found = bansa_masked(query, key, mask=mask, masks=masks, keep=keep, place=place, seed=seed)
    logits = logits_of(query, key)
    for b, h, i in itertools.product(range(2), range(4), range(3)):
        keys = [j for j in range(6) if mask is None or mask[b, 0, i, j]]
        if not keys:
            assert found[b, h, i] == 0
            continue
        uniforms = mask_uniforms(seed, i, (masks, 4, 6), torch.Generator()).double()[:, h, keys].tolist()
        rows = [masked_row(logits[b, h, i, keys].tolist(), u, keep, place) for u in uniforms]
        assert found[b, h, i].item() == pytest.approx(bald(rows), abs=1e-9)
        assert found[b, h, i].item() == pytest.approx(mutual_information(rows), abs=1e-9)


@given(
    seed=st.integers(0, 2**31),
    spread=st.sampled_from([0.01, 1.0, 30.0]),
    masks=st.integers(2, 12),
    keep=st.floats(0.02, 1.0),
    place=st.sampled_from(PLACES),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
)
@settings(max_examples=60, deadline=None)
def test_scores_lie_between_0_and_log_k(seed, spread, masks, keep, place, dtype):
    generator = torch.Generator().manual_seed(seed)
    query = (spread * torch.randn(1, 2, 4, 8, generator=generator)).to(dtype)
    key = torch.randn(1, 2, 9, 8, generator=generator).to(dtype)
    found = bansa_masked(query, key, masks=masks, keep=keep, place=place, seed=seed)
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert found.min() >= 0
    assert found.max() <= math.log(masks) + 1e-6


@pytest.mark.parametrize("place", PLACES)
def test_equal_maps_score_0(place):
    query, key = 3 * torch.randn(2, 2, 4, 8), torch.randn(2, 2, 9, 8)
    assert bansa_masked(query, key, keep=1, place=place).abs().max() < 1e-6
    one_key = torch.zeros(4, 9, dtype=torch.bool)
    one_key[:, 5] = True
    assert bansa_masked(query, key, mask=one_key, place=place).abs().max() < 1e-6


@pytest.mark.parametrize("place", PLACES)
def test_masks_belong_to_head_and_row_and_to_nothing_else(place):
    query, key = 2 * torch.randn(5, 4, 12, 8), torch.randn(5, 2, 20, 8)
    mask = torch.rand(1, 1, 1, 20) < 0.8
    every = bansa_masked(query, key, mask=mask, place=place, seed=7)
    close = {"atol": 1e-6, "rtol": 1e-6}
    for chunk in (1, 5, 12):
        with blocks_of(chunk):
            again = bansa_masked(query, key, mask=mask, place=place, seed=7)
        assert torch.allclose(again, every, **close)
    rows = torch.tensor([11, 2, 3])
    some = bansa_masked(query, key, mask=mask, place=place, seed=7, rows=rows)
    assert torch.allclose(some, every[:, :, rows], **close)
    for batch in ([3], [4, 1], [2, 2, 0]):
        picked = bansa_masked(query[batch], key[batch], mask=mask, place=place, seed=7)
        assert torch.allclose(picked, every[batch], **close)
    assert not torch.allclose(bansa_masked(query, key, mask=mask, place=place, seed=8), every, atol=1e-3)
    # One row for all, so that only the masks differ between heads and rows.
    same = bansa_masked(query[:1, :1, :1].expand(1, 4, 12, 8), key[:1, :1], place=place)
    assert len(same.unique()) == same.numel()


@pytest.mark.parametrize("place", PLACES)
def test_the_order_of_masks_and_heads_does_not_matter(place, monkeypatch):
    query, key = 2 * torch.randn(2, 4, 6, 8), torch.randn(2, 4, 15, 8)
    every = bansa_masked(query, key, place=place)
    monkeypatch.setattr(disagreement, "mask_uniforms", lambda *arguments: mask_uniforms(*arguments).flip(0))
    assert torch.allclose(bansa_masked(query, key, place=place), every, atol=1e-6)
    heads = torch.tensor([2, 0, 3, 1])
    monkeypatch.setattr(disagreement, "mask_uniforms", lambda *arguments: mask_uniforms(*arguments)[:, heads])
    swapped = bansa_masked(query[:, heads], key[:, heads], place=place)
    assert torch.allclose(swapped, every[:, heads], atol=1e-6)


def test_masks_keep_at_least_one_key_and_follow_the_conditional_law():
    keep, keys, draws = 0.2, 3, 40_000
    logits = torch.tensor([1.0, 2.0, 0.5])
    row = logits.softmax(-1).expand(1, 1, draws, keys)
    uniform = torch.rand(1, draws, keys, generator=torch.Generator().manual_seed(0))
    masked = disagreement._masked_row(row, logits.expand_as(row), uniform, keep)[0, 0]
    assert torch.allclose(masked.sum(-1), torch.ones(draws))
    code = ((masked > 0) * torch.tensor([1, 2, 4])).sum(-1)
    for kept in range(8):
        size = bin(kept).count("1")
        chance = keep**size * (1 - keep) ** (keys - size) / (1 - (1 - keep) ** keys) if size else 0.0
        seen = (code == kept).float().mean().item()
        assert abs(seen - chance) <= 4 * math.sqrt(chance * (1 - chance) / draws)


def test_kept_keys_may_be_far_below_the_dropped():
    # Probabilities of e^-200 are 0 in float32, and so is the sum of the kept where the first key is dropped.
    query, key = torch.tensor([[[[200.0]]]]), torch.tensor([[[[0.0], [-1.0], [-1.0]]]])
    found = bansa_masked(query, key, scale=1.0, masks=50, keep=0.3)
    exact = bansa_masked(query.double(), key.double(), scale=1.0, masks=50, keep=0.3)
    assert found.item() == pytest.approx(exact.item(), abs=1e-6)
    assert 0 < found.item() < math.log(3)


def test_kept_keys_may_be_just_above_nothing():
    # Probabilities of e^-103 are one quantum of float32, whatever the difference between them.
    query, key = torch.ones(1, 1, 1, 1), torch.tensor([[[[0.0], [-102.8], [-103.4]]]])
    for gap in (0, 1, 2):
        options = {"scale": 1.0, "masks": 50, "keep": 0.3, "seed": gap}
        found = bansa_masked(query, key, **options)
        exact = bansa_masked(query.double(), key.double(), **options)
        assert found.item() == pytest.approx(exact.item(), abs=1e-5)


def test_masks_are_made_for_a_few_rows_at_once(monkeypatch):
    """As many as fit: those of long rows, many heads and many masks are far larger than the rows."""
    query, key = torch.randn(1, 2, 64, 8), torch.randn(1, 2, 256, 8)
    every = bansa_masked(query, key, masks=8)
    stacked, stack = [], torch.stack
    monkeypatch.setattr(disagreement, "_MASKS", 5 * 8 * 2 * 256)
    monkeypatch.setattr(torch, "stack", lambda some, *place: stacked.append(len(some)) or stack(some, *place))
    again = bansa_masked(query, key, masks=8)
    assert stacked == [5] * 12 + [4]
    assert torch.allclose(again, every, atol=1e-6)


def test_keys_masked_by_the_model_stay_out():
    query, key = 2 * torch.randn(1, 2, 5, 8), torch.randn(1, 2, 12, 8)
    mask = torch.ones(12, dtype=torch.bool)
    mask[9:] = False
    additive = torch.where(mask, 0.0, -10000.0)
    for place in PLACES:
        found = bansa_masked(query, key, mask=mask, place=place)
        assert torch.allclose(found, bansa_masked(query, key, mask=additive, place=place), atol=1e-6)
        # What the masked keys hold must not matter.
        other = torch.cat([key[:, :, :9], 100 * torch.randn(1, 2, 3, 8)], 2)
        assert torch.allclose(found, bansa_masked(query, other, mask=mask, place=place), atol=1e-6)


@pytest.mark.parametrize("place", PLACES)
def test_what_is_not_finite_stays_so(place):
    query, key = torch.randn(1, 1, 2, 4), torch.randn(1, 1, 3, 4)
    query[0, 0, 1, 2] = torch.nan
    for mask in (None, torch.ones(2, 3, dtype=torch.bool)):
        assert bansa_masked(query, key, mask=mask, place=place)[0, 0].isnan().tolist() == [False, True]


@pytest.mark.parametrize("function", [disagreement.bansa_masked, disagreement.bansa_expected])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"masks": 1}, "at least 2"),
        ({"keep": 0}, r"\(0, 1\], not 0"),
        ({"keep": 1.5}, r"\(0, 1\], not 1.5"),
        ({"keep": math.nan}, r"\(0, 1\], not nan"),
        ({"place": "values"}, "'probabilities' or 'logits'"),
    ],
)
def test_bad_options_are_one_line(function, options, message):
    query = torch.randn(1, 1, 3, 4)
    with pytest.raises(BadInput, match=message) as caught:
        function(query, query, **options)
    assert "\n" not in str(caught.value)
