"""Row statistics against slow float64 references written from the definitions."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from seedbed.attention.disagreement import bansa_expected, bansa_masked
from seedbed.attention.rows import energy, row_statistics, sample_rows
from seedbed.errors import BadInput
from tests.attention.blocks import blocks_of


def attention_rows(query, key, scale, mask, causal):
    """Yields (batch, head, row, {key: probability}): softmax over the keys a row may see, in plain Python."""
    query, key = query.double().tolist(), key.double().tolist()
    for b, heads in enumerate(query):
        shared = len(heads) // len(key[b])
        for h, rows in enumerate(heads):
            for i, q in enumerate(rows):
                logits = {}
                for j, k in enumerate(key[b][h // shared]):
                    extra = 0.0
                    if mask is not None:
                        entry = mask.expand(len(query), len(heads), len(rows), -1)[b, h, i, j].item()
                        if entry is False or (entry is not True and entry <= -9000):
                            continue
                        extra = 0.0 if entry is True else entry
                    if causal and j > i:
                        continue
                    logits[j] = scale * sum(x * y for x, y in zip(q, k, strict=True)) + extra
                top = max(logits.values(), default=0.0)
                total = sum(math.exp(s - top) for s in logits.values())
                yield b, h, i, {j: math.exp(s - top) / total for j, s in logits.items()}, logits


@st.composite
def calls(draw):
    """A float64 attention call: grouped heads, a mask of either kind or none, causal or not."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    batch, groups, shared = draw(st.integers(1, 2)), draw(st.integers(1, 2)), draw(st.integers(1, 3))
    rows, keys = draw(st.integers(1, 5)), draw(st.integers(1, 6))
    query = draw(st.sampled_from([0.1, 1.0, 6.0])) * torch.randn(
        batch, groups * shared, rows, 3, generator=generator, dtype=torch.float64
    )
    key = torch.randn(batch, groups, keys, 3, generator=generator, dtype=torch.float64)
    kind = draw(st.sampled_from(["none", "bool", "additive"]))
    mask = None
    if kind != "none":
        shape = draw(st.sampled_from([(keys,), (rows, keys), (batch, 1, 1, keys), (batch, 1, rows, keys)]))
        mask = torch.rand(shape, generator=generator) < 0.7
        if kind == "additive":
            mask = torch.where(mask, torch.randn(shape, generator=generator, dtype=torch.float64), -10000.0)
    return query, key, mask, draw(st.booleans())


@given(calls(), st.sampled_from([None, 0.3]), st.sampled_from([None, 1, 2]))
@settings(max_examples=60, deadline=None)
def test_the_definitions_hold(call, scale, chunk):
    query, key, mask, causal = call
    with blocks_of(chunk):
        found = row_statistics(query, key, scale=scale, mask=mask, causal=causal, powers=(2, 5))
    assert found.entropy.dtype == torch.float64
    used = scale if scale is not None else query.shape[-1] ** -0.5
    for b, h, i, row, logits in attention_rows(query, key, used, mask, causal):
        at = (b, h, i)
        entropy = -sum(p * math.log(p) for p in row.values() if p > 0)
        assert found.keys[at] == len(row)
        assert found.entropy[at] == pytest.approx(entropy, abs=1e-9)
        assert found.normalised_entropy[at] == pytest.approx(entropy / math.log(max(2, len(row))), abs=1e-9)
        for power in (2, 5):
            assert found.powers[power][at] == pytest.approx(sum(p**power for p in row.values()), abs=1e-9)
        expected = np.logaddexp.reduce(list(logits.values())) if logits else -math.inf
        assert found.logsumexp[at] == pytest.approx(expected, abs=1e-9)


def test_a_row_without_keys_is_told_apart():
    query, key = torch.randn(1, 1, 2, 4), torch.randn(1, 1, 3, 4)
    mask = torch.tensor([[True, False, True], [False, False, False]])
    found = row_statistics(query, key, mask=mask)
    assert found.keys[0, 0].tolist() == [2, 0]
    assert found.logsumexp[0, 0, 1] == -math.inf
    assert found.entropy[0, 0, 1] == found.normalised_entropy[0, 0, 1] == found.powers[2][0, 0, 1] == 0


def test_an_additive_mask_excludes_from_9000_below():
    query, mask = torch.randn(1, 1, 4, 8), torch.tensor([0.0, -8999.0, -9000.0, -torch.inf])
    assert (row_statistics(query, query, mask=mask).keys == 2).all()


def test_entropy_never_leaves_its_bounds():
    """Nearly equal keys and nearly one-hot rows, where rounding would."""
    query, key = torch.randn(2, 4, 60, 8), torch.randn(2, 4, 17, 8)
    for scale in (0.0, 1e-4, 1e-2, 1e2, 1e4):
        found = row_statistics(query, key, scale=scale)
        assert found.entropy.min() >= 0
        assert found.normalised_entropy.max() <= 1


