"""Bradley-Terry strengths, beside a slow reference."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import brentq, minimize

from seedbed.errors import BadInput
from seedbed.verifiers.ratings import strengths


def reference(videos, comparisons):
    """The strengths of highest likelihood, with a tie of each with strength 0, by a general optimiser."""

    def loss(found):
        # -log(1 / (1 + exp(-x))) = log(1 + exp(-x))
        total = sum(0.5 * (np.logaddexp(0, -each) + np.logaddexp(0, each)) for each in found)
        for first, second, share in comparisons:
            gap = found[first] - found[second]
            total += share * np.logaddexp(0, -gap) + (1 - share) * np.logaddexp(0, gap)
        return total

    return minimize(loss, np.zeros(videos), method="BFGS", options={"gtol": 1e-9}).x


def drawn(videos, count, seed):
    rng = np.random.default_rng(seed)
    pairs = [rng.choice(videos, 2, replace=False) for _ in range(count)]
    return [(int(a), int(b), float(rng.choice([0, 0.5, 1], p=[0.2, 0.2, 0.6]))) for a, b in pairs]


@pytest.mark.parametrize(("videos", "count"), [(2, 1), (3, 8), (5, 40)])
def test_strengths_are_those_of_a_slow_optimiser(videos, count):
    comparisons = drawn(videos, count, videos)
    found = strengths(videos, comparisons)[:, 0].numpy()
    assert np.allclose(found, reference(videos, comparisons), atol=1e-5)


def test_one_win_by_hand():
    # By symmetry a = -b, and the slope 2 / (1 + exp(2a)) / 2 - (sigmoid(a) - 1/2) is 0 there.
    root = brentq(lambda a: 1 / (1 + math.exp(2 * a)) + 0.5 - 1 / (1 + math.exp(-a)), 0, 5)
    found = strengths(2, [(1, 0, 1.0)])
    assert found[:, 0].tolist() == pytest.approx([-root, root]) and found[:, 1:].isnan().all()


def test_without_comparisons_all_are_alike_and_nothing_is_known():
    found = strengths(3, [])
    assert found[:, 0].tolist() == [0, 0, 0] and found[:, 1:].isnan().all()


def test_who_won_every_time_has_a_finite_strength():
    found = strengths(3, [(0, 1, 1.0)] * 1000 + [(0, 2, 1.0)] * 1000)
    assert found.isfinite().all() and 4 < found[0, 0] < 9 and torch.allclose(found[1], found[2], atol=0.2)


def test_ties_alone_leave_all_alike():
    found = strengths(2, [(0, 1, 0.5)] * 6)
    assert torch.allclose(found, torch.zeros(2, 3, dtype=torch.float64), atol=1e-9)


def test_who_was_never_compared_has_no_interval():
    found = strengths(3, [(0, 1, 1.0), (0, 1, 0.0), (1, 0, 1.0)])
    assert found[2, 0] == pytest.approx(0) and found[2, 1:].isnan().all() and found[:2].isfinite().all()


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    truth, rng, hits = np.array([0.8, 0.0, -0.8]), np.random.default_rng(0), 0
    for seed in range(40):
        pairs = [rng.choice(3, 2, replace=False) for _ in range(60)]
        chance = [1 / (1 + np.exp(truth[b] - truth[a])) for a, b in pairs]
        said = [(int(a), int(b), float(rng.random() < p)) for (a, b), p in zip(pairs, chance, strict=True)]
        found = strengths(3, said, draws=200, seed=seed).numpy()
        hits += int(((found[:, 1] <= truth) & (truth <= found[:, 2])).sum())
    assert 0.85 <= hits / 120 <= 1


@pytest.mark.parametrize("wrong", [(0, 2, 1.0), (0, 0, 1.0), (0, 1, 0.7), (-1, 0, 1.0)])
def test_a_comparison_of_other_videos_is_refused(wrong):
    with pytest.raises(BadInput, match="compares no two"):
        strengths(2, [wrong])
