"""Editing a video by text, and the record of an edit."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any, Literal, get_args

import numpy as np
from pydantic import TypeAdapter
from torch import Tensor

from seedbed import __version__
from seedbed.adaptation.editing import flow_edited, injecting, require_flow
from seedbed.adaptation.layout import layers_named
from seedbed.adaptation.trajectory import Trajectory, generated, inverted
from seedbed.errors import BadInput, NotSupported, finite, one_of, several, shown, whole
from seedbed.files import read_bytes, write_bytes_atomically
from seedbed.noise import GivenNoise, NoiseRecipe
from seedbed.pipelines.encoding import Rehearsal, encoding_of
from seedbed.pipelines.session import Session
from seedbed.progress import Progress, reporting
from seedbed.refinement import rebuilt
from seedbed.report.footage import conformed, read_frames
from seedbed.report.page import edit_page
from seedbed.selection.choosing import merged
from seedbed.selection.generation import FPS, Generation, digest_of, save_frames
from seedbed.selection.provenance import Model, package_versions
from seedbed.selection.record import Selection, sealed
from seedbed.selection.values import Arguments, recordable

SCHEMA = "seedbed.edit/1"
CALLS = TypeAdapter[dict[str, Any]](Arguments)

Method = Literal["inject", "flowedit"]

Source = (
    str | os.PathLike[str] | np.ndarray[Any, Any] | Tensor | NoiseRecipe | GivenNoise | Selection | Generation
)
"""A video: a file, or uint8 (frames, height, width, 3). Or a noise: a tensor of the pipeline's latents, with
or without a batch axis, a recipe, or what chose it."""


@dataclass(frozen=True, eq=False)
class Edit:
    """A video, and what the target's prompt made of it.

    Attributes:
        frames: the edit, uint8 (frames, height, width, 3).
        original: the source, of the same shape; as it was generated, or the video as it was conformed.
        source, target: the prompts.
        options: method, layers (by name), stop and seed.
        origin: what the source is: a recipe; or what it was called, what was done to it, and its sha256.
        notes: what there is to say of this edit, one line each.
        model, call, missing, ledger, seconds, versions: as a `Selection` has them.
        fps: frames per second.
        identical, changes: after `replay`, as a `Generation` has them.
    """

    frames: np.ndarray[Any, Any] = field(repr=False)
    original: np.ndarray[Any, Any] = field(repr=False)
    source: str
    target: str
    options: dict[str, Any]
    origin: dict[str, Any]
    notes: tuple[str, ...]
    model: Model
    call: dict[str, Any]
    missing: dict[str, str]
    ledger: dict[str, float]
    seconds: dict[str, float]
    versions: dict[str, str]
    fps: float = FPS
    identical: bool | None = None
    changes: tuple[str, ...] = ()

    def record(self) -> dict[str, Any]:
        """All but the pixels, in plain JSON types, with the frames' digests: what `replay` repeats."""
        names = ("source", "target", "options", "origin", "missing", "ledger", "seconds", "versions", "fps")
        return sealed(
            {
                "schema": SCHEMA,
                "seedbed": __version__,
                **asdict(self.model),
                **{name: getattr(self, name) for name in names},
                "notes": list(self.notes),
                "call": CALLS.dump_python(self.call),
                "frames_shape": list(self.frames.shape),
                "frames_sha256": digest_of(self.frames),
                "original_sha256": digest_of(self.original),
            }
        )

    def save(self, path: str | os.PathLike[str], *, metadata: bool = True) -> Path:
        """Write the edit as `Generation.save` does, or the record alone (.json).

        Raises BadInput: another suffix, a missing folder, or a system that refuses to write there.
        """
        return save_frames(path, self.frames, self.fps, self.record(), metadata)

    def report(self, path: str | os.PathLike[str]) -> Path:
        """Write a self-contained HTML page with source and edit side by side; errors as `save`."""
        page = edit_page({**self.record(), "frames": self.frames, "original": self.original})
        return write_bytes_atomically(path, page.encode())


