"""Previews of every candidate for a person to pick from, and going on with the one that was picked."""

from __future__ import annotations

import functools
import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from seedbed.errors import BadInput
from seedbed.files import write_bytes_atomically
from seedbed.probe import Probe, Rollout
from seedbed.report.page import sheet_page
from seedbed.report.video import read_record
from seedbed.selection.acquisitions import positive
from seedbed.selection.generation import Generation, checked_fps, reopened
from seedbed.selection.origin import package_versions
from seedbed.selection.pool import recipes_for
from seedbed.selection.previewing import Count, selected, shared
from seedbed.selection.progress import Progress, reporting
from seedbed.selection.racing import ranked
from seedbed.selection.record import Selection, sealed
from seedbed.selection.rungs import SCHEDULE, Rung
from seedbed.verifiers import Verifier, judged, named


@dataclass(frozen=True, eq=False)
class Sheet:
    """A contact sheet: what every candidate will become, as far as its first steps tell.

    Attributes:
        selection: the pool; `previews` are the decoded predictions, `order` is by score where a verifier
            judged them.
        steps: denoising steps done; all: of the whole schedule.
        memories: per candidate the denoiser's outputs so far.
        fps: frames per second of the previews and of the video to come.
    """

    selection: Selection
    steps: int
    all: int
    memories: list[list[tuple[Tensor, ...]]] = field(repr=False)
    fps: float = 8

    @functools.cached_property
    def memory(self) -> bytes:
        """The remembered evaluations as a safetensors file, tensors named candidate/call."""
        return safetensors.torch.save(
            {
                f"{candidate}/{call}" + f"/{part}" * bool(part): output.detach().cpu().contiguous()
                for candidate, calls in enumerate(self.memories)
                for call, outputs in enumerate(calls)
                for part, output in enumerate(outputs)
            }
        )

    def record(self) -> dict[str, Any]:
        """The selection's record with the steps done and the sha256 of the remembered evaluations."""
        preview = {
            "steps": self.steps,
            "of": self.all,
            "memory_sha256": hashlib.sha256(self.memory).hexdigest(),
        }
        return sealed({**self.selection.to_dict(), "fps": self.fps, "sheet": preview})

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the record as .json, and the remembered evaluations beside it as .safetensors.

        Raises:
            BadInput: another suffix, a folder that does not exist, or a system that refuses to write there.
        """
        if Path(path).suffix.lower() != ".json":
            raise BadInput(f"cannot write {path}: the record of previews must end in .json")
        self.save_memory(Path(path).with_suffix(".safetensors"))
        return self.save_record(path)

    def save_record(self, path: str | os.PathLike[str]) -> Path:
        """Write the record alone; errors as `save`."""
        return write_bytes_atomically(path, (json.dumps(self.record(), indent=1) + "\n").encode())

    def save_memory(self, path: str | os.PathLike[str]) -> Path:
        """Write the remembered evaluations alone; errors as `save`."""
        return write_bytes_atomically(path, self.memory)

    def page(self, path: str | os.PathLike[str], command: str = "") -> Path:
        """Write a self-contained HTML page with every candidate's preview.

        Args:
            command: the shell command that goes on with a candidate, whose number is appended; "" shows none.

        Raises:
            BadInput: as `save`.
        """
        content = {**self.record(), "previews": self.selection.previews, "command": command}
        return write_bytes_atomically(path, sheet_page(content).encode())


def previews(
    pipe: Any,
    prompt: str | None = None,
    *,
    steps: int | None = None,
    verifier: Verifier | None = None,
    candidates: int = 10,
    seed: int = 0,
    batch_size: int = 1,
    progress: Progress = True,
    fps: float = 8,
    **call: Any,
) -> Sheet:
    """Denoise every candidate a few steps and decode what each will become, for a person to pick from.

    Args:
        steps: denoising steps of the pipeline's own call, guidance included; None: half of them.
        verifier: scores the previews too, as in `preview`; nobody is dropped.
        candidates, seed, batch_size, progress, fps, call: as in `preview`.

    Returns:
        The sheet; `pick` goes on with any of its candidates.

    Raises:
        BadInput: an argument that cannot be used, such as more steps than the schedule has.
        BadOutput, NotSupported: as `preview`.
    """
    positive("candidates", candidates)
    checked_fps(fps)
    if steps is not None:
        positive("steps", steps)
    if verifier is not None and prompt is None and call.get("prompt_embeds") is not None:
        raise BadInput("the verifier judges videos by their prompt: pass it as text")
    probe = Probe(pipe, prompt, **call)
    pool = recipes_for(probe, candidates, seed)
    steps = max(1, round(SCHEDULE[-1][0] * probe.steps)) if steps is None else steps
    started = perf_counter()
    with reporting(progress) as show:
        rollout = Rollout(probe, torch.stack([recipe.draw() for recipe in pool]), batch_size=batch_size)
        rollout.progress = Count(show, "preview", candidates * steps)
        frames = rollout.advance(steps)
    seconds = {"preview": perf_counter() - started}
    totals = torch.full((candidates,), math.nan, dtype=torch.float64)
    order = tuple(range(candidates))
    rungs: tuple[Rung, ...] = ()
    judge: str | None = None
    if verifier is not None:
        started = perf_counter()
        columns = judged(verifier, frames, prompt or "")
        totals = columns.pop("score")
        order, judge = ranked(totals, "high"), named(verifier)
        extra = {name: tuple(values.tolist()) for name, values in columns.items()}
        everyone = tuple(range(candidates))
        rungs = (Rung(steps, everyone, tuple(totals.tolist()), order, extra),)
        seconds["verifier"] = perf_counter() - started
    selection = selected(
        probe,
        pool,
        order=order,
        totals=totals,
        rungs=rungs,
        options={"steps": steps, "verifier": judge},
        reason=f"previews after {steps} of {probe.steps} steps, for a person to pick from",
        ledger=probe.ledger,
        seconds=seconds,
        pictures=frames,
    )
    memories = [rollout.memory(candidate) for candidate in range(candidates)]
    return Sheet(selection, steps, probe.steps, memories, fps)


def pick(
    record: Sheet | str | os.PathLike[str],
    candidate: int,
    pipe: Any = None,
    *,
    progress: Progress = True,
    **missing: Any,
) -> Generation:
    """Generate from one candidate of a sheet, going on from its remembered evaluations.

    These lie in a .safetensors file beside the record. Where it is missing or not the one that was written
    with the record, or where they were made on another kind of device or with other packages, the candidate
    starts over, and the selection's `reason` says so.

    Args:
        record: the .json of a saved sheet, or the sheet.
        candidate: its number on the sheet, from 0.
        pipe, missing: as in `replay`.

    Returns:
        The video, as `preview` returns it; the rest of the ledger stays with the sheet's "preview".

    Raises:
        BadInput: no sheet, or a candidate that it does not have; the others as `replay`.
        BadRecord: as `replay`.
    """
    content = record.record() if isinstance(record, Sheet) else read_record(record)
    selection = Selection.from_dict(content)
    sheet = content.get("sheet")
    if not isinstance(sheet, Mapping):
        raise BadInput("the record has no previews to pick from: make one with `seedbed select --preview`")
    count = len(selection.recipes)
    if isinstance(candidate, bool) or not isinstance(candidate, int) or not 0 <= candidate < count:
        raise BadInput(f"there is no candidate {candidate!r}: pick one from 0 to {count - 1}")
    others = [other for other in selection.order if other != candidate]
    selection = replace(selection, order=(candidate, *others))
    noise = selection.recipe.draw()
    probe = reopened(selection, pipe, missing)
    path = None if isinstance(record, Sheet) else Path(record).with_suffix(".safetensors")
    data = record.memory if isinstance(record, Sheet) else None
    reason = f"picked by a person from previews after {sheet['steps']} of {sheet['of']} steps"
    remembered: list[tuple[Tensor, ...]] = []
    if path is not None and path.is_file():
        data = path.read_bytes()
    if data is None:
        reason += f"; started over, as {path} is not there"
    elif hashlib.sha256(data).hexdigest() != sheet["memory_sha256"]:
        reason += f"; started over, as {path} is not the file written with the record"
    elif (selection.model.device, selection.versions) != (probe.pipe.device.type, package_versions()):
        reason += "; started over, as its first steps were made on another device or with other packages"
    else:
        remembered = _remembered(safetensors.torch.load(data), candidate)
    started = perf_counter()
    with reporting(progress) as show:
        rollout = Rollout(probe, noise[None], progress=None)
        rollout.recall(0, remembered)
        done = sheet["steps"] if remembered else 0
        rollout.progress = Count(show, "generation", rollout.steps - done)
        (frames,) = rollout.finish()
    for what, evaluations in selection.ledger.entries.items():
        probe.ledger.add(what, evaluations)
    picked = replace(
        selection,
        reason=reason,
        options={**selection.options, "picked": candidate},
        ledger=shared(probe.ledger, rollout, 0),
        seconds={**selection.seconds, "generation": perf_counter() - started},
        previews=record.selection.previews if isinstance(record, Sheet) else None,
    )
    return Generation(frames, picked, content["fps"])


def _remembered(tensors: Mapping[str, Tensor], candidate: int) -> list[tuple[Tensor, ...]]:
    """The outputs of a candidate's calls, from tensors named `candidate/call` and `candidate/call/part`."""
    calls: dict[int, dict[int, Tensor]] = {}
    for name, tensor in tensors.items():
        owner, call, *part = map(int, name.split("/"))
        if owner == candidate:
            calls.setdefault(call, {})[sum(part)] = tensor
    return [tuple(calls[call][part] for part in sorted(calls[call])) for call in sorted(calls)]
