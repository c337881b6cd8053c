"""What a race over layers loses against the full score, replayed on scores of every layer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations

import numpy as np

from seedbed.lab import statistics
from seedbed.lab.statistics import Array, Interval
from seedbed.selection.acquisitions import create
from seedbed.selection.racing import Race, Rungs, planned, told

# Of the way from the best candidate of the full score to the median one.
REGRET = 0.05
# Depths and survivors that are tried, at most: enough for every layer of a small model.
_DEPTHS, _SURVIVORS = 8, (1, 2, 3, 4, 5, 6, 8, 12, 16)


def choices(scores: Array, rungs: Rungs) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Whom a race chooses: (prompts, candidates, layers), low is better -> (prompts,)."""
    prompts, candidates, layers = scores.shape
    alive = np.tile(np.arange(candidates), (prompts, 1))
    for after, left in (*rungs, (layers, 1)):
        totals = np.take_along_axis(scores[:, :, :after].mean(2), alive, axis=1)
        best = np.argsort(totals, axis=1, kind="stable")[:, :left]
        alive = np.take_along_axis(alive, best, axis=1)
    return alive[:, 0]


def regret(scores: Array, rungs: Rungs) -> Array:
    """How far the choice lies from the best candidate of the full score, (prompts,).

    0 is the best candidate and 1 the median one of the mean over all layers; more is worse than the median.
    """
    full = scores.mean(2)
    best, median = full.min(1), np.median(full, axis=1)
    lost = full[np.arange(len(full)), choices(scores, rungs)] - best
    return np.divide(lost, median - best, out=np.zeros_like(lost), where=median > best)


def cost(rungs: Rungs, candidates: int, layers: int) -> float:
    """Evaluations of one pool, those who are dropped leaving at once."""
    spent, before, alive = 0, 0, candidates
    for after, left in rungs:
        spent, before, alive = spent + alive * (after - before), after, left
    return (spent + (alive * (layers - before) if alive > 1 else 0)) / layers


def every(candidates: int, layers: int) -> Iterator[Rungs]:
    """Schedules of one to three rungs, the last of which keeps one."""
    depths = sorted({max(1, round(layers * part / _DEPTHS)) for part in range(1, _DEPTHS + 1)})
    left = [count for count in _SURVIVORS if 1 < count < candidates]
    for rungs in range(1, 4):
        for at in combinations(depths, rungs):
            for stay in combinations(reversed(left), rungs - 1):
                yield tuple(zip(at, (*stay, 1), strict=True))


def cheapest(scores: Array, limit: float = REGRET) -> Rungs | None:
    """The cheapest schedule whose mean regret is at most `limit`; None where only the full score is."""
    _, candidates, layers = scores.shape
    priced = sorted(every(candidates, layers), key=lambda rungs: (cost(rungs, candidates, layers), rungs))
    found = (rungs for rungs in priced if regret(scores, rungs).mean() <= limit)
    rungs = next(found, None)
    return rungs if rungs and cost(rungs, candidates, layers) < candidates else None


def crossed(scores: Array, limit: float = REGRET) -> Array | None:
    """Regret of schedules chosen on the other half of the prompts, (prompts,); None where there is none."""
    lost = np.empty(len(scores))
    for half in range(2):
        rungs = cheapest(scores[1 - half :: 2], limit)
        if rungs is None:
            return None
        lost[half::2] = regret(scores[half::2], rungs)
    return lost


def limit(scores: Array) -> float | None:
    """How little regret schedules must have where they are chosen, for `REGRET` at most on other prompts.

    What is cheapest on some prompts is there by luck too. None where no schedule holds what it promises.
    """
    for tenths in range(10, 0, -1):
        lost = crossed(scores, tenths / 10 * REGRET)
        if lost is None:
            return None
        if lost.mean() <= REGRET:
            return tenths / 10 * REGRET
    return None


def fitted(scores: Array, acquisition: str = "bansa") -> Race | None:
    """The race for a profile: chosen on all prompts, its regret that of races chosen on the other half.

    Args:
        scores: (prompts, candidates, layers) of `acquisition` at its defaults.

    Returns:
        None where no schedule is both cheaper than the full score and within `REGRET` of it.
    """
    prompts, candidates, layers = scores.shape
    if create(acquisition).prefer == "high":
        scores = -scores
    within = limit(scores)
    if within is None:
        return None
    rungs, lost = cheapest(scores, within), crossed(scores, within)
    if rungs is None or lost is None:
        return None
    found: Interval = statistics.bootstrap(lost)
    spent = cost(rungs, candidates, layers)
    why = (
        f"{told(planned(rungs, layers, candidates), 'fitted')}: regret {found.mean:.1%} "
        f"[{found.low:.1%}, {found.high:.1%}] for {spent:.3g} instead of {candidates} evaluations "
        f"({prompts} prompts x {candidates} noises, {layers} layers)"
    )
    return Race(rungs, candidates, acquisition, (found.mean, found.low, found.high), spent, prompts, why)


def scores_of(columns: dict[str, Array], name: str) -> Array:
    """The scores by layer among the columns of an evidence: (prompts, noises, layers)."""
    layers: Sequence[str] = sorted(
        (column for column in columns if column.rpartition("/")[0] == name),
        key=lambda column: int(column.rpartition("/")[2]),
    )
    return np.stack([columns[column] for column in layers], axis=2)
