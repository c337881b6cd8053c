"""What the worker of the web page does with a model: a candidate's preview, its video, and that again."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from seedbed.files import write_bytes_atomically
from seedbed.progress import Show
from seedbed.ui.jobs import DONE, Job, What, ending


class Takes:
    """Makes takes with one model at a time, which is kept for the next task.

    Each candidate has a contact sheet of its own, so that it can be shown, dropped and finished by itself,
    and so that a job that was interrupted goes on with the next one.

    Args:
        load: from a model's name to its pipeline.
    """

    def __init__(self, load: Callable[[str], Any]) -> None:
        self._load = load
        self._pipe: tuple[str, Any] = ("", None)
        self._judges: dict[str, Any] = {}

    def make(self, job: Job, what: What, candidate: int, show: Show) -> None:
        """See `seedbed.ui.jobs.Maker`; errors as of `contact_sheet`, `ContactSheet.finish` and `replay`."""
        model = job.request.model
        if self._pipe[0] != model:
            self._pipe = ("", None)  # before the next one takes its memory
            self._pipe = (model, self._load(model))
        show(what, 0, 0)  # loading may have taken long
        kind, text = what.partition(":")[::2]
        made_by: dict[str, Callable[..., None]] = {
            **{"preview": self._preview, "finish": _finish, "replay": _replay},
            **{"map": _map, "edit": _edit},
        }
        made_by[kind](job, candidate, self._pipe[1], show, *[text] * bool(text))

    def _preview(self, job: Job, candidate: int, pipe: Any, show: Show) -> None:
        # Loads torch, so not before a job needs it.
        from seedbed.noise import NoiseRecipe
        from seedbed.pipelines.session import Session
        from seedbed.refinement.variation import variations
        from seedbed.report.video import write_video
        from seedbed.selection.contact_sheet import contact_sheet
        from seedbed.selection.pools import draw_pool
        from seedbed.verifiers import resolve

        asked = job.request
        name = asked.verifier
        if name is not None and name not in self._judges:  # which may be a model
            self._judges[name] = resolve(name)
        if asked.noise is None:
            session = Session(pipe, asked.prompt, **asked.call)
            recipe = draw_pool(session, candidate + 1, asked.seed, asked.prior).recipes[candidate]
        else:
            start = NoiseRecipe.from_dict(asked.noise)
            (recipe,) = variations(start, asked.strength, 1, first=candidate + 1)
        sheet = contact_sheet(
            pipe,
            asked.prompt,
            noises=[recipe],
            verifier=None if name is None else self._judges[name],
            progress=show,
            live=lambda step, frames: write_video(job.file(candidate, ".gif"), frames[0]),
            call=asked.call,
        )
        sheet.save(job.file(candidate, DONE["preview"]))


def _finish(job: Job, candidate: int, pipe: Any, show: Show) -> None:
    from seedbed.selection.contact_sheet import ContactSheet

    made = ContactSheet.load(job.file(candidate, DONE["preview"])).finish(0, pipe, progress=show)
    made.save(job.file(candidate, ".gif"))
    made.save(job.file(candidate, ".mp4"))
    made.save(job.file(candidate, DONE["finish"]))


def _replay(job: Job, candidate: int, pipe: Any, show: Show) -> None:
    from seedbed.selection.replaying import replay

    again = replay(job.file(candidate, DONE["finish"]), pipe, progress=show)
    content = {"identical": again.identical, "changes": again.changes}
    write_bytes_atomically(job.file(candidate, DONE["replay"]), json.dumps(content).encode())


def _map(job: Job, candidate: int, pipe: Any, show: Show, word: str) -> None:
    from seedbed.adaptation.maps import maps
    from seedbed.selection.record import Selection

    done = job.file(candidate, ending(f"map:{word}"))
    noise = Selection.load(job.file(candidate, DONE["finish"])).recipe
    found = maps(pipe, job.request.prompt, word=word, noise=noise, progress=show, call=job.request.call)
    found.save(done.with_suffix(".html"))
    found.save(done.with_suffix(".png"))
    write_bytes_atomically(done, json.dumps({"target": found.target}).encode())


def _edit(job: Job, candidate: int, pipe: Any, show: Show, target: str) -> None:
    from seedbed.selection.edited import edit
    from seedbed.selection.record import Selection

    done, source = job.file(candidate, ending(f"edit:{target}")), job.request.prompt
    noise = Selection.load(job.file(candidate, DONE["finish"]))
    made = edit(pipe, noise, source=source, target=target, progress=show, call=job.request.call)
    made.save(done.with_suffix(".mp4"))
    made.save(done)
