"""The one worker of the web page: it does what the jobs of a folder have left, whatever becomes of tabs."""

from __future__ import annotations

import json
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any

from seedbed.errors import SeedbedError
from seedbed.files import write_bytes_atomically
from seedbed.progress import Show
from seedbed.ui.jobs import DONE, Job, Jobs, What, ending


class Stopped(Exception):
    """Raised within a task that is no longer wanted."""


class Worker:
    """Does what the jobs of a folder have left, one task after another, in a thread of its own.

    Attributes:
        now: (job, what, candidate, done, total) of the task that runs; None while there is nothing to do.
        broken: why it ended by itself, as where no file can be written; "" while it works.
    """

    def __init__(self, jobs: Jobs, maker: Maker) -> None:
        self.jobs, self.maker = jobs, maker
        self.now: tuple[str, What, int, float, float] | None = None
        self.broken = ""
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="seedbed-worker", daemon=True)

    def start(self) -> Worker:
        """Begin, with what an earlier process left."""
        self._thread.start()
        return self

    def stop(self) -> None:
        """End after the step that runs; what is not done stays to be done."""
        self._stopping = True
        self.jobs.changed.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            while True:
                self.jobs.changed.clear()
                # Looked at after that: what `stop` sets in between would be cleared, and waited for in vain.
                if self._stopping:
                    return
                task = self.jobs.next()
                if task is None:
                    self.jobs.changed.wait()
                else:
                    self._do(*task)
                    self.now = None
        except Exception as error:  # shown on the page
            self.now, self.broken = None, " ".join(str(error).split())
            traceback.print_exc(file=sys.stderr)

    def _do(self, job: Job, what: What, candidate: int) -> None:
        self.now = (job.name, what, candidate, 0, 0)

        def show(_: str, done: float, total: float) -> None:
            if self._stopping or (what, candidate) not in self.jobs.get(job.name).left():
                raise Stopped
            self.now = (job.name, what, candidate, done, total)

        try:
            self.maker.make(job, what, candidate, show)
        except Stopped:
            return
        except Exception as error:  # shown on the page, and the queue goes on
            line = str(error) if isinstance(error, SeedbedError) else f"{type(error).__name__}: {error}"
            if not isinstance(error, SeedbedError):
                traceback.print_exc(file=sys.stderr)
            content = {"what": what, "candidate": candidate, "error": " ".join(line.split())}
            # A word that cannot be mapped, or what cannot be edited, ends nothing else.
            path = job.file(candidate, ending(what)) if ":" in what else job.folder / "error.json"
            write_bytes_atomically(path, (json.dumps(content) + "\n").encode())


class Maker:
    """Does the tasks of jobs; makes takes with one model at a time, which is kept for the next task.

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
        """Do a task: its file in `DONE` comes last, and `show` is called often, which may raise Stopped.

        Errors as of `contact_sheet`, `ContactSheet.finish` and `replay`.
        """
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
