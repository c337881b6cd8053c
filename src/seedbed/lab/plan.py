"""The units of work that a recipe stands for, each row named by all that decides it."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from seedbed.errors import BadInput
from seedbed.lab.store import Row

if TYPE_CHECKING:
    from types import ModuleType

    from seedbed.lab.recipe import Recipe

# (pipe, prompt, recipes, options) -> one flat row for each noise, in their order. Its module may also name
# VERSION, a number to raise whenever the rows would come out differently, and tables(rows), see lab.page.
Task = Callable[[Any, str, Sequence[Any], Mapping[str, Any]], list[Row]]
TASKS = {
    "generation": "seedbed.lab.generation:generation",
    "signals": "seedbed.lab.signals:signals",
}


class Draw(NamedTuple):
    """One noise of a unit, and the key of its row. A task without a model gets these in place of recipes."""

    seed: int
    candidate: int
    key: str


@dataclass(frozen=True)
class Unit:
    """What one worker does at a time: some noises of one prompt, with one model and method.

    Attributes:
        model: as the recipe names it, "" for none; folder: where it lies.
        options: the recipe's, with the method's over them.
    """

    task: str
    model: str
    folder: str
    prompt: str
    method: str
    options: Mapping[str, Any]
    draws: tuple[Draw, ...]


def plan(recipe: Recipe) -> list[Unit]:
    """Every unit of a recipe, its rows named by what decides them.

    A key is the sha256 of the task, its version, the model's files, the prompt, the noise, the method and the
    options: the same wherever and whenever the row is made.
    """
    version = getattr(task_module(recipe.task), "VERSION", 1)
    folders = {model: str(locate(model)) for model in recipe.models} or {"": ""}
    content = {model: files_sha256(folder) if folder else "" for model, folder in folders.items()}
    if len(set(content.values())) < len(content):
        raise BadInput("two of the recipe's models are the same files: name each model once")
    units = []
    for model, folder in folders.items():
        for number, prompt in enumerate(recipe.captions()):
            for method, own in (recipe.methods or {recipe.task: {}}).items():
                options = {**recipe.options, **own}
                draws = []
                for candidate in range(recipe.noises.count):
                    seed = recipe.noises.seed + number
                    parts = [recipe.task, version, content[model], prompt, seed, candidate, method, options]
                    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
                    draws.append(Draw(seed, candidate, hashlib.sha256(text.encode()).hexdigest()))
                units.append(Unit(recipe.task, model, folder, prompt, method, options, tuple(draws)))
    return units


def task_module(task: str) -> ModuleType:
    """The module of a task. Raises `BadInput` if there is no such task."""
    name, _, function = TASKS.get(task, task).partition(":")
    module = None
    if function:
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise  # the module is there, one that it imports is not
    if module is None or not callable(getattr(module, function, None)):
        raise BadInput(
            f"there is no task {task!r}: use {', '.join(TASKS)}, or module:function of a module on PYTHONPATH"
        )
    return module


def task_named(task: str) -> Task:
    """The function of a task. Raises `BadInput` if there is no such task."""
    function: Task = getattr(task_module(task), TASKS.get(task, task).partition(":")[2])
    return function


def locate(model: str) -> Path:
    """The folder of an embedded model's name, or of a folder's. Raises `BadInput`."""
    from seedbed import zoo

    if model in zoo.names():
        return zoo.path(model)
    if not (Path(model) / "model_index.json").is_file():
        raise BadInput(
            f"there is no model {model!r}: name an embedded one ({', '.join(zoo.names())}) or the folder of "
            "a diffusers pipeline"
        )
    return Path(model)


def files_sha256(folder: str | os.PathLike[str]) -> str:
    """sha256 of what decides a pipeline's output: its index, its seedbed.json and its components' files."""
    folder = Path(folder)
    index = json.loads((folder / "model_index.json").read_bytes())
    paths = [folder / name for name in ("model_index.json", "seedbed.json") if (folder / name).is_file()]
    for component in index:
        paths += [path for path in (folder / component).glob("**/*") if path.is_file()]
    digest = hashlib.sha256()
    for path in sorted(paths):
        digest.update(f"{path.relative_to(folder).as_posix()}\0{path.stat().st_size}\0".encode())
        with open(path, "rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    return digest.hexdigest()
