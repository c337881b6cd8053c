"""Successive halving replayed on measured scores: of layers (a race), and of previews by a verifier."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from typing import Any

import numpy as np

from seedbed import statistics
from seedbed.errors import BadInput
from seedbed.halving import Rungs, cost
from seedbed.lab.evidence import OUTCOME, Evidence
from seedbed.selection.profile import PreviewPlan, Race
from seedbed.statistics import Array

# Of the way from the best candidate of the full score to the median one.
REGRET = 0.05
# Of a schedule of previews for a profile, in plain generations.
BUDGET = 3.0
# Depths and survivors that are tried, at most: enough for every layer of a small model.
_DEPTHS, _SURVIVORS = 8, (1, 2, 3, 4, 5, 6, 8, 12, 16)


def _survivor(rungs: Sequence[tuple[Array, int]], alive: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Who of `alive`, (prompts, some), is left: by scores (prompts, noises), high is better."""
    rows = np.arange(len(alive))[:, None]
    for scores, left in rungs:
        best = np.argsort(-scores[rows, alive], axis=1, kind="stable")[:, :left]
        alive = np.take_along_axis(alive, np.sort(best, axis=1), axis=1)
    return alive[:, 0]


def _crossed(
    prompts: int, choose: Callable[[Any], Any], measure: Callable[[Any, Any], Array]
) -> tuple[Array, list[Any]]:
    """What choices are worth on the prompts that did not make them, (prompts,), and both choices.

    Args:
        choose: from every other prompt, as their numbers; measure: from a choice and prompts, (prompts,).
    """
    values, chosen = np.empty(prompts), []
    for fitted, tested in ((0, 1), (1, 0)):
        chosen.append(choose(np.arange(prompts)[fitted::2]))
        values[tested::2] = measure(chosen[-1], np.arange(prompts)[tested::2])
    return values, chosen


# Races over layers, by scores (prompts, candidates, layers) of which low is better.


