"""Does a signal choose well? Statistics within prompts, intervals over prompts, in float64.

Signals and outcomes are arrays (prompts, noises): a user chooses among the noises of one prompt, so prompts
are never pooled. A function of two arrays gives one number per prompt; `bootstrap` turns those into a mean
with an interval. A paired comparison of two methods is `bootstrap(first - second)`.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

from seedbed.errors import BadInput

Array = NDArray[np.float64]
Prefer = Literal["low", "high"]
LEVEL = 0.95  # of every interval


class Interval(NamedTuple):
    """A mean over prompts and the 95 % interval around it."""

    mean: float
    low: float
    high: float


def random(outcome: ArrayLike) -> Array:
    """What a choice at random brings: each prompt's mean outcome, (prompts,)."""
    return np.asarray(_pool("outcome", outcome).mean(1))


def oracle(outcome: ArrayLike) -> Array:
    """What the best choice brings: each prompt's highest outcome, (prompts,)."""
    return np.asarray(_pool("outcome", outcome).max(1))


def best_of_subset(signal: ArrayLike, outcome: ArrayLike, m: int, prefer: Prefer = "high") -> Array:
    """Expected outcome of the noise that the signal prefers among m drawn from the pool without replacement.

    Exact, by order statistics: the one chosen is the i-th best (from 0) of all n with probability
    C(n - 1 - i, m - 1) / C(n, m). So gains at every smaller pool need no further run. Among noises with equal
    signals each is as likely to be chosen.

    Args:
        signal: (prompts, noises).
        outcome: (prompts, noises), higher is better.
        m: noises drawn, 1 to all of them.
        prefer: which end of the signal is chosen.

    Returns:
        (prompts,).

    Raises:
        BadInput: arrays of other shapes, values that are not finite, or m out of range.
    """
    signals, outcomes = _pools(signal, outcome)
    count = signals.shape[1]
    if isinstance(m, bool) or not isinstance(m, (int, np.integer)) or not 1 <= m <= count:
        raise BadInput(f"cannot draw {m!r} of {count} noises: m must be a whole number from 1 to {count}")
    if prefer not in ("low", "high"):
        raise BadInput(f"prefer must be 'low' or 'high', not {prefer!r}")
    equal = signals[:, :, None] == signals[:, None, :]
    shared = (equal * outcomes[:, None, :]).sum(2) / equal.sum(2)
    order = np.argsort(signals if prefer == "low" else -signals, axis=1)
    weights = [math.comb(count - 1 - i, m - 1) / math.comb(count, m) for i in range(count)]
    return np.asarray(np.take_along_axis(shared, order, axis=1) @ np.array(weights))


def expected_best_of(outcome: ArrayLike, n: int) -> Array:
    """Expected highest outcome of n noises drawn from the pool without replacement, exact, (prompts,)."""
    return best_of_subset(outcome, outcome, n)


def gain(signal: ArrayLike, outcome: ArrayLike, prefer: Prefer = "high") -> Array:
    """Outcome of the noise that the signal prefers in the whole pool, minus the pool's mean, (prompts,)."""
    signals, outcomes = _pools(signal, outcome)
    return np.asarray(best_of_subset(signals, outcomes, signals.shape[1], prefer) - outcomes.mean(1))


def bootstrap(values: ArrayLike, draws: int = 4000, seed: int = 0) -> Interval:
    """Mean over prompts with its percentile bootstrap interval, prompts drawn with replacement.

    Args:
        values: (prompts,); nan where a prompt has no value (see `within`): it is left out.
        draws: resamples; at the same seed and number of values, the same ones.

    Returns:
        The interval; its ends are nan below two values, its mean is nan without any.

    Raises:
        BadInput: not one value per prompt, or an infinite one.
    """
    known = np.asarray(values, dtype=np.float64)
    if known.ndim != 1 or np.isinf(known).any():
        raise BadInput(f"bootstrap wants a finite value per prompt (nan for none), not shape {known.shape}")
    known = known[~np.isnan(known)]
    return _interval(known, np.ones(len(known)), draws, seed)


def share(gains: ArrayLike, outcome: ArrayLike, draws: int = 4000, seed: int = 0) -> Interval:
    """Share of the gap between random and oracle that was recovered: mean gain / mean gap.

    A ratio of means, since a prompt whose noises are all alike has no share of its own; prompts are resampled
    for both together.

    Args:
        gains: (prompts,), as of `gain`, or of any method's outcome minus `random(outcome)`.
        outcome: (prompts, noises) of the pool.

    Returns:
        The interval; nan where no prompt has a gap. Resamples without a gap are left out.

    Raises:
        BadInput: arrays that do not fit together, or values that are not finite.
    """
    outcomes = _pool("outcome", outcome)
    gained = np.asarray(gains, dtype=np.float64)
    if gained.shape != outcomes.shape[:1] or not np.isfinite(gained).all():
        raise BadInput(f"share wants one finite gain for each of {len(outcomes)} prompts, not {gained.shape}")
    # The mean of equal numbers may differ from them in the last digit, which is no gap.
    gap = np.where(np.ptp(outcomes, axis=1) > 0, outcomes.max(1) - outcomes.mean(1), 0)
    return _interval(gained, gap, draws, seed)


