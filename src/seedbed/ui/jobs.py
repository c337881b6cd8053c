"""Jobs of the web page: small files in a folder, which the page and the one worker read and write.

What is finished is a file, and what is wanted is another one, so nothing but these files says what is left to
do. A job is a folder:

| file | what it is | who writes it |
|---|---|---|
| `job.json` | what was asked, and which candidates are to be finished, dropped or replayed | the page |
| `K.gif` | what candidate K will become, as far as can be seen | the worker |
| `K.sheet.json`, `K.sheet.safetensors` | its contact sheet: record and evaluations | the worker |
| `K.mp4`, `K.json` | the finished video and its record | the worker |
| `K.replay.json` | whether a replay had the same frames | the worker |
| `K.map-H.png`, `.html`, `.json` | the map of a word, H for its digest: means, page, target | the worker |
| `K.edit-H.mp4`, `.json` | an edit by another prompt, and its record | the worker |
| `error.json` | why the worker stopped, in one line | the worker |
"""

from __future__ import annotations

import functools
import hashlib
import json
import secrets
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from filelock import FileLock, Timeout

from seedbed.errors import BadInput, finite, whole
from seedbed.files import read_text, write_json

MOST = 100  # candidates of a job: they are shown side by side
T = TypeVar("T")
What = str
"""A kind of task: "preview", "finish", "replay", "map:WORD" or "edit:TARGET"."""
Task = tuple[What, int]
"""A kind and its candidate."""
DONE = {"preview": ".sheet.json", "finish": ".json", "replay": ".replay.json"}


def ending(what: What) -> str:
    """Of the file of a task that is done."""
    kind, text = what.partition(":")[::2]
    return f".{kind}-{hashlib.sha256(text.encode()).hexdigest()[:12]}.json" if text else DONE[what]


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is asked of the model; None leaves an argument to the pipeline.

    Args:
        noise: recipe of a noise whose variations, of this strength, are the candidates, not the seed's.

    Raises:
        BadInput: an empty prompt, or a number out of range.
    """

    prompt: str
    model: str
    steps: int | None = None
    guidance: float | None = None
    frames: int | None = None
    height: int | None = None
    width: int | None = None
    negative_prompt: str | None = None
    candidates: int = 6
    seed: int = 0
    prior: str | None = None
    verifier: str | None = None
    noise: dict[str, Any] | None = None
    strength: float = 0.3

    def __post_init__(self) -> None:
        if not self.prompt.strip():
            raise BadInput("the prompt is empty: say what to generate")
        for name in ("steps", "frames", "height", "width"):
            whole(name, getattr(self, name), optional=True)
        whole("candidates", self.candidates, most=MOST)
        whole("seed", self.seed, 0)
        if self.guidance is not None:
            finite("guidance", self.guidance)
        finite("strength", self.strength, 0, 1)

    @property
    def call(self) -> dict[str, Any]:
        """The arguments of the pipeline's call."""
        given = {
            "negative_prompt": self.negative_prompt,
            "num_inference_steps": self.steps,
            "guidance_scale": self.guidance,
            "num_frames": self.frames,
            "height": self.height,
            "width": self.width,
        }
        return {name: value for name, value in given.items() if value is not None}


