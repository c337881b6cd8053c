"""Functions of attention calls, and a pool of noises run for one through the first evaluations."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from seedbed.acquisition.base import Acquisition, BatchSize, Scores, rows_that_fit
from seedbed.acquisition.sampling import confidence
from seedbed.attention import AttentionCall
from seedbed.attention.tap import SplitBatch
from seedbed.errors import BadInput, BadOutput, NotSupported, fraction, whole
from seedbed.halving import Rungs, Schedule, cost, planned, ranked, survivors
from seedbed.noise import Pool
from seedbed.pipelines.layers import CannotShrink, LayerInfo, Shrinking
from seedbed.pipelines.session import Session
from seedbed.progress import Show, silent


def plan_layers(
    layers: Sequence[LayerInfo],
    wanted: str | Sequence[str] | None = None,
    depth: int | float | None = None,
) -> tuple[int, ...]:
    """Choose the columns of the score table: the numbers of the layers that are scored, from 0, ascending.

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
    kept = tuple(index for index in chosen if not isinstance(depth, int) or index < depth)
    return kept[: max(1, round(depth * len(kept)))] if isinstance(depth, float) else kept


@dataclass(frozen=True, kw_only=True)
class AttentionScore(Acquisition):
    """A number per candidate and attention layer, read off the first evaluations, guidance off.

    Implement `observe`. A layer's score depends neither on the other candidates nor on the
    batch, up to rounding; a candidate's total is the mean over its layers.

    Attributes:
        copies: forwards per candidate; the copies of a candidate are neighbours in one batch.

    Args:
        layers: kinds of attention ("self", "cross", "joint", "temporal") or globs on layer names; None: all.
        depth: how far is scored: that many attention layers, or a share in (0, 1] of those that `layers`
            names; None: all. The forward stops after the last one that is scored.
        race: drop the worst while the layers run, see `Schedule`, in scored layers: ((0.1, 0.2), (0.46, 1))
            keeps a fifth of the candidates after a tenth of the layers and decides after 46 % of them. It is
            cheap where a model's layers agree: on an earlier embedded model those shares cost 2.3 instead of
            10 evaluations and lose 66 % [58, 75] of what the full score tells the best noise from the median
            by, a calibrated race 4.3 % [2.5, 6.2] for 6.3 (docs/speed.md).
        steps: the score is the mean over this many denoiser evaluations.

    Raises:
        BadInput: an option that is out of its range, or a race with several steps or copies.
    """

    copies: ClassVar[int] = 1

    layers: str | Sequence[str] | None = None
    depth: int | float | None = None
    race: Schedule | None = None
    steps: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        whole("steps", self.steps)
        share = isinstance(self.depth, (float, np.floating))
        depth = fraction("depth", self.depth) if share else whole("depth", self.depth, optional=True)
        object.__setattr__(self, "depth", depth)
        if self.race is not None:
            planned(self.race, 10**6, 10**6)  # its form; whether it fits is known with the model
            if self.copies > 1 or self.steps > 1:
                raise BadInput(
                    f"{self.name} cannot race with several steps or copies: it does not score the layers "
                    "of a single evaluation as they run"
                )

    def observe(self, call: AttentionCall) -> Tensor:
        """The score of each candidate at this call, usually `call.by_candidate(...)`: (call.candidates,).

        Or (call.candidates, rows): the query rows' parts in a score that is their mean. Where they are a
        sample, drawn without replacement and the same for every candidate, `select` knows from their spread
        how sure its choice is.
        """
        raise NotImplementedError(f"{type(self).__name__} does not implement observe")

    def attend(self, call: AttentionCall) -> tuple[Tensor, Tensor | None]:
        """What `observe` returns, of (call.candidates // copies) candidates, and the answer to the call.

        The answer is what the model continues with; None is its own output. Only a function that also changes
        the attention overrides this.
        """
        return self.observe(call), None

    def score(
        self, session: Session, pool: Pool, *, batch_size: BatchSize = "auto", show: Show = silent
    ) -> Scores:
        """See `Acquisition.score`."""
        return LayerRace(self, session, pool, batch_size, show).run()


