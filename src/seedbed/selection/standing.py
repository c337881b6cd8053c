"""What is known of a pool while it is scored: the table, who is still in, and the rows it was made from."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from seedbed.attention.tap import AttentionCall
from seedbed.errors import BadInput, BadOutput, NotSupported
from seedbed.probe import Shrinking
from seedbed.selection.acquisitions import Acquisition, Prefer
from seedbed.selection.confidence import Look
from seedbed.selection.layers import Plan
from seedbed.selection.racing import Rungs, survivors

Show = Callable[[str, float, float], None]


class Standing:
    """A pool's scores, who is still in, and the rungs ahead.

    Attributes:
        alive: those still in, ascending.
        finished: whether nothing is left to see.
        looks: per candidate the sampled rows behind its scores.
    """

    def __init__(
        self,
        count: int,
        candidates: Sequence[int],
        plan: Plan,
        steps: int,
        rungs: Rungs,
        prefer: Prefer,
    ) -> None:
        self.plan, self.steps, self.prefer = plan, steps, prefer
        self.rungs = list(rungs)
        self.alive = list(candidates)
        self.finished = False
        self.looks = [Look() for _ in range(count)]
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

    def add(
        self, column: int, candidates: Sequence[int], scores: Tensor, rows: Tensor | None, of: int
    ) -> None:
        """The scores of one layer in one evaluation; what is known already stays as it is.

        Args:
            scores: (candidates,).
            rows: (candidates, rows), what they are means of, where only some of `of` rows were looked at.
        """
        for place, candidate in enumerate(candidates):
            if candidate in self.alive and self._times[candidate, column] < self.steps:
                self._sums[candidate, column] += scores[place]
                self._times[candidate, column] += 1
                if rows is not None:
                    self.looks[candidate].add(rows[place], of)

    def forget(self, batch: Sequence[int]) -> None:
        """All of a forward that failed, which starts over for those who are still in."""
        for candidate in set(batch) & set(self.alive):
            self._sums[candidate] = 0
            self._times[candidate] = 0
            self.looks[candidate] = Look()

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


class Meter:
    """Shows how many evaluations are done of those that are planned."""

    def __init__(self, planned: float, layers: int, show: Show) -> None:
        self.done, self.planned, self.layers, self.show = 0.0, planned, layers, show

    def count(self, rows: int) -> None:
        """One layer of so many rows."""
        self.done += rows / self.layers
        self.show("scoring", min(self.done, self.planned), self.planned)

    def finish(self) -> None:
        """All is done, for less than was planned or for more."""
        if self.done < self.planned:
            self.show("scoring", self.planned, self.planned)


class Observer:
    """The handler of one batch: hands on its scores, and drops candidates where it sees all there are."""

    def __init__(
        self,
        function: Acquisition,
        standing: Standing,
        batch: Sequence[int],
        meter: Meter,
        shrinking: Shrinking | None = None,
    ) -> None:
        self.function, self.standing, self.batch = function, standing, batch
        self.meter, self.shrinking = meter, shrinking

    def __call__(self, call: AttentionCall) -> Tensor | None:
        """Scores one attention call of the batch."""
        self.meter.count(call.candidates)
        standing, shrinking = self.standing, self.shrinking
        column = standing.plan.columns.get(call.index)
        if column is None:
            return None
        present = self.batch if shrinking is None else [self.batch[place] for place in shrinking.present]
        total = call.query.shape[-2]
        rows, output = None, None
        if self.function.scores_rows:
            rows = self.function.by_row(call)
            scores = rows.mean(1)
        else:
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
        sampled = rows.detach().cpu() if rows is not None and rows.shape[1] < total else None
        standing.add(column, present, scores, sampled, total)
        if shrinking is not None and column + 1 == standing.goal:
            standing.settle()
            if standing.finished:
                call.stop()
            shrinking.keep([self.batch.index(candidate) for candidate in standing.alive])
        return output
