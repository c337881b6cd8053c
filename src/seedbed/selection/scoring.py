"""Running a pool of noises through a probe, batch by batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from seedbed.errors import BadInput, BadOutput
from seedbed.noise import NoiseRecipe
from seedbed.probe import CannotShrink, Probe, Shrinking
from seedbed.selection.acquisitions import Acquisition, Prefer
from seedbed.selection.batches import Batches, BatchSize, memory_of, rows_that_fit
from seedbed.selection.confidence import Look, tell_apart
from seedbed.selection.layers import Plan
from seedbed.selection.racing import Rungs, seen, standing
from seedbed.selection.record import GivenNoise
from seedbed.selection.standing import Meter, Observer, Show, Standing

Pool = Sequence[NoiseRecipe | GivenNoise]


@dataclass(frozen=True)
class Scored:
    """A pool's scores.

    Attributes:
        scores: (candidates, layers) float64 up to the end of the race; nan where one had been dropped.
        order: candidates, best first.
        confidence: see `seedbed.selection.record.Selection`.
        unable: why nobody could be dropped within the model's forward; "" where somebody could.
    """

    scores: Tensor
    order: tuple[int, ...]
    confidence: float | None
    unable: str


def score_pool(
    probe: Probe, pool: Pool, function: Acquisition, plan: Plan, batch_size: BatchSize, show: Show
) -> Tensor:
    """The mean of a function's scores over its steps: (candidates, layers) float64.

    Raises:
        BadInput: the function returns another shape, or wants more evaluations than the schedule has.
        NotSupported: a layer that does not run in every evaluation.
        BadOutput: a score that is not finite; names candidate and layer.
    """
    scorer = _Scorer(probe, pool, function, plan, (), function.prefer, batch_size, show)
    return scorer.run(range(len(pool)), function, plan, ()).scores


def race_pool(
    probe: Probe,
    pool: Pool,
    function: Acquisition,
    plan: Plan,
    batch_size: BatchSize,
    show: Show,
    rungs: Rungs,
    prefer: Prefer,
) -> Scored:
    """As `score_pool`, but the worst are dropped at each rung, whatever the batches.

    Where the candidates left share a forward, they are dropped within it. Otherwise, and where the model
    cannot go on with fewer, those that stay start over, which costs more and chooses the same. Without a
    race, candidates whom the sampled rows do not tell apart are scored again with more.

    Raises:
        As `score_pool`.
    """
    if rungs and rungs[-1][1] == 1:
        plan = plan.cut(rungs[-1][0])
    scorer = _Scorer(probe, pool, function, plan, rungs, prefer, batch_size, show)
    first = scorer.run(range(len(pool)), function, plan, rungs)
    scores, depths = first.scores, seen(first.scores)
    looks, confidence = torch.zeros(len(pool)), None
    if function.scores_rows:
        near = (depths == depths.max()).nonzero().flatten().tolist()

        def again(rivals: list[int], rows: int) -> tuple[Tensor, list[Look]]:
            finer: Any = function
            found = scorer.run(rivals, dataclasses.replace(finer, rows=rows), plan, (), "more rows")
            return found.scores[rivals], [found.looks[rival] for rival in rivals]

        # A second look costs whole forwards, and cannot bring back who was dropped after a first.
        rows = None if rungs else getattr(function, "rows", None)
        confidence = tell_apart(near, scores, first.looks, looks, rows, again, prefer, function.steps)
    return Scored(scores, standing(scores, prefer, looks), confidence, scorer.unable)


class _Scorer:
    """One pool's forwards."""

    def __init__(
        self,
        probe: Probe,
        pool: Pool,
        function: Acquisition,
        plan: Plan,
        rungs: Rungs,
        prefer: Prefer,
        batch_size: BatchSize,
        show: Show,
    ) -> None:
        self.probe, self.pool, self.function, self.plan = probe, pool, function, plan
        self.prefer = prefer
        self.unable = ""
        self.batches = Batches(
            batch_size,
            pool[0].shape,
            function.copies,
            memory_of(probe.spec.device),
            probe.most_rows if len(pool) > 1 else None,
        )
        planned = function.copies * _planned_cost(len(pool), plan, function.steps, rungs)
        self.meter = Meter(planned, plan.total, show)

    def run(
        self,
        candidates: Sequence[int],
        function: Acquisition,
        plan: Plan,
        rungs: Rungs,
        what: str = "scoring",
    ) -> Standing:
        """Score these candidates through a race."""
        found = Standing(len(self.pool), candidates, plan, function.steps, rungs, self.prefer)

        def forward(batch: Sequence[int], depth: int, shrinking: Shrinking | None = None) -> None:
            noises = torch.stack([self.pool[index].draw() for index in batch])
            try:
                self.probe.evaluate(
                    noises.repeat_interleave(function.copies, 0),
                    Observer(function, found, batch, self.meter, shrinking),
                    depth=depth,
                    steps=function.steps,
                    what=what,
                    shrinking=shrinking,
                )
            except torch.OutOfMemoryError:
                found.forget(batch)
                raise
            found.require(batch)

        while not found.finished:
            if found.rungs and len(found.alive) <= self.batches.most and not self.unable:
                try:
                    self.batches.fits(
                        found.alive,
                        lambda batch: forward(batch, plan.depth, self.probe.shrinking(len(batch))),
                    )
                except CannotShrink as error:
                    self.unable = str(error)
            else:
                depth = plan.cut(found.goal).depth
                self.batches.run(found.alive, lambda batch, depth=depth: forward(batch, depth))  # type: ignore[misc]
                found.settle()
        self.meter.finish()
        return found


