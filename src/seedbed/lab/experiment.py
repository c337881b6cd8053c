"""An experiment: its recipe, one JSON file that says all a table depends on, and the work it asks for."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from seedbed.errors import BadInput, shown
from seedbed.files import read_settings
from seedbed.pipelines.loading import locate

Row = dict[str, Any]
Task = Callable[[Any, str, Sequence[Any], Mapping[str, Any]], list[Row]]
"""(pipe, prompt, recipes, options) -> one flat row for each noise, in their order. Its module may also name
VERSION, a number to raise whenever the rows would come out differently, and `tables(rows)`, see
`seedbed.lab.presentation.tables_of`."""

TASKS = {
    **dict.fromkeys(("generation", "signals"), "seedbed.lab.measurement:measure_noises"),
    "choice": "seedbed.lab.measurement:measure_choices",
}

_Text = Annotated[str, Field(min_length=1)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class ListedPrompts(_Part):
    """Prompts written out."""

    list: tuple[_Text, ...] = Field(min_length=1, strict=False)


class WorldPrompts(_Part):
    """Captions drawn from a synthetic world, see `seedbed.worlds.shapes.captions`."""

    world: Literal["shapes"]
    objects: Literal[1, 2]
    count: int = Field(ge=1)
    seed: int = Field(default=0, ge=0)
    held_out: bool


class DigitPrompts(_Part):
    """Captions of the digits world, see `seedbed.worlds.digits.captions`."""

    world: Literal["digits"]
    count: int = Field(ge=1)
    seed: int = Field(default=0, ge=0)


def _kind(given: Any) -> str | None:
    """The kind that prompts name, read or to be written, so that an error speaks of that kind alone."""
    if not isinstance(given, (dict, BaseModel)):
        return None
    world = dict(given).get("world", "list")
    return world if world in ("list", "digits") else "world"


Prompts = Annotated[
    Annotated[ListedPrompts, Tag("list")]
    | Annotated[WorldPrompts, Tag("world")]
    | Annotated[DigitPrompts, Tag("digits")],
    Discriminator(
        _kind,
        custom_error_type="prompts",
        custom_error_message='write {"list": ["...", "..."]} or {"world": "shapes", ...}',
    ),
]


class Noises(_Part):
    """Candidates 0, 1, ..., count - 1 of seed + n, for prompt number n (from 0).

    No two prompts share a noise: a noise that is good or bad for every prompt would else be counted once for
    each of them, and intervals over prompts would be too narrow.
    """

    seed: int = Field(default=0, ge=0, lt=2**64)
    count: int = Field(ge=1)


class Recipe(_Part):
    """What is run: a task on every noise of every prompt, for each model and method.

    Attributes:
        name: of the experiment, letters, digits, dots, dashes and underscores.
        task: a name in `TASKS`, or "module:function" of one's own.
        models: embedded models' names or folders; none for a task that needs no model.
        prompts: a list, or how many captions of a world.
        noises: a pool of its own for every prompt, the same ones for every model and method.
        options: the task's own.
        methods: options that differ, by method; one method of the task's name where left out.
    """

    schema_: Literal["seedbed.recipe/1"] = Field(alias="schema")
    name: str = Field(pattern=r"^[\w-][\w.-]*$")
    task: _Text
    models: tuple[_Text, ...] = Field(strict=False)
    prompts: Prompts
    noises: Noises
    options: dict[str, Any] = Field(default_factory=dict)
    methods: dict[_Text, dict[str, Any]] = Field(default_factory=dict)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Recipe:
        """Read a recipe.

        Raises:
            BadInput: no such file, no JSON, or a key that is unknown, missing or of a wrong value.
        """
        return read_settings(cls, path, "a recipe")

    def to_json(self) -> str:
        """The recipe as `load` reads it, with its defaults filled in."""
        return self.model_dump_json(by_alias=True, indent=1) + "\n"

    def captions(self) -> list[str]:
        """The prompts, in order.

        Raises:
            BadInput: the world has fewer captions, or a prompt is there twice.
        """
        if isinstance(self.prompts, ListedPrompts):
            found = list(self.prompts.list)
        else:
            from seedbed.worlds import digits, shapes

            asked = self.prompts
            if isinstance(asked, DigitPrompts):
                found = digits.captions(asked.count, seed=asked.seed)
            else:
                held = asked.held_out
                found = shapes.captions(asked.count, objects=asked.objects, seed=asked.seed, held=held)
            if len(found) < asked.count:
                raise BadInput(
                    f"the recipe asks for {asked.count} captions, there are {len(found)} of this kind"
                )
        if len(set(found)) < len(found):
            raise BadInput("a prompt of the recipe is there twice: its rows would count double")
        return found


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

    Raises:
        BadInput: no such task or model, or a model twice.
    """
    version = getattr(find_task(recipe.task)[0], "VERSION", 1)
    folders = {model: locate(model) for model in recipe.models} or {"": ""}
    content = {model: files_sha256(folder) if folder else "" for model, folder in folders.items()}
    if len(set(content.values())) < len(recipe.models):
        raise BadInput("two of the recipe's models are the same files: name each model once")
    units = []
    methods = (recipe.methods or {recipe.task: {}}).items()
    for model, (number, prompt), (method, own) in product(folders, enumerate(recipe.captions()), methods):
        options, seed = {**recipe.options, **own}, recipe.noises.seed + number
        draws = []
        for candidate in range(recipe.noises.count):
            parts = [recipe.task, version, content[model], prompt, seed, candidate, method, options]
            text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
            draws.append(Draw(seed, candidate, hashlib.sha256(text.encode()).hexdigest()))
        units.append(Unit(recipe.task, model, folders[model], prompt, method, options, tuple(draws)))
    return units


def find_task(task: str) -> tuple[ModuleType, Task]:
    """The module of a task, and its function. Raises `BadInput` if there is no such task."""
    name, _, function = TASKS.get(task, task).partition(":")
    module = None
    try:
        module = importlib.import_module(name) if name and function else None
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise  # the module is there, one that it imports is not
    found = getattr(module, function, None)
    if module is None or not callable(found):
        raise BadInput(
            f"there is no task {shown(task)}: use {', '.join(TASKS)}, or module:function of a module "
            "on PYTHONPATH"
        )
    return module, found


def files_sha256(folder: str | os.PathLike[str]) -> str:
    """sha256 of the names, sizes and whole contents of `model_files`; errors as these."""
    folder, digest = Path(folder), hashlib.sha256()
    for path in model_files(folder):
        digest.update(f"{path.relative_to(folder).as_posix()}\0{path.stat().st_size}\0".encode())
        with open(path, "rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    return digest.hexdigest()


def model_files(folder: Path) -> list[Path]:
    """The files that decide a pipeline's output, sorted: its index, its seedbed.json and its components'.

    Raises:
        BadInput: a name on the Hub, whose files may change.
    """
    if not folder.is_dir():
        raise BadInput(f"there is no folder {folder}: rows are named by a model's files, so download them")
    try:
        index = json.loads((folder / "model_index.json").read_bytes())
    except (OSError, ValueError) as error:
        raise BadInput(f"{folder} has no model_index.json that can be read: download it again") from error
    patterns = ("model_index.json", "seedbed.json", *(f"{component}/**/*" for component in index))
    return sorted(path for pattern in patterns for path in folder.glob(pattern) if path.is_file())
