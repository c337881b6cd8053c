"""Running a pool of noises through a probe, batch by batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from seedbed.attention.tap import AttentionCall, SplitBatch
from seedbed.errors import BadInput, BadOutput, NotSupported
from seedbed.noise import NoiseRecipe
from seedbed.probe import CannotShrink, Probe, Shrinking
from seedbed.selection.acquisitions import Acquisition, Prefer
from seedbed.selection.layers import Plan
from seedbed.selection.racing import Rungs, survivors
from seedbed.selection.record import GivenNoise

Pool = Sequence[NoiseRecipe | GivenNoise]
Show = Callable[[str, float, float], None]

# Latent values per batch: three candidates at CogVideoX's full size, every candidate of a small model.
_BATCH_VALUES = 4_000_000


def score_pool(
    probe: Probe, pool: Pool, function: Acquisition, plan: Plan, batch_size: int | None, show: Show
) -> Tensor:
    """The mean of a function's scores over its steps: (candidates, layers) float64.

    Raises:
        BadInput: the function returns another shape, or wants more evaluations than the schedule has.
        NotSupported: a layer that does not run in every evaluation.
        BadOutput: a score that is not finite; names candidate and layer.
    """
    return race_pool(probe, pool, function, plan, batch_size, show, (), function.prefer)[0]


def race_pool(
    probe: Probe,
    pool: Pool,
    function: Acquisition,
    plan: Plan,
    batch_size: int | None,
    show: Show,
    rungs: Rungs,
    prefer: Prefer,
) -> tuple[Tensor, str]:
    """As `score_pool`, but the worst are dropped at each rung, whatever the batches: nan where not seen.

    Where the candidates left share a forward, they are dropped within it. Otherwise, and where the model
    cannot go on with fewer, those that stay start over, which costs more and chooses the same.

    Returns:
        The table up to the end of the race; and why the model could not drop within its forward, or "".

    Raises:
        As `score_pool`.
    """
    if rungs and rungs[-1][1] == 1:
        plan = plan.cut(rungs[-1][0])
    standing = _Standing(len(pool), plan, function.steps, rungs, prefer)
    most = max(1, (batch_size or rows_that_fit(pool[0].shape)) // function.copies)
    if most > 1 and len(pool) > 1 and probe.most_rows is not None:
        most = probe.most_rows
    meter = _Meter(function.copies * _planned_cost(len(pool), plan, function.steps, rungs), plan.total, show)

    def run(batch: Sequence[int], depth: int, shrinking: Shrinking | None = None) -> None:
        observer = _Observer(function, standing, batch, meter, shrinking)
        noises = torch.stack([pool[index].draw() for index in batch]).repeat_interleave(function.copies, 0)
        probe.evaluate(noises, observer, depth=depth, steps=function.steps, shrinking=shrinking)
        standing.require(batch)

    unable = ""
    while not standing.finished:
        alive = standing.alive
        try:
            if standing.rungs and len(alive) <= most and not unable:
                run(alive, plan.depth, probe.shrinking(len(alive)))
            else:
                for batch in evenly(alive, most):
                    run(batch, plan.cut(standing.goal).depth)
                standing.settle()
        except CannotShrink as error:
            unable = str(error)
        except SplitBatch:
            if most == 1:
                raise
            most = 1
    meter.finish()
    return standing.scores, unable


class _Standing:
    """What is known of a pool: its scores, who is still in, and the rungs ahead.

    Attributes:
        alive: ascending.
        finished: whether nothing is left to see.
    """

    def __init__(self, count: int, plan: Plan, steps: int, rungs: Rungs, prefer: Prefer) -> None:
        self.plan, self.steps, self.prefer = plan, steps, prefer
        self.rungs = list(rungs)
        self.alive = list(range(count))
        self.finished = False
        self._sums = torch.zeros(count, len(plan.names), dtype=torch.float64)
        self._times = torch.zeros(count, len(plan.names), dtype=torch.int64)

    @property
    def goal(self) -> int:
        """Columns to see before anything is decided."""
        return self.rungs[0][0] if self.rungs else len(self.plan.names)

    @property
    def scores(self) -> Tensor:
        """(candidates, layers) float64, nan where not seen."""
        return torch.where(self._times == self.steps, self._sums / self.steps, math.nan)

    def add(self, column: int, candidates: Sequence[int], scores: Tensor) -> None:
        """The scores of one layer in one evaluation; what is known already stays as it is."""
        for candidate, score in zip(candidates, scores.tolist(), strict=True):
            if candidate in self.alive and self._times[candidate, column] < self.steps:
                self._sums[candidate, column] += score
                self._times[candidate, column] += 1

    def require(self, batch: Sequence[int]) -> None:
        """NotSupported unless every layer up to the goal was seen for those of a batch who are still in."""
        for candidate in set(batch) & set(self.alive):
            for name, times in zip(self.plan.names[: self.goal], self._times[candidate], strict=False):
                if times < self.steps:
                    raise NotSupported(
                        f"layer {name} ran in only {int(times)} of {self.steps} denoiser evaluations: switch "
                        "off what skips layers (caching), or leave it out with layers="
                    )

    def settle(self) -> None:
        """The goal is reached: drop the worst."""
        if self.rungs:
            self.alive = survivors(self.scores, self.alive, self.rungs.pop(0), self.prefer)
            self.finished = len(self.alive) == 1
        else:
            self.finished = True


class _Meter:
    """Shows how many evaluations are done of those that are planned."""

    def __init__(self, planned: float, layers: int, show: Show) -> None:
        self.done, self.planned, self.layers, self.show = 0.0, planned, layers, show

    def count(self, rows: int) -> None:
        """One layer of so many rows."""
        self.done += rows / self.layers
        self.show("scoring", min(self.done, self.planned), self.planned)

    def finish(self) -> None:
        if self.done < self.planned:
            self.show("scoring", self.planned, self.planned)


class _Observer:
    """The handler of one batch: hands on its scores, and drops candidates where it sees all there are."""

    def __init__(
        self,
        function: Acquisition,
        standing: _Standing,
        batch: Sequence[int],
        meter: _Meter,
        shrinking: Shrinking | None,
    ) -> None:
        self.function, self.standing, self.batch = function, standing, batch
        self.meter, self.shrinking = meter, shrinking

    def __call__(self, call: AttentionCall) -> Tensor | None:
        self.meter.count(call.candidates)
        standing, shrinking = self.standing, self.shrinking
        column = standing.plan.columns.get(call.index)
        if column is None:
            return None
        present = self.batch if shrinking is None else [self.batch[place] for place in shrinking.present]
        scores, output = self.function.attend(call)
        if tuple(scores.shape) != (len(present),):
            raise BadInput(
                f"{self.function.name} returned scores of shape {tuple(scores.shape)}, not one for each of "
                f"the {len(present)} candidates: call.by_candidate(...) makes them"
            )
        scores = scores.detach().double().cpu()
        # A function may make a number of a row that is not finite, so what it looked at is checked too.
        inputs = call.query.sum((1, 2, 3), dtype=torch.float32) + call.key.sum((1, 2, 3), dtype=torch.float32)
        means = call.by_candidate(inputs).view(len(present), -1).mean(1).cpu()
        for what, values in (("the mean query and key", means), (self.function.name, scores)):
            for index in (~values.isfinite()).nonzero().flatten().tolist():
                if present[index] in standing.alive:
                    raise BadOutput(
                        f"{what} of candidate {present[index]} is {values[index].item()} at layer "
                        f"{standing.plan.names[column]}: values are not finite there; try float32 or bfloat16"
                    )
        standing.add(column, present, scores)
        if shrinking is not None and column + 1 == standing.goal:
            standing.settle()
            if standing.finished:
                call.stop()
            shrinking.keep([self.batch.index(candidate) for candidate in standing.alive])
        return output


def judge_pool(function: Acquisition, pool: Pool) -> Tensor:
    """The totals of a function of the noise alone: (candidates,) float64.

    Raises:
        BadOutput: one that is not finite; names the candidate.
    """
    return _finite(
        function, torch.cat([function.judge(recipe.draw()[None]).double().cpu() for recipe in pool])
    )


def foresee_pool(probe: Probe, pool: Pool, function: Acquisition, batch_size: int | None) -> Tensor:
    """The totals of a function that denoises the candidates itself: (candidates,) float64.

    Raises:
        BadInput: the function returns another shape.
        BadOutput: a total that is not finite; names the candidate.
    """
    noises = torch.stack([recipe.draw() for recipe in pool])
    totals = function.foresee(probe, noises, batch_size or rows_that_fit(pool[0].shape)).double().cpu()
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


def rows_that_fit(shape: Sequence[int]) -> int:
    """How many rows of latents of this shape share a forward where the caller does not say."""
    return max(1, _BATCH_VALUES // math.prod(shape))


def evenly(candidates: Sequence[int], most: int) -> list[Sequence[int]]:
    """Consecutive candidates that share a forward, in batches as even as possible."""
    count = math.ceil(len(candidates) / most)
    edges = [len(candidates) * index // count for index in range(count + 1)]
    return [candidates[start:end] for start, end in pairwise(edges)]


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