def judge_pool(function: Acquisition, pool: Pool) -> Tensor:
    """The totals of a function of the noise alone: (candidates,) float64.

    Raises:
        BadOutput: one that is not finite; names the candidate.
    """
    return _finite(
        function, torch.cat([function.judge(recipe.draw()[None]).double().cpu() for recipe in pool])
    )


def foresee_pool(probe: Probe, pool: Pool, function: Acquisition, batch_size: BatchSize) -> Tensor:
    """The totals of a function that denoises the candidates itself: (candidates,) float64.

    Raises:
        BadInput: the function returns another shape.
        BadOutput: a total that is not finite; names the candidate.
    """
    noises = torch.stack([recipe.draw() for recipe in pool])
    totals = function.foresee(probe, noises, rows_that_fit(batch_size, pool[0].shape)).double().cpu()
    if tuple(totals.shape) != (len(pool),):
        raise BadInput(
            f"{function.name} returned scores of shape {tuple(totals.shape)}, not one for each of the "
            f"{len(pool)} candidates"
        )
    return _finite(function, totals)


def preview_pool(probe: Probe, pool: Pool, show: Show) -> list[np.ndarray[Any, Any]]:
    """What each candidate's first step predicts, decoded: (frames, height, width, 3) uint8 each."""
    pictures: list[np.ndarray[Any, Any]] = []
    for done, recipe in enumerate(pool):
        show("preview", done, len(pool))
        pictures += probe.preview(recipe.draw()[None])
    show("preview", len(pool), len(pool))
    return pictures


def _planned_cost(count: int, plan: Plan, steps: int, rungs: Rungs) -> float:
    """Evaluations of the whole pool, if all who are dropped are dropped at once."""
    spent, before, alive = float(count * (steps - 1)), 0, count
    for after, left in rungs:
        depth = plan.cut(after).depth
        spent += alive * (depth - before) / plan.total
        before, alive = depth, left
    return spent + (alive * (plan.depth - before) / plan.total if plan.depth > before else 0)


def _finite(function: Acquisition, totals: Tensor) -> Tensor:
    for index in (~totals.isfinite()).nonzero().flatten().tolist():
        raise BadOutput(f"{function.name} of candidate {index} is {totals[index].item()}")
    return totals
