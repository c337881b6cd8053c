"""Running a pool of noises through a pipeline's first evaluations, batch by batch, for an attention score."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor

from seedbed.acquisition.base import AttentionScore, BatchSize, Pool, Scores, rows_that_fit
from seedbed.acquisition.halving import Rungs, planned, ranked, survivors
from seedbed.acquisition.sampling import Sample, confidence
from seedbed.attention import AttentionCall
from seedbed.attention.tap import SplitBatch
from seedbed.errors import BadInput, BadOutput, NotSupported
from seedbed.pipelines.layers import CannotShrink, LayerInfo, Shrinking
from seedbed.pipelines.session import Session
from seedbed.progress import Show


@dataclass(frozen=True)
class LayerPlan:
    """The layers of one scoring forward.

    Attributes:
        columns: from an attention call's index in its forward to its column in the table of scores.
        names: the name of each column's layer.
        depth: how many attention layers run before the forward stops.
        total: how many there are.
    """

    columns: dict[int, int]
    names: tuple[str, ...]
    depth: int
    total: int

    def cut(self, columns: int) -> LayerPlan:
        """The same as far as the first `columns` columns."""
        if columns == len(self.names):
            return self
        kept = {index: column for index, column in self.columns.items() if column < columns}
        return LayerPlan(kept, self.names[:columns], max(kept) + 1, self.total)


def plan_layers(
    layers: Sequence[LayerInfo],
    wanted: str | Sequence[str] | None = None,
    depth: int | float | None = None,
) -> LayerPlan:
    """Choose the columns of the score table.

    Args:
        layers: every attention layer of the denoiser, in execution order.
        wanted: as `AttentionScore` takes `layers`.
        depth: as `AttentionScore` takes it.

    Raises:
        BadInput: depth beyond the last layer, or no wanted layer within it.
    """
    if isinstance(depth, int) and depth > len(layers):
        raise BadInput(f"depth {depth} is beyond the last layer: the denoiser has {len(layers)}")
    one = isinstance(wanted, str) or not isinstance(wanted, Iterable)
    patterns: tuple[Any, ...] = ("*" if wanted is None else wanted,) if one else tuple(wanted or ())
    if not all(isinstance(pattern, str) for pattern in patterns):
        raise BadInput(f"layers must be kinds or globs on layer names, not {wanted!r}")
    chosen = [
        index
        for index, layer in enumerate(layers)
        if any(layer.kind == pattern or fnmatchcase(layer.name, pattern) for pattern in patterns)
    ]
    quoted = ", ".join(map(repr, patterns)) or "an empty list"
    if not chosen:
        kinds = ", ".join(sorted({repr(layer.kind) for layer in layers}))
        raise BadInput(
            f"no layer matches {quoted}: the kinds here are {kinds}, and a layer is called {layers[0].name!r}"
        )
    if isinstance(depth, int) and chosen[0] >= depth:
        raise BadInput(f"the first layer matching {quoted} is number {chosen[0] + 1}, beyond depth {depth}")
    last = depth if isinstance(depth, int) else chosen[-1] + 1
    kept = [index for index in chosen if index < last]
    plan = LayerPlan(
        {index: column for column, index in enumerate(kept)},
        tuple(layers[index].name for index in kept),
        last,
        len(layers),
    )
    return plan.cut(max(1, round(depth * len(kept)))) if isinstance(depth, float) else plan


def score_attention(
    function: AttentionScore, session: Session, pool: Pool, batch_size: BatchSize, show: Show
) -> Scores:
    """The scores of a pool by layer, with or without a race; see `Acquisition.score`.

    In a race the worst are dropped at each rung, whatever the batches. Where the candidates left share a
    forward, they are dropped within it. Otherwise, and where the model cannot go on with fewer, those that
    stay start over, which costs more and chooses the same.
    """
    plan = plan_layers(session.layers, function.layers, function.depth)
    rungs: Rungs = ()
    if function.race is not None and len(pool) > 1:
        rungs = planned(function.race, len(plan.names), len(pool))
        if rungs and rungs[-1][1] == 1:
            plan = plan.cut(rungs[-1][0])
    race = _Race(function, session, pool, plan, rungs, batch_size, show)
    table = race.run()
    totals = table.nanmean(1)
    # Those that were dropped last come first.
    seen = (~table.isnan()).sum(1).tolist()
    order: list[int] = []
    for depth in sorted(set(seen), reverse=True):
        heat = [candidate for candidate, its in enumerate(seen) if its == depth]
        order += [heat[place] for place in ranked(totals[heat], function.end)]
    notes = []
    if rungs:
        stays = ", ".join(f"{left} after {after}" for after, left in rungs)
        notes.append(f"raced over layers: {stays} stay{'s' if rungs[-1][1] == 1 else ''}")
    if race.unable:
        notes.append(f"those that stayed started over, as {race.unable}")
    if session.asked.compiled:
        notes.append(f"scored in eager mode, as the {' and '.join(session.asked.compiled)} is compiled")
    last = [candidate for candidate in order if seen[candidate] == max(seen)]
    return Scores(
        totals,
        tuple(order),
        table,
        layers=plan.names,
        race=rungs,
        confidence=confidence(last, table.nansum(1) * function.steps, race.samples) if race.sampled else None,
        notes=tuple(notes),
    )


class _Race:
    """A pool on its way through the layers: its scores, who is still in, and the rungs ahead.

    Attributes:
        samples: per candidate the sampled rows behind its scores.
        sampled: whether its scores are means over query rows.
        unable: why nobody could be dropped within the model's forward; "" where somebody could.
    """

    def __init__(
        self,
        function: AttentionScore,
        session: Session,
        pool: Pool,
        plan: LayerPlan,
        rungs: Rungs,
        batch_size: BatchSize,
        show: Show,
    ) -> None:
        self.function, self.session, self.pool, self.plan, self.show = function, session, pool, plan, show
        self.rungs = list(rungs)
        self.alive = list(range(len(pool)))
        self.finished = False
        self.unable = ""
        self.sampled = False
        self.samples: list[Sample] = [[] for _ in range(len(pool))]
        self._sums = torch.zeros(len(pool), len(plan.names), dtype=torch.float64, device="cpu")
        self._times = torch.zeros_like(self._sums, dtype=torch.int64)
        shares = len(pool) > 1 and session.facts.shares
        most = rows_that_fit(batch_size, pool.noises) // function.copies if shares else 1
        self._batches = Batches(most, halves=batch_size == "auto")
        self._done, self._planned = 0.0, self._cost(len(pool), rungs)

    def _cost(self, alive: int, rungs: Rungs) -> float:
        """Evaluations of the whole pool, if all who are dropped are dropped at once."""
        spent, before = float(alive * (self.function.steps - 1)), 0
        for after, left in (*rungs, (len(self.plan.names), 1)):
            depth = self.plan.cut(after).depth
            spent += alive * (depth - before) / self.plan.total
            before, alive = depth, left
        return spent * self.function.copies

    @property
    def goal(self) -> int:
        """Columns to see before anything is decided."""
        return self.rungs[0][0] if self.rungs else len(self.plan.names)

    @property
    def table(self) -> Tensor:
        """(candidates, layers) float64, nan where not seen."""
        return torch.where(self._times == self.function.steps, self._sums / self.function.steps, math.nan)

    def run(self) -> Tensor:
        """The whole race; returns `table`."""
        while not self.finished:
            if self.rungs and len(self.alive) <= self._batches.most and not self.unable:
                try:
                    self._batches.fits(self.alive, lambda batch: self._forward(batch, self.plan.depth, True))
                except CannotShrink as error:
                    self.unable = str(error)
            else:
                depth = self.plan.cut(self.goal).depth
                self._batches.run(self.alive, lambda batch, depth=depth: self._forward(batch, depth))  # type: ignore[misc]
                self._settle()
        if self._done < self._planned:
            self.show("scoring", self._planned, self._planned)
        return self.table

    def _forward(self, batch: Sequence[int], depth: int, shrinks: bool = False) -> None:
        """One forward; all that was learned from one that failed is forgotten."""
        shrinking = self.session.shrinking(len(batch)) if shrinks else None
        noises = self.pool.noises[list(batch)].repeat_interleave(self.function.copies, 0)
        try:
            self.session.evaluate(
                noises,
                lambda call: self._observe(call, batch, shrinking),
                depth=depth,
                steps=self.function.steps,
                shrinking=shrinking,
            )
        except (torch.OutOfMemoryError, SplitBatch):
            for candidate in set(batch) & set(self.alive):
                self._sums[candidate] = self._times[candidate] = 0
                self.samples[candidate] = []
            raise
        for candidate in set(batch) & set(self.alive):
            for name, times in zip(self.plan.names[: self.goal], self._times[candidate], strict=False):
                if times < self.function.steps:
                    raise NotSupported(
                        f"layer {name} ran in only {int(times)} of {self.function.steps} denoiser "
                        "evaluations: switch off what skips layers (caching), or leave it out with layers="
                    )

    def _observe(
        self, call: AttentionCall, batch: Sequence[int], shrinking: Shrinking | None
    ) -> Tensor | None:
        """Scores one attention call of a batch, and drops candidates where it sees all there are."""
        self._done += call.candidates / self.plan.total
        self.show("scoring", min(self._done, self._planned), self._planned)
        column = self.plan.columns.get(call.index)
        if column is None:
            return None
        present = batch if shrinking is None else [batch[place] for place in shrinking.present]
        scores, answer = self.function.attend(call)
        rows = scores if scores.ndim == 2 else None
        scores = scores.mean(1) if scores.ndim == 2 else scores
        if tuple(scores.shape) != (len(present),):
            raise BadInput(
                f"{self.function.name} returned scores of shape {tuple(scores.shape)}, not one for each of "
                f"the {len(present)} candidates: call.by_candidate(...) makes them"
            )
        scores = scores.detach().double().cpu()
        self._require_finite(call, scores, present, self.plan.names[column])
        total = call.query.shape[-2]
        self.sampled = self.sampled or rows is not None
        sample = rows.detach().cpu() if rows is not None and rows.shape[1] < total else None
        for place, candidate in enumerate(present):
            if candidate in self.alive and self._times[candidate, column] < self.function.steps:
                self._sums[candidate, column] += scores[place]
                self._times[candidate, column] += 1
                if sample is not None:
                    self.samples[candidate].append((sample[place], total))
        if shrinking is not None and column + 1 == self.goal:
            self._settle()
            if self.finished:
                call.stop()
            shrinking.keep([batch.index(candidate) for candidate in self.alive])
        return answer

    def _require_finite(
        self, call: AttentionCall, scores: Tensor, present: Sequence[int], layer: str
    ) -> None:
        """A function may make a number of a row that is not finite, so what it looked at is checked too."""
        inputs = call.query.sum((1, 2, 3), dtype=torch.float32) + call.key.sum((1, 2, 3), dtype=torch.float32)
        means = call.by_candidate(inputs).view(len(present), -1).mean(1).cpu()
        for what, values in (("the mean query and key", means), (self.function.name, scores)):
            for index in (~values.isfinite()).nonzero().flatten().tolist():
                if present[index] in self.alive:
                    raise BadOutput(
                        f"{what} of candidate {present[index]} is {values[index].item()} at layer {layer}: "
                        "values are not finite there; try float32 or bfloat16"
                    )

    def _settle(self) -> None:
        """The goal is reached: drop the worst."""
        if self.rungs:
            after, left = self.rungs.pop(0)
            totals = self.table[self.alive, :after].mean(1)
            self.alive = survivors(totals, self.alive, left, self.function.end)
            self.finished = len(self.alive) == 1
        else:
            self.finished = True


class Batches:
    """Cuts candidates into forwards; a batch for which memory does not suffice is halved.

    Args:
        halves: whether a batch may be halved.
        most: candidates that share a forward.

    Attributes:
        most: candidates of the next forward, at most.
    """

    def __init__(self, most: int, halves: bool = True) -> None:
        self.most, self._halves = max(1, most), halves

    def run(self, candidates: Sequence[int], forward: Callable[[Sequence[int]], None]) -> None:
        """Calls `forward` with consecutive parts of the candidates, as even as may be."""
        waiting = candidates
        while waiting:
            end = len(waiting) // math.ceil(len(waiting) / self.most)
            if self.fits(waiting[:end], forward):
                waiting = waiting[end:]

    def fits(self, batch: Sequence[int], forward: Callable[[Sequence[int]], None]) -> bool:
        """Calls `forward` with a batch; False if memory did not suffice, or the model takes the batch apart,
        and the next is to be smaller.
        """
        try:
            forward(batch)
        except (torch.OutOfMemoryError, SplitBatch) as error:
            if len(batch) == 1 or (not self._halves and not isinstance(error, SplitBatch)):
                raise
            self.most = 1 if isinstance(error, SplitBatch) else len(batch) // 2
            return False
        return True
