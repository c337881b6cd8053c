"""Every statistic against a slow computation written from its definition, and at its edges."""

import itertools
import math
import statistics as slow

import numpy as np
import pytest
import scipy.stats

from seedbed import statistics as lab
from seedbed.errors import BadInput


def drawn(prompts=5, noises=6, levels=None, seed=3):
    """A signal and an outcome; with `levels`, whole numbers below it, so that there are ties."""
    rng = np.random.default_rng(seed)
    if levels is None:
        return rng.normal(size=(prompts, noises)), rng.normal(size=(prompts, noises))
    return (
        rng.integers(0, levels, (prompts, noises)).astype(float),
        rng.integers(0, levels, (prompts, noises)) / levels,
    )


def slow_choice(signal, outcome, m, prefer):
    """The mean, over all subsets of m noises, of the mean outcome of those that share the best signal."""
    end = min if prefer == "low" else max
    found = []
    for subset in itertools.combinations(range(len(signal)), m):
        best = end(signal[i] for i in subset)
        found.append(slow.fmean(outcome[i] for i in subset if signal[i] == best))
    return slow.fmean(found)


@pytest.mark.parametrize("n", range(1, 7))
@pytest.mark.parametrize("levels", [None, 2, 3])
@pytest.mark.parametrize("prefer", ["low", "high"])
def test_the_best_of_n_is_the_mean_over_all_subsets(n, levels, prefer):
    signal, outcome = drawn(levels=levels)
    expected = [slow_choice(s, o, n, prefer) for s, o in zip(signal.tolist(), outcome.tolist(), strict=True)]
    np.testing.assert_allclose(lab.best_of(signal, outcome, n, prefer), expected, atol=1e-14)


@pytest.mark.parametrize("n", range(1, 7))
def test_the_best_video_of_n_is_the_mean_of_the_best_over_all_subsets(n):
    outcome = drawn(levels=4)[1]
    expected = [slow.fmean(max(s) for s in itertools.combinations(row, n)) for row in outcome.tolist()]
    np.testing.assert_allclose(lab.best_of(outcome, outcome, n), expected, atol=1e-14)


def test_drawing_one_is_random_and_drawing_all_is_the_oracle():
    outcome = drawn()[1]
    np.testing.assert_allclose(lab.best_of(outcome, outcome, 1), lab.random(outcome), atol=1e-14)
    np.testing.assert_allclose(lab.best_of(outcome, outcome), lab.oracle(outcome), rtol=1e-15)
    np.testing.assert_array_equal(lab.oracle(outcome), [max(row) for row in outcome.tolist()])
    np.testing.assert_allclose(lab.random(outcome), [slow.fmean(row) for row in outcome.tolist()], atol=1e-15)


def test_a_large_pool_loses_no_precision():
    outcome = np.arange(500.0)[None]
    # The best of n among 1..N has mean n (N + 1) / (n + 1); ours starts at 0.
    for n in (2, 32, 250):
        assert lab.best_of(outcome, outcome, n)[0] == pytest.approx(n * 501 / (n + 1) - 1, rel=1e-13)


@pytest.mark.parametrize("levels", [None, 3])
@pytest.mark.parametrize("prefer", ["low", "high"])
def test_gain_is_the_chosen_minus_the_mean(levels, prefer):
    signal, outcome = drawn(levels=levels)
    expected = [
        slow_choice(s, o, 6, prefer) - slow.fmean(o)
        for s, o in zip(signal.tolist(), outcome.tolist(), strict=True)
    ]
    np.testing.assert_allclose(lab.gain(signal, outcome, prefer), expected, atol=1e-14)


def test_a_constant_signal_gains_nothing_and_the_outcome_itself_gains_all():
    outcome = drawn()[1]
    np.testing.assert_allclose(lab.gain(np.ones_like(outcome), outcome, "low"), 0, atol=1e-15)
    np.testing.assert_allclose(lab.gain(outcome, outcome, "high"), lab.oracle(outcome) - lab.random(outcome))


@pytest.mark.parametrize("levels", [None, 2, 4])
def test_within_is_spearman_of_each_prompt(levels):
    signal, outcome = drawn(prompts=40, noises=7, levels=levels)
    found = lab.within(signal, outcome)
    for row, s, o in zip(found, signal, outcome, strict=True):
        if len(set(s)) == 1 or len(set(o)) == 1:
            assert math.isnan(row)
        else:
            assert row == pytest.approx(scipy.stats.spearmanr(s, o).statistic, abs=1e-13)
    assert np.isfinite(found).any()