class LayerRace:
    """A pool on its way through the layers: its scores, who is still in, and the rungs ahead.

    In a race the worst are dropped at each rung, whatever the batches; without one there is a single rung, at
    the end. Where the candidates left share a forward, they are dropped within it. Otherwise, and where the
    model cannot go on with fewer, those that stay start over, which costs more and chooses the same.

    Attributes:
        race: its rungs, empty for none.
        rungs: those ahead, the last of which is at the last column.
        order: candidates, best first; those that stayed longer come first.
        last: how many of them saw every column.
        samples: per candidate, the sampled rows behind its scores by evaluation and column.
        sampled: whether its scores are means over query rows.
        unable: why nobody could be dropped within the model's forward; "" where somebody could.
    """

    def __init__(
        self, function: AttentionScore, session: Session, pool: Pool, batch_size: BatchSize, show: Show
    ) -> None:
        plan = plan_layers(session.layers, function.layers, function.depth)
        self.race: Rungs = ()
        if function.race is not None and len(pool) > 1:
            self.race = planned(function.race, len(plan), len(pool))
            if self.race and self.race[-1][1] == 1:
                plan = plan[: self.race[-1][0]]
        self.function, self.session, self.pool, self.plan, self.show = function, session, pool, plan, show
        self.names = [session.layers[index].name for index in plan]
        self.rungs = list(self.race)
        if not self.race or self.race[-1][1] > 1:
            self.rungs.append((len(plan), 1))
        self.alive = self.order = list(range(len(pool)))
        self.last = len(pool)
        self.unable = ""
        self.sampled = False
        self.samples: list[dict[tuple[int, int], tuple[Tensor, int]]] = [{} for _ in range(len(pool))]
        shape = (len(pool), function.steps, len(plan))
        self._seen = torch.full(shape, math.nan, dtype=torch.float64, device="cpu")
        shares = len(pool) > 1 and session.facts.shares
        self._most = max(1, rows_that_fit(batch_size, pool.noises) // function.copies) if shares else 1
        self._halves = batch_size == "auto"
        # Evaluations of the whole pool, if all who are dropped are dropped at once.
        depths = tuple((plan[after - 1] + 1, left) for after, left in self.rungs)
        whole = len(pool) * (function.steps - 1) + cost(depths, len(pool), len(session.layers), finish=False)
        self._done, self._planned = 0.0, function.copies * whole

    @property
    def table(self) -> Tensor:
        """(candidates, layers) float64, nan where not seen in every evaluation."""
        return self._seen.mean(1)

    def run(self) -> Scores:
        """The whole race; see `Acquisition.score`."""
        while self.rungs:
            goal = self.rungs[0][0]
            unseen = self.table[:, :goal].isnan().any(1)
            if waiting := [candidate for candidate in self.alive if unseen[candidate]]:
                # Batches as even as may be.
                self._forward(waiting[: len(waiting) // math.ceil(len(waiting) / self._most)], goal)
            else:
                self._settle()
        if self._done < self._planned:
            self.show("scoring", self._planned, self._planned)
        notes = []
        if self.race:
            stays = ", ".join(f"{left} after {after}" for after, left in self.race)
            notes.append(f"raced over layers: {stays} stay{'s' if self.race[-1][1] == 1 else ''}")
        if self.unable:
            notes.append(f"those that stayed started over, as {self.unable}")
        if compiled := self.session.asked.compiled:
            notes.append(f"scored in eager mode, as the {' and '.join(compiled)} is compiled")
        sums = self.table.nansum(1) * self.function.steps
        samples = [[*some.values()] for some in self.samples]
        return Scores(
            self.table.nanmean(1),
            tuple(self.order),
            self.table,
            layers=tuple(self.names),
            race=self.race,
            confidence=confidence(self.order[: self.last], sums, samples) if self.sampled else None,
            notes=tuple(notes),
        )

    def _forward(self, batch: list[int], goal: int) -> None:
        """One forward, as far as the next rung or, where everyone left is in it, through all rungs.

        Where memory does not suffice, or the model takes the batch apart, the next is smaller and scores the
        same candidates anew.
        """
        shrinks = len(self.rungs) > 1 and len(batch) == len(self.alive) and not self.unable
        noises = self.pool.noises[batch].repeat_interleave(self.function.copies, 0)
        try:
            shrinking = self.session.shrinking(len(batch)) if shrinks else None
            self.session.evaluate(
                noises,
                lambda call: self._observe(call, batch, shrinking),
                depth=self.plan[-1 if shrinks else goal - 1] + 1,
                steps=self.function.steps,
                shrinking=shrinking,
            )
        except CannotShrink as error:
            self.unable = str(error)
            return
        except (torch.OutOfMemoryError, SplitBatch) as error:
            split = isinstance(error, SplitBatch)
            if len(batch) == 1 or not (split or self._halves):
                raise
            self._most = 1 if split else len(batch) // 2
            return
        expected = self.rungs[0][0] if self.rungs else len(self.plan)
        some = [candidate for candidate in batch if candidate in self.alive]
        times = (~self._seen[some, :, :expected].isnan()).sum(1).amin(0).tolist()
        for name, count in zip(self.names, times, strict=False):
            if count < self.function.steps:
                raise NotSupported(
                    f"layer {name} ran in only {count} of {self.function.steps} denoiser "
                    "evaluations: switch off what skips layers (caching), or leave it out with layers="
                )

    def _observe(
        self, call: AttentionCall, batch: Sequence[int], shrinking: Shrinking | None
    ) -> Tensor | None:
        """Scores one attention call of a batch, and drops candidates where it sees all there are."""
        self._done += call.candidates / len(self.session.layers)
        self.show("scoring", min(self._done, self._planned), self._planned)
        if call.index not in self.plan:
            return None
        column = self.plan.index(call.index)
        present = batch if shrinking is None else [batch[place] for place in shrinking.present]
        scores, answer = self.function.attend(call)
        rows = scores.detach().cpu() if scores.ndim == 2 else None
        scores = scores.mean(1) if scores.ndim == 2 else scores
        if tuple(scores.shape) != (len(present),):
            raise BadInput(
                f"{self.function.name} returned scores of shape {tuple(scores.shape)}, not one for each of "
                f"the {len(present)} candidates: call.by_candidate(...) makes them"
            )
        scores = scores.detach().double().cpu()
        self._require_finite(call, scores, present, self.names[column])
        total = call.query.shape[-2]
        self.sampled = self.sampled or rows is not None
        for place, candidate in enumerate(present):
            if candidate in self.alive:
                self._seen[candidate, call.step, column] = scores[place]
                if rows is not None and rows.shape[1] < total:
                    self.samples[candidate][call.step, column] = (rows[place], total)
        if shrinking is not None and column + 1 == self.rungs[0][0]:
            self._settle()
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
        """A rung is reached: drop the worst."""
        after, left = self.rungs.pop(0)
        totals = self.table[self.alive, :after].mean(1)
        ranking = [self.alive[place] for place in ranked(totals, self.function.end)]
        self.order, self.last = ranking + self.order[len(ranking) :], len(ranking)
        self.alive = survivors(totals, self.alive, left, self.function.end)
