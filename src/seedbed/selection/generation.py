"""Generating from the chosen noise, and rebuilding what was generated from its record."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from torch import Tensor

from seedbed.errors import BadInput, NotSupported
from seedbed.files import write_bytes_atomically
from seedbed.pipelines.loading import load
from seedbed.probe import Probe
from seedbed.report.video import read_record, write_video
from seedbed.selection.acquisitions import Acquisition, Prefer, positive
from seedbed.selection.batches import BatchSize
from seedbed.selection.pool import choose, recipes_for
from seedbed.selection.profile import Profile
from seedbed.selection.progress import Progress, reporting
from seedbed.selection.prompts import per_prompt, several
from seedbed.selection.racing import Given
from seedbed.selection.record import Selection, sealed
from seedbed.selection.scoring import preview_pool


@dataclass(frozen=True, eq=False)
class Generation:
    """What a pipeline made of the chosen noise.

    Attributes:
        frames: uint8 (frames, height, width, 3); one frame for an image.
        selection: how the noise was chosen; its ledger and seconds include the generation.
        fps: frames per second of the saved video.
        identical: after `replay`: whether the frames are those of the record, bit by bit; None where there is
            nothing to compare with.
    """

    frames: np.ndarray[Any, Any] = field(repr=False)
    selection: Selection
    fps: float = 8
    identical: bool | None = None

    @property
    def sha256(self) -> str:
        """Of the frames' bytes in C order."""
        return hashlib.sha256(np.ascontiguousarray(self.frames).tobytes()).hexdigest()

    def record(self) -> dict[str, Any]:
        """The selection's record with fps and the frames' shape and sha256."""
        frames = {"fps": self.fps, "frames_shape": list(self.frames.shape), "frames_sha256": self.sha256}
        return sealed({**self.selection.to_dict(), **frames})

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the video (.mp4) or image (.png) with the record inside, or the record alone (.json).

        Raises:
            BadInput: another suffix, a folder that does not exist, or a system that refuses to write there.
        """
        if Path(path).suffix.lower() == ".json":
            return write_bytes_atomically(path, (json.dumps(self.record(), indent=1) + "\n").encode())
        write_video(path, self.frames, self.fps, self.record())
        return Path(path)

    def report(self, path: str | os.PathLike[str], **extra: Any) -> Path:
        """Write a self-contained HTML page with the video; see `Selection.report`."""
        return self.selection.report(path, **{**self.record(), "frames": self.frames, **extra})


@per_prompt
def generate(
    pipe: Any,
    prompt: str | None = None,
    *,
    candidates: int = 10,
    seed: int = 0,
    acquisition: str | Acquisition = "auto",
    profile: Profile | str | os.PathLike[str] | None = None,
    layers: str | Sequence[str] | None = None,
    depth: int | None = None,
    race: Given = "auto",
    prefer: Prefer | None = None,
    batch_size: BatchSize = "auto",
    previews: bool = False,
    progress: Progress = True,
    fps: float = 8,
    **call: Any,
) -> Generation:
    """Choose a noise as `select` does, then let the pipeline generate from it.

    A list of prompts gives a list of generations, as in `select`; several videos of one prompt, see there.
    Where the caller passes no `generator`, the pipeline gets one with a fixed seed, so that a scheduler that
    adds noise on its way can be replayed too.

    Args:
        fps: frames per second of the video that `Generation.save` writes.
        previews: as in `select`; where the pipeline cannot be interrupted, the selection's `reason` says so
            instead. The others are as in `select`.

    Raises:
        As `select`.
    """
    positive("candidates", candidates)
    checked_fps(fps)
    call, kept = several(call, candidates)
    if kept > 1:
        raise BadInput(
            "generate makes one video for each prompt: select(...) keeps the best noises for several, and "
            "pipe(prompt, latents=selection.noise, ...) makes them"
        )
    probe = Probe(pipe, prompt, **call)
    selection = choose(
        probe,
        recipes_for(probe, candidates, seed),
        acquisition=acquisition,
        profile=profile,
        layers=layers,
        depth=depth,
        race=race,
        prefer=prefer,
        batch_size=batch_size,
        previews=False,
        progress=progress,
    )
    seconds, reason, pictures = dict(selection.seconds), selection.reason, None
    if previews:
        started = perf_counter()
        try:
            with reporting(progress) as show:
                pictures = preview_pool(probe, selection.recipes, show)
        except NotSupported as error:
            reason += f"; {error}"
        seconds["preview"] = perf_counter() - started
    started = perf_counter()
    frames = _frames(probe, selection.recipe.draw(), progress)
    seconds["generation"] = perf_counter() - started
    return Generation(frames, replace(selection, seconds=seconds, reason=reason, previews=pictures), fps)


def replay(
    record: Mapping[str, Any] | str | os.PathLike[str],
    pipe: Any = None,
    *,
    progress: Progress = True,
    **missing: Any,
) -> Generation:
    """Generate again from a record, and say whether the very same frames came out.

    The noise is the recorded one bit by bit, or an error. The frames are too, on the same kind of device with
    the same packages; elsewhere kernels may round differently, and then `Generation.identical` is False.

    Args:
        record: a record, or the path of a .json, .mp4 or .png that carries one.
        pipe: the pipeline; None loads it from where the record says, in the recorded dtypes, with the
            recorded scheduler, and on a GPU if it ran on one and there is one.
        progress: True for a bar on stderr, or a callable (what, done, total).
        missing: the arguments of the pipeline's call that the record could not hold (`prompt_embeds`, ...).

    Returns:
        The frames, with the recorded selection; `identical` is None for a record of a selection alone.

    Raises:
        BadInput: no such file or model, an argument that the record lacks or already has, another pipeline.
        BadRecord: a damaged, altered or foreign record, or noise that only its owner has.
    """
    content = record if isinstance(record, Mapping) else read_record(record)
    selection = Selection.from_dict(content)
    if "sheet" in content and not selection.rungs:
        raise BadInput("nobody has picked from these previews: use pick(record, candidate)")
    noise = selection.recipe.draw()
    probe = reopened(selection, pipe, missing)
    replayed = Generation(_frames(probe, noise, progress), selection, content.get("fps", 8))
    if "frames_sha256" not in content:
        return replayed
    same = content["frames_shape"] == list(replayed.frames.shape)
    return replace(replayed, identical=same and content["frames_sha256"] == replayed.sha256)


def reopened(selection: Selection, pipe: Any, missing: Mapping[str, Any]) -> Probe:
    """The pipeline and call of a recorded selection; arguments and errors as `replay`."""
    for name, kind in selection.missing.items():
        if name not in missing:
            raise BadInput(f"the record cannot hold {name} ({kind}): pass it, replay(record, {name}=...)")
    for name in missing:
        if name not in selection.missing:
            raise BadInput(f"{name} is not missing from the record: leave it out")
    recorded = selection.model
    if pipe is None:
        name = recorded.model
        if not name:
            raise BadInput("the record's pipeline was built in memory: pass it, replay(record, pipe)")
        if Path(name).is_absolute() and not Path(name).is_dir():
            raise BadInput(
                f"the record's model {name} is not on this machine: pass the pipeline, replay(record, pipe)"
            )
        device = None if recorded.device == "cuda" else "cpu"
        try:
            pipe = load(name, dtype=recorded.dtypes, device=device, scheduler=recorded.scheduler)
        except BadInput as error:
            raise BadInput(f"cannot load the record's model: {error}") from error
    if type(pipe).__name__ != recorded.pipeline:
        raise BadInput(f"the record was made with a {recorded.pipeline}, not with a {type(pipe).__name__}")
    call, _ = several(selection.call, selection.kept)
    probe = Probe(pipe, selection.prompt, **{**call, **missing})
    if tuple(selection.recipe.shape) != tuple(probe.spec.shape):
        raise BadInput(
            f"the record's noise has shape {tuple(selection.recipe.shape)}, "
            f"but this pipeline's latents have shape {tuple(probe.spec.shape)}"
        )
    return probe


def checked_fps(fps: object) -> None:
    """Refuse anything but a number above 0."""
    if isinstance(fps, bool) or not isinstance(fps, (int, float)) or not 0 < fps < math.inf:
        raise BadInput(f"fps must be a number above 0, not {fps!r}")


def _frames(probe: Probe, noise: Tensor, progress: Progress) -> np.ndarray[Any, Any]:
    with reporting(progress) as show:
        return probe.generate(noise, progress=lambda done, total: show("generation", done, total))
