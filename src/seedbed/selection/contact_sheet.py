"""The contact sheet: what every candidate will become, for a person to choose from and to go on with."""

from __future__ import annotations

import functools
import hashlib
import operator
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from seedbed.acquisition.base import Acquisition, BatchSize, Scores
from seedbed.acquisition.previews import counting, judged_rung
from seedbed.adaptation import Adapt
from seedbed.errors import BadInput, number, shown, whole
from seedbed.files import write_bytes_atomically, write_json
from seedbed.noise import Pool, Prior
from seedbed.pipelines.decoding import decode_named, decoder_of
from seedbed.pipelines.rollout import Parts, Rollout
from seedbed.pipelines.session import Session
from seedbed.progress import Progress, Show, reporting, silent
from seedbed.refinement import Refine, correlate_steps, rebuilt
from seedbed.refinement.refiner import model_sha256
from seedbed.report.video import read_record
from seedbed.selection.choosing import choose, merged
from seedbed.selection.generation import FPS, Generation, finish, split_ledger
from seedbed.selection.pools import Noises
from seedbed.selection.profile import acquisition_named
from seedbed.selection.provenance import Model, package_versions
from seedbed.selection.record import Selection, sealed
from seedbed.selection.replaying import reopened
from seedbed.verifiers import Verifier, judged_text, name_of

Live = Callable[[int, Sequence[np.ndarray[Any, Any]]], None]
"""(steps done, what each candidate will become as far as can be seen, uint8 (frames, height, width, 3))."""


@dataclass(frozen=True, kw_only=True)
class _ByEye(Acquisition):
    """Previews for a person to choose from; a verifier, where there is one, puts them in its order."""

    name = "contact-sheet"
    better = "high"

    after: int | None
    verifier: Verifier | None
    verifier_prompt: str | None
    decode: str
    live: Live | None = None

    def options(self) -> dict[str, Any]:
        """Without who looks on, which changes nothing."""
        return {name: value for name, value in super().options().items() if name != "live"}

    def score(
        self, session: Session, pool: Pool, *, batch_size: BatchSize = "auto", show: Show = silent
    ) -> Scores:
        steps = session.facts.steps
        after = max(1, round(steps / 2)) if self.after is None else self.after
        if after > steps:
            raise BadInput(
                f"after={after}, but the schedule has only {steps} steps: raise num_inference_steps"
            )
        text = self.verifier and judged_text(self.verifier, session, self.verifier_prompt)
        decoder, rows = decoder_of(session, self.decode), 1 if batch_size == "auto" else batch_size
        rollout = Rollout(session, pool.noises, batch_size=rows, decoder=decoder)
        rollout.progress = counting(show, "preview", len(pool) * after)
        if self.live is not None:
            for step in range(1, after):
                self.live(step, rollout.advance(step))
        frames = rollout.advance(after)
        if self.live is not None:
            self.live(after, frames)
        notes = (decoder.described,) if decoder and decoder.described else ()
        scores = Scores.unranked(len(pool), previews=frames, rollout=rollout, notes=notes)
        if self.verifier is None:
            return scores
        started = perf_counter()
        rung = judged_rung(self.verifier, text or "", rollout, frames)
        totals = torch.tensor(rung.scores, dtype=torch.float64)
        seconds = {"verifier": perf_counter() - started}
        return replace(scores, totals=totals, order=rung.kept, rungs=(rung,), seconds=seconds)


