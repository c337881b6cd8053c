"""Running a recipe: here or in worker processes, until nothing is missing."""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from multiprocessing import connection, get_context, parent_process, resource_tracker
from typing import TYPE_CHECKING, Any

from seedbed.errors import BadInput, SeedbedError
from seedbed.files import write_bytes_atomically
from seedbed.lab.plan import Unit, plan, task_named
from seedbed.lab.store import Row, Store

if TYPE_CHECKING:
    from seedbed.lab.recipe import Recipe

GRACE = 2  # seconds that a worker has to end by itself


def run(
    recipe: Recipe,
    folder: str | os.PathLike[str],
    workers: int = 1,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Row]:
    """Do what a recipe asks for and `folder` does not yet hold.

    Interrupted or killed at any moment, another run goes on where this one was. A recipe may grow in its
    folder (more prompts, noises, models or methods): rows that it still asks for are never made again.

    Args:
        workers: processes; with 1 the work is done in this one, with more, each computes on one thread.
        progress: called with (rows done, all rows).

    Returns:
        The rows, in the recipe's order: models, prompts, methods, noises.

    Raises:
        BadInput: a recipe that cannot be run, or a folder that is in use, not an experiment's, or holds rows
            of another recipe.
        SeedbedError: whatever the task raises, or a worker that was killed; what is finished is kept.
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
        ]
        left = [unit for unit in left if unit.draws]
        done = len(finished)
        progress(done, len(keys))
        with closing(_in_workers(left, workers) if workers > 1 else _in_turn(left)) as results:
            for rows in results:
                store.append(rows)
                done += len(rows)
                progress(done, len(keys))
        if left or not store.parquet.exists():
            store.finish(keys)
        return store.rows()


def _in_turn(units: Iterable[Unit]) -> Generator[list[Row]]:
    """The rows of each unit, done in this process; units of one model should come together."""
    pipe, loaded = None, ""
    for unit in units:
        if unit.folder != loaded:
            pipe = None  # two models need not fit into memory together
            pipe, loaded = _pipeline(unit.folder), unit.folder
        try:
            yield _perform(unit, pipe)
        except SeedbedError as error:
            raise type(error)(f"{unit.model or unit.task}, {unit.prompt!r}: {error}") from error


def _perform(unit: Unit, pipe: Any) -> list[Row]:
    recipes: list[Any] = list(unit.draws)
    if unit.folder:
        from seedbed.noise import NoiseRecipe
        from seedbed.probe import Probe

        spec = Probe(pipe, unit.prompt).spec
        recipes = [
            NoiseRecipe(draw.seed, draw.candidate, tuple(spec.shape), frame_axis=spec.frame_axis)
            for draw in unit.draws
        ]
    found = task_named(unit.task)(pipe, unit.prompt, recipes, unit.options)
    if len(found) != len(recipes):
        raise BadInput(f"the task returned {len(found)} rows for {len(recipes)} noises")
    rows = []
    for draw, values in zip(unit.draws, found, strict=True):
        row: Row = {"key": draw.key, "model": unit.model, "prompt": unit.prompt, "method": unit.method}
        row |= {"seed": draw.seed, "candidate": draw.candidate}
        for name, value in values.items():
            if name in row:
                raise BadInput(f"the task returned a column {name!r}, which every row has already")
            if not isinstance(value, (str, int, float, type(None))):
                raise BadInput(f"the task returned {name} = {value!r}, not a plain number or text")
        rows.append({**row, **values})
    return rows


def _pipeline(folder: str) -> Any:
    import diffusers
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    diffusers.utils.logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pipe = diffusers.DiffusionPipeline.from_pretrained(
                folder, torch_dtype=torch.float32, use_safetensors=True
            )
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise BadInput(f"{folder} does not load as a diffusers pipeline: {reason}") from error
    pipe.set_progress_bar_config(disable=True)
    return pipe.to("cuda" if torch.cuda.is_available() else "cpu")


def _in_workers(units: Sequence[Unit], workers: int) -> Generator[list[Row]]:
    """The rows of each unit as they are done by spawned processes, which end with this generator."""
    context = get_context("spawn")
    waiting = iter(units)
    processes = {}
    resource_tracker.ensure_running()  # lets go of the signals held back below, where it must be started
    # Ctrl-C reaches every process of the terminal: only this one answers it, and ends the others.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        for _ in range(min(workers, len(units))):
            here, there = context.Pipe()
            process = context.Process(target=_work, args=(there,))
            process.start()
            there.close()
            processes[here] = process
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        busy = list(processes)
        for pipe in busy:
            pipe.send(next(waiting))
        while busy:
            ready = connection.wait(busy)
            for pipe in [pipe for pipe in busy if pipe in ready]:
                try:
                    answer = pipe.recv()
                except EOFError:
                    processes[pipe].join()
                    raise SeedbedError(
                        f"a worker ended with code {processes[pipe].exitcode} (-9: killed, perhaps for want "
                        "of memory); what is finished is kept: run again, with fewer workers"
                    ) from None
                if isinstance(answer, SeedbedError):
                    raise answer
                if isinstance(answer, str):
                    raise RuntimeError(f"a worker failed:\n{answer}")
                unit = next(waiting, None)
                if unit is None:
                    busy.remove(pipe)
                else:
                    pipe.send(unit)
                yield answer
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        for process in processes.values():
            process.terminate()
        for process in processes.values():
            process.join(GRACE)
            process.kill()
            process.join()


def _work(pipe: Any) -> None:
    """A worker process: answers units with their rows, and last with an error or a bug's traceback."""
    # Threads of several workers would only take turns. Read when torch or numpy are imported.
    os.environ["OMP_NUM_THREADS"] = "1"
    # Leave as at any exit: libraries register what would otherwise be reported as leaked.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        for rows in _in_turn(_received(pipe)):
            pipe.send(rows)
    except SeedbedError as error:
        pipe.send(error)
    except Exception:
        pipe.send(traceback.format_exc())


def _received(pipe: Any) -> Iterator[Unit]:
    while True:
        try:
            yield pipe.recv()
        except EOFError:
            return


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)
