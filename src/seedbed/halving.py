"""Successive halving: the worst candidates are dropped as soon as a little is known of all.

One schedule serves attention scores, whose layers run one after the other, and previews, whose steps do
(Jamieson and Talwalkar, arXiv 1502.07943).
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from seedbed.errors import BadInput, number, shown

Prefer = Literal["low", "high"]
Schedule = Sequence[tuple[int | float, int | float]]
"""((at, survivors), ...): after so many layers or steps so many candidates stay. Either is a whole number,
or a share in (0, 1) of the layers, steps or candidates there are; survivors are rounded up."""
Rungs = tuple[tuple[int, int], ...]

# Batches of different sizes round differently in float32; closer totals than this, relative to the largest,
# are equal for us, or the choice would depend on the batch size.
TIE = 1e-6


@dataclass(frozen=True)
class Rung:
    """One pause of a selection by previews: what a verifier said of them, and which candidates went on.

    Attributes:
        steps: denoising steps done; judged was what the last of them predicts, decoded.
        candidates: those still there, ascending.
        scores: theirs, by the verifier, higher is better.
        kept: those that went on, best first.
        columns: the verifier's other numbers by name, in the order of `candidates`.

    Raises:
        ValueError: candidates, scores and survivors do not agree.
    """

    steps: int
    candidates: tuple[int, ...]
    scores: tuple[float, ...]
    kept: tuple[int, ...]
    columns: dict[str, tuple[float, ...]]

    def __post_init__(self) -> None:
        if len(self.scores) != len(self.candidates) or not {*self.kept} <= {*self.candidates}:
            raise ValueError("a rung's candidates, scores and survivors do not agree")


def planned(schedule: Schedule, total: int, candidates: int, what: str = "layers") -> Rungs:
    """The rungs of a schedule for so many layers or steps and candidates, ((after, survivors), ...).

    A rung given in shares that drops nobody is left out.

    Raises:
        BadInput: an empty schedule, layers or steps that do not rise or lie beyond the last, survivors that
            do not fall.
    """
    example = f"give pairs ({what}, survivors), as in ((3, 5), (6, 1)) or ((0.35, 0.34), (0.5, 1))"
    try:
        pairs = [(at, stay) for at, stay in schedule]
    except (TypeError, ValueError):
        raise BadInput(f"cannot read the schedule {shown(schedule)}: {example}") from None
    if not pairs:
        raise BadInput(f"the schedule is empty: {example}")
    rungs: list[tuple[int, int]] = []
    before, alive = 0, candidates
    for at, stay in pairs:
        for value in (at, stay):
            share = isinstance(value, float) and 0 < value < 1
            if not share and number(value, operator.index) is None:
                raise BadInput(f"cannot read the schedule {shown(schedule)}: {example}")
        after = max(round(at * total), before + 1) if isinstance(at, float) else at
        left = math.ceil(stay * candidates) if isinstance(stay, float) else stay
        shares = isinstance(at, float) or isinstance(stay, float)
        if shares and (left >= alive or after > total):
            continue
        for wrong, message in (
            (after <= before, f"'s {what} must rise from 1, but {after} comes after {before}"),
            (after > total, f" drops candidates after {after} {what}, but there are only {total}"),
            (left < 1, f" keeps {left} candidates after {after} {what}: keep at least 1"),
            (
                left >= alive,
                f" keeps {left} of {alive} candidates after {after} {what}: survivors must fall, down to 1",
            ),
        ):
            if wrong:
                raise BadInput(f"the schedule{message}")
        rungs.append((int(after), int(left)))
        before, alive = after, left
    return tuple(rungs)


def cost(rungs: Rungs, candidates: int, total: int, finish: bool = True) -> float:
    """What a pool spends, in the way of one candidate through all `total` layers or steps.

    Args:
        rungs: (layers or steps seen, survivors), those that are dropped leaving at once.
        finish: whether a single survivor goes on to the end, as previews do and races do not.
    """
    spent, before, alive = 0, 0, candidates
    for after, left in rungs:
        spent, before, alive = spent + alive * (after - before), after, left
    return (spent + alive * (total - before) * (finish or alive > 1)) / total


def ranked(totals: Tensor, prefer: Prefer) -> tuple[int, ...]:
    """Candidates, best first; totals within 1e-6 of the largest are ties, in the order of their indices."""
    values = (totals if prefer == "low" else -totals).tolist()
    tolerance = TIE * max(map(abs, values))
    waiting = sorted(range(len(values)), key=lambda index: values[index])
    order: list[int] = []
    while waiting:
        tied = [index for index in waiting if not values[index] - values[waiting[0]] > tolerance]
        order += sorted(tied)
        waiting = waiting[len(tied) :]
    return tuple(order)


def survivors(totals: Tensor, alive: Sequence[int], left: int, prefer: Prefer) -> list[int]:
    """Which of the candidates stay, ascending: the best by their totals, (len(alive),).

    Nobody is dropped where several are to stay and all are equal, as where a model's first layers attend over
    the text alone.
    """
    if left > 1 and float(totals.max() - totals.min()) <= TIE * float(totals.abs().max()):
        return sorted(alive)
    return sorted(alive[place] for place in ranked(totals, prefer)[:left])