def test_within_never_leaves_its_bounds():
    signal, _ = drawn(prompts=200, noises=10, levels=None)
    assert lab.within(signal, signal).max() == 1
    assert lab.within(signal, -signal).min() == -1


def test_within_has_no_value_where_either_is_constant():
    signal, outcome = drawn(prompts=4)
    signal[1], outcome[2] = 5.0, 0.25
    assert np.isnan(lab.within(signal, outcome)).tolist() == [False, True, True, False]
    assert np.isnan(lab.within(signal[:, :1], outcome[:, :1])).all()


def test_within_does_not_pool_prompts():
    """Prompts that differ in level would correlate when pooled; within them the order is reversed."""
    outcome = np.array([[0.0, 1.0, 2.0], [10.0, 11.0, 12.0]])
    signal = outcome + [[2.0, 0.0, -2.0]] * 2
    assert scipy.stats.spearmanr(signal.ravel(), outcome.ravel()).statistic > 0
    assert lab.within(signal, outcome).tolist() == pytest.approx([-1.0, -1.0])


def test_reliability_knows_identical_reversed_and_unrelated_estimates():
    signal, other = drawn(prompts=400, noises=16)
    np.testing.assert_allclose(lab.within(signal, signal), 1)
    np.testing.assert_allclose(lab.within(signal, -signal), -1)
    assert abs(lab.within(signal, other).mean()) < 4 / math.sqrt(400 * 15)


def test_bootstrap_agrees_with_slow_resampling():
    values = drawn(prompts=30, noises=1)[1][:, 0]
    rng = np.random.default_rng(11)
    means = sorted(slow.fmean(rng.choice(values, 30).tolist()) for _ in range(20000))
    mean, low, high = lab.bootstrap(values, draws=20000)
    assert mean == pytest.approx(slow.fmean(values.tolist()), abs=1e-14)
    width = means[19500] - means[500]
    assert low == pytest.approx(means[500], abs=0.03 * width)
    assert high == pytest.approx(means[19500], abs=0.03 * width)


def test_a_bootstrap_interval_holds_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(5)
    hits = 0
    for trial in range(400):
        _, low, high = lab.bootstrap(rng.exponential(size=60), draws=500, seed=trial)
        hits += low <= 1 <= high
    assert 0.90 <= hits / 400 <= 0.98  # percentile intervals of a skewed mean are a little narrow


def test_bootstrap_repeats_and_listens_to_its_seed():
    values = drawn(prompts=30, noises=1)[1][:, 0]
    assert lab.bootstrap(values, seed=1) == lab.bootstrap(values, seed=1)
    assert lab.bootstrap(values, seed=1)[1:] != lab.bootstrap(values, seed=2)[1:]


def test_bootstrap_leaves_out_prompts_without_a_value():
    values = drawn(prompts=30, noises=1)[1][:, 0]
    assert lab.bootstrap([math.nan, *values, math.nan]) == lab.bootstrap(values)


def test_one_prompt_has_a_mean_and_no_interval():
    mean, low, high = lab.bootstrap([0.5])
    assert mean == 0.5 and math.isnan(low) and math.isnan(high)
    assert all(math.isnan(value) for value in lab.bootstrap([math.nan]))
    mean, low, high = lab.share([0.1], [[0.0, 0.4]])
    assert mean == pytest.approx(0.5) and math.isnan(low) and math.isnan(high)


def test_equal_values_have_an_interval_of_no_width():
    assert lab.bootstrap([0.25] * 9) == pytest.approx((0.25, 0.25, 0.25))


def test_share_is_a_ratio_of_means_resampled_together():
    signal, outcome = drawn(prompts=30)
    gains = lab.gain(signal, outcome, "high")
    gaps = lab.oracle(outcome) - lab.random(outcome)
    rng = np.random.default_rng(11)
    picks = rng.integers(0, 30, (20000, 30))
    ratios = np.sort(gains[picks].mean(1) / gaps[picks].mean(1))
    found = lab.share(gains, outcome, draws=20000)
    assert found.mean == pytest.approx(slow.fmean(gains.tolist()) / slow.fmean(gaps.tolist()))
    width = ratios[19500] - ratios[500]
    assert found[1:] == pytest.approx((ratios[500], ratios[19500]), abs=0.03 * width)


def test_the_oracle_has_all_of_the_gap_and_prompts_without_one_do_not_matter():
    outcome = drawn(prompts=30)[1]
    outcome[3] = 0.5
    gaps = lab.oracle(outcome) - lab.random(outcome)
    assert lab.share(gaps, outcome) == pytest.approx((1, 1, 1))
    assert lab.share(0 * gaps, outcome) == pytest.approx((0, 0, 0))
    assert all(math.isnan(value) for value in lab.share([0, 0], [[1, 1], [2, 2]]))
    # The mean of three times 0.1 is not 0.1.
    assert all(math.isnan(value) for value in lab.share([0, 0], np.full((2, 3), 0.1)))


