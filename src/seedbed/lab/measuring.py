"""What the noises of one prompt show on their way, and what their finished videos are worth."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from seedbed.lab.verifiers import Ratings
from seedbed.noise import NoiseRecipe
from seedbed.probe import Probe, Rollout
from seedbed.selection.acquisitions import Acquisition
from seedbed.selection.batches import BatchSize, rows_that_fit
from seedbed.selection.judging import Verifier, judged
from seedbed.selection.layers import plan
from seedbed.selection.rows import ROWS
from seedbed.selection.scoring import judge_pool, score_pool
from seedbed.selection.signals import measure


def measured(
    probe: Probe,
    recipes: Sequence[NoiseRecipe],
    verifier: Verifier | Ratings,
    steps: Sequence[int],
    functions: Mapping[str, Acquisition],
    batch_size: BatchSize = "auto",
) -> dict[str, np.ndarray[Any, Any]]:
    """Signals and outcomes of the noises of one prompt: name to (noises,) float64.

    The signals of `seedbed.selection.signals.measure`; those of the functions, `0/name/layer`, or `0/name`
    for one of the noise alone; the verdict on the decoded prediction of each step, `s/judge.key`, and on the
    finished video, `outcome.key`; and the price of a step and of a whole generation of one candidate in
    evaluations, `cost.step` and `cost.generation`. Ratings by people judge no predictions.
    """
    assert probe.prompt is not None
    prompt = probe.prompt
    # What reads an attention call without changing it rides along; the others need forwards of their own.
    riding = {n: f for n, f in functions.items() if _rides_along(f)}
    noises = torch.stack([recipe.draw() for recipe in recipes])
    rollout = Rollout(
        probe,
        noises,
        batch_size=min(rows_that_fit(batch_size, recipes[0].shape), len(recipes)),
        what="calibration",
    )
    judge = None if isinstance(verifier, Ratings) else lambda frames: judged(verifier, frames, prompt)
    # The second set of masks says how much of a masked score is its own noise.
    again = {f"{name}.again": twin for name, f in riding.items() if (twin := redrawn(f)) is not None}
    table = measure(rollout, steps, functions={0: {**riding, **again}}, judge=judge)
    for name, function in functions.items():
        if name in riding:
            continue
        if not function.uses_attention:
            table[f"0/{name}"] = judge_pool(function, recipes).numpy()
            continue
        scores = score_pool(probe, recipes, function, plan(probe.layers), batch_size, lambda *_: None).numpy()
        table |= {f"0/{name}/{layer}": scores[:, layer] for layer in range(scores.shape[1])}
    if isinstance(verifier, Ratings):
        outcome = {"score": verifier.of(prompt, recipes)}
    else:
        outcome = judged(verifier, rollout.finish(), prompt)
    table |= {f"outcome.{key}": values.numpy() for key, values in outcome.items()}
    step = probe.ledger.entries["calibration"] / len(recipes) / rollout.step
    table["cost.step"] = np.full(len(recipes), step)
    table["cost.generation"] = np.full(len(recipes), step * rollout.steps)
    return table


def label(acquisition: str | Acquisition) -> str:
    """How an acquisition function is called in tables: as it was given, or its name and changed options."""
    if isinstance(acquisition, str):
        return acquisition
    values = acquisition.options()
    defaults = {f.name: f.default for f in dataclasses.fields(acquisition)} if values else {}  # type: ignore[arg-type]
    changed = [f"{name}={value}" for name, value in values.items() if value != defaults.get(name)]
    return acquisition.name + (":" + ",".join(changed) if changed else "")


def redrawn(function: Acquisition) -> Acquisition | None:
    """The same function with other masks and rows; None if its scores do not hang on what it draws."""
    options = function.options()
    # The default number of rows is large enough not to count.
    drawing = options.get("estimator") == "masked" or options.get("rows") not in (None, ROWS)
    if not drawing or "seed" not in options:
        return None
    settings: Any = function
    again: Acquisition = dataclasses.replace(settings, seed=settings.seed + 1)
    return again


def weights_sha256(pipe: Any) -> str:
    """A digest of every weight's name, shape and two moments of its bits: cheap, and other weights change it.

    Sums of whole numbers: those of floats depend on the number of threads and on the device.
    """
    digest = hashlib.sha256()
    for part, component in sorted(pipe.components.items()):
        if not isinstance(component, torch.nn.Module):
            continue
        for name, weight in sorted(component.state_dict().items()):
            moments = [0, 0]
            for bits in weight.detach().float().flatten().view(torch.int32).split(2**24):
                moments[0] += int(bits.sum())
                moments[1] += int((bits >> 16).long().square().sum())
            digest.update(f"{part}.{name} {tuple(weight.shape)} {weight.dtype} {moments}".encode())
    return digest.hexdigest()


def _rides_along(function: Acquisition) -> bool:
    reads = type(function).attend is Acquisition.attend and function.copies == function.steps == 1
    return function.uses_attention and reads