def raced(scores: Array, rungs: Rungs) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Whom a race chooses, (prompts,)."""
    prompts, candidates, layers = scores.shape
    looks = [(-scores[:, :, :after].mean(2), left) for after, left in (*rungs, (layers, 1))]
    return _survivor(looks, np.tile(np.arange(candidates), (prompts, 1)))


def regret(scores: Array, rungs: Rungs) -> Array:
    """How far the choice lies from the best candidate of the full score, (prompts,).

    0 is the best candidate and 1 the median one of the mean over all layers; more is worse than the median.
    """
    full = scores.mean(2)
    best, median = full.min(1), np.median(full, axis=1)
    lost = full[np.arange(len(full)), raced(scores, rungs)] - best
    return np.asarray(np.divide(lost, median - best, out=np.zeros_like(lost), where=median > best))


def every_race(candidates: int, layers: int) -> Iterator[Rungs]:
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
    priced = sorted((cost(r, candidates, layers, finish=False), r) for r in every_race(candidates, layers))
    able = (rungs for price, rungs in priced if price < candidates and regret(scores, rungs).mean() <= limit)
    return next(able, None)


def crossed_regret(scores: Array, limit: float) -> Array | None:
    """Regret of schedules chosen on the other half of the prompts, (prompts,); None where there is none."""
    lost, chosen = _crossed(
        len(scores),
        lambda half: cheapest(scores[half], limit),
        lambda rungs, half: regret(scores[half], rungs or ()),
    )
    return None if None in chosen else lost


def promised(scores: Array) -> tuple[float, Array] | None:
    """How little regret schedules must have where they are chosen, for `REGRET` at most on other prompts.

    What is cheapest on some prompts is there by luck too. Also the `crossed_regret` of that. None where no
    schedule holds what it promises.
    """
    for tenths in range(10, 0, -1):
        lost = crossed_regret(scores, tenths / 10 * REGRET)
        if lost is None:
            return None
        if lost.mean() <= REGRET:
            return tenths / 10 * REGRET, lost
    return None


def fitted_race(scores: Array) -> Race | None:
    """The race for a profile: chosen on all prompts, its regret that of races chosen on the other half.

    Args:
        scores: of BANSA at its defaults, over all layers.

    Returns:
        None where no schedule is both cheaper than the full score and within `REGRET` of it.
    """
    prompts, candidates, layers = scores.shape
    held = promised(scores)
    rungs = held and cheapest(scores, held[0])
    if not held or not rungs:
        return None
    found = statistics.bootstrap(held[1])
    spent = cost(rungs, candidates, layers, finish=False)
    why = (
        f"Bansa(depth=None, race={rungs}) with {candidates} candidates: regret {found.mean:.1%} "
        f"[{found.low:.1%}, {found.high:.1%}] for {spent:.3g} instead of {candidates} evaluations "
        f"({prompts} prompts x {candidates} noises, {layers} layers)"
    )
    return Race(rungs, candidates, "bansa", (found.mean, found.low, found.high), spent, prompts, why)


# Previews over steps.


@dataclass(frozen=True)
class Halving:
    """A schedule of previews, (steps, survivors) rungs, and how many candidates it starts from."""

    schedule: Rungs
    candidates: int


def every_halving(evidence: Evidence, judge: str = "score") -> Iterator[Halving]:
    """All schedules of one or two rungs on the steps whose predictions were judged, for all pools measured.

    Up to three survivors of the last rung are finished and judged once more.
    """
    suffix = f"/judge.{judge}"
    judged = sorted(int(n.removesuffix(suffix)) + 1 for n in evidence.columns if n.endswith(suffix))
    for count in range(2, evidence.outcome().shape[1] + 1):
        for at in judged:
            for left in range(1, min(count, 4)):
                yield Halving(((at, left),), count)
        for first, second in product(judged, judged):
            for middle in range(2, count if first < second else 0):
                for left in range(1, min(middle, 3)):
                    yield Halving(((first, middle), (second, left)), count)


def best_halving(
    evidence: Evidence, budget: float, *, steps: int, judge: str = "score", outcome: str = OUTCOME
) -> Halving:
    """The schedule with the best mean outcome among those that cost at most `budget` plain generations.

    Tried roughly first, then the twenty leaders more exactly. What spends less than nine tenths of the budget
    is left to smaller budgets.

    Raises:
        BadInput: no schedule of that cost.
    """
    able = [
        each
        for each in every_halving(evidence, judge)
        if 0.9 * budget <= cost(each.schedule, each.candidates, steps) <= budget
        and each.schedule[-1][0] < steps
    ]
    if not able:
        raise BadInput(
            f"no schedule on the judged steps costs about {budget:g} generations: judge more steps"
        )
    for draws, kept in ((4, 20), (60, 1)):
        values = [
            previewed(evidence, each, judge=judge, outcome=outcome, draws=draws).mean() for each in able
        ]
        able = [able[i] for i in np.argsort(values)[::-1][:kept]]
    return able[0]


def crossed_gain(
    evidence: Evidence, budget: float, *, steps: int, judge: str = "score", outcome: str = OUTCOME
) -> tuple[Array, list[Halving]]:
    """What the best schedule gains over a random noise on prompts that did not choose it, (prompts,).

    Both halves of the prompts take both roles. Also the two schedules that were chosen.
    """
    columns = {"judge": judge, "outcome": outcome}
    found, chosen = _crossed(
        len(evidence.prompts),
        lambda half: best_halving(evidence.subset(half), budget, steps=steps, **columns),
        lambda best, half: previewed(evidence.subset(half), best, **columns, draws=200, seed=1),
    )
    return found - statistics.random(evidence.outcome(outcome)), chosen


def previewed(
    evidence: Evidence,
    halving: Halving,
    *,
    judge: str = "score",
    outcome: str = OUTCOME,
    draws: int = 50,
    seed: int = 0,
) -> Array:
    """Mean outcome of a choice by previews with this schedule, from previews that were measured, (prompts,).

    Each prompt's pool is drawn `draws` times from its noises, without replacement. Where the last rung keeps
    more than one, they are judged by their finished videos.

    Args:
        judge: which of the verifier's numbers chooses.

    Raises:
        BadInput: a rung whose predictions were not judged, or more candidates than noises.
    """
    truth = evidence.outcome(outcome)
    prompts, noises = truth.shape
    if not 1 <= halving.candidates <= noises:
        raise BadInput(f"cannot draw {halving.candidates} candidates of {noises} noises")
    rungs = [(evidence.signal(f"{at - 1}/judge.{judge}"), left) for at, left in halving.schedule]
    if rungs and rungs[-1][1] > 1:
        rungs.append((evidence.outcome(f"outcome.{judge}"), 1))
    rng = np.random.default_rng(seed)
    total = np.zeros(prompts)
    for _ in range(draws):
        # Ties keep the order of the draw, which is a random one.
        drawn = rng.permuted(np.tile(np.arange(noises), (prompts, 1)), axis=1)[:, : halving.candidates]
        total += truth[np.arange(prompts), _survivor(rungs, drawn)]
    return total / draws


def fitted_previews(evidence: Evidence, verifier: str) -> PreviewPlan | None:
    """The schedule of previews that does best for three generations' cost; None where none is sure to gain.

    Chosen on all prompts; the gain that `why` tells is that of schedules chosen on the other half of them.
    """
    steps = round(float(evidence.columns["cost.generation"].mean() / evidence.columns["cost.step"].mean()))
    try:
        gains, _ = crossed_gain(evidence, BUDGET, steps=steps)
    except BadInput:  # too few steps were looked at to make a schedule of that cost
        return None
    gain, share = statistics.bootstrap(gains), statistics.share(gains, evidence.outcome())
    if not gain.low > 0:
        return None
    best = best_halving(evidence, BUDGET, steps=steps)
    prompts, noises = evidence.outcome().shape
    why = (
        f"previews gained {gain.mean:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}] over a random noise at "
        f"{cost(best.schedule, best.candidates, steps):.2g} generations' cost, {share.mean:.0%} of the way "
        f"to the best noise ({prompts} prompts x {noises} noises)"
    )
    return PreviewPlan(best.schedule, verifier, best.candidates, why)
