"""Successive halving over denoising steps: its schedule, and what a rung of it found."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from seedbed.errors import BadInput

Schedule = Sequence[tuple[int, int]]

# (share of the steps, share of the candidates that goes on), of 20 steps and 6 candidates: (7, 2), (10, 1).
# Of all schedules of two rungs at three generations' cost it did best on the embedded model, see
# docs/evidence.md.
SCHEDULE = ((0.35, 1 / 3), (0.50, 0.0))
CANDIDATES = 6


@dataclass(frozen=True)
class Rung:
    """One pause of the candidates: what a verifier said of their previews, and which went on.

    Attributes:
        steps: denoising steps done; judged was what the last of them predicts, decoded.
        candidates: those still there, ascending.
        scores: theirs, by the verifier, higher is better.
        kept: those that went on, best first.
        columns: the verifier's other numbers by name, in the order of `candidates`.
    """

    steps: int
    candidates: tuple[int, ...]
    scores: tuple[float, ...]
    kept: tuple[int, ...]
    columns: dict[str, tuple[float, ...]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "steps": self.steps,
            "candidates": list(self.candidates),
            "scores": list(self.scores),
            "kept": list(self.kept),
            "columns": {name: list(values) for name, values in self.columns.items()},
        }

    @classmethod
    def from_dict(cls, entry: Mapping[str, Any]) -> Rung:
        """Read what `to_dict` wrote; KeyError, TypeError or ValueError where it is damaged."""
        rung = cls(
            entry["steps"],
            tuple(entry["candidates"]),
            tuple(entry["scores"]),
            tuple(entry["kept"]),
            {name: tuple(values) for name, values in entry["columns"].items()},
        )
        if len(rung.scores) != len(rung.candidates) or not {*rung.kept} <= {*rung.candidates}:
            raise ValueError("a rung's candidates, scores and survivors do not agree")
        return rung


def planned(schedule: Schedule | None, candidates: int, steps: int) -> tuple[tuple[int, int], ...]:
    """The rungs for so many candidates and steps, ((steps done, survivors), ...), the last with one survivor.

    Args:
        schedule: None for `SCHEDULE`. Where its last rung has more than one survivor, the finished videos are
            one rung more.

    Raises:
        BadInput: an empty schedule, steps that do not rise or lie beyond the last, survivors that do not
            fall.
    """
    if schedule is None:
        rungs: list[tuple[int, int]] = []
        for at, share in SCHEDULE:
            after = max(round(at * steps), rungs[-1][0] + 1 if rungs else 1)
            left = max(1, math.ceil(share * candidates))
            if after <= steps and left < (rungs[-1][1] if rungs else candidates):
                rungs.append((after, left))
        if rungs:  # the last, of few candidates or steps, has to decide
            rungs[-1] = (rungs[-1][0], 1)
    else:
        rungs = [(after, left) for after, left in _pairs(schedule)]
        before, alive = 0, candidates
        for after, left in rungs:
            if after <= before:
                raise BadInput(f"the schedule's steps must rise from 1, but {after} comes after {before}")
            if after > steps:
                raise BadInput(
                    f"the schedule judges after {after} steps, but there are only {steps}: lower it, or "
                    "raise num_inference_steps"
                )
            if left >= alive or left < 1:
                raise BadInput(
                    f"the schedule keeps {left} of {alive} candidates after {after} steps: survivors must "
                    "fall, down to 1"
                )
            before, alive = after, left
    if rungs and rungs[-1][1] > 1:
        if rungs[-1][0] == steps:
            raise BadInput(f"after all {steps} steps one video is returned: let the last rung keep 1")
        rungs.append((steps, 1))
    return tuple(rungs)


def _pairs(schedule: Schedule) -> Sequence[tuple[int, int]]:
    shape = "give pairs of whole numbers (steps, survivors), as in ((7, 2), (10, 1))"
    try:
        pairs = [(after, left) for after, left in schedule]
    except (TypeError, ValueError):
        raise BadInput(f"cannot read the schedule {schedule!r}: {shape}") from None
    if not pairs:
        raise BadInput(f"the schedule is empty: {shape}")
    if any(type(number) is not int for pair in pairs for number in pair):
        raise BadInput(f"cannot read the schedule {schedule!r}: {shape}")
    return pairs