@dataclass(frozen=True, eq=False)
class ContactSheet:
    """Candidates denoised a few steps, decoded; a person looks at them and finishes one.

    Attributes:
        selection: the pool; `previews` are the decoded predictions, `order` is by score where a verifier
            judged them.
        steps: denoising steps done; all: of the whole schedule.
        evaluations: per candidate the denoiser's outputs so far; None where they are not at hand.
        missing: why they are not.
        pipe: the pipeline that made it; None for a sheet that was loaded.
        weights: its model's `seedbed.refinement.refiner.model_sha256`; "" in a sheet of an earlier version.
    """

    selection: Selection
    steps: int
    all: int
    evaluations: list[list[Parts]] | None = field(repr=False)
    missing: str = ""
    pipe: Any = field(default=None, repr=False)
    weights: str = field(default="", repr=False)

    @functools.cached_property
    def memory(self) -> bytes:
        """The remembered evaluations as a safetensors file, tensors named candidate/call(/part)."""
        return safetensors.torch.save(
            {
                f"{candidate}/{call}" + f"/{part}" * bool(part): output.detach().cpu().contiguous()
                for candidate, calls in enumerate(self.evaluations or [])
                for call, outputs in enumerate(calls)
                for part, output in enumerate(outputs)
            }
        )

    def record(self) -> dict[str, Any]:
        """The selection's record with the steps done and the sha256 of the remembered evaluations."""
        sheet = {
            "steps": self.steps,
            "of": self.all,
            "memory_sha256": hashlib.sha256(self.memory).hexdigest(),
            "weights": self.weights,
        }
        return sealed({**self.selection.to_dict(), "sheet": sheet})

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the record as .json, and the remembered evaluations beside it as .safetensors.

        Raises:
            BadInput: another suffix, a folder that does not exist, or a system that refuses to write there.
        """
        if Path(path).suffix.lower() != ".json":
            raise BadInput(f"cannot write {path}: the record of a contact sheet must end in .json")
        write_bytes_atomically(Path(path).with_suffix(".safetensors"), self.memory)
        return write_json(path, self.record())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> ContactSheet:
        """Read what `save` wrote. Where the evaluations are not beside it, a candidate starts over.

        Raises:
            BadInput: there is no such file, or it is the record of something else.
            BadRecord: it is damaged, altered or foreign.
        """
        content = read_record(path)
        selection = Selection.from_dict(content)
        sheet = content.get("sheet")
        if not isinstance(sheet, Mapping):
            raise BadInput(f"{path} is not the record of a contact sheet: seedbed.contact_sheet makes one")
        memory = Path(path).with_suffix(".safetensors")
        evaluations, missing = None, ""
        if not memory.is_file():
            missing = f"{memory} is not there"
        elif hashlib.sha256(data := memory.read_bytes()).hexdigest() != sheet["memory_sha256"]:
            missing = f"{memory} is not the file written with the record"
        else:
            evaluations = _evaluations(safetensors.torch.load(data), len(selection.recipes))
        return cls(
            selection, sheet["steps"], sheet["of"], evaluations, missing, weights=sheet.get("weights", "")
        )

    def page(self, path: str | os.PathLike[str], fps: float = FPS, command: str = "") -> Path:
        """Write a self-contained HTML page with what every candidate will become.

        Args:
            fps: frames per second.
            command: the shell command that finishes a candidate, whose number is appended; "" shows none.

        Raises:
            BadInput: as `save`.
        """
        from seedbed.report.page import sheet_page

        content = {**self.record(), "previews": self.selection.previews, "fps": fps, "command": command}
        return write_bytes_atomically(path, sheet_page(content).encode())

    def finish(
        self, candidate: int, pipe: Any = None, *, progress: Progress = True, **missing: Any
    ) -> Generation:
        """Generate from one candidate, going on from its remembered evaluations.

        Where these are missing, or were made with another scheduler, dtype, kind of device, other switches
        (FreeU), packages or weights, the candidate starts over, and the selection's `reason` says so.

        Args:
            candidate: its number on the sheet, from 0.
            pipe: as in `replay`, for a sheet that was loaded.
            missing: the same.

        Returns:
            The video; its ledger has the candidate's own evaluations as "generation", all others as
            "preview".

        Raises:
            BadInput: a candidate that the sheet does not have; the others as `replay`.
            BadRecord: as `replay`.
        """
        selection, rollout, reason = self._again(candidate, pipe, missing)
        session = rollout.session
        started = perf_counter()
        with reporting(progress) as show:
            frames = finish(rollout, show)
        for what, evaluations in selection.ledger.entries.items():
            session.ledger.add(what, evaluations)
        finished = replace(
            selection,
            reason=reason,
            options={**selection.options, "picked": selection.best},
            ledger=split_ledger(session.ledger, rollout, 0),
            seconds={**selection.seconds, "generation": perf_counter() - started},
        )
        return Generation(frames, finished)

    def exact(
        self, candidate: int, pipe: Any = None, *, progress: Progress = True, **missing: Any
    ) -> np.ndarray[Any, Any]:
        """One candidate's preview, decoded by the pipeline whatever decoded those of the sheet.

        No step is done again, but where the remembered evaluations are missing. Arguments and errors as
        `finish`.

        Returns:
            uint8 (frames, height, width, 3).
        """
        _, rollout, _ = self._again(candidate, pipe, missing)
        with reporting(progress) as show:
            rollout.progress = counting(show, "preview", self.steps - rollout.step)
            (frames,) = rollout.advance(self.steps)
        return frames

    def _again(self, candidate: int, pipe: Any, missing: Mapping[str, Any]) -> tuple[Selection, Rollout, str]:
        """One candidate put first, its rollout with what is remembered, and the reason to record."""
        count = len(self.selection.recipes)
        index = number(candidate, operator.index)
        if index not in range(count):
            raise BadInput(f"there is no candidate {shown(candidate)}: choose one from 0 to {count - 1}")
        others = [other for other in self.selection.order if other != index]
        selection = replace(self.selection, order=(index, *others))
        session = reopened(selection, pipe or self.pipe, missing)
        why = self.missing
        if changes := selection.model.changes(session.pipe, selection.versions, decoded=False):
            why = why or f"its first steps were made otherwise ({'; '.join(changes)})"
        elif self.weights and self.weights != model_sha256(session.pipe):
            why = why or "its first steps were made with other weights"
        selection = replace(selection, model=Model.of(session.pipe), versions=package_versions())
        if selection.pool is None:
            noise, change = rebuilt(selection.recipe, session)
        else:
            noise, change = selection.pool[index], ""
            correlate_steps(session, selection.recipe, noise)
        why = " and ".join(filter(None, (why, change)))
        reason = f"chosen by a person from previews after {self.steps} of {self.all} steps"
        if why:
            reason += f"; started over, as {why}"
        rollout = Rollout(session, noise[None])
        if not why and self.evaluations is not None:
            rollout.recall(0, self.evaluations[index], self.steps)
        return selection, rollout, reason


def contact_sheet(
    pipe: Any,
    prompt: str | None = None,
    *,
    candidates: int | None = None,
    seed: int | None = None,
    after: int | None = None,
    verifier: Verifier | str | None = None,
    verifier_prompt: str | None = None,
    decode: str | os.PathLike[str] = "exact",
    prior: str | Prior | None = None,
    refine: Refine = None,
    adaptation: Adapt = None,
    noises: Noises | None = None,
    batch_size: BatchSize = "auto",
    progress: Progress = True,
    live: Live | None = None,
    call: Mapping[str, Any] | None = None,
    **arguments: Any,
) -> ContactSheet:
    """Denoise every candidate a few steps and decode what each will become, for a person to choose from.

    Arguments that are not described here are those of `select`.

    Args:
        candidates: None: 10, or all of `noises`.
        after: denoising steps of the pipeline's own call, guidance included; None: half of them.
        verifier: scores the previews too, see `seedbed.acquisition.Previews`; nobody is dropped.
        verifier_prompt: the text by which it judges, as in `Previews`.
        decode: what decodes the previews, as in `Previews`: "exact", "linear" or the folder of a small
            autoencoder. `sheet.exact(3)` decodes one of them by the pipeline.
        noises: as in `score`, instead of those of a seed (0, if none is given): variations of a noise, or a
            walk between two.
        batch_size: candidates that share a forward. With 1, which is "auto", the finished frames are bit by
            bit those that `replay` makes; more round differently.
        live: called after every step with the previews so far, each of which is decoded for it; what it
            raises ends the work.

    Returns:
        The sheet; `sheet.finish(3)` goes on with one of its candidates.

    Raises:
        BadInput: an argument that cannot be used, such as more steps than the schedule has.
        BadOutput: frames or scores that are not finite.
        NotSupported: a pipeline that cannot be paused.
    """
    asked, given = acquisition_named("auto", verifier, verifier_prompt), merged(call, arguments)
    judge = getattr(asked, "verifier", None)
    after = whole("after", after, optional=True)
    decode = decode_named(decode)
    function = _ByEye(after=after, verifier=judge, verifier_prompt=verifier_prompt, decode=decode, live=live)
    choice = (function, given, candidates, seed, batch_size, progress, noises)
    selection, scores, _ = choose(
        pipe, prompt, *choice, even_one=True, prior=prior, refine=refine, adaptation=adaptation
    )
    rollout = scores.rollout
    assert rollout is not None
    previews = f"previews after {rollout.step} of {rollout.steps} steps, for a person to choose from"
    selection = replace(
        selection,
        reason="; ".join([previews, *scores.notes]),
        options={**selection.options, "after": rollout.step, "verifier": judge and name_of(judge)},
    )
    evaluations = [rollout.memory(candidate) for candidate in rollout.alive]
    steps = rollout.step, rollout.steps
    return ContactSheet(selection, *steps, evaluations, pipe=pipe, weights=model_sha256(pipe))


def _evaluations(tensors: Mapping[str, Tensor], candidates: int) -> list[list[Parts]]:
    """Per candidate the outputs of its calls, from tensors named `candidate/call(/part)`."""
    found: list[dict[int, list[Tensor]]] = [{} for _ in range(candidates)]
    for place in sorted(tensors, key=lambda name: [*map(int, name.split("/"))]):
        owner, call, *_ = map(int, place.split("/"))
        found[owner].setdefault(call, []).append(tensors[place])
    return [[tuple(parts) for parts in calls.values()] for calls in found]
