"""Rebuilding what was generated or edited from its record."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from seedbed.adaptation import adapt, adaptations_named
from seedbed.errors import BadInput, SeedbedError, reason
from seedbed.pipelines.loading import load
from seedbed.pipelines.session import Session
from seedbed.progress import Progress, reporting
from seedbed.refinement import rebuilt
from seedbed.report.video import read_record
from seedbed.selection.choosing import videos_asked
from seedbed.selection.edited import CALLS, SCHEMA, Edit, digest_of_source, edit
from seedbed.selection.generation import Generation, digest_of
from seedbed.selection.provenance import Model, recorded_model
from seedbed.selection.record import Selection, check, recipe_of
from seedbed.selection.values import summary_of


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
        return edited_again(content, pipe, progress, missing)
    selection = Selection.from_dict(content)
    require_choice(content, selection)
    selection.recipe.plain.draw()  # a record that cannot be replayed is refused before a model is loaded
    session = reopened(selection, pipe, missing)
    with reporting(progress) as show, as_recorded():
        noise, change = rebuilt(selection.recipe, session)
        frames = session.generate(noise, progress=partial(show, "generation"))
    changes = [*selection.model.changes(session.pipe, selection.versions), *[change] * bool(change)]
    replayed = Generation(frames, selection, changes=tuple(changes))
    if "frames_sha256" not in content:
        return replayed
    same = content["frames_shape"] == list(replayed.frames.shape)
    return replace(replayed, identical=same and content["frames_sha256"] == replayed.sha256)


def require_choice(content: Mapping[str, Any], selection: Selection) -> None:
    """BadInput for the record of a contact sheet from which nobody has chosen."""
    if "sheet" in content and not selection.rungs:
        raise BadInput(
            "nobody has chosen from this contact sheet: ContactSheet.load(record).finish(candidate)"
        )


def edited_again(
    record: Mapping[str, Any], pipe: Any, progress: Progress, missing: Mapping[str, Any]
) -> Edit:
    """An edit made again from its record; arguments and errors as `seedbed.replay`."""
    check(record, (SCHEMA,))
    origin, absent = record["origin"], dict(record["missing"])
    if "recipe" not in origin:
        absent["original"] = f"{origin['name']}, known by its sha256"
    model, call = recorded_model(record), CALLS.validate_python(record["call"])
    pipe = recorded_pipe(model, pipe, absent, missing)
    others = {name: value for name, value in missing.items() if name != "original"}
    if "recipe" in origin:
        given = recipe_of(origin["recipe"])
    elif digest_of_source(given := missing["original"]) != origin["sha256"]:
        raise BadInput(f"this is another video, or noise, than the record's {origin['name']}")
    asked = {**record["options"], "fps": record["fps"], "progress": progress, "call": {**call, **others}}
    with as_recorded():
        made = edit(pipe, given, source=record["source"], target=record["target"], **asked)
    identical = digest_of(made.frames) == record["frames_sha256"]
    changes = tuple(model.changes(pipe, record["versions"]))
    return replace(made, identical=identical, changes=changes)


def reopened(selection: Selection, pipe: Any, missing: Mapping[str, Any]) -> Session:
    """The pipeline and call of a recorded selection; arguments and errors as `replay`."""
    pipe = recorded_pipe(selection.model, pipe, selection.missing, missing)
    one = dict.fromkeys(videos_asked(selection.call), 1)
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
        if " sha256 " in kind and summary_of(missing[name]) != kind:
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