@dataclass(frozen=True)
class Job:
    """A request, and what the user wants of its candidates, each by number; `more` has maps and edits.

    Args:
        cancelled: what was asked for and not done when the job was cancelled; it waits until it is resumed.
    """

    folder: Path
    request: Request
    finish: tuple[int, ...] = ()
    drop: tuple[int, ...] = ()
    replay: tuple[int, ...] = ()
    more: tuple[Task, ...] = ()
    cancelled: tuple[Task, ...] = ()

    @property
    def name(self) -> str:
        """Sorts by age."""
        return self.folder.name

    def file(self, candidate: int, ending: str) -> Path:
        """A file of a candidate, as in the table above."""
        return self.folder / f"{candidate}{ending}"

    def has(self, what: What, candidate: int) -> bool:
        """Whether that is done."""
        return self.file(candidate, ending(what)).is_file()

    def called(self, candidate: int) -> str:
        """A candidate by its noise; a variation by its strength, and by what its start had been made by."""
        noise = self.request.noise
        if noise is None:
            return f"seed {self.request.seed}, {candidate}"
        made = ", ".join(each["refiner"] for each in noise.get("refinements", ()))
        start = f"seed {noise['seed']}, {noise['candidate']}" + f" ({made})" * bool(made)
        return f"variation {candidate} of strength {self.request.strength:g} of {start}"

    @property
    def asked(self) -> tuple[Task, ...]:
        """Every task that somebody clicked on, done or not."""
        clicked = (("finish", self.finish), ("replay", self.replay))
        return (*((what, number) for what, numbers in clicked for number in numbers), *self.more)

    @property
    def watched(self) -> int:
        """The finished candidate that was asked for last, −1 for none."""
        return next((number for number in reversed(self.finish) if self.has("finish", number)), -1)

    def latest(self, kind: str, candidate: int) -> What:
        """The map or edit of a candidate that was asked for last, "" for none."""
        asked = (task for task in reversed(self.more) if task[1] == candidate and task not in self.cancelled)
        return next((what for what, _ in asked if what.startswith(f"{kind}:")), "")

    def left(self) -> Iterator[Task]:
        """What there is still to do, first what somebody waits for.

        After an error these are maps and edits alone, of videos that are finished: each has its own error.
        """
        asked = [task for task in self.asked if task not in self.cancelled and not self.has(*task)]
        if self.error:
            yield from (task for task in asked if ":" in task[0])
            return
        yield from asked
        kept = [number for number in range(self.request.candidates) if number not in self.drop]
        yield from (("preview", number) for number in kept if not self.has("preview", number))

    def read(self, what: What, candidate: int) -> dict[str, Any]:
        """The file of a task that is done; {} where another tab has just asked for it again."""
        try:
            content: dict[str, Any] = json.loads(self.file(candidate, ending(what)).read_text())
        except FileNotFoundError:
            return {}
        return content

    def forget_error(self, what: What, candidate: int) -> None:
        """Remove the file of a map or edit that could not be made, so that it is tried once more."""
        if "error" in self.read(what, candidate):
            self.file(candidate, ending(what)).unlink()

    @property
    def error(self) -> str:
        """Why the worker stopped, "" where it did not."""
        path = self.folder / "error.json"
        return str(json.loads(path.read_text())["error"]) if path.is_file() else ""

    def score(self, candidate: int) -> float | None:
        """By the verifier, of the preview; None where there is none."""
        return _score(self.file(candidate, DONE["preview"])) if self.has("preview", candidate) else None


@functools.lru_cache(maxsize=4096)
def _score(path: Path) -> float | None:
    total: float | None = json.loads(path.read_text())["totals"][0]
    return total


