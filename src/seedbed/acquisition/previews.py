"""Choosing by what the first steps show: candidates are denoised a little, judged, and the worst dropped."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

import numpy as np
import torch

from seedbed.acquisition.base import BatchSize, RolloutScore, Scores
from seedbed.errors import BadInput, NotSupported, shown
from seedbed.halving import Prefer, Rung, Rungs, Schedule, planned, ranked
from seedbed.noise import Pool
from seedbed.pipelines.decoding import decode_named, decoder_of
from seedbed.pipelines.rollout import Rollout
from seedbed.pipelines.session import Session
from seedbed.pipelines.timesteps import levels_of
from seedbed.progress import Show, silent
from seedbed.verifiers import Verifier, judged, judged_text, name_of, resolve

# Of six candidates two stay when so much of a sample, σ / (α + σ), is still noise, and then one. The number
# of a step says little: after half of them .75 is left where flow matching is shifted by 3, .64 on
# shapes-cogvideox (recipes/previews). There these are 7 and 10 of 20 steps.
LEVELS = ((0.77, 1 / 3), (0.65, 1))
SCHEDULE: Schedule = ((0.35, 1 / 3), (0.5, 1))  # where a schedule's noise levels cannot be read
CANDIDATES = 6


@dataclass(frozen=True, kw_only=True)
class Previews(RolloutScore):
    """What a verifier says of the finished video that each candidate's first steps predict.

    Successive halving: all candidates are denoised a few steps by the pipeline's own call, guidance included;
    what the last of them predicts is decoded and judged; the worst are dropped. No step is done twice: who
    stays goes on from there, and `generate` finishes the winner for the price of its remaining steps.

    Args:
        verifier: a name of `seedbed.verifiers.resolve`, or any callable: `verifier(frames, prompts)` with
            uint8 (n, frames, height, width, 3) and a prompt for each ("" without one) gives (n,) numbers,
            higher is better, or a dict of such with the key "score".
        schedule: ((steps, survivors), ...), see `seedbed.halving.Schedule`. More than one at the
            end are judged again by their finished videos. None: a third of them stay when a sample is .77
            noise, σ / (α + σ), one when it is .65; after 35 and 50 % of the steps where that cannot be read.
        verifier_prompt: the text by which the verifier judges, where that is not the pipeline's prompt: with
            `prompt_embeds` there is none.
        decode: what decodes the previews. "exact": the pipeline; "linear": a linear map, fitted to the
            autoencoder on the first preview of each pause, see `seedbed.pipelines.decoding.Linear`; or the
            folder of a small autoencoder for the same latents. Finished videos are always decoded by the
            pipeline.

    Raises:
        BadInput: a name that is none, a verifier that knows finished videos only, or a text that is none.
    """

    name = "previews"
    better = "high"

    verifier: Verifier | str
    schedule: Schedule | None = None
    verifier_prompt: str | None = None
    decode: str | os.PathLike[str] = "exact"

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "verifier", resolve(self.verifier))
        object.__setattr__(self, "decode", decode_named(self.decode))
        if self.schedule is not None:
            planned(self.schedule, 10**6, 10**6, "steps")
        if self.verifier_prompt is not None and not isinstance(self.verifier_prompt, str):
            raise BadInput(f"verifier_prompt must be a text, not {shown(self.verifier_prompt)}")

    def options(self) -> dict[str, Any]:
        """See `Acquisition.options`: the verifier by its name, and its text where one was given."""
        options = {**super().options(), "verifier": name_of(self.verifier)}
        if self.verifier_prompt is None:
            del options["verifier_prompt"]
        return options

    def rungs(self, candidates: int, steps: int, noise: Sequence[float] = ()) -> Rungs:
        """The pauses for so many candidates and steps; the last one leaves one candidate.

        A single candidate, which `seedbed.score` may be asked for, is judged where the last rung decides.

        Args:
            noise: (steps,) σ / (α + σ) of the sample that each step is given; empty where it is not known.
                Where it begins below the first pause, or is no number, it is not believed: of schedulers
                without a kind of prediction (LTXEulerAncestralRFScheduler) .5 is read where all is noise.
        """
        schedule = self.schedule or SCHEDULE
        if self.schedule is None and steps > 1 and noise and noise[0] > LEVELS[0][0]:
            after = (sum(level > limit for level in noise) for limit, _ in LEVELS)
            shares = (min(max(done, 1), steps - 1) / steps for done in after)
            # Where both fall together in a schedule of few steps, the last one decides.
            schedule = [*{share: left for share, (_, left) in zip(shares, LEVELS, strict=True)}.items()]
        if candidates == 1:
            return ((planned(schedule, steps, 10**6, "steps")[-1][0], 1),)
        rungs = list(planned(schedule, steps, candidates, "steps"))
        if self.schedule is None:  # of few candidates or steps the last rung has to decide
            rungs[-1] = (rungs[-1][0], 1)
        elif not rungs or rungs[-1][1] > 1:
            if rungs and rungs[-1][0] == steps:
                raise BadInput(f"after all {steps} steps one video is returned: let the last rung keep 1")
            rungs.append((steps, 1))
        return tuple(rungs)

    def score(
        self, session: Session, pool: Pool, *, batch_size: BatchSize = "auto", show: Show = silent
    ) -> Scores:
        """See `Acquisition.score`; "auto" is one candidate in a forward, so that frames are bit by bit those
        of a plain call: larger batches round differently.

        Raises:
            BadInput: a schedule beyond the last step, or a verifier that does not return a number for each.
            BadOutput: a score that is not finite.
            NotSupported: a pipeline that cannot be paused.
        """
        steps, verifier = session.facts.steps, resolve(self.verifier)
        text = judged_text(verifier, session, self.verifier_prompt)
        noise: list[float] = []
        with suppress(NotSupported):  # a schedule that cannot be read
            noise = [level.sigma / (level.alpha + level.sigma) for level in levels_of(session)]
        plan = self.rungs(len(pool), steps, noise)
        decoder = decoder_of(session, str(self.decode))
        rows = 1 if batch_size == "auto" else batch_size
        rollout = Rollout(session, pool.noises, batch_size=rows, decoder=decoder)
        rungs: list[Rung] = []
        dropped: list[int] = []
        totals = torch.full((len(pool),), torch.nan, dtype=torch.float64)
        previews: list[np.ndarray[Any, Any]] = []
        seconds = 0.0
        for after, left in plan:
            rollout.progress = counting(show, "preview", len(rollout.alive) * (after - rollout.step))
            frames = rollout.advance(after)
            started = perf_counter()
            rung = judged_rung(verifier, text, rollout, frames, self.end)
            seconds += perf_counter() - started
            previews = previews or list(frames)
            for candidate, number, picture in zip(rollout.alive, rung.scores, frames, strict=True):
                totals[candidate], previews[candidate] = number, picture
            rungs.append(replace(rung, kept=rung.kept[:left]))
            dropped = [*rung.kept[left:], *dropped]
            rollout.keep(rung.kept[:left])
        *before, last = (str(after) for after, _ in plan)
        listed = f"{', '.join(before)} and {last}" if before else last
        return Scores.of(
            totals,
            (*rollout.alive, *dropped),
            rungs=tuple(rungs),
            notes=(
                f"{name_of(verifier)} judged previews after {listed} of {steps} steps",
                *([decoder.described] if decoder and decoder.described else ()),
            ),
            previews=previews,
            rollout=rollout,
            seconds={"verifier": seconds},
        )


def judged_rung(
    verifier: Verifier,
    text: str,
    rollout: Rollout,
    frames: Sequence[np.ndarray[Any, Any]],
    prefer: Prefer = "high",
) -> Rung:
    """What a verifier says of the previews of those alive, who all stay, best first; errors as `judged`."""
    columns = {name: tuple(v.tolist()) for name, v in judged(verifier, frames, text, rollout.alive).items()}
    scores = columns.pop("score")
    order = ranked(torch.tensor(scores, dtype=torch.float64), prefer)
    kept = tuple(rollout.alive[place] for place in order)
    return Rung(rollout.step, tuple(rollout.alive), scores, kept, columns)


def counting(show: Show, what: str, total: int) -> Callable[[int], None]:
    """Shows the steps of a phase as they are begun."""
    done = 0
    show(what, 0, total)

    def count(more: int) -> None:
        nonlocal done
        done += more
        show(what, done, total)

    return count
