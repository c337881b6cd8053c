"""Choosing by what the first steps show: candidates are denoised a little, judged, and the worst dropped."""

from __future__ import annotations

import math
from collections.abc import Sequence
from time import perf_counter
from typing import Any

import numpy as np
import torch

from seedbed.errors import BadInput
from seedbed.noise import NoiseRecipe
from seedbed.probe import Ledger, Probe, Rollout
from seedbed.selection.acquisitions import positive
from seedbed.selection.generation import Generation, checked_fps
from seedbed.selection.origin import Model, package_versions, recordable
from seedbed.selection.pool import recipes_for
from seedbed.selection.progress import Progress, reporting
from seedbed.selection.racing import ranked
from seedbed.selection.record import Selection
from seedbed.selection.rungs import CANDIDATES, Rung, Schedule, planned
from seedbed.verifiers import Verifier, judged, named


def preview(
    pipe: Any,
    prompt: str | None = None,
    *,
    verifier: Verifier,
    candidates: int = CANDIDATES,
    seed: int = 0,
    schedule: Schedule | None = None,
    batch_size: int = 1,
    progress: Progress = True,
    fps: float = 8,
    **call: Any,
) -> Generation:
    """Generate from the noise whose first steps a verifier likes best.

    Successive halving: all candidates are denoised a few steps by the pipeline's own call, guidance
    included; what the last of them predicts of the finished video is decoded and judged; the worst are
    dropped. No step is done twice: who stays goes on from there.

    Args:
        pipe: any diffusers pipeline whose call takes `latents` and can be interrupted; unchanged afterwards.
        prompt: what to generate; None for a pipeline that takes no text.
        verifier: `verifier(frames, prompts)` with uint8 (n, frames, height, width, 3) and a prompt for each
            ("" without one) gives (n,) numbers, higher is better, or a dict of such with the key "score".
        candidates: how many noises; candidate i is `NoiseRecipe(seed, candidate=i)` whatever their number. A
            single one is generated without being judged.
        seed: of the noises.
        schedule: ((steps, survivors), ...): after so many steps so many candidates go on. More than one at
            the end are judged again by their finished videos. None: a third of them after 35 % of the
            steps, one after half.
        batch_size: candidates that share a forward. With 1 the frames are bit by bit those that `replay`
            makes; more round differently.
        progress: True for a bar on stderr, or a callable (what, done, total) in candidates' steps.
        fps: frames per second of the saved video.
        call: further arguments of the pipeline's call.

    Returns:
        The winner's video. Its selection's `rungs` say who was dropped when, and with what score; its ledger
        has the winner's own evaluations as "generation", and all others as "preview".

    Raises:
        BadInput: an argument that cannot be used, such as a schedule beyond the last step, or a verifier that
            does not return a number for each video.
        BadOutput: a score that is not finite.
        NotSupported: a pipeline that cannot be paused.
    """
    positive("candidates", candidates)
    checked_fps(fps)
    if prompt is None and call.get("prompt_embeds") is not None:
        raise BadInput("the verifier judges videos by their prompt: pass it as text")
    probe = Probe(pipe, prompt, **call)
    plan = planned(schedule, candidates, probe.steps) if candidates > 1 else ()
    pool = recipes_for(probe, candidates, seed)
    rungs: list[Rung] = []
    dropped: list[int] = []
    totals = torch.full((candidates,), math.nan, dtype=torch.float64)
    pictures: list[np.ndarray[Any, Any]] = []
    seconds = {"preview": 0.0, "verifier": 0.0, "generation": 0.0}
    with reporting(progress) as show:
        rollout = Rollout(probe, torch.stack([recipe.draw() for recipe in pool]), batch_size=batch_size)
        for steps, survivors in plan:
            started = perf_counter()
            rollout.progress = Count(show, "preview", len(rollout.alive) * (steps - rollout.step))
            frames = rollout.advance(steps)
            seconds["preview"] += perf_counter() - started
            started = perf_counter()
            columns = judged(verifier, frames, prompt or "", rollout.alive)
            scores = columns.pop("score")
            seconds["verifier"] += perf_counter() - started
            pictures = pictures or list(frames)
            for candidate, number, picture in zip(rollout.alive, scores, frames, strict=True):
                totals[candidate], pictures[candidate] = number, picture
            order = [rollout.alive[place] for place in ranked(scores, "high")]
            rungs.append(
                Rung(
                    steps,
                    tuple(rollout.alive),
                    tuple(scores.tolist()),
                    tuple(order[:survivors]),
                    {name: tuple(values.tolist()) for name, values in columns.items()},
                )
            )
            dropped = order[survivors:] + dropped
            rollout.keep(order[:survivors])
        (winner,) = rollout.alive
        started = perf_counter()
        if rollout.step == rollout.steps:
            finished = pictures[winner]
        else:
            rollout.progress = Count(show, "generation", rollout.steps - rollout.step)
            (finished,) = rollout.finish()
        seconds["generation"] = perf_counter() - started
    judge = named(verifier)
    if plan:
        reason = f"{judge} judged previews after {_listed([at for at, _ in plan])} of {probe.steps} steps"
    else:
        reason = "one candidate: nothing to choose, so nothing was judged"
    selection = selected(
        probe,
        pool,
        order=(winner, *dropped),
        totals=totals,
        rungs=tuple(rungs),
        options={"schedule": [list(rung) for rung in plan], "verifier": judge},
        reason=reason,
        ledger=shared(probe.ledger, rollout, winner),
        seconds={what: spent for what, spent in seconds.items() if spent},
        pictures=pictures or None,
    )
    return Generation(finished, selection, fps)


def selected(
    probe: Probe,
    pool: Sequence[NoiseRecipe],
    *,
    order: Sequence[int],
    totals: torch.Tensor,
    rungs: tuple[Rung, ...],
    options: dict[str, Any],
    reason: str,
    ledger: Ledger,
    seconds: dict[str, float],
    pictures: list[np.ndarray[Any, Any]] | None,
) -> Selection:
    """A selection by previews, which score no layers."""
    plain, missing = recordable(probe.call)
    return Selection(
        prompt=probe.prompt,
        model=Model.of(probe.pipe),
        call=plain,
        missing=missing,
        noise_dtype=probe.spec.dtype,
        recipes=tuple(pool),
        scores=torch.zeros(len(pool), 0, dtype=torch.float64),
        totals=totals,
        order=tuple(order),
        layers=(),
        depth=None,
        acquisition="preview",
        options=options,
        prefer="high",
        unit="",
        reason=reason,
        ledger=ledger,
        seconds=seconds,
        versions=package_versions(),
        previews=pictures,
        rungs=rungs,
    )


def shared(spent: Ledger, rollout: Rollout, winner: int) -> Ledger:
    """What was spent, split into the winner's own evaluations and those of the others."""
    own = rollout.spent(winner)
    entries = {"preview": spent.total - own, "generation": float(own)}
    return Ledger({what: evaluations for what, evaluations in entries.items() if evaluations})


def _listed(numbers: Sequence[int]) -> str:
    *head, last = map(str, numbers)
    return f"{', '.join(head)} and {last}" if head else last


class Count:
    """Shows the steps of a phase as they are begun."""

    def __init__(self, show: Any, what: str, total: int) -> None:
        self.show, self.what, self.total, self.done = show, what, total, 0
        show(what, 0, total)

    def __call__(self, count: int) -> None:
        self.done += count
        self.show(self.what, self.done, self.total)