def within(signal: ArrayLike, outcome: ArrayLike) -> Array:
    """Spearman's rank correlation over the noises of each prompt, (prompts,).

    nan where the signal or the outcome is the same for all noises: such a prompt has no correlation. Count
    them with `np.isnan`; `bootstrap` leaves them out.

    Of two independent estimates of one signal it is the signal's reliability: where they err independently,
    its correlation with any outcome is at most about the square root of this.
    """
    signals, outcomes = _pools(signal, outcome)
    products = (_standard_ranks(signals) * _standard_ranks(outcomes)).sum(1)
    constant = (np.ptp(signals, axis=1) == 0) | (np.ptp(outcomes, axis=1) == 0)
    return np.where(constant, np.nan, np.clip(products, -1, 1))


def permutation(signal: ArrayLike, outcome: ArrayLike, draws: int = 4000, seed: int = 0) -> Array:
    """Two-sided p-values of mean within-prompt rank correlations, outcomes permuted within their prompts.

    Args:
        signal: (..., prompts, noises): many signals at once share the permutations.
        outcome: (prompts, noises).

    Returns:
        (...): (1 + as extreme) / (1 + draws) for each signal; 1 for one that is constant in every prompt.

    Raises:
        BadInput: arrays of other shapes, or values that are not finite.
    """
    outcomes = _pool("outcome", outcome)
    signals = np.asarray(signal, dtype=np.float64)
    if signals.shape[-2:] != outcomes.shape or not signals.size:
        raise BadInput(f"signals of shape {signals.shape} do not fit outcomes of shape {outcomes.shape}")
    rows = _pool("signal", signals.reshape(-1, outcomes.shape[1]))
    flat = _standard_ranks(rows).reshape(-1, outcomes.size)
    ranks = _standard_ranks(outcomes)
    found = np.abs(flat @ ranks.ravel())
    rng = np.random.default_rng(seed)
    drawn = np.array([np.abs(flat @ rng.permuted(ranks, axis=1).ravel()) for _ in range(draws)])
    # A resample that equals the finding must count, also where its sum was rounded in another order.
    extreme = (drawn >= found * (1 - 1e-9) - 1e-12).sum(0)
    return np.asarray((1 + extreme) / (1 + draws)).reshape(signals.shape[:-2])


def holm(p: ArrayLike) -> Array:
    """p-values adjusted by Holm (1979): the chance of a single false find stays below the level."""
    values = np.asarray(p, dtype=np.float64)
    if values.ndim != 1 or not ((values >= 0) & (values <= 1)).all():
        raise BadInput("p-values must be a list of numbers between 0 and 1")
    order = np.argsort(values)
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1)), 1)
    return adjusted


def _interval(above: Array, below: Array, draws: int, seed: int) -> Interval:
    """Sum of `above` / sum of `below` over prompts, with its percentile bootstrap interval."""
    count = len(above)
    if not below.sum():
        return Interval(math.nan, math.nan, math.nan)
    mean = float(above.sum() / below.sum())
    if count < 2:
        return Interval(mean, math.nan, math.nan)
    times = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=draws)
    top, bottom = times @ above, times @ below
    ratios = top[bottom > 0] / bottom[bottom > 0]
    low, high = np.quantile(ratios, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(mean, float(low), float(high))


def _standard_ranks(values: Array) -> Array:
    """Ranks within each row, ties sharing their mean rank, centred and of length 1; a constant row is 0."""
    ranks = rankdata(values, axis=1) - (values.shape[1] + 1) / 2
    length = np.sqrt((ranks**2).sum(1, keepdims=True))
    return np.asarray(ranks / np.where(length > 0, length, 1))


def _pool(name: str, values: ArrayLike) -> Array:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 2 or not array.size:
        raise BadInput(f"the {name} must have shape (prompts, noises), both at least 1, not {array.shape}")
    if not np.isfinite(array).all():
        prompt, noise = np.argwhere(~np.isfinite(array))[0]
        raise BadInput(
            f"the {name} of prompt {prompt}, noise {noise} is {array[prompt, noise]}: leave it out"
        )
    return array


def _pools(signal: ArrayLike, outcome: ArrayLike) -> tuple[Array, Array]:
    signals, outcomes = _pool("signal", signal), _pool("outcome", outcome)
    if signals.shape != outcomes.shape:
        raise BadInput(f"a signal of shape {signals.shape} does not fit an outcome of shape {outcomes.shape}")
    return signals, outcomes
