"""Running a recipe, here or on the workers of a dask cluster, and the folder that keeps its rows."""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import filelock

from seedbed.errors import BadInput, BadRecord, SeedbedError, shown
from seedbed.files import write_bytes_atomically
from seedbed.lab.experiment import Recipe, Row, Unit, find_task, plan
from seedbed.pipelines.loading import load


class Store:
    """The folder of one experiment.

    recipe.json holds the recipe, rows.jsonl one line for each finished unit of work (a list of rows), in the
    recipe's order once the run is whole, lock the lock of the process that writes.

    A line counts once its line break is there: whatever kills the writer, a unit is whole or not there. A row
    is known by its "key", and no key is returned twice.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self.recipe = self.folder / "recipe.json"
        self.lines = self.folder / "rows.jsonl"

    def rows(self) -> list[Row]:
        """All finished rows.

        Raises:
            BadRecord: a damaged line, or a run that seedbed 0.1 finished.
        """
        if not self.lines.exists() and (old := self.folder / "rows.parquet").exists():
            raise BadRecord(f"{old} is of seedbed 0.1: write each row, as a JSON list of one, to rows.jsonl")
        found: dict[str, Row] = {}
        for number, line in enumerate(self._whole_lines().splitlines(), 1):
            try:
                for row in json.loads(line):
                    found.setdefault(row["key"], row)
            except (ValueError, TypeError, KeyError) as error:
                raise BadRecord(
                    f"{self.lines}, line {number} is damaged: delete the line and run again"
                ) from error
        return list(found.values())

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Own the folder, created if need be, and drop what a killed writer left unfinished.

        The system lets go of the lock when its process ends, however it ends.

        Raises:
            BadInput: another process owns the folder, it is not an experiment's, or the system refuses.
        """
        with ExitStack() as stack:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                ours = {self.folder / "lock", *self.folder.glob(".*.tmp")}
                others = sorted(path.name for path in set(self.folder.iterdir()) - ours)
                if others and not self.recipe.exists():
                    raise BadInput(
                        f"{self.folder} is not an experiment's folder, it holds {others[0]}: choose another"
                    )
                stack.enter_context(filelock.FileLock(self.folder / "lock", timeout=0))
                for path in self.folder.glob(".*.tmp"):
                    path.unlink()
                if self.lines.exists():
                    os.truncate(self.lines, len(self._whole_lines()))
            except filelock.Timeout:
                raise BadInput(
                    f"another run is at work in {self.folder}: wait for it, or choose another folder"
                ) from None
            except OSError as error:
                raise BadInput(f"cannot write in {self.folder}: {error.strerror or error}") from error
            yield

    def claim(self, about: Mapping[str, Any], what: str) -> None:
        """Keep what the rows of a measurement without a recipe depend on; only inside `writing`.

        Raises:
            BadInput: the folder has the rows of another one.
        """
        text = json.dumps(about, sort_keys=True, indent=1, default=str) + "\n"
        if not self.recipe.exists():
            write_bytes_atomically(self.recipe, text.encode())
        elif self.recipe.read_text() != text:
            raise BadInput(
                f"{self.folder} holds rows of another {what} (model, call or what is measured differ): "
                "remove it, or give another cache"
            )

    def append(self, rows: Sequence[Row]) -> None:
        """Add the rows of one unit; only inside `writing`. Raises `BadInput` where the disk is full."""
        try:
            with open(self.lines, "ab") as file:
                file.write(json.dumps(rows).encode() + b"\n")
        except OSError as error:
            raise BadInput(
                f"cannot write {self.lines}: {error.strerror or error}; what is finished is kept, run again"
            ) from error

    def finish(self, keys: Sequence[str]) -> list[Row]:
        """The rows in the order of their keys, kept in that order; only inside `writing`."""
        known = {row["key"]: row for row in self.rows()}
        rows = [known[key] for key in keys]
        write_bytes_atomically(self.lines, b"".join(json.dumps([row]).encode() + b"\n" for row in rows))
        return rows

    def _whole_lines(self) -> bytes:
        """The file up to its last line break."""
        content = self.lines.read_bytes() if self.lines.exists() else b""
        return content[: content.rfind(b"\n") + 1]


@contextmanager
def kept(
    cache: str | os.PathLike[str] | None, about: Mapping[str, Any], what: str
) -> Generator[tuple[Store, dict[str, Row]]]:
    """The rows of a measurement without a recipe, by their "key", and where to add to them.

    Args:
        cache: a folder that keeps them; None for one that goes away.
        about, what: see `Store.claim`.
    """
    with ExitStack() as stack:
        store = Store(cache or stack.enter_context(TemporaryDirectory()))
        stack.enter_context(store.writing())
        store.claim(about, what)
        yield store, {row["key"]: row for row in store.rows()}


