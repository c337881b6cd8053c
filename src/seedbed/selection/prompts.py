"""Several prompts in one call, and several noises to keep for each."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, Protocol, TypeVar, cast, overload

from seedbed.acquisition.base import whole
from seedbed.errors import BadInput

Made = TypeVar("Made")
Made_co = TypeVar("Made_co", covariant=True)
Options = ParamSpec("Options")

# What pipelines call the number of videos or images of one prompt.
_COUNTS = ("num_videos_per_prompt", "num_images_per_prompt")


class OnePrompt(Protocol[Options, Made_co]):
    """A function of one prompt."""

    def __call__(
        self, pipe: Any, prompt: str | None = None, *none: Options.args, **options: Options.kwargs
    ) -> Made_co: ...


class PerPrompt(Protocol[Options, Made]):
    """A function of one prompt, or of a list of them."""

    @overload
    def __call__(
        self, pipe: Any, prompt: str | None = None, *none: Options.args, **options: Options.kwargs
    ) -> Made: ...
    @overload
    def __call__(
        self, pipe: Any, prompt: list[str] | tuple[str, ...], *none: Options.args, **options: Options.kwargs
    ) -> list[Made]: ...


def per_prompt(one: OnePrompt[Options, Made]) -> PerPrompt[Options, Made]:
    """Lets a function of one prompt take a list of them, and return a list.

    Prompt number i is the call `one(pipe, prompts[i], seed=seed + i, ...)`, so that each has noises of its
    own. Of arguments that are lists with one entry for each prompt (`negative_prompt`, `generator`), it gets
    entry i.

    Raises:
        BadInput: no prompt, a prompt that is no text, a list of another length.
    """
    function: Callable[..., Made] = one
    seed = inspect.signature(one).parameters["seed"].default

    @functools.wraps(function)
    def each(pipe: Any, prompt: Any = None, **options: Any) -> Any:
        if not isinstance(prompt, (list, tuple)):
            return function(pipe, prompt, **options)
        if not prompt:
            raise BadInput("the list of prompts is empty: pass at least one")
        for index, text in enumerate(prompt):
            if not isinstance(text, str) or not text.strip():
                raise BadInput(f"prompt {index} of the list must be a text that is not empty, not {text!r}")
        call = options.get("call")
        given = [options, call] if isinstance(call, Mapping) else [options]
        for name, values in (pair for arguments in given for pair in _lists(arguments).items()):
            if len(values) != len(prompt):
                raise BadInput(f"{name} is a list of {len(values)}, but there are {len(prompt)} prompts")
        first = options.get("seed", seed)
        if isinstance(first, bool) or not isinstance(first, int):
            raise BadInput(f"seed must be a whole number, not {first!r}")
        made = []
        for index, text in enumerate(prompt):
            own, *inner = (
                {**arguments, **{name: values[index] for name, values in _lists(arguments).items()}}
                for arguments in given
            )
            own |= {"seed": first + index} | ({"call": inner[0]} if inner else {})
            made.append(function(pipe, text, **own))
        return made

    return cast(PerPrompt[Options, Made], each)


def _lists(arguments: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Those with one entry for each prompt."""
    return {
        name: value
        for name, value in arguments.items()
        if isinstance(value, list) and ("prompt" in name or name == "generator")
    }


def several(call: dict[str, Any], candidates: int) -> tuple[dict[str, Any], int]:
    """How many noises to keep, and the call in which each candidate is one video or image.

    Raises:
        BadInput: `num_videos_per_prompt` or `num_images_per_prompt` is no whole number from 1, or more than
            there are candidates.
    """
    for name in _COUNTS:
        wanted = call.get(name)
        if wanted is not None:
            whole(name, wanted)
            if wanted > candidates:
                raise BadInput(
                    f"{name}={wanted}, but there are only {candidates} candidates: raise candidates"
                )
            return {**call, name: 1}, wanted
    return call, 1


def asked(call: dict[str, Any], kept: int) -> dict[str, Any]:
    """The call as it was asked for, with the number that `several` has taken out of it."""
    return {name: kept if name in _COUNTS else value for name, value in call.items()}
