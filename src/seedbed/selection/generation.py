"""Generating from the chosen noise, and rebuilding what was generated from its record."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from seedbed.acquisition import Acquisition
from seedbed.acquisition.base import BatchSize
from seedbed.acquisition.previews import counting
from seedbed.adaptation import Adapt, adapt, adaptations_named
from seedbed.errors import BadInput, SeedbedError, number, reason, shown
from seedbed.files import write_bytes_atomically
from seedbed.noise import Prior
from seedbed.pipelines.ledger import Ledger
from seedbed.pipelines.loading import load
from seedbed.pipelines.rollout import Rollout
from seedbed.pipelines.session import Session
from seedbed.progress import Progress, Show, reporting
from seedbed.refinement import Refine, rebuilt
from seedbed.report.video import read_record, write_video
from seedbed.selection.choosing import choose, merged, named, per_prompt, several
from seedbed.selection.pools import Noises
from seedbed.selection.profile import Profile
from seedbed.selection.record import Model, Selection, sealed
from seedbed.selection.values import kind_of
from seedbed.verifiers import Verifier

if TYPE_CHECKING:
    from seedbed.selection.edited import Edit

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
        return saved(path, self.frames, fps, self.record(fps), metadata)

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
    function, given = named(acquisition, verifier, verifier_prompt), merged(call, arguments)
    if any(number > 1 for number in several(given).values()):
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
            ledger = shared(session.ledger, scores.rollout, selection.best)
        else:
            noise = selection.pool[selection.best]  # type: ignore[index]
            frames = session.generate(noise, progress=partial(show, "generation"))
            ledger = session.ledger
    seconds = {**selection.seconds, "generation": perf_counter() - started}
    return Generation(frames, replace(selection, seconds=seconds, ledger=ledger))


def digest_of(values: np.ndarray[Any, Any]) -> str:
    """The SHA-256 of an array's bytes in C order."""
    return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()


def saved(
    path: str | os.PathLike[str],
    frames: np.ndarray[Any, Any],
    fps: float,
    record: dict[str, Any],
    metadata: bool = True,
) -> Path:
    """Frames with their record inside, or the record alone (.json), written; errors as `Generation.save`."""
    if Path(path).suffix.lower() == ".json":
        return write_bytes_atomically(path, (json.dumps(record, indent=1) + "\n").encode())
    write_video(path, frames, fps, record if metadata else None)
    return Path(path)


def finish(rollout: Rollout, show: Show) -> np.ndarray[Any, Any]:
    """The frames of a rollout's one candidate, from the steps that it has done."""
    rollout.progress = counting(show, "generation", rollout.steps - rollout.step)
    (frames,) = rollout.finish()
    return frames


def shared(spent: Ledger, rollout: Rollout, winner: int) -> Ledger:
    """What was spent, split into the winner's own evaluations and those of the others."""
    own = float(rollout.spent(winner))
    others = {what: spent.entries.get(what, 0.0) for what in ("refinement", "layers", "guidance")}
    entries = {**others, "preview": spent.total - sum(others.values()) - own, "generation": own}
    return Ledger({what: evaluations for what, evaluations in entries.items() if evaluations})


