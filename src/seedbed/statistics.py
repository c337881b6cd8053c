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

from seedbed.errors import BadInput, shown

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
    return np.asarray(_pools(outcome=outcome)[0].mean(1))


def oracle(outcome: ArrayLike) -> Array:
    """What the best choice brings: each prompt's highest outcome, (prompts,)."""
    return np.asarray(_pools(outcome=outcome)[0].max(1))


def best_of(signal: ArrayLike, outcome: ArrayLike, n: int | None = None, prefer: Prefer = "high") -> Array:
    """Expected outcome of the noise that the signal prefers among n drawn without replacement, (prompts,).

    Exact, by order statistics: of all N the i-th best by the signal (from 0) is the best of n at probability
    C(N - 1 - i, n - 1) / C(N, n). Among noises with equal signals each is as likely to be chosen. The outcome
    as its own signal gives the best of n finished videos.

    Args:
        n: None for the whole pool.

    Raises:
        BadInput: n is not a whole number from 1 to the size of the pool.
    """
    signals, outcomes = _pools(signal=signal, outcome=outcome)
    count = outcomes.shape[1]
    if n not in (None, *range(1, count + 1)):
        raise BadInput(
            f"cannot draw {shown(n)} of {count} noises: n must be a whole number from 1 to {count}"
        )
    drawn = count if n is None else int(n)
    equal = signals[:, :, None] == signals[:, None, :]
    shared = (equal * outcomes[:, None, :]).sum(2) / equal.sum(2)
    order = np.argsort(signals if prefer == "low" else -signals, axis=1)
    weights = [math.comb(count - 1 - i, drawn - 1) / math.comb(count, drawn) for i in range(count)]
    return np.asarray(np.take_along_axis(shared, order, axis=1) @ np.array(weights))


def gain(signal: ArrayLike, outcome: ArrayLike, prefer: Prefer = "high") -> Array:
    """Outcome of the noise that the signal prefers in the whole pool, minus the pool's mean, (prompts,)."""
    return best_of(signal, outcome, prefer=prefer) - random(outcome)


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
        BadInput: outcomes that are not finite, or not of that shape.
    """
    (outcomes,) = _pools(outcome=outcome)
    # The mean of equal numbers may differ from them in the last digit, which is no gap.
    gap = np.where(np.ptp(outcomes, axis=1) > 0, outcomes.max(1) - outcomes.mean(1), 0)
    return _interval(np.asarray(gains, dtype=np.float64), gap, draws, seed)


def within(signal: ArrayLike, outcome: ArrayLike) -> Array:
    """Spearman's rank correlation over the noises of each prompt, (prompts,).

    nan where the signal or the outcome is the same for all noises: such a prompt has no correlation. Count
    them with `np.isnan`; `bootstrap` leaves them out.

    Of two independent estimates of one signal it is the signal's reliability: where they err independently,
    its correlation with any outcome is at most about the square root of this.
    """
    signals, outcomes = _pools(signal=signal, outcome=outcome)
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
    (outcomes,) = _pools(outcome=outcome)
    signals = np.asarray(signal, dtype=np.float64)
    if signals.shape[-2:] != outcomes.shape or not signals.size:
        raise BadInput(f"signals of shape {signals.shape} do not fit outcomes of shape {outcomes.shape}")
    (rows,) = _pools(signal=signals.reshape(-1, outcomes.shape[1]))
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


def _pools(**given: ArrayLike) -> list[Array]:
    """As float64; `BadInput` unless they are finite and have one shape, (prompts, noises)."""
    arrays = [np.asarray(values, dtype=np.float64) for values in given.values()]
    for name, array in zip(given, arrays, strict=True):
        if array.ndim != 2 or not array.size or array.shape != arrays[0].shape:
            raise BadInput(
                f"the {' and the '.join(given)} must have one shape (prompts, noises), both at least 1, not "
                f"{' and '.join(str(each.shape) for each in arrays)}"
            )
        if not np.isfinite(array).all():
            prompt, noise = np.argwhere(~np.isfinite(array))[0]
            value = array[prompt, noise]
            raise BadInput(f"the {name} of prompt {prompt}, noise {noise} is {value}: leave it out")
    return arrays
