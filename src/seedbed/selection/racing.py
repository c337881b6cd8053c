"""Racing over layers: the worst candidates are dropped while the first evaluation is still running.

The score of the first layers is known before the others run, so most candidates need not reach the last one
(successive halving, Jamieson and Talwalkar, arXiv 1502.07943). A schedule says after how many scored layers
how many candidates stay; where its last rung keeps one, the race ends there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from seedbed.errors import BadInput
from seedbed.selection.acquisitions import Acquisition, Prefer, create

Schedule = Sequence[tuple[int | float, int]]
Given = Schedule | Literal["auto"] | None
Rungs = tuple[tuple[int, int], ...]

# Batches of different sizes round differently in float32; closer totals than this, relative to the largest,
# are equal for us, or the choice would depend on the batch size.
TIE = 1e-6

# After a tenth of the scored layers, rounded down, a fifth of the candidates stay, at least two; they start
# over where they do not share a forward. The race ends at the published depth of CogVideoX (14 of 30 layers,
# 19 of 42). Ten candidates cost less than 2 % of 50 guided steps, whether they start over or not.
BUDGET = (0.10, 0.2)
BUDGET_END = 0.46
# With fewer layers a tenth of them is next to nothing.
BUDGET_LAYERS = 12


@dataclass(frozen=True)
class Race:
    """The cheapest schedule that a calibration found to be good enough.

    Attributes:
        schedule: (scored layers, survivors) pairs of whole numbers, for `candidates` noises.
        candidates: that it was measured with; other numbers keep the same shares, rounded up.
        acquisition: the function whose scores it was fitted on, by name, at its defaults.
        regret: of its choice in the full score, 0 for the best candidate and 1 for the median one: mean and
            95 % interval over prompts.
        cost: evaluations for each pool, in full conditional forwards.
        prompts: how many.
        why: one line of evidence.

    Raises:
        BadInput: an unknown function, or a schedule that `planned` refuses.
    """

    schedule: Rungs
    candidates: int
    acquisition: str
    regret: tuple[float, float, float]
    cost: float
    prompts: int
    why: str

    def __post_init__(self) -> None:
        create(self.acquisition)
        planned(self.schedule, max(after for after, _ in self.schedule), self.candidates)

    def rungs(self, layers: int, candidates: int) -> Rungs:
        """For so many scored layers and candidates; BadInput where the model has too few layers."""
        shares = [
            (after, 1 if left == 1 else max(2, math.ceil(left * candidates / self.candidates)))
            for after, left in self.schedule
        ]
        return planned(_falling(shares, candidates), layers, candidates)

    def fits(self, function: Acquisition, prefer: Prefer) -> bool:
        """Whether it was fitted on this function; how many rows that looks at, and which, is no matter."""
        ours = create(self.acquisition)
        rows = {"rows": None, "seed": None}
        return (
            function.name == ours.name
            and prefer == ours.prefer
            and function.options() | rows == ours.options() | rows
        )


def budgeted(layers: int, candidates: int) -> Rungs:
    """The default without a calibration; none for a model with few layers, or for a single candidate."""
    if layers < BUDGET_LAYERS or candidates < 2:
        return ()
    at, stay = BUDGET
    finalists = max(2, math.ceil(stay * candidates))
    return _falling([(math.floor(at * layers), finalists), (round(BUDGET_END * layers), 1)], candidates)


def planned(schedule: Schedule, layers: int, candidates: int) -> Rungs:
    """The rungs of a schedule, ((scored layers seen, survivors), ...), checked.

    Args:
        schedule: whole numbers of layers, or fractions of them in (0, 1).
        layers, candidates: how many there are.

    Raises:
        BadInput: an empty schedule, layers that do not rise or lie beyond the last, survivors that do not
            fall.
    """
    rungs: list[tuple[int, int]] = []
    before, alive = 0, candidates
    for given, left in _pairs(schedule):
        after = max(1, round(given * layers)) if isinstance(given, float) else given
        if after <= before:
            raise BadInput(f"the race's layers must rise from 1, but {after} comes after {before}")
        if after > layers:
            raise BadInput(f"the race drops candidates after {after} layers, but only {layers} are scored")
        if not 1 <= left < alive:
            raise BadInput(
                f"the race keeps {left} of {alive} candidates after {after} layers: survivors must fall, "
                "down to 1"
            )
        rungs.append((after, left))
        before, alive = after, left
    return tuple(rungs)


def parsed(text: str) -> Given:
    """A race as the command line has it: "3:5,5:2,6:1", "0.1:3,0.5:1", "auto" or "off".

    Raises:
        BadInput: anything else.
    """
    if text == "auto":
        return "auto"
    if text == "off":
        return None
    try:
        pairs = [rung.split(":") for rung in text.split(",")]
        return tuple((float(at) if "." in at else int(at), int(left)) for at, left in pairs)
    except ValueError:
        raise BadInput(f"cannot read the race {text!r}: write auto, off or layers:survivors,...") from None


def rungs_of(
    race: Given,
    function: Acquisition,
    prefer: Prefer,
    layers: int,
    candidates: int,
    *,
    calibrated: Race | None,
    narrowed: bool,
) -> tuple[Rungs, str]:
    """The rungs of a pool, and whose they are in a word or two; no rungs where nobody is dropped.

    Args:
        race: as `select` takes it.
        layers, candidates: scored layers, and noises.
        calibrated: what the profile says.
        narrowed: whether somebody chose the scored layers, or their depth, which "auto" then respects.

    Raises:
        BadInput: as `planned`; a function that cannot race was asked to.
    """
    able = function.uses_attention and not function.foresees and function.copies == function.steps == 1
    if race is None or (race == "auto" and (narrowed or not able)):
        return (), ""
    if race == "auto":
        if calibrated is not None and calibrated.fits(function, prefer):
            return calibrated.rungs(layers, candidates) if candidates > 1 else (), "the profile's"
        return budgeted(layers, candidates), "the default for a model without a calibrated race"
    if isinstance(race, str):
        raise BadInput(f"race must be 'auto', None or pairs (layers, survivors), not {race!r}")
    if not able:
        raise BadInput(
            f"{function.name} cannot race: it does not score the layers of a single evaluation as they run"
        )
    return planned(race, layers, candidates), "as asked"


def told(rungs: Rungs, whose: str) -> str:
    """A race in words."""
    stays = ", ".join(f"{left} after {after}" for after, left in rungs)
    return f"raced over layers, {whose}: {stays} stay{'s' if rungs[-1][1] == 1 else ''}"


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


def seen(scores: Tensor) -> Tensor:
    """How many layers each candidate went through: (candidates, layers) with nan -> (candidates,) int64."""
    return (~scores.isnan()).sum(1)


def standing(scores: Tensor, prefer: Prefer, looks: Tensor | None = None) -> tuple[int, ...]:
    """Candidates, best first, from their scores by layer: those that were dropped last come first.

    Args:
        scores: (candidates, layers), nan where a candidate was not seen.
        looks: (candidates,), how often each was scored again with more rows: those that were come first.
    """
    totals = scores.nanmean(1)
    again = [0] * len(scores) if looks is None else looks.tolist()
    heats = list(zip(seen(scores).tolist(), again, strict=True))
    order: list[int] = []
    for heat in sorted(set(heats), reverse=True):
        group = torch.tensor([candidate for candidate, its in enumerate(heats) if its == heat])
        order += group[list(ranked(totals[group], prefer))].tolist()
    return tuple(order)


def survivors(scores: Tensor, alive: Sequence[int], rung: tuple[int, int], prefer: Prefer) -> list[int]:
    """Which of the candidates stay after a rung, ascending: the best by the mean over the layers so far.

    Nobody is dropped by a rung before the last that has seen nothing but ties, as where a model's first
    layers attend over the text alone.
    """
    after, left = rung
    group = torch.tensor(alive)
    totals = scores[group, :after].mean(1)
    if left > 1 and float(totals.max() - totals.min()) <= TIE * float(totals.abs().max()):
        return sorted(alive)
    order = ranked(totals, prefer)
    return sorted(group[list(order[:left])].tolist())


def _falling(rungs: Sequence[tuple[int, int]], candidates: int) -> Rungs:
    """Without the rungs that drop nobody."""
    kept: list[tuple[int, int]] = []
    for after, left in rungs:
        if left < (kept[-1][1] if kept else candidates):
            kept.append((after, left))
    return tuple(kept)


def _pairs(schedule: Schedule) -> list[tuple[int | float, int]]:
    shape = "give pairs (layers, survivors), as in ((3, 5), (6, 1)), or None for no race"
    try:
        pairs = [(after, left) for after, left in schedule]
    except (TypeError, ValueError):
        raise BadInput(f"cannot read the race {schedule!r}: {shape}") from None
    if not pairs:
        raise BadInput(f"the race is empty: {shape}")
    for after, left in pairs:
        if type(left) is not int or not (type(after) is int or (type(after) is float and 0 < after < 1)):
            raise BadInput(f"cannot read the race {schedule!r}: {shape}")
    return pairs
