"""What the noises of one prompt show on their way, and what their finished videos are worth.

The tasks `signals` and `generation` of recipes are `measure_noises`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, TypeGuard

import numpy as np
from torch import Tensor

from seedbed.acquisition import Acquisition, AttentionScore, Pool
from seedbed.acquisition import resolve as function_named
from seedbed.acquisition.base import BatchSize, rows_that_fit
from seedbed.acquisition.signals import measure
from seedbed.errors import BadInput, shown
from seedbed.lab import statistics
from seedbed.lab.evidence import groups, judge_signals
from seedbed.lab.experiment import Row
from seedbed.lab.presentation import Table, signal_table
from seedbed.noise import NoiseRecipe
from seedbed.pipelines.rollout import Rollout
from seedbed.pipelines.session import Session
from seedbed.verifiers import Frames, Verifier, judged, resolve
from seedbed.verifiers.ratings import Ratings

VERSION = 1
_OPTIONS = {"steps", "verifier", "previews", "functions", "batch_size", "call"}


def measured(
    session: Session,
    pool: Pool,
    verifier: Verifier | Ratings,
    steps: Sequence[int] = (),
    functions: Mapping[int, Mapping[str, Acquisition]] | None = None,
    previews: bool = False,
    batch_size: BatchSize = "auto",
) -> dict[str, np.ndarray[Any, Any]]:
    """Signals and outcomes of the noises of one prompt: name to (noises,) float64.

    The signals of `seedbed.acquisition.signals.measure`; the verifier's numbers for the finished video,
    `outcome.key`; and the price in evaluations of a whole generation of one candidate, `cost.generation`, and
    of a step, `cost.step`.

    Args:
        verifier: ratings by people finish no video.
        steps: after how many denoising steps signals are read; 0 is t = T. Without any, videos are generated
            one by one, by any pipeline.
        functions: {step: {name: function}}, more signals `step/name/layer`, of all layers whatever the
            function's `depth`. At t = T, those that cannot be read on the way have forwards of their own:
            `0/name/layer`, or `0/name` for one that scores no layers.
        previews: whether the verifier judges the decoded prediction of each of the steps too: `s/judge.key`.
        batch_size: noises that are denoised together.
    """
    prompt, count = session.prompt or "", len(pool)

    def judge(frames: list[Frames]) -> dict[str, Tensor]:
        assert not isinstance(verifier, Ratings)
        return judged(verifier, frames, prompt)

    given = {0: {}, **(functions or {})}
    read = {step: {name: f for name, f in some.items() if is_read(f)} for step, some in given.items()}
    for step, some in given.items():
        if step and (own := some.keys() - read[step].keys()):
            raise BadInput(f"{min(own)} needs forwards of its own, which start at t = T: give it to step 0")
    table: dict[str, np.ndarray[Any, Any]] = {}
    if steps:
        rows = min(rows_that_fit(batch_size, pool.noises), count)
        rollout = Rollout(session, pool.noises, batch_size=rows, what="calibration")
        table = measure(rollout, steps, functions=read, judge=judge if previews else None)
    for name, function in given[0].items():
        if name in read[0]:
            continue
        if isinstance(function, AttentionScore):
            function = replace(function, depth=None)
        scores = function.score(session, pool, batch_size=batch_size)
        table |= {f"0/{name}/{i}": scores.table[:, i].numpy() for i in range(len(scores.layers))}
        if not scores.layers:
            table[f"0/{name}"] = scores.totals.numpy()
    if isinstance(verifier, Ratings):
        outcome = {"score": verifier.of(prompt, pool.recipes)}  # type: ignore[arg-type]
    else:
        outcome = judge(rollout.finish() if steps else [session.generate(noise) for noise in pool.noises])
    table |= {f"outcome.{key}": values.numpy() for key, values in outcome.items()}
    spent = session.ledger.entries
    if steps:
        step_cost = spent["calibration"] / count / rollout.step
        table["cost.step"] = np.full(count, step_cost)
        table["cost.generation"] = np.full(count, step_cost * rollout.steps)
    elif not isinstance(verifier, Ratings):
        table["cost.generation"] = np.full(count, spent["generation"] / count)
    return table


def is_read(function: Acquisition) -> TypeGuard[AttentionScore]:
    """Whether a function reads attention calls without changing them, so that it can look on in a rollout."""
    if not isinstance(function, AttentionScore) or type(function).attend is not AttentionScore.attend:
        return False
    return function.copies == function.steps == 1 and function.layers is None and function.race is None


def measure_noises(
    pipe: Any, prompt: str, recipes: Sequence[NoiseRecipe], options: Mapping[str, Any]
) -> list[Row]:
    """One row per noise of what `measured` finds.

    Options: its arguments, the verifier as `seedbed.verifiers.resolve` takes it and functions as `select`
    does; and `call`, arguments of the pipeline's call. Only the verifier must be given.

    Raises:
        BadInput: an option that is unknown or missing, or whose value cannot be used.
    """
    if unknown := sorted(set(options) - _OPTIONS):
        raise BadInput(f"there is no option {shown(unknown[0])}: use {', '.join(sorted(_OPTIONS))}")
    if "verifier" not in options:
        raise BadInput("the option verifier is missing: say what judges the videos")
    functions = {
        int(step): {name: function_named(function) for name, function in some.items()}
        for step, some in options.get("functions", {}).items()
    }
    table = measured(
        Session(pipe, prompt, **options.get("call", {})),
        Pool.of(recipes),
        _verifier(options["verifier"]),
        options.get("steps", ()),
        functions,
        bool(options.get("previews")),
        options.get("batch_size", "auto"),
    )
    return [{name: float(values[i]) for name, values in table.items()} for i in range(len(recipes))]


# Some verifiers are models: loaded once, not for every prompt.
_verifier = lru_cache(maxsize=1)(resolve)


def tables(rows: Sequence[Row]) -> list[Table]:
    """What the seed decides on each model, and what each signal is worth: see `evidence.judge_signals`."""
    best: list[list[Any]] = []
    seeds: list[list[Any]] = []
    worth = []
    for model, evidence in groups(rows).items():
        truth = evidence.outcome()
        nfe = float(np.mean(evidence.columns.get("cost.generation", np.nan)))
        random, oracle = statistics.random(truth), statistics.oracle(truth)
        means = [statistics.bootstrap(values) for values in (random, oracle, oracle - random)]
        seeds.append([model, *truth.shape, nfe, *means])
        best += [
            [model, n, n * nfe, statistics.bootstrap(statistics.expected_best_of(truth, n))]
            for n in range(1, truth.shape[1] + 1)
        ]
        if names := evidence.names():
            title = f"{model}: what each signal is worth"
            worth.append(signal_table(title, judge_signals(evidence, names)))
    return [
        Table(
            "What the seed decides",
            ["model", "prompts", "noises", "NFE", "random", "best of all", "gap"],
            seeds,
            "Verifier's score and what one video costs; 95 % intervals, bootstrap over prompts.",
        ),
        Table(
            "Best of n by the verifier",
            ["model", "n", "NFE", "score"],
            best,
            "Expected score of the best of n finished videos, and what they cost; 95 % intervals.",
        ),
        *worth,
    ]
