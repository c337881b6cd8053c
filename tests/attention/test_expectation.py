"""The mask-free expectation against exact enumeration of masks, drawn masks, and the ranking they give."""

import itertools
import math
import subprocess
import sys

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seedbed.attention.disagreement import bansa_expected, bansa_masked
from seedbed.attention.expectation import _COARSE, _FINE, _grid
from tests.attention.blocks import blocks_of

PLACES = ("probabilities", "logits")


def as_call(rows, repeats=1):
    """Query and key whose logits (scale 1) are `rows` (n, keys), with `repeats` heads that share them."""
    query = torch.eye(len(rows), dtype=rows.dtype).expand(1, repeats, -1, -1)
    return query, rows.T[None, None]


def expected(rows, **options):
    """(n, keys) logits -> (n,)"""
    return bansa_expected(*as_call(rows), scale=1.0, **options)[0, 0]


def drawn(rows, draws, **options):
    """Mean and standard error over `draws` independent K-mask scores of each row, (n,) each."""
    scores = bansa_masked(*as_call(rows, draws), scale=1.0, **options)[0].double()
    return scores.mean(0), scores.std(0) / math.sqrt(draws)


def by_enumeration(logits, masks, keep, place):
    """The expectation from its definition: every tuple of K masks, weighted by its chance."""
    versions, chances = [], []
    for mask in itertools.product((False, True), repeat=len(logits)):
        if place == "probabilities" and not any(mask):
            continue
        chances.append(keep ** sum(mask) * (1 - keep) ** (len(logits) - sum(mask)))
        versions.append(scipy.special.softmax(np.where(mask, logits, 0.0 if place == "logits" else -np.inf)))
    versions, chances = np.array(versions), np.array(chances) / sum(chances)
    entropies = scipy.special.entr(versions).sum(-1)
    total = 0.0
    for pick in itertools.product(range(len(versions)), repeat=masks - 1):
        pick = list(pick)
        mixtures = (versions[pick].sum(0) + versions) / masks
        scores = scipy.special.entr(mixtures).sum(-1) - (entropies[pick].sum() + entropies) / masks
        total += chances[pick].prod() * (chances * scores).sum()
    return total


@pytest.mark.parametrize(("keys", "masks"), [(2, 2), (6, 2), (4, 3)])
@pytest.mark.parametrize("keep", [0.2, 0.5, 0.8])
@pytest.mark.parametrize(("place", "tolerance"), [("probabilities", 3e-5), ("logits", 1e-4)])
def test_few_keys_agree_with_all_tuples_of_masks(keys, masks, keep, place, tolerance):
    rows = torch.randn(4, keys, dtype=torch.float64, generator=torch.Generator().manual_seed(keys))
    rows = rows * torch.tensor([0.1, 0.5, 1.0, 2.0], dtype=torch.float64)[:, None]
    for row, found in zip(rows, expected(rows, masks=masks, keep=keep, place=place), strict=True):
        exact = by_enumeration(row.numpy(), masks, keep, place)
        assert found.item() == pytest.approx(exact, abs=tolerance)


# Relative error allowed on top of three standard errors; docs/bansa.md shows the whole grid.
@pytest.mark.parametrize(("place", "allowed"), [("probabilities", 0.002), ("logits", 0.015)])
@pytest.mark.parametrize("keys", [8, 17, 60, 256])
@pytest.mark.parametrize(("masks", "keep"), [(10, 0.2), (10, 0.8), (3, 0.5), (2, 0.2)])
def test_the_mean_of_drawn_masks_is_met(place, allowed, keys, masks, keep):
    generator = torch.Generator().manual_seed(keys)
    for spread in (0.25, 1.0, 2.0):
        rows = spread * torch.randn(6, keys, generator=generator, dtype=torch.float64)
        mean, error = drawn(rows, 300 if keys > 100 else 1000, masks=masks, keep=keep, place=place)
        found = expected(rows, masks=masks, keep=keep, place=place)
        mean_error = error.square().sum().sqrt() / len(rows)
        assert abs(found.mean() - mean.mean()) < allowed * mean.mean() + 3 * mean_error
        assert ((found - mean).abs() < 3 * allowed * mean + 5 * error).all()


