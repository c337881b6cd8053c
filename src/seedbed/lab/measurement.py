"""What the noises of one prompt show on their way, and what their finished videos are worth.

The tasks `signals` and `generation` of recipes are `measure_noises`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from seedbed.errors import BadInput
from seedbed.lab import statistics
from seedbed.lab.evidence import judge_signals
from seedbed.lab.experiment import Row
from seedbed.lab.presentation import Cell, Figure, Table, groups
from seedbed.noise import NoiseRecipe
from seedbed.probe import Probe, Rollout
from seedbed.selection import acquisitions
from seedbed.selection.acquisitions import Acquisition
from seedbed.selection.batches import BatchSize, rows_that_fit
from seedbed.selection.layers import plan
from seedbed.selection.scoring import judge_pool, score_pool
from seedbed.selection.signals import measure
from seedbed.verifiers import Frames, Verifier, judged, resolve
from seedbed.verifiers.ratings import Ratings

VERSION = 1
_OPTIONS = {"steps", "verifier", "previews", "functions", "passes", "batch_size", "call"}
_NOTE = (
    "Signal: steps done / name. NFE: evaluations of one candidate until it is known. Spearman with the "
    "outcome within prompts; p by permutation within prompts, corrected for all signals of the table. Gain: "
    "outcome of the noise with the lowest or highest value less that of a random noise. Share: of the gap "
    "between a random and the best noise, at the better end. Reliability: agreement of even and odd rows."
)


def measured(
    probe: Probe,
    recipes: Sequence[NoiseRecipe],
    verifier: Verifier | Ratings,
    steps: Sequence[int] = (),
    functions: Mapping[int, Mapping[str, Acquisition]] | None = None,
    passes: Mapping[str, Acquisition] | None = None,
    previews: bool = False,
    batch_size: BatchSize = "auto",
) -> dict[str, np.ndarray[Any, Any]]:
    """Signals and outcomes of the noises of one prompt: name to (noises,) float64.

    The signals of `seedbed.selection.signals.measure`; the verifier's numbers for the finished video,
    `outcome.key`; and the price in evaluations of a whole generation of one candidate, `cost.generation`, and
    of a step, `cost.step`.

    Args:
        verifier: ratings by people finish no video.
        steps: after how many denoising steps signals are read; 0 is t = T. Without any, videos are generated
            one by one, by any pipeline.
        functions: {step: {name: function}}, more signals `step/name/layer`.
        passes: functions that need forwards of their own, at t = T: `0/name/layer`, or `0/name` for one of
            the noise alone.
        previews: whether the verifier judges the decoded prediction of each of the steps too: `s/judge.key`.
        batch_size: noises that are denoised together.
    """
    prompt, count = probe.prompt or "", len(recipes)

    def judge(frames: list[Frames]) -> dict[str, Tensor]:
        assert not isinstance(verifier, Ratings)
        return judged(verifier, frames, prompt)

    table: dict[str, np.ndarray[Any, Any]] = {}
    if steps:
        rollout = Rollout(
            probe,
            torch.stack([recipe.draw() for recipe in recipes]),
            batch_size=min(rows_that_fit(batch_size, recipes[0].shape), count),
            what="calibration",
        )
        table = measure(rollout, steps, functions=functions, judge=judge if previews else None)
    for name, function in (passes or {}).items():
        if not function.uses_attention:
            table[f"0/{name}"] = judge_pool(function, recipes).numpy()
            continue
        scores = score_pool(probe, recipes, function, plan(probe.layers), batch_size, lambda *_: None).numpy()
        table |= {f"0/{name}/{layer}": scores[:, layer] for layer in range(scores.shape[1])}
    if isinstance(verifier, Ratings):
        outcome = {"score": verifier.of(prompt, recipes)}
    else:
        frames = rollout.finish() if steps else [probe.generate(recipe.draw()) for recipe in recipes]
        outcome = judge(frames)
    table |= {f"outcome.{key}": values.numpy() for key, values in outcome.items()}
    if steps:
        step = probe.ledger.entries["calibration"] / count / rollout.step
        table["cost.step"] = np.full(count, step)
        table["cost.generation"] = np.full(count, step * rollout.steps)
    else:
        table["cost.generation"] = np.full(count, probe.ledger.total / count)
    return table


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
        raise BadInput(f"there is no option {unknown[0]!r}: use {', '.join(sorted(_OPTIONS))}")
    if "verifier" not in options:
        raise BadInput("the option verifier is missing: say what judges the videos")
    functions = {
        int(step): {name: acquisitions.resolve(function) for name, function in some.items()}
        for step, some in options.get("functions", {}).items()
    }
    table = measured(
        Probe(pipe, prompt, **options.get("call", {})),
        recipes,
        _verifier(options["verifier"]),
        options.get("steps", ()),
        functions,
        {name: acquisitions.resolve(function) for name, function in options.get("passes", {}).items()},
        bool(options.get("previews")),
        options.get("batch_size", "auto"),
    )
    return [{name: float(values[i]) for name, values in table.items()} for i in range(len(recipes))]


# Some verifiers are models: loaded once, not for every prompt.
_verifier = lru_cache(maxsize=1)(resolve)


def tables(rows: Sequence[Row]) -> list[Table | Figure]:
    """What the seed decides on each model, and what each signal is worth: see `evidence.judge_signals`."""
    lines, seeds = {}, []
    worth: list[Table | Figure] = []
    for model, evidence in groups(rows).items():
        truth = evidence.outcome()
        nfe = float(np.mean(evidence.columns.get("cost.generation", np.nan)))
        random, oracle = statistics.random(truth), statistics.oracle(truth)
        means = [statistics.bootstrap(values) for values in (random, oracle, oracle - random)]
        seeds.append([model, *truth.shape, nfe, *means])
        lines[model] = [
            (n * nfe, statistics.bootstrap(statistics.expected_best_of(truth, n)))
            for n in range(1, truth.shape[1] + 1)
        ]
        names = [n for n in evidence.names() if "/judge." not in n or n.endswith("/judge.score")]
        if not names:
            continue
        verdicts = judge_signals(evidence, names)
        cells: list[list[Cell]] = [
            [v.signal, v.evaluations, v.within, v.adjusted, v.low, v.high, v.share, v.reliability]
            for v in verdicts
        ]
        columns = ["signal", "NFE", "Spearman", "p, Holm", "gain, low", "gain, high", "share", "reliability"]
        worth += [
            Table(f"{model}: what each signal is worth", columns, cells, _NOTE),
            Figure(
                f"{model}: correlation with the outcome",
                {"": [(v.signal, v.within) for v in verdicts]},
                "signal",
                "Spearman within prompts",
            ),
        ]
    return [
        Table(
            "What the seed decides",
            ["model", "prompts", "noises", "NFE", "random", "best of all", "gap"],
            seeds,
            "Verifier's score and what one video costs; 95 % intervals, bootstrap over prompts.",
        ),
        Figure(
            "Best of n by the verifier",
            lines,
            "denoiser evaluations (NFE)",
            "verifier's score",
            "Expected score of the best of n finished videos, n from 1 to the whole pool; 95 % intervals.",
        ),
        *worth,
    ]