def test_resamples_without_a_gap_are_left_out():
    outcome = np.array([[0.0, 1.0], [1.0, 1.0], [1.0, 1.0]])  # most resamples miss the first prompt often
    assert lab.share([0.25, 0, 0], outcome) == pytest.approx((0.5, 0.5, 0.5))


def test_permutation_agrees_with_all_permutations():
    signal = np.array([[0.0, 1.0, 2.0], [2.0, 0.0, 2.0]])
    outcome = np.array([[1.0, 2.0, 3.0], [0.4, 0.2, 0.4]])

    def statistic(first, second):
        return abs(
            scipy.stats.spearmanr(signal[0], first).statistic
            + scipy.stats.spearmanr(signal[1], second).statistic
        )

    found = statistic(*outcome)
    every = itertools.product(itertools.permutations(outcome[0]), itertools.permutations(outcome[1]))
    exact = np.mean([statistic(a, b) >= found - 1e-12 for a, b in every])
    assert lab.permutation(signal, outcome, draws=20000) == pytest.approx(exact, abs=0.01)


def test_permutation_takes_many_signals_and_each_gets_its_own_answer():
    signal, outcome = drawn(prompts=40)
    many = np.stack([outcome, signal, -outcome, np.zeros_like(outcome)])
    found = lab.permutation(many.reshape(2, 2, 40, 6), outcome, draws=200)
    assert found.shape == (2, 2)
    assert found[0, 0] == found[1, 0] == pytest.approx(1 / 201)
    assert found[0, 1] == lab.permutation(signal, outcome, draws=200)
    assert found[1, 1] == 1


def test_p_values_of_chance_are_uniform():
    signal = np.random.default_rng(2).normal(size=(300, 12, 5))
    outcome = np.random.default_rng(3).normal(size=(12, 5))
    p = lab.permutation(signal, outcome, draws=500)
    assert scipy.stats.kstest(p, "uniform").pvalue > 0.01


P_VALUES = [[0.01, 0.04, 0.03, 0.005], [0.5, 0.5, 0.5], [0.9], [0.2, 0.0, 1.0, 0.2], []]


@pytest.mark.parametrize("p", P_VALUES)
def test_holm_is_its_definition(p):
    """Adjusted p_i: the largest of (number of hypotheses left at j) x p_j over all p_j <= p_i, at most 1."""
    rank = sorted(range(len(p)), key=lambda i: p[i])
    expected = [
        min(1.0, max((len(p) - j) * p[rank[j]] for j in range(place + 1)))
        for place in (rank.index(i) for i in range(len(p)))
    ]
    np.testing.assert_allclose(lab.holm(p), expected, atol=1e-15)


GOOD = np.ones((2, 3))
HOLE = np.array([[1.0, 2.0, 3.0], [4.0, math.nan, 6.0]])
REFUSED = {
    "nan in a signal": lambda: lab.gain(HOLE, GOOD, "low"),
    "nan in an outcome": lambda: lab.within(GOOD, HOLE),
    "nan in many signals": lambda: lab.permutation(np.stack([GOOD, HOLE]), GOOD),
    "an infinite value": lambda: lab.bootstrap([1.0, math.inf]),
    "a matrix to bootstrap": lambda: lab.bootstrap(GOOD),
    "shapes that differ": lambda: lab.within(GOOD, GOOD[:, :2]),
    "no signals": lambda: lab.permutation(np.ones((0, 2, 3)), GOOD),
    "signals that do not fit": lambda: lab.permutation(GOOD[:1], GOOD),
    "one row": lambda: lab.random(GOOD[0]),
    "no prompt": lambda: lab.oracle(GOOD[:0]),
    "no noise": lambda: lab.random(GOOD[:, :0]),
    "none drawn": lambda: lab.best_of(GOOD, GOOD, 0),
    "more than there are": lambda: lab.best_of(GOOD, GOOD, 4),
    "half a noise": lambda: lab.best_of(GOOD, GOOD, 1.5),
}


@pytest.mark.parametrize("call", REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_used_is_refused_in_one_line(call):
    with pytest.raises(BadInput) as error:
        call()
    assert "\n" not in str(error.value)


def test_the_line_says_where_the_value_is():
    with pytest.raises(BadInput, match="signal of prompt 1, noise 1 is nan"):
        lab.within(HOLE, GOOD)