@pytest.mark.parametrize(("place", "allowed"), [("probabilities", 0.02), ("logits", 0.04)])
def test_very_sharp_rows_are_met_less_closely(place, allowed):
    rows = 5 * torch.randn(8, 60, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mean, error = drawn(rows, 1500, place=place)
    found = expected(rows, place=place)
    assert ((found - mean).abs() < 2 * allowed * mean + 5 * error).all()
    assert abs(found.mean() - mean.mean()) < allowed * mean.mean() + 3 * error.square().sum().sqrt() / 8


def test_sharp_rows_with_masks_on_the_logits_use_a_longer_grid():
    """Their normalisers span many orders of magnitude: the short one would be off by 7 %."""
    rows = 6 * torch.randn(24, 17, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mean, error = drawn(rows, 300, place="logits")
    found = expected(rows, place="logits")
    assert abs(found.mean() - mean.mean()) < 0.02 * mean.mean() + 3 * error.square().sum().sqrt() / 24


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("keys", [17, 20, 256])
def test_rows_ruled_by_one_key_are_no_diffuse_rows(keys, dtype):
    """As attention sinks do: what rounding leaves of the other keys must not outweigh them."""
    rows = torch.randn(20, keys, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows[:, 3] = rows.amax(1) + torch.linspace(4, 40, 20, dtype=torch.float64)
    mean, error = drawn(rows, 150)
    found = expected(rows.to(dtype)).double()
    assert ((found - mean).abs() < 0.03 * mean + 5 * error).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("keys", [24, 64])
def test_rows_ruled_by_keys_that_tie_are_met(keys, dtype):
    """Two sizes of keys are fewer than the effective keys that stand for them."""
    rows = torch.zeros(6, keys, dtype=torch.float64)
    rows[:, 3:15] = torch.tensor([5, 10, 15, 20, 25, 40], dtype=torch.float64)[:, None]
    mean, error = drawn(rows, 150)
    found = expected(rows.to(dtype)).double()
    assert ((found - mean).abs() < 0.07 * mean + 3 * error).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_logits_without_bound_have_a_score(dtype):
    rows = torch.randn(200, 17, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)
    for spread, place in itertools.product((100, 300, 10000), PLACES):
        found = expected(spread * rows, place=place)
        assert ((found >= 0) & (found <= math.log(10) + 1e-6)).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_key_whose_probability_underflows_is_a_key(dtype):
    """A mask may keep it alone, however small it is."""
    far = expected(torch.tensor([[0.0, -20000.0], [0.0, -30.0]], dtype=dtype), masks=3)
    exact = by_enumeration(np.array([0.0, -20000.0]), 3, 0.2, "probabilities")
    assert far.tolist() == pytest.approx([exact, exact], abs=2e-3)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("keys", [2, 5, 17, 40, 64, 100, 300])
def test_rounding_of_the_queries_does_not_move_a_score(place, keys):
    """No quadrature is chosen by a threshold, which near rows could find on either side of them."""
    for seed, keep, sharpness in itertools.product((0, 1), (0.2, 0.5, 0.8, 0.95), (0.1, 1, 4, 16, 64)):
        generator = torch.Generator().manual_seed(seed)
        query = sharpness * torch.randn(4, 2, 24, 16, generator=generator)
        key = torch.randn(4, 2, keys, 16, generator=generator)
        here, near = (
            bansa_expected(each, key, keep=keep, place=place) for each in (query, query * (1 + 1e-7))
        )
        assert (near - here).abs().max() <= 1e-5, (seed, keep, sharpness)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("keys", [17, 40])
def test_scores_have_no_step_on_the_way_from_diffuse_to_sharp_rows(place, keys):
    """Rows that sharpen in small steps: halving the steps halves the largest difference of neighbours."""
    rows = torch.randn(20, keys, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    largest = []
    for steps in (1000, 2000):
        spread = torch.linspace(0.5, 12, steps, dtype=torch.float64)[:, None, None, None]
        query, key = as_call(rows)
        found = bansa_expected(spread * query, key.expand(steps, -1, -1, -1), scale=1.0, place=place)
        largest.append(found.diff(dim=0).abs().max())
    assert largest[1] < 0.6 * largest[0]


@pytest.mark.slow
def test_weights_are_the_same_in_every_process():
    """Scores of two runs are compared: a fit by LAPACK differs in its last digit."""
    program = (
        "import torch; from seedbed.attention.expectation import _FINE, _grid;"
        "print([part.double().sum(-1).tolist() for part in _grid(_FINE, torch.float64, torch.device('cpu'))])"
    )
    runs = [
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    ]
    assert len(set(runs)) == 1


@pytest.mark.parametrize(
    ("grid", "least", "bounds"), [(_FINE, -4, (1e-3, 5e-5)), (_COARSE, -2, (5e-3, 1e-3))]
)
@pytest.mark.parametrize("masks", [2, 3, 10, 30])
def test_the_grid_is_exact_for_normalisers_that_do_not_vary(masks, grid, least, bounds):
    """1 / S in place of X: (1 / S) log K, to which a sum over the grid comes as close as its steps permit."""
    t, weights, quadrature = _grid(grid, torch.float64, torch.device("cpu"))
    s = torch.logspace(least, 0, 50, dtype=torch.float64)
    stays = 1 - weights @ torch.exp(-t * s)
    agreement = quadrature @ ((stays**masks - 1) / masks + 1 - stays)
    assert (agreement * s - math.log(masks)).abs().max() < bounds[0]
    assert (agreement * s - math.log(masks))[s > 0.05].abs().max() < bounds[1]


def test_diffuse_rows_follow_the_second_order():
    """score = c0 + kappa * collision probability, where rows are so diffuse that no further order counts."""
    masks, keep = 10, 0.2
    rows = 0.3 * torch.randn(50, 4000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    collision = rows.softmax(-1).square().sum(-1)
    chances = scipy.stats.binom.pmf(np.arange(masks), masks - 1, keep)
    base = math.log(masks) - chances @ np.log1p(np.arange(masks))
    slope = (1 - keep) / (2 * keep) * (1 - (1 - (1 - keep) ** masks) / (masks * keep))
    found = expected(rows, masks=masks, keep=keep)
    assert (found - base - slope * collision).abs().max() < 4e-5
    # The differences between rows are far better than that: they are what ranks noises.
    assert np.polyfit(collision, found, 1)[0] == pytest.approx(slope, rel=0.01)


@pytest.mark.parametrize("place", PLACES)
def test_near_equal_maps_are_ranked_as_many_masks_rank_them(place):
    """Sixteen maps whose scores differ by about a thousandth, as the noises of one prompt do."""
    generator = torch.Generator().manual_seed(0)
    spread = torch.linspace(0.97, 1.03, 16, dtype=torch.float64)[:, None, None]
    maps = spread * (
        torch.randn(60, 60, generator=generator, dtype=torch.float64) * 1.2
        + torch.randn(16, 60, 60, generator=generator, dtype=torch.float64) * 0.1
    )
    query = torch.eye(60, dtype=torch.float32).expand(16, 1, 60, 60)
    key = maps.mT[:, None].float()
    found = bansa_expected(query, key, scale=1.0, place=place).double().mean((1, 2))
    repeats = 150
    many = bansa_masked(query.expand(16, repeats, 60, 60), key, scale=1.0, place=place).double().mean(2)
    mean = many.mean(1)
    # Masks are common to all maps, so what matters is the noise of differences between maps.
    noise = (many - many.mean(0)).std(1).mean() / math.sqrt(repeats)
    assert noise < 0.1 * mean.std()
    assert mean.std() / mean.mean() < (0.005 if place == "probabilities" else 0.1)
    assert scipy.stats.spearmanr(found, mean)[0] >= 0.99


@given(
    seed=st.integers(0, 2**31),
    spread=st.sampled_from([0.0, 0.01, 1.0, 10.0, 60.0]),
    keys=st.integers(1, 40),
    masks=st.sampled_from([2, 3, 10, 30]),
    keep=st.floats(0.02, 1.0),
    place=st.sampled_from(PLACES),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
)
@settings(max_examples=100, deadline=None)
def test_scores_lie_between_0_and_log_k(seed, spread, keys, masks, keep, place, dtype):
    generator = torch.Generator().manual_seed(seed)
    query = (spread * torch.randn(1, 2, 4, 8, generator=generator)).to(dtype)
    key = torch.randn(1, 2, keys, 8, generator=generator).to(dtype)
    found = bansa_expected(query, key, masks=masks, keep=keep, place=place)
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert found.min() >= 0
    assert found.max() <= math.log(masks) + 1e-6
    if keep == 1 or keys == 1:
        assert found.max() == 0


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("keys", [12, 40])
def test_masked_keys_count_for_nothing(place, keys):
    query, key = 2 * torch.randn(2, 4, 6, 8), torch.randn(2, 2, keys, 8)
    mask = torch.ones(keys, dtype=torch.bool)
    mask[torch.randperm(keys)[: keys // 4]] = False
    found = bansa_expected(query, key, mask=mask, place=place)
    assert torch.allclose(found, bansa_expected(query, key[:, :, mask], place=place), atol=1e-5)
    additive = torch.where(mask, 0.0, -10000.0)
    assert torch.allclose(found, bansa_expected(query, key, mask=additive, place=place), atol=1e-6)


@pytest.mark.parametrize("keep", [0.2, 0.5, 0.8])
def test_a_row_of_few_keys_scores_the_same_in_a_longer_call(keep):
    rows = 2 * torch.randn(9, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for keys in (2, 3, 5, 8):
        found = bansa_expected(*as_call(rows), scale=1.0, mask=torch.arange(40) < keys, keep=keep)[0, 0]
        assert torch.allclose(found, expected(rows[:, :keys], keep=keep), atol=2e-5, rtol=0)


@pytest.mark.parametrize("place", PLACES)
def test_causal_rows_see_what_is_before_them(place):
    query, key = 2 * torch.randn(1, 2, 40, 8), torch.randn(1, 2, 40, 8)
    found = bansa_expected(query, key, causal=True, place=place)
    assert (found[:, :, 0] == 0).all()
    for row in (1, 2, 4, 12, 39):
        alone = bansa_expected(query[:, :, [row]], key[:, :, : row + 1], place=place)
        # Short rows in long calls go through effective keys, short calls through all keys.
        close = 1e-3 if place == "probabilities" else 2e-2
        assert torch.allclose(found[:, :, [row]], alone, atol=close, rtol=close / 2)


@pytest.mark.parametrize("place", PLACES)
def test_rows_do_not_see_one_another(place):
    query, key = 2 * torch.randn(5, 4, 12, 8), torch.randn(5, 2, 33, 8)
    every = bansa_expected(query, key, place=place)
    for chunk in (1, 5, 12):
        with blocks_of(chunk):
            assert torch.allclose(bansa_expected(query, key, place=place), every, atol=2e-6)
    rows, batch, heads = torch.tensor([7, 0, 3]), [3, 1], [1, 0]
    assert torch.allclose(bansa_expected(query, key, place=place, rows=rows), every[:, :, rows], atol=2e-6)
    assert torch.allclose(bansa_expected(query[batch], key[batch], place=place), every[batch], atol=2e-6)
    swapped = bansa_expected(query[:, [2, 3, 0, 1]], key[:, heads], place=place)
    assert torch.allclose(swapped, every[:, [2, 3, 0, 1]], atol=2e-6)


@pytest.mark.parametrize("place", PLACES)
def test_single_precision_and_order_of_keys_hardly_matter(place):
    query, key = 3 * torch.randn(2, 2, 30, 16), torch.randn(2, 2, 70, 16)
    exact = bansa_expected(query.double(), key.double(), place=place)
    assert (bansa_expected(query, key, place=place) - exact).abs().max() < 5e-5
    shuffled = key.double()[:, :, torch.randperm(70)]
    assert (bansa_expected(query.double(), shuffled, place=place) - exact).abs().max() < 1e-9


@pytest.mark.parametrize("place", PLACES)
def test_what_is_not_finite_stays_so(place):
    for keys, keep in itertools.product((1, 3, 30), (0.2, 1.0)):
        query, key = torch.randn(1, 1, 2, 4), torch.randn(1, 1, keys, 4)
        query[0, 0, 1, 2] = torch.nan
        for mask in (None, torch.ones(2, keys, dtype=torch.bool)):
            found = bansa_expected(query, key, mask=mask, keep=keep, place=place)
            assert found[0, 0].isnan().tolist() == [False, True]
        lonely = torch.arange(keys) == torch.zeros(2, 1)
        assert bansa_expected(query, key, mask=lonely, place=place)[0, 0].isnan().tolist() == [False, True]