def edit(
    pipe: Any,
    video_or_noise: Source,
    *,
    source: str,
    target: str,
    layers: str | Sequence[str] = "entropy:low",
    stop: float = 0.8,
    method: Method = "inject",
    seed: int = 0,
    fps: float = FPS,
    progress: Progress = True,
    call: Mapping[str, Any] | None = None,
    **arguments: Any,
) -> Edit:
    """Change what a video shows by changing the words for it, without training.

    The rule is that of Free Prompt Editing (CVPR 2024) as IE-Adapt (arXiv 2504.12027) has it: the target is
    denoised from the source's noise, and in the first steps chosen layers attend with the source's queries
    and keys, its rows with the prompt alone. A video gets its noise by inversion without guidance.

    Args:
        pipe: a text-to-video or text-to-image pipeline of diffusers; as before afterwards.
        video_or_noise: see `Source`. A file is conformed: the first frames at `fps`, its middle resized.
        source: what it shows. Of a noise, the source video is generated from this prompt.
        target: what it shall show.
        layers: "entropy:low", the half of the layers whose attention is the least spread out, which Free
            Prompt Editing chooses by resolution; "entropy:high"; "all" but cross attention; or kinds and
            globs on names.
        stop: share of the steps, from the first on, in which they are injected, in (0, 1].
        method: "inject"; or "flowedit" (arXiv 2412.08629), a baseline for flow matching that has neither
            inversion nor layers, nor a `stop`.
        seed: of the noise that FlowEdit adds.
        fps: frames per second of the video.
        call, arguments: of the pipeline's call, the same for source and target.

    Raises:
        BadInput: prompts that are empty or equal, layers that do not exist, a `stop` out of its range, a file
            that is no video, a video that is too short or of another size, a noise of another shape.
        NotSupported: a pipeline whose latents a video cannot be turned into, or whose rows of the prompt
            cannot be told; FlowEdit without flow matching.
    """
    for what, prompt in (("source", source), ("target", target)):
        if not isinstance(prompt, str) or not prompt.strip():
            raise BadInput(f"the {what} must be a prompt that is not blank, not {shown(prompt)}")
    if source.strip() == target.strip():
        raise BadInput(f"source and target are both {shown(target)}: there is nothing to edit")
    one_of("edit's method", method, get_args(Method))
    rate = finite("fps", fps, 0.01, 1000)
    rate = int(rate) if rate.is_integer() else rate
    seed = whole("seed", seed, 0)
    stop = finite("edit's stop", stop, 0, 1)
    if not stop:
        raise BadInput("edit's stop must be above 0, or nothing of the source is injected")
    given = merged(call, arguments)
    there = Session(pipe, source, **given)
    here = there.another(target, given)
    flow, chosen = method == "flowedit", dict[str, Any](method=method)
    with reporting(progress) as show:
        began = perf_counter()
        if flow:
            require_flow(there)
            chosen |= {"seed": seed}
        else:
            some = layers if isinstance(layers, str) else several("edit's layers", layers)
            names = layers_named(here, some)
            chosen |= {"layers": names, "stop": stop}
        frames, noise, origin = _given(there, video_or_noise, rate)
        if noise is not None:
            trajectory = generated(there, noise, show)
        elif not flow:
            trajectory = inverted(there, frames, show=show)
        else:
            latents = encoding_of(there).encode(there, frames)
            trajectory = Trajectory(latents, (), frames, latents)
        middle = perf_counter()
        if not flow:
            here.acts.append(injecting(here, there, trajectory, names, stop))
            made = here.generate(trajectory.noise, progress=partial(show, "generation"))
        elif trajectory.latents is None:
            raise NotSupported(f"{there.asked.name} gives no latents back in the shape of its noise")
        else:
            made = Rehearsal(here).frames(flow_edited(there, here, trajectory.latents, seed=seed, show=show))
    seconds = {"source": middle - began, "generation": perf_counter() - middle}
    notes = tuple(filter(None, (origin.get("told"), trajectory.note)))
    about = chosen, origin, notes, Model.of(pipe), *recordable(here.call), there.ledger.to_dict(), seconds
    return Edit(made, trajectory.frames, source, target, *about, package_versions(), rate)


def _given(session: Session, given: Any, fps: float) -> tuple[Any, Tensor | None, dict[str, Any]]:
    """The frames of a video, conformed, or the noise; and what the record says of it."""
    if isinstance(given, Generation):
        given = given.selection
    if isinstance(given, Selection):
        given = given.recipe
    if isinstance(given, (NoiseRecipe, GivenNoise)):
        noise, _ = rebuilt(given, session)
        return None, noise, {"recipe": given.to_dict()}
    if isinstance(given, Tensor):
        shape = session.spec.shape
        noise = given[0] if given.shape == (1, *shape) else given
        if noise.shape != shape or not noise.is_floating_point():
            raise BadInput(f"the noise must be of shape {tuple(shape)}, not {shown(given)}")
        return None, noise.detach().cpu().float(), {"name": "noise", "sha256": digest_of_source(given)}
    count, height, width = encoding_of(session).pixels
    if isinstance(given, np.ndarray):
        if given.dtype != np.uint8 or given.ndim != 4 or given.shape[1:] != (height, width, 3):
            raise BadInput(
                f"the video must be uint8 (frames, {height}, {width}, 3), not {given.dtype} "
                f"{tuple(given.shape)}; a file is resized"
            )
        if len(given) < count:
            raise BadInput(f"the video is too short: it has {len(given)} frames, and the model makes {count}")
        return given[:count], None, {"name": "array", "sha256": digest_of_source(given)}
    if not isinstance(given, (str, os.PathLike)):
        raise BadInput(f"edit takes a video's file or frames, or a noise, not {shown(given)}")
    frames, own = read_frames(given, count, fps)
    fitted, (rows, columns) = conformed(frames, height, width)
    told = f"{Path(given).name}: {own['width']} × {own['height']} at {own['fps']:g} frames per second"
    cut = "" if (columns, rows) == (own["width"], own["height"]) else f"cropped to {columns} × {rows}, "
    told += f", taken as its first {count} frames at {fps:g} per second, {cut}resized to {width} × {height}"
    return fitted, None, {"name": Path(given).name, "told": told, "sha256": digest_of_source(given)}


def digest_of_source(given: Any) -> str:
    """Of a file's bytes, of frames, or of a noise in float32."""
    if isinstance(given, (str, os.PathLike)):
        return hashlib.sha256(read_bytes(given, "the video")).hexdigest()
    if isinstance(given, Tensor):
        given = given.detach().cpu().float().flatten().numpy()
    if not isinstance(given, np.ndarray):
        raise BadInput(f"a replay takes the video's file or frames, or the noise, not {shown(given)}")
    return digest_of(given)
