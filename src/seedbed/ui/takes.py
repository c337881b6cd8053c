"""What the worker of the web page does with a model: a candidate's preview, its video, and that again."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from seedbed.files import write_bytes_atomically
from seedbed.progress import Show
from seedbed.ui.jobs import DONE, Job, What


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
        {"preview": self._preview, "finish": _finish, "replay": _replay}[what](
            job, candidate, self._pipe[1], show
        )

    def _preview(self, job: Job, candidate: int, pipe: Any, show: Show) -> None:
        # Loads torch, so not before a job needs it.
        from seedbed.pipelines.session import Session
        from seedbed.report.video import write_video
        from seedbed.selection.contact_sheet import contact_sheet
        from seedbed.selection.pools import draw_pool
        from seedbed.verifiers import resolve

        asked = job.request
        given = {"num_inference_steps": asked.steps, "guidance_scale": asked.guidance}
        call = {name: value for name, value in given.items() if value is not None}
        name = asked.verifier
        if name is not None and name not in self._judges:  # which may be a model
            self._judges[name] = resolve(name)
        recipes = draw_pool(
            Session(pipe, asked.prompt, **call), candidate + 1, asked.seed, asked.prior
        ).recipes
        sheet = contact_sheet(
            pipe,
            asked.prompt,
            noises=[recipes[candidate]],
            verifier=None if name is None else self._judges[name],
            progress=show,
            live=lambda step, frames: write_video(job.file(candidate, ".gif"), frames[0]),
            call=call,
        )
        sheet.save(job.file(candidate, DONE["preview"]))


def _finish(job: Job, candidate: int, pipe: Any, show: Show) -> None:
    from seedbed.selection.contact_sheet import ContactSheet

    made = ContactSheet.load(job.file(candidate, DONE["preview"])).finish(0, pipe, progress=show)
    made.save(job.file(candidate, ".gif"))
    made.save(job.file(candidate, ".mp4"))
    made.save(job.file(candidate, DONE["finish"]))


def _replay(job: Job, candidate: int, pipe: Any, show: Show) -> None:
    from seedbed.selection.generation import replay

    again = replay(job.file(candidate, DONE["finish"]), pipe, progress=show)
    content = {"identical": again.identical, "changes": again.changes}
    write_bytes_atomically(job.file(candidate, DONE["replay"]), json.dumps(content).encode())
