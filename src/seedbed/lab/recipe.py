"""The recipe of an experiment: one JSON file that says everything a table depends on."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from seedbed.errors import BadInput

SCHEMA = "seedbed.recipe/1"

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
        task: a name in `seedbed.lab.work.TASKS`, or "module:function" of one's own.
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
    prompts: ListedPrompts | WorldPrompts
    noises: Noises
    options: dict[str, Any] = Field(default_factory=dict)
    methods: dict[_Text, dict[str, Any]] = Field(default_factory=dict)

    @field_validator("prompts", mode="before")
    @classmethod
    def _one_kind(cls, value: Any) -> Any:
        """Read as the kind it names, so that an error speaks of that kind alone."""
        if not isinstance(value, dict):
            raise ValueError('write {"list": ["...", "..."]} or {"world": "shapes", ...}')
        return (WorldPrompts if "world" in value else ListedPrompts).model_validate(value)

    @field_validator("models")
    @classmethod
    def _distinct(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) < len(value):
            raise ValueError("one of them is there twice")
        return value

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Recipe:
        """Read a recipe.

        Raises:
            BadInput: no such file, no JSON, or a key that is unknown, missing or of a wrong value.
        """
        try:
            return cls.model_validate_json(Path(path).read_bytes())
        except OSError as error:
            raise BadInput(f"cannot read {path}: {error.strerror or error}") from error
        except ValidationError as error:
            # A misspelt key comes before the one that is missing for it.
            first = min(error.errors(include_url=False), key=lambda each: each["type"] != "extra_forbidden")
            where = ".".join(str(part) for part in first["loc"])
            message = first["msg"].removeprefix("Value error, ")
            if first["type"] == "extra_forbidden":
                message = "a recipe has no such key"
            raise BadInput(f"{path}: {where + ': ' if where else ''}{message}") from error

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
            from seedbed.worlds.shapes import captions

            asked = self.prompts
            found = captions(asked.count, objects=asked.objects, seed=asked.seed, held=asked.held_out)
            if len(found) < asked.count:
                raise BadInput(
                    f"the recipe asks for {asked.count} captions, there are {len(found)} of this kind"
                )
        if len(set(found)) < len(found):
            raise BadInput("a prompt of the recipe is there twice: its rows would count double")
        return found
