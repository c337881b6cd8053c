"""Statistics head by head against whole maps in float64."""

import dataclasses
import math

import pytest
import torch
from torch.nn import functional as F

from seedbed.adaptation.parts import ALL, BLOCKS, blocks_of, head_statistics, map_of
from seedbed.attention import Tap
from seedbed.attention.interventions import WHOLE

TEXT, VIDEO, HEADS = 5, 12, 3


class Attention(torch.nn.Module):
    def forward(self, query, key, mask=None):
        return F.scaled_dot_product_attention(query, key, key, attn_mask=mask)


def call_of(mask=None, tokens=TEXT + VIDEO, batch=1, keys=None):
    """A call of attention, float64."""
    draw = torch.Generator().manual_seed(0)
    query, key = (
        3 * torch.randn(batch, HEADS, n, 8, generator=draw, dtype=torch.float64)
        for n in (tokens, keys or tokens)
    )
    seen = []
    module = Attention()
    with Tap(module, seen.append):
        module(query, key, mask)
    return dataclasses.replace(seen[0], candidates=1, kind="joint" if keys is None else "cross")


def entropies(rows):
    return -torch.xlogy(rows, rows).sum(-1)


def maps_of(call):
    logits = call.query @ call.key.mT * call.scale
    if call.mask is not None:
        logits = logits.masked_fill(~call.mask, -math.inf)
    return logits.softmax(-1)


@pytest.mark.parametrize(
    "video",
    [slice(TEXT, None), slice(0, VIDEO), slice(2, 2 + VIDEO)],
    ids=["text first", "text last", "text on both sides"],
)
def test_the_four_blocks_are_those_of_the_map(video):
    call = call_of()
    whole = maps_of(call)[0]
    found = head_statistics(call, video)
    assert set(found) == {ALL, *BLOCKS}
    assert torch.allclose(found[ALL]["entropy"], entropies(whole).mean(-1), atol=1e-12)
    total = math.log(TEXT + VIDEO)
    assert torch.allclose(found[ALL]["normalised_entropy"], entropies(whole).mean(-1) / total, atol=1e-12)
    parts = blocks_of(call, video)
    for name in BLOCKS:
        rows, keys = (parts[one] for one in name.split("->"))
        block = whole[:, rows][:, :, keys]
        mass = block.sum(-1)
        own = entropies(block / mass[..., None]).mean(-1)
        assert torch.allclose(found[name]["entropy"], own, atol=1e-12)
        bound = math.log(len(keys))
        assert torch.allclose(found[name]["normalised_entropy"], own / bound, atol=1e-12)
        assert torch.allclose(found[name]["mass"], mass.mean(-1), atol=1e-12)


def test_the_masses_of_a_row_add_up_to_one():
    found = head_statistics(call_of(), slice(TEXT, None), rows=4)
    for one in ("text", "video"):
        masses = found[f"{one}->text"]["mass"] + found[f"{one}->video"]["mass"]
        assert torch.allclose(masses, torch.ones(HEADS, dtype=torch.float64), atol=1e-12)


def test_padding_is_neither_a_row_nor_a_key():
    """The last two tokens of the text are masked for all, as pipelines mask padding."""
    seen = torch.ones(TEXT + VIDEO, dtype=torch.bool)
    seen[TEXT - 2 : TEXT] = False
    call = call_of(seen.expand(1, 1, TEXT + VIDEO, -1))
    found = head_statistics(call, slice(TEXT, None))
    kept = maps_of(call)[0][:, seen][:, :, seen]
    assert torch.allclose(found[ALL]["entropy"], entropies(kept).mean(-1), atol=1e-12)
    text = kept[:, : TEXT - 2, : TEXT - 2]
    own = entropies(text / text.sum(-1, keepdim=True)).mean(-1)
    assert torch.allclose(found["text->text"]["entropy"], own, atol=1e-12)
    assert torch.allclose(found["text->text"]["normalised_entropy"], own / math.log(TEXT - 2), atol=1e-12)


def test_without_text_there_is_one_part():
    for call in (call_of(batch=2), call_of(keys=7, batch=2)):
        found = head_statistics(call, WHOLE)
        assert set(found) == {ALL}
        assert torch.allclose(found[ALL]["entropy"], entropies(maps_of(call)).mean((0, 2)), atol=1e-12)


def test_a_sample_of_rows_estimates_all_of_them():
    """Of 17 rows, 8; the mean over steps, which draw others, comes within its standard errors."""
    call = call_of()
    exact = head_statistics(call, slice(TEXT, None))[ALL]["entropy"]
    sampled = [
        head_statistics(dataclasses.replace(call, step=step), slice(TEXT, None), rows=4)[ALL]["entropy"]
        for step in range(200)
    ]
    found = torch.stack(sampled)
    error = found.std(0) / len(found) ** 0.5
    assert (error > 0).all() and ((found.mean(0) - exact).abs() < 4 * error).all()


def test_a_picture_of_a_map_keeps_half_of_each_row():
    call = call_of(batch=3)
    raw, kept = map_of(call)
    whole = maps_of(call)[1].mean(0)
    assert torch.allclose(raw.double(), whole, atol=1e-6)
    held = (whole * kept).sum(-1)
    least = torch.where(kept > 0, whole, math.inf).amin(-1)
    assert (held >= 0.5).all() and (held - least < 0.5 + 1e-6).all()