def run(
    recipe: Recipe,
    folder: str | os.PathLike[str],
    workers: int = 1,
    progress: Callable[[int, int], None] = lambda done, total: None,
    cluster: str | None = None,
) -> list[Row]:
    """Do what a recipe asks for and `folder` does not yet hold.

    Interrupted or killed at any moment, another run goes on where this one was. A recipe may grow in its
    folder (more prompts, noises, models or methods): rows that it still asks for are never made again.

    Args:
        workers: processes; with 1 the work is done in this one, with more, each computes on one thread. What
            a killed worker was at is done again by another.
        progress: called with (rows done, all rows).
        cluster: address of a dask scheduler, such as "tcp://host:8786", whose workers are used instead; they
            see the models' folders and can import the task. Where any of them advertises the resource GPU,
            each unit of work asks for one.

    Returns:
        The rows, in the recipe's order: models, prompts, methods, noises.

    Raises:
        BadInput: a recipe that cannot be run, a cluster that does not answer, or a folder that is in use, not
            an experiment's, or holds rows of another recipe.
        SeedbedError: whatever the task raises, or a unit that several workers did not survive; what is
            finished is kept.
    """
    if workers < 1:
        raise BadInput(f"workers must be at least 1, not {workers}")
    units = plan(recipe)
    keys = [draw.key for unit in units for draw in unit.draws]
    store = Store(folder)
    with store.writing():
        finished = {row["key"] for row in store.rows()}
        if foreign := finished - set(keys):
            raise BadInput(
                f"{folder} holds {len(foreign)} rows that this recipe does not ask for (of another recipe, "
                "model or version of the task): choose another folder"
            )
        write_bytes_atomically(store.recipe, recipe.to_json().encode())
        left = [
            replace(unit, draws=tuple(draw for draw in unit.draws if draw.key not in finished))
            for unit in units
            if not finished.issuperset(draw.key for draw in unit.draws)
        ]
        done = len(finished)
        progress(done, len(keys))
        here, alone = _Worker(), not left or (workers == 1 and cluster is None)
        made = (here.rows(unit) for unit in left) if alone else _on_workers(left, workers, cluster)
        with closing(made) as results:
            for rows in results:
                store.append(rows)
                done += len(rows)
                progress(done, len(keys))
        return store.finish(keys)


def _on_workers(units: Sequence[Unit], workers: int, address: str | None) -> Generator[list[Row]]:
    """The rows of each unit as they are done; all that was started ends with this generator."""
    from distributed import Client, KilledWorker, LocalCluster, as_completed

    with ExitStack() as stack:
        cluster: Any = address
        if address is None:
            # Each process computes on one thread (dask sets OMP_NUM_THREADS). Without a limit of memory, dask
            # neither pauses nor kills a worker that holds a large model. What it logs is raised here too.
            cluster = LocalCluster(
                n_workers=min(workers, len(units)),
                threads_per_worker=1,
                processes=True,
                host="127.0.0.1",
                dashboard_address=None,
                scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},  # else 8787, with a warning if taken
                memory_limit=None,
                silence_logs=logging.CRITICAL,
            )
            stack.enter_context(cluster)
        try:
            client = stack.enter_context(Client(cluster))
        except (OSError, ValueError) as error:
            raise BadInput(f"no dask scheduler answers at {address}: {error}") from error
        gpu = client.run_on_scheduler(lambda dask_scheduler: "GPU" in dask_scheduler.resources)
        tasks = client.map(_on_worker, units, pure=False, resources={"GPU": 1} if gpu else None)
        try:
            for future, rows in as_completed(tasks, with_results=True):
                future.release()  # else what a worker still holds would be done again when it is killed
                yield rows
        except KilledWorker as error:
            raise SeedbedError(
                "several workers were killed at one unit of work, perhaps for want of memory; what is "
                "finished is kept: run again, with fewer workers"
            ) from error


def _on_worker(unit: Unit) -> list[Row]:
    """The rows of a unit, by the worker's own `_Worker`, which keeps its pipeline."""
    from distributed import get_worker

    worker: _Worker = vars(get_worker()).setdefault("seedbed", _Worker())
    return worker.rows(unit)


class _Worker:
    """Does units one after another, with one pipeline in memory; units of one model should come together."""

    def __init__(self) -> None:
        self.folder, self.pipe = "", None
        self.lock = threading.Lock()

    def rows(self, unit: Unit) -> list[Row]:
        with self.lock:  # a worker of somebody else's cluster may have several threads
            if unit.folder != self.folder:
                self.pipe = None  # two models need not fit into memory together
                self.pipe, self.folder = load(unit.folder, dtype="float32"), unit.folder
            try:
                return _perform(unit, self.pipe)
            except SeedbedError as error:
                raise type(error)(f"{unit.model or unit.task}, {shown(unit.prompt)}: {error}") from error


def _perform(unit: Unit, pipe: Any) -> list[Row]:
    recipes: list[Any] = list(unit.draws)
    if unit.folder:
        from seedbed.pipelines.session import Session

        session = Session(pipe, unit.prompt, **unit.options.get("call", {}))
        recipes = [session.recipe(draw.seed, draw.candidate) for draw in unit.draws]
    found = find_task(unit.task)[1](pipe, unit.prompt, recipes, unit.options)
    if len(found) != len(recipes):
        raise BadInput(f"the task returned {len(found)} rows for {len(recipes)} noises")
    rows = []
    for draw, values in zip(unit.draws, found, strict=True):
        row = {"model": unit.model, "prompt": unit.prompt, "method": unit.method, **draw._asdict()}
        for name, value in values.items():
            if name in row:
                raise BadInput(f"the task returned a column {shown(name)}, which every row has already")
            if not isinstance(value, (str, int, float, type(None))):
                raise BadInput(f"the task returned {name} = {shown(value)}, not a plain number or text")
        rows.append({**row, **values})
    return rows
