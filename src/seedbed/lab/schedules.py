"""Which schedule of previews earns its cost: successive halving, replayed on previews that were measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from seedbed.errors import BadInput
from seedbed.lab import statistics
from seedbed.lab.evidence import OUTCOME, Evidence
from seedbed.lab.statistics import Array

Schedule = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Choice:
    """A schedule as `seedbed.preview` takes it, and how many candidates it starts from."""

    schedule: Schedule
    candidates: int


def every(
    evidence: Evidence, judge: str = "score", candidates: Sequence[int] | None = None
) -> Iterator[Choice]:
    """All schedules of one or two rungs on the steps whose predictions were judged.

    Up to three survivors of the last rung are finished and judged once more.

    Args:
        candidates: how many to start from; None tries all that the measured pools allow.
    """
    noises = evidence.outcome().shape[1]
    judged = sorted(
        {int(name.split("/")[0]) + 1 for name in evidence.columns if name.endswith(f"/judge.{judge}")}
    )
    for count in range(2, noises + 1) if candidates is None else candidates:
        for at in judged:
            for left in range(1, min(count, 4)):
                yield Choice(((at, left),), count)
        for first, second in product(judged, judged):
            for middle in range(2, count if first < second else 0):
                for left in range(1, min(middle, 3)):
                    yield Choice(((first, middle), (second, left)), count)


def best(
    evidence: Evidence,
    budget: float,
    *,
    steps: int,
    judge: str = "score",
    outcome: str = OUTCOME,
    candidates: Sequence[int] | None = None,
) -> Choice:
    """The schedule with the best mean outcome among those that cost at most `budget` plain generations.

    Tried roughly first, then the twenty leaders more exactly. What spends less than nine tenths of the budget
    is left to smaller budgets.

    Raises:
        BadInput: no schedule of that cost.
    """
    able = [
        choice
        for choice in every(evidence, judge, candidates)
        if 0.9 * budget <= cost(choice, steps) <= budget and choice.schedule[-1][0] < steps
    ]
    if not able:
        raise BadInput(
            f"no schedule on the judged steps costs about {budget:g} generations: judge more steps"
        )
    for draws, kept in ((4, 20), (60, 1)):
        values = [
            previewed(evidence, c.schedule, c.candidates, judge=judge, outcome=outcome, draws=draws).mean()
            for c in able
        ]
        able = [able[i] for i in np.argsort(values)[::-1][:kept]]
    return able[0]


def crossed(
    evidence: Evidence,
    budget: float,
    *,
    steps: int,
    judge: str = "score",
    outcome: str = OUTCOME,
    candidates: Sequence[int] | None = None,
) -> tuple[Array, list[Choice]]:
    """What the best schedule gains over a random noise on prompts that did not choose it, (prompts,).

    Both halves of the prompts take both roles. Also the two schedules that were chosen.
    """
    truth = evidence.outcome(outcome)
    halves = [np.arange(len(truth))[start::2] for start in (0, 1)]
    parts = [
        Evidence(tuple(evidence.prompts[i] for i in half), {n: v[half] for n, v in evidence.columns.items()})
        for half in halves
    ]
    gains, chosen = np.empty(len(truth)), []
    for fitted, tested, half in ((0, 1, halves[1]), (1, 0, halves[0])):
        choice = best(parts[fitted], budget, steps=steps, judge=judge, outcome=outcome, candidates=candidates)
        found = previewed(
            parts[tested], choice.schedule, choice.candidates, judge=judge, outcome=outcome, draws=200, seed=1
        )
        gains[half] = found - statistics.random(truth[half])
        chosen.append(choice)
    return gains, chosen


def cost(choice: Choice, steps: int) -> float:
    """What `seedbed.preview` spends with this schedule, in plain generations of so many steps."""
    spent, alive, before = 0, choice.candidates, 0
    for at, left in [*choice.schedule, (steps, 1)]:
        spent += alive * (at - before)
        alive, before = left, at
    return spent / steps


def previewed(
    evidence: Evidence,
    schedule: Sequence[tuple[int, int]],
    candidates: int,
    *,
    judge: str = "score",
    outcome: str = OUTCOME,
    draws: int = 50,
    seed: int = 0,
) -> Array:
    """Mean outcome of `selection.preview` with this schedule, from previews that were measured, (prompts,).

    Each prompt's pool is drawn `draws` times: `candidates` of its noises, without replacement.

    Args:
        schedule: (steps, survivors) rungs as in `preview`; more than one survivor of the last rung are judged
            by their finished videos.
        judge: which of the verifier's numbers chooses.

    Raises:
        BadInput: a rung whose predictions were not judged, or more candidates than noises.
    """
    truth = evidence.outcome(outcome)
    count = truth.shape[1]
    if not 1 <= candidates <= count:
        raise BadInput(f"cannot draw {candidates} candidates of {count} noises")
    rungs = [(evidence.signal(f"{at - 1}/judge.{judge}"), left) for at, left in schedule]
    if schedule and schedule[-1][1] > 1:
        rungs.append((evidence.outcome(f"outcome.{judge}"), 1))
    rng = np.random.default_rng(seed)
    rows = np.arange(len(truth))[:, None]
    total = np.zeros(len(truth))
    for _ in range(draws):
        alive = rng.permuted(np.tile(np.arange(count), (len(truth), 1)), axis=1)[:, :candidates]
        for values, left in rungs:
            # Ties keep the order of the draw, which is a random one.
            best = np.argsort(-values[rows, alive], axis=1, kind="stable")[:, :left]
            alive = np.take_along_axis(alive, np.sort(best, axis=1), axis=1)
        total += truth[rows[:, 0], alive[:, 0]]
    return total / draws