class Jobs:
    """The jobs of a folder, which one process holds at a time.

    Raises:
        BadInput: the folder cannot be made, or another process holds it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.changed = threading.Event()
        self._changing = threading.Lock()
        try:
            (self.folder / "jobs").mkdir(parents=True, exist_ok=True)
            # Held until the process ends, however it does.
            self._lock = FileLock(self.folder / ".lock", timeout=0)
            self._lock.acquire()
        except Timeout as error:
            raise BadInput(f"{folder} is in use by another seedbed ui: give another --folder") from error
        except OSError as error:
            raise BadInput(f"cannot use the folder {folder}: {error.strerror or error}") from error
        for half in self.folder.rglob(".*.tmp"):  # left by a kill
            half.unlink()

    def add(self, request: Request) -> Job:
        """Queue a request."""
        now = time.time()
        stamp = time.strftime("%Y%m%d-%H%M%S", time.localtime(now)) + f"-{int(now % 1 * 1e6):06}"
        folder = self.folder / "jobs" / f"{stamp}-{secrets.token_hex(2)}"
        folder.mkdir()
        return self._write(Job(folder, request))

    def get(self, name: str) -> Job:
        """The job of that name; BadInput where there is none, or where its file is damaged."""
        path = self.folder / "jobs" / name / "job.json"
        text = read_text(path, "the job")
        try:
            content = json.loads(text)
            wanted = {key: tuple(map(int, content[key])) for key in ("finish", "drop", "replay")}
            more, cancelled = (
                tuple((str(what), int(number)) for what, number in content.get(key, ()))
                for key in ("more", "cancelled")
            )
            return Job(path.parent, Request(**content["request"]), **wanted, more=more, cancelled=cancelled)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BadInput(f"{path} is not the file of a job: delete its folder") from error

    def all(self) -> list[Job]:
        """Every job that can be read, oldest first."""
        found = []
        for path in sorted((self.folder / "jobs").iterdir()):
            try:
                found.append(self.get(path.name))
            except BadInput:  # a folder whose job was never written, or a damaged one
                continue
        return found

    def finish(self, name: str, candidate: int) -> Job:
        """Finish a candidate that is shown."""
        with self._changing:
            job = self._own(name, candidate)
            if not job.has("preview", candidate):
                raise BadInput(f"candidate {candidate} is not shown yet: wait for its preview")
            drop = _without(job.drop, candidate)
            finish = (*_without(job.finish, candidate), candidate)
            return self._write(replace(job, finish=finish, drop=drop), again=("finish", candidate))

    def drop(self, name: str, candidate: int) -> Job:
        """Take a candidate out, unless it is finished; what runs for it stops."""
        with self._changing:
            job = self._own(name, candidate)
            if job.has("finish", candidate):
                raise BadInput(f"candidate {candidate} is finished already, and stays")
            drop = (*_without(job.drop, candidate), candidate)
            return self._write(replace(job, finish=_without(job.finish, candidate), drop=drop))

    def replay(self, name: str, candidate: int) -> Job:
        """Make a finished video again, and compare."""
        with self._changing:
            job = self._finished(name, candidate)
            job.file(candidate, DONE["replay"]).unlink(missing_ok=True)
            replay = (*_without(job.replay, candidate), candidate)
            return self._write(replace(job, replay=replay), again=("replay", candidate))

    def derive(self, name: str, candidate: int, kind: Literal["map", "edit"], text: str) -> Job:
        """Map a word of a finished video, or edit it by another prompt; made once for each text."""
        with self._changing:
            job, text = self._finished(name, candidate), " ".join(text.split())
            if not text:
                raise BadInput("say which word to map" if kind == "map" else "say what the edit shall show")
            task = (f"{kind}:{text}", candidate)
            job.forget_error(*task)
            return self._write(replace(job, more=(*_without(job.more, task), task)), again=task)

    def vary(self, name: str, candidate: int, strength: float, candidates: int) -> Job:
        """Queue variations of the noise of a finished video, under the same request."""
        job = self._finished(name, candidate)
        (noise,) = job.read("finish", candidate)["recipes"]
        return self.add(replace(job.request, noise=noise, strength=strength, candidates=candidates))

    def cancel(self, name: str) -> Job:
        """Drop what is not shown yet, and finish, replay, map and edit nothing more; what is done stays."""
        with self._changing:
            job = self.get(name)
            unseen = [each for each in range(job.request.candidates) if not job.has("preview", each)]
            drop = (*job.drop, *(number for number in unseen if number not in job.drop))
            undone = tuple(task for task in job.asked if not job.has(*task))
            return self._write(replace(job, drop=drop, cancelled=undone))

    def resume(self, name: str) -> Job:
        """Take up again what was dropped, cancelled or ended with an error; maps and edits too."""
        with self._changing:
            job = self.get(name)
            (job.folder / "error.json").unlink(missing_ok=True)
            for task in job.more:
                job.forget_error(*task)
            return self._write(replace(job, drop=(), cancelled=()))

    def next(self) -> tuple[Job, What, int] | None:
        """The next task: what somebody clicked on before previews, older jobs before younger ones."""
        tasks = [(job, *task) for job in self.all() if (task := next(job.left(), None))]
        return min(tasks, key=lambda task: task[1] == "preview", default=None)

    def _own(self, name: str, candidate: int) -> Job:
        job = self.get(name)
        if candidate not in range(job.request.candidates):
            raise BadInput(f"there is no candidate {candidate}: {name} has {job.request.candidates}")
        return job

    def _finished(self, name: str, candidate: int) -> Job:
        if candidate == -1:
            raise BadInput("no video is chosen: click on a candidate to finish it")
        job = self._own(name, candidate)
        if not job.has("finish", candidate):
            raise BadInput(f"candidate {candidate} is not finished yet: finish it first")
        return job

    def _write(self, job: Job, again: Task | None = None) -> Job:
        """Keep it; `again` is asked for, also where it was cancelled before."""
        job = replace(job, cancelled=_without(job.cancelled, again))
        content = asdict(job)
        del content["folder"]
        write_json(job.folder / "job.json", content)
        self.changed.set()
        return job


def _without(each: tuple[T, ...], gone: object) -> tuple[T, ...]:
    return tuple(one for one in each if one != gone)
