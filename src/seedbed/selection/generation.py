"""Generating from the chosen noise."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from seedbed.acquisition import Acquisition
from seedbed.acquisition.base import BatchSize
from seedbed.acquisition.previews import counting
from seedbed.adaptation import Adapt
from seedbed.errors import BadInput, number, shown
from seedbed.files import write_json
from seedbed.noise import Prior
from seedbed.pipelines.ledger import Ledger
from seedbed.pipelines.rollout import Rollout
from seedbed.progress import Progress, Show, reporting
from seedbed.refinement import Refine
from seedbed.report.video import write_video
from seedbed.selection.choosing import choose, merged, per_prompt, videos_asked
from seedbed.selection.pools import Noises
from seedbed.selection.profile import Profile, acquisition_named
from seedbed.selection.record import Selection, sealed
from seedbed.verifiers import Verifier

FPS = 8


@dataclass(frozen=True, eq=False)
class Generation:
    """What a pipeline made of the chosen noise.

    Attributes:
        frames: uint8 (frames, height, width, 3); one frame for an image.
        selection: how the noise was chosen; its ledger and seconds include the generation.
        identical: after `replay`: whether the frames are those of the record, bit by bit; None where there is
            nothing to compare with.
        changes: after `replay`: in what the pipeline, the device and the packages are not as recorded, and
            the noise where torch or a refiner makes another one here, a few words each: what may be why
            frames are not identical.
    """

    frames: np.ndarray[Any, Any] = field(repr=False)
    selection: Selection
    identical: bool | None = None
    changes: tuple[str, ...] = ()

    @property
    def sha256(self) -> str:
        """Of the frames' bytes in C order."""
        return digest_of(self.frames)

    def record(self, fps: float = FPS) -> dict[str, Any]:
        """The selection's record with fps and the frames' shape and sha256."""
        rate = number(fps)
        if rate is None or not 0 < rate < math.inf:
            raise BadInput(f"fps must be a number above 0, not {shown(fps)}")
        rate = int(rate) if rate.is_integer() else rate
        frames = {"fps": rate, "frames_shape": list(self.frames.shape), "frames_sha256": self.sha256}
        return sealed({**self.selection.to_dict(), **frames})

    def save(self, path: str | os.PathLike[str], fps: float = FPS, *, metadata: bool = True) -> Path:
        """Write the video (.mp4, .webm, .gif) or image (.png), or the record alone (.json).

        Args:
            fps: frames per second of the video.
            metadata: the video or image carries the record.

        Raises:
            BadInput: another suffix, a folder that does not exist, or a system that refuses to write there.
        """
        return save_frames(path, self.frames, fps, self.record(fps), metadata)

    def report(self, path: str | os.PathLike[str], fps: float = FPS, **extra: Any) -> Path:
        """Write a self-contained HTML page with the video; see `Selection.report`."""
        return self.selection.report(path, **{**self.record(fps), "frames": self.frames, **extra})


@per_prompt
def generate(
    pipe: Any,
    prompt: str | None = None,
    *,
    candidates: int | None = None,
    seed: int | None = None,
    acquisition: str | Acquisition | Profile = "auto",
    verifier: Verifier | str | None = None,
    verifier_prompt: str | None = None,
    prior: str | Prior | None = None,
    refine: Refine = None,
    adaptation: Adapt = None,
    noises: Noises | None = None,
    batch_size: BatchSize = "auto",
    progress: Progress = True,
    call: Mapping[str, Any] | None = None,
    **arguments: Any,
) -> Generation:
    """Choose a noise as `select` does, then let the pipeline generate from it.

    Arguments and errors are those of `select`, and `noises`, as in `score`, to choose from instead of those
    of a seed (0, if none is given): of a single one nothing is scored. A list of prompts gives a list of
    generations. A choice by previews goes on from the steps that it has done: its ledger has the winner's own
    evaluations as "generation", and all others as "preview". Where the caller passes no `generator`, the
    pipeline gets one with a fixed seed, so that a scheduler that adds noise on its way can be replayed too.
    """
    function, given = acquisition_named(acquisition, verifier, verifier_prompt), merged(call, arguments)
    if any(number > 1 for number in videos_asked(given).values()):
        raise BadInput(
            "generate makes one video for each prompt: select(...) keeps the best noises for several, and "
            "pipe(prompt, latents=selection.noise, ...) makes them"
        )
    choice = (function, given, candidates, seed, batch_size, progress, noises)
    selection, scores, session = choose(
        pipe, prompt, *choice, prior=prior, refine=refine, adaptation=adaptation
    )
    started = perf_counter()
    with reporting(progress) as show:
        if scores.rungs and scores.rollout is not None:
            finished = scores.rungs[-1].steps == scores.rollout.steps and scores.previews is not None
            frames = scores.previews[selection.best] if finished else finish(scores.rollout, show)  # type: ignore[index]
            ledger = split_ledger(session.ledger, scores.rollout, selection.best)
        else:
            noise = selection.pool[selection.best]  # type: ignore[index]
            frames = session.generate(noise, progress=partial(show, "generation"))
            ledger = session.ledger
    seconds = {**selection.seconds, "generation": perf_counter() - started}
    return Generation(frames, replace(selection, seconds=seconds, ledger=ledger))


def digest_of(values: np.ndarray[Any, Any]) -> str:
    """The SHA-256 of an array's bytes in C order."""
    return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()


def save_frames(
    path: str | os.PathLike[str],
    frames: np.ndarray[Any, Any],
    fps: float,
    record: dict[str, Any],
    metadata: bool,
) -> Path:
    """Frames with their record inside, or the record alone (.json), written; errors as `Generation.save`."""
    if Path(path).suffix.lower() == ".json":
        return write_json(path, record)
    write_video(path, frames, fps, record if metadata else None)
    return Path(path)


def finish(rollout: Rollout, show: Show) -> np.ndarray[Any, Any]:
    """The frames of a rollout's one candidate, from the steps that it has done."""
    rollout.progress = counting(show, "generation", rollout.steps - rollout.step)
    (frames,) = rollout.finish()
    return frames


def split_ledger(spent: Ledger, rollout: Rollout, winner: int) -> Ledger:
    """What was spent, split into the winner's own evaluations and those of the others."""
    own = float(rollout.spent(winner))
    others = {what: spent.entries.get(what, 0.0) for what in ("refinement", "layers", "guidance")}
    entries = {**others, "preview": spent.total - sum(others.values()) - own, "generation": own}
    return Ledger({what: evaluations for what, evaluations in entries.items() if evaluations})
