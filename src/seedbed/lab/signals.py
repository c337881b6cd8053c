"""The task `signals`: what each noise's first steps show, beside what its finished video is worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from seedbed.errors import BadInput
from seedbed.lab import statistics
from seedbed.lab.evidence import Evidence, judge_signals
from seedbed.lab.tables import Cell, Figure, Table
from seedbed.lab.verifiers import Ratings
from seedbed.lab.verifiers import resolve as resolve_verifier
from seedbed.noise import NoiseRecipe
from seedbed.probe import Probe, Rollout
from seedbed.selection.acquisitions import resolve
from seedbed.selection.judging import judged
from seedbed.selection.layers import plan
from seedbed.selection.scoring import score_pool
from seedbed.selection.signals import measure

VERSION = 1

NOTE = (
    "Signal: steps done / name. NFE: evaluations of one candidate until it is known. Spearman with the "
    "outcome within prompts; p by permutation within prompts, corrected for all signals of the table. Gain: "
    "outcome of the noise with the lowest or highest value less that of a random noise. Share: of the gap "
    "between a random and the best noise, at the better end. Reliability: agreement of even and odd rows."
)


def signals(
    pipe: Any, prompt: str, recipes: list[NoiseRecipe], options: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """One row per noise: all signals of `selection.signals.measure`, and the finished video's verdict.

    Options:
        steps: after how many denoising steps to look; 0 is t = T.
        verifier: "shapes" or another name of `seedbed.lab.verifiers`; its numbers for the video are
            `outcome.key`.
        previews: whether it also judges the decoded prediction after each of the steps: `s/judge.key`.
        functions: {step: {name: acquisition}}, more signals `s/name/layer`.
        passes: {name: acquisition}, functions that need forwards of their own, at t = T: `0/name/layer`.
        batch_size: noises that are denoised together.

    Raises:
        BadInput: an option that is unknown, or whose value cannot be used.
    """
    unknown = set(options) - {"steps", "verifier", "previews", "functions", "passes", "batch_size"}
    if unknown:
        raise BadInput(f"the task signals has no option {sorted(unknown)[0]!r}")
    verifier = resolve_verifier(options["verifier"])
    if isinstance(verifier, Ratings):
        raise BadInput(f"{options['verifier']}: ratings judge no new video, name a verifier that does")
    steps = list(options["steps"])
    functions = {
        int(step): {name: resolve(function) for name, function in some.items()}
        for step, some in options.get("functions", {}).items()
    }
    probe = Probe(pipe, prompt)
    rollout = Rollout(
        probe, torch.stack([r.draw() for r in recipes]), batch_size=options.get("batch_size", len(recipes))
    )

    def judge(frames: list[np.ndarray[Any, Any]]) -> dict[str, torch.Tensor]:
        return judged(verifier, frames, prompt)

    looking = judge if options.get("previews") else None
    table = measure(rollout, steps, functions=functions, judge=looking)
    for name, function in options.get("passes", {}).items():
        resolved = resolve(function)
        layout = plan(probe.layers)
        scores = score_pool(probe, recipes, resolved, layout, "auto", lambda *_: None).numpy()
        table |= {f"0/{name}/{layer}": scores[:, layer] for layer in range(scores.shape[1])}
    table |= {f"outcome.{key}": values.numpy() for key, values in judge(rollout.finish()).items()}
    return [{name: float(values[i]) for name, values in table.items()} for i in range(len(recipes))]


def tables(rows: Sequence[Mapping[str, Any]]) -> list[Table | Figure]:
    """What each signal is worth on each model: see `seedbed.lab.evidence.judge_signals`."""
    found: list[Table | Figure] = []
    for model in dict.fromkeys(row["model"] for row in rows):
        evidence = Evidence.of(rows, model)
        truth = evidence.outcome()
        names = [n for n in evidence.names() if "/judge." not in n or n.endswith("/judge.score")]
        verdicts = judge_signals(evidence, names)
        seeds: list[list[Cell]] = [
            ["a random noise", statistics.bootstrap(statistics.random(truth))],
            [f"the best of {truth.shape[1]}", statistics.bootstrap(statistics.oracle(truth))],
        ]
        found.append(
            Table(
                f"{model}: how much the seed matters", ["noise", "outcome"], seeds, f"{len(truth)} prompts."
            )
        )
        found.append(
            Table(
                f"{model}: what each signal is worth",
                ["signal", "NFE", "Spearman", "p, Holm", "gain, low", "gain, high", "share", "reliability"],
                [
                    [v.signal, v.evaluations, v.within, v.adjusted, v.low, v.high, v.share, v.reliability]
                    for v in verdicts
                ],
                NOTE,
            )
        )
        points = {"": [(v.signal, v.within) for v in verdicts]}
        found.append(
            Figure(f"{model}: correlation with the outcome", points, "signal", "Spearman within prompts")
        )
    return found