@pytest.mark.parametrize("masked", [False, True])
def test_what_is_not_finite_stays_so(masked):
    query, key = torch.randn(1, 1, 2, 4), torch.randn(1, 1, 3, 4)
    query[0, 0, 1, 2] = torch.nan
    mask = torch.ones(2, 3, dtype=torch.bool) if masked else None
    found = row_statistics(query, key, mask=mask)
    assert found.entropy[0, 0].isnan().tolist() == [False, True]
    assert found.powers[2][0, 0].isnan().tolist() == [False, True]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype):
    query, key = torch.randn(2, 2, 40, 64).to(dtype), torch.randn(2, 2, 300, 64).to(dtype)
    found = row_statistics(query, key)
    exact = row_statistics(query.double(), key.double())
    assert found.entropy.dtype == torch.float32
    # Logits in bfloat16 would err in the third digit.
    assert (found.entropy - exact.entropy).abs().max() < 2e-5
    assert (found.powers[2] / exact.powers[2] - 1).abs().max() < 2e-5


def test_sampled_rows_are_those_rows():
    query, key, mask = torch.randn(2, 4, 30, 8), torch.randn(2, 2, 20, 8), torch.rand(2, 1, 30, 20) < 0.8
    rows = sample_rows(30, 7, seed=3)
    for causal in (False, True):
        every = row_statistics(query, key, mask=mask, causal=causal)
        with blocks_of(2):
            some = row_statistics(query, key, mask=mask, causal=causal, rows=rows)
        assert torch.allclose(some.entropy, every.entropy[:, :, rows], atol=1e-6)
        assert torch.equal(some.keys, every.keys[:, :, rows])


def test_the_mean_over_sampled_rows_is_unbiased():
    values = torch.randn(23, dtype=torch.float64).exp()
    draws = torch.stack([values[sample_rows(23, 5, seed=seed)].mean() for seed in range(3000)])
    error = draws.std() / math.sqrt(len(draws))
    assert abs(draws.mean() - values.mean()) < 4 * error
    picked = torch.cat([sample_rows(23, 5, seed=seed) for seed in range(3000)])
    chance = 5 / 23
    spread = math.sqrt(3000 * chance * (1 - chance))
    assert (picked.bincount(minlength=23) - 3000 * chance).abs().max() < 5 * spread


def test_sampling_is_sorted_without_replacement_and_repeatable():
    rows = sample_rows(1000, 50, seed=1)
    assert torch.equal(rows, rows.unique())
    assert len(rows) == 50
    assert torch.equal(rows, sample_rows(1000, 50, seed=1))
    assert not torch.equal(rows, sample_rows(1000, 50, seed=2))
    assert sample_rows(10, None) is None
    assert sample_rows(10, 10) is None
    with pytest.raises(BadInput, match="at least 1"):
        sample_rows(10, 0)


def test_energy_is_the_squared_length_of_each_row():
    output = torch.randn(2, 3, 5, 7)
    for dtype, wide in ((torch.bfloat16, torch.float32), (torch.float64, torch.float64)):
        found = energy(output.to(dtype))
        assert found.dtype == wide
        assert torch.allclose(found.double(), output.to(dtype).double().square().sum(-1), rtol=1e-6)


def test_bad_shapes_are_one_line():
    query, key = torch.randn(1, 4, 5, 8), torch.randn(1, 4, 6, 8)
    for arguments, message in (
        ((query, key[..., :4]), "do not belong together"),
        ((query, key[:, :3]), "do not belong together"),
        ((query, key[:, :, :0]), "attends to no key at all"),
        ((query[0], key), "must be"),
    ):
        with pytest.raises(BadInput, match=message):
            row_statistics(*arguments)
    for options, message in (
        ({"rows": torch.tensor([0, 5])}, "below 5"),
        ({"rows": torch.tensor([0, -1])}, "below 5"),
        ({"rows": torch.tensor([[0, 1]])}, "below 5"),
        ({"rows": torch.tensor([True, False])}, "below 5"),
        ({"rows": torch.tensor([0.0, 1.0])}, "below 5"),
        ({"mask": torch.ones(5, 7)}, r"does not broadcast to \(1, 4, 5, 6\)"),
        ({"powers": (0,)}, "powers"),
    ):
        with pytest.raises(BadInput, match=message) as caught:
            row_statistics(query, key, **options)
        assert "\n" not in str(caught.value)


class LargestTensor(TorchDispatchMode):
    """Records how many entries the largest tensor has that any operation makes."""

    entries = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for each in made if isinstance(made, (tuple, list)) else (made,):
            if isinstance(each, torch.Tensor):
                self.entries = max(self.entries, each.untyped_storage().nbytes() // each.element_size())
        return made


@pytest.mark.parametrize(
    ("function", "tokens"),
    [
        (row_statistics, 2048),
        (bansa_expected, 2048),
        (lambda q, k: bansa_expected(q, k, place="logits"), 2048),
        (lambda q, k: bansa_masked(q[:, :, :2048], k, masks=2, rows=torch.arange(0, 2048, 64)), 2048),
    ],
    ids=["statistics", "expected", "expected logits", "masked"],
)
def test_nothing_as_large_as_a_map_is_ever_made(function, tokens):
    query, key = torch.randn(1, 2, tokens, 8), torch.randn(1, 2, tokens, 8)
    with LargestTensor() as largest:
        function(query, key)
    assert 2 * tokens * 8 <= largest.entries < tokens * tokens / 4


def test_nothing_is_recorded_for_gradients():
    query = torch.randn(1, 1, 3, 4, requires_grad=True)
    assert not row_statistics(query, query).entropy.requires_grad
    assert not bansa_expected(query, query).requires_grad
    assert not bansa_masked(query, query).requires_grad
