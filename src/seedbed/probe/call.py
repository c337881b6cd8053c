"""A pipeline's call: its arguments, checked once, and runs of it for one or many candidates."""

import difflib
import functools
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from diffusers import DiffusionPipeline
from torch import Tensor, nn

from seedbed.attention.kinds import batch_size, named_arguments, parameter_names
from seedbed.errors import BadInput, NotSupported
from seedbed.probe.borrowing import Encoded, borrowed, repeated, same_generator
from seedbed.probe.defaults import model_defaults

# What leaves only the conditional half; a distilled model takes guidance_scale as an input and keeps its own.
_GUIDANCE_OFF = {"guidance_scale": 1.0, "true_cfg_scale": 1.0, "pag_scale": 0.0}

_OURS = {
    "latents": "the noises are the candidates",
    "output_type": "frames come back as uint8 arrays",
    "return_dict": "frames come back as uint8 arrays",
}


class Call:
    """The call a user would make: a pipeline, a prompt and arguments; see `seedbed.probe.Probe`.

    Raises:
        BadInput, NotSupported: as `Probe`.
    """

    def __init__(self, pipe: Any, prompt: str | None, arguments: dict[str, Any]) -> None:
        if not isinstance(pipe, DiffusionPipeline):
            raise BadInput(
                f"a diffusers pipeline is needed, not a {type(pipe).__name__}: load one with "
                "DiffusionPipeline.from_pretrained(...)"
            )
        self.pipe = pipe
        self.name = type(pipe).__name__
        self.prompt = prompt
        self.arguments = model_defaults(pipe) | arguments
        self.denoisers = {
            name: module
            for name, module in pipe.components.items()
            if isinstance(module, nn.Module) and name.startswith(("transformer", "unet"))
        }
        self._known = list(inspect.signature(type(pipe).__call__).parameters)[1:]
        self._encoded: Encoded = {}
        self._check_arguments()
        self._check_prompt()

    def _check_arguments(self) -> None:
        if "latents" not in self._known or not hasattr(self.pipe, "prepare_latents"):
            raise NotSupported(f"{self.name} takes no latents, so its initial noise cannot be chosen")
        for name, value in self.arguments.items():
            if name in _OURS:
                raise BadInput(f"{name} cannot be passed: {_OURS[name]}")
            if name not in self._known:
                near = difflib.get_close_matches(name, self._known, 1)
                hint = f": did you mean {near[0]!r}?" if near else ""
                raise BadInput(f"{self.name} has no argument {name!r}{hint}")
            if name in ("num_videos_per_prompt", "num_images_per_prompt") and value not in (None, 1):
                raise BadInput(f"{name}={value} cannot be used: each candidate gives one video")
        generator = self.arguments.get("generator")
        if isinstance(generator, list) and len(generator) != 1:
            raise BadInput(
                f"pass one generator, not {len(generator)}: each candidate starts from a copy of it"
            )

    def _check_prompt(self) -> None:
        if self.prompt is not None and not (isinstance(self.prompt, str) and self.prompt.strip()):
            raise BadInput(f"the prompt must be one text that is not empty, not {self.prompt!r}")
        embedded = self.arguments.get("prompt_embeds") is not None
        if embedded == (self.prompt is not None):
            raise BadInput("pass either a prompt or prompt_embeds" + (", not both" if embedded else ""))
        for name, value in self.arguments.items():
            if "prompt" in name and isinstance(value, (Tensor, list)) and len(value) != 1:
                raise BadInput(f"{name} must hold one prompt, but its length is {len(value)}")

    @contextmanager
    def running(self, count: int, *, guided: bool) -> Iterator[tuple[Any, functools.partial[Any]]]:
        """A borrowed pipeline, and its call with everything but `latents` and `output_type`.

        `count` candidates go in as one batch, each with a generator of its own, all in the same state.
        Guided: with the caller's arguments, and a single candidate as the caller would pass it. Unguided:
        guidance off.
        """
        single = guided and count == 1
        arguments = {n: repeated(v, count) if "prompt" in n else v for n, v in self.arguments.items()}
        if self.prompt is not None:
            arguments["prompt"] = self.prompt if single else [self.prompt] * count
        if "generator" in self._known:
            given = self.arguments.get("generator")
            given = given[0] if isinstance(given, list) else given
            copies = [same_generator(given) for _ in range(count)]
            arguments["generator"] = copies[0] if single else copies
        if not guided:
            configs: list[Any] = [getattr(module, "config", {}) for module in self.denoisers.values()]
            embedded = any(c.get("guidance_embeds") or c.get("time_cond_proj_dim") for c in configs)
            for name, off in _GUIDANCE_OFF.items():
                if name in self._known and not (name == "guidance_scale" and embedded):
                    arguments[name] = off
        with borrowed(self.pipe, self._encoded, count) as twin:
            yield twin, functools.partial(twin, **arguments)


def rows_of(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    """Batch rows of a denoiser's input.

    Raises NotSupported where there is no tensor among its arguments.
    """
    rows = batch_size(named_arguments(parameter_names(type(module)), args, kwargs))
    if rows is None:
        raise NotSupported(f"{type(module).__name__} is called without a tensor: its rows cannot be counted")
    return rows
