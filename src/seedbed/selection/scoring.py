"""Running a pool of noises through a probe, batch by batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from seedbed.attention.tap import AttentionCall
from seedbed.errors import BadInput, BadOutput, NotSupported
from seedbed.noise import NoiseRecipe
from seedbed.probe import Probe
from seedbed.selection.acquisitions import Acquisition
from seedbed.selection.layers import Plan
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
    if len(pool) > 1 and batch_size != 1 and probe.most_rows is not None:
        batch_size = probe.most_rows
    cost = function.copies * (function.steps - 1 + plan.depth / plan.total)
    tables = []
    for batch in _batches(pool, function.copies, batch_size):
        observer = _Observer(
            function, plan, batch, lambda done: show("scoring", done * cost, len(pool) * cost)
        )
        noises = torch.stack([pool[index].draw() for index in batch]).repeat_interleave(function.copies, 0)
        probe.evaluate(noises, observer, depth=plan.depth, steps=function.steps, what="scoring")
        tables.append(observer.table())
    return torch.cat(tables)


class _Observer:
    """The handler of one batch: sums scores by candidate and layer."""

    def __init__(
        self, function: Acquisition, plan: Plan, batch: range, show: Callable[[float], None]
    ) -> None:
        self.function, self.plan, self.batch, self.show = function, plan, batch, show
        self.sums = torch.zeros(len(batch), len(plan.names), dtype=torch.float64)
        self.seen = [0] * len(plan.names)
        self.calls = 0

    def __call__(self, call: AttentionCall) -> Tensor | None:
        self.calls += 1
        expected = self.plan.total * (self.function.steps - 1) + self.plan.depth
        self.show(self.batch.start + len(self.batch) * min(1.0, self.calls / expected))
        column = self.plan.columns.get(call.index)
        if column is None:
            return None
        scores, output = self.function.attend(call)
        if tuple(scores.shape) != (len(self.batch),):
            raise BadInput(
                f"{self.function.name} returned scores of shape {tuple(scores.shape)}, not one for each of "
                f"the {len(self.batch)} candidates: call.by_candidate(...) makes them"
            )
        scores = scores.detach().double().cpu()
        # A function may make a number of a row that is not finite, so what it looked at is checked too.
        inputs = call.query.sum((1, 2, 3), dtype=torch.float32) + call.key.sum((1, 2, 3), dtype=torch.float32)
        means = call.by_candidate(inputs).view(len(self.batch), -1).mean(1).cpu()
        for what, values in (("the mean query and key", means), (self.function.name, scores)):
            for index in (~values.isfinite()).nonzero().flatten().tolist():
                raise BadOutput(
                    f"{what} of candidate {self.batch[index]} is {values[index].item()} at layer "
                    f"{self.plan.names[column]}: values are not finite there; try float32 or bfloat16"
                )
        self.sums[:, column] += scores
        self.seen[column] += 1
        return output

    def table(self) -> Tensor:
        """(candidates of this batch, layers) float64."""
        steps, fewest = self.function.steps, min(self.seen)
        if fewest < steps:
            raise NotSupported(
                f"layer {self.plan.names[self.seen.index(fewest)]} ran in only {fewest} of {steps} denoiser "
                "evaluations: switch off what skips layers (caching), or leave it out with layers="
            )
        return self.sums / steps


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


def _finite(function: Acquisition, totals: Tensor) -> Tensor:
    for index in (~totals.isfinite()).nonzero().flatten().tolist():
        raise BadOutput(f"{function.name} of candidate {index} is {totals[index].item()}")
    return totals


def _batches(pool: Pool, copies: int, batch_size: int | None) -> list[range]:
    """Consecutive candidates that share a forward, in batches as even as possible."""
    most = batch_size or rows_that_fit(pool[0].shape)
    count = math.ceil(len(pool) / max(1, most // copies))
    return [range(*edges) for edges in pairwise(len(pool) * index // count for index in range(count + 1))]