def replay(
    record: Mapping[str, Any] | str | os.PathLike[str],
    pipe: Any = None,
    *,
    progress: Progress = True,
    **missing: Any,
) -> Generation | Edit:
    """Generate, or edit, again from a record, and say whether the very same frames came out.

    The noise is the recorded one bit by bit, or an error; where torch drew it or a model refined it, it may
    differ on another machine, and `Generation.changes` says so. The frames are the recorded ones too, on the
    same kind of device with the same packages; elsewhere kernels may round differently, and then
    `Generation.identical` is False.

    Args:
        record: a record, or the path of a .json, .mp4, .webm, .gif or .png that carries one.
        pipe: the pipeline; None loads it from where the record says, in the recorded dtypes, with the
            recorded scheduler, with what was switched on where a few numbers do it (FreeInit, FreeNoise,
            FreeU, tiling, attention backends, guiders), with the files that `seedbed.pipelines.loading.load`
            had (LoRAs, a single-file checkpoint), on the recorded kind of device or else on what there is.
        progress: True for a bar on stderr, or a callable (what, done, total).
        missing: the arguments of the pipeline's call that the record could not hold (`prompt_embeds`, ...);
            of an edit of anything but a recipe also `original`, the file, frames or noise that was edited,
            which is known by its sha256.

    Returns:
        The frames, with the recorded selection, or the edit; `identical` is None for a record of a selection
        alone.

    Raises:
        BadInput: no such file or model, an argument that the record lacks or already has, another pipeline,
            or another model than the noise was refined with.
        BadRecord: a damaged, altered or foreign record, or noise that only its owner has.
    """
    content = record if isinstance(record, Mapping) else read_record(record)
    if str(content.get("schema")).startswith("seedbed.edit/"):
        from seedbed.selection.edited import edited_again

        return edited_again(content, pipe, progress, missing)
    selection = Selection.from_dict(content)
    if "sheet" in content and not selection.rungs:
        raise BadInput(
            "nobody has chosen from this contact sheet: ContactSheet.load(record).finish(candidate)"
        )
    selection.recipe.plain.draw()  # a record that cannot be replayed is refused before a model is loaded
    session = reopened(selection, pipe, missing)
    with reporting(progress) as show, as_recorded():
        noise, change = rebuilt(selection.recipe, session)
        frames = session.generate(noise, progress=partial(show, "generation"))
    changes = [*selection.changes(session.pipe), *[change] * bool(change)]
    replayed = Generation(frames, selection, changes=tuple(changes))
    if "frames_sha256" not in content:
        return replayed
    same = content["frames_shape"] == list(replayed.frames.shape)
    return replace(replayed, identical=same and content["frames_sha256"] == replayed.sha256)


def reopened(selection: Selection, pipe: Any, missing: Mapping[str, Any]) -> Session:
    """The pipeline and call of a recorded selection; arguments and errors as `replay`."""
    pipe = recorded_pipe(selection.model, pipe, selection.missing, missing)
    one = dict.fromkeys(several(selection.call), 1)
    with as_recorded():
        session = Session(pipe, selection.prompt, **{**selection.call, **one, **missing})
        shape = tuple(session.spec.shape)
    if shape != tuple(selection.recipe.shape):
        raise BadInput(
            f"the record's noise has shape {tuple(selection.recipe.shape)}, "
            f"but this pipeline's latents have shape {shape}"
        )
    adapt(session, adaptations_named(selection.adaptations))
    return session


def recorded_pipe(recorded: Model, pipe: Any, absent: Mapping[str, str], missing: Mapping[str, Any]) -> Any:
    """The pipeline of a record, `pipe` or loaded; arguments and errors as `replay`.

    Args:
        absent: the arguments that the record could not hold, which `missing` must be.
    """
    for name, kind in absent.items():
        if name not in missing:
            raise BadInput(f"the record cannot hold {name} ({kind}): pass it, replay(record, {name}=...)")
        if " sha256 " in kind and kind_of(missing[name]) != kind:
            raise BadInput(f"{name} is another than the record's, which is {kind}")
    for name in missing:
        if name not in absent:
            raise BadInput(f"{name} is not missing from the record: leave it out")
    if pipe is None:
        name = recorded.model
        if not name or (Path(name).is_absolute() and not Path(name).is_dir()):
            what = f"model {name} is not on this machine" if name else "pipeline was built in memory"
            raise BadInput(f"the record's {what}: pass the pipeline, replay(record, pipe)")
        try:
            pipe = load(name, **recorded.loading())
        except BadInput as error:
            raise BadInput(f"cannot load the record's model: {error}") from error
    if type(pipe).__name__ != recorded.pipeline:
        raise BadInput(f"the record was made with a {recorded.pipeline}, not with a {type(pipe).__name__}")
    return pipe


@contextmanager
def as_recorded() -> Iterator[None]:
    """A pipeline may not take what another one, or other packages, recorded: then one line says so."""
    try:
        yield
    except (SeedbedError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # whatever a pipeline makes of arguments that are not its own
        why = f"{type(error).__name__}: {reason(error)}"
        raise BadInput(f"the pipeline does not run as recorded: {why}") from error
