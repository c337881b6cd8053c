"""A pipeline's call: its arguments, checked once, and runs of it for one or many candidates."""

import copy
import difflib
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import NoneType
from typing import Any

import numpy as np
from diffusers import BaseGuidance, DiffusionPipeline
from PIL import Image
from torch import Generator, Tensor, nn

from seedbed.attention.kinds import batch_size, named_arguments, parameter_names
from seedbed.errors import BadInput, NotSupported
from seedbed.probe.borrowing import (
    Encoded,
    borrowed,
    conditional_image,
    processors_kept,
    repeated,
    same_generator,
    timestep_shown,
)
from seedbed.probe.compiled import denoisers_of, eager_module, is_compiled
from seedbed.probe.defaults import model_defaults
from seedbed.probe.entry import Entry
from seedbed.probe.pictures import Pictures, encoded_once
from seedbed.probe.seeding import seeded

# What leaves only the conditional half, as far as a pipeline takes it.
_GUIDANCE_OFF = {
    "guidance_scale": 1.0,
    "min_guidance_scale": 1.0,
    "max_guidance_scale": 1.0,
    "true_cfg_scale": 1.0,
    "pag_scale": 0.0,
    "stg_scale": 0.0,
    "modality_scale": 1.0,
    "audio_guidance_scale": 1.0,
    "audio_stg_scale": 0.0,
    "audio_modality_scale": 1.0,
}

# Parts of the names of networks that are no denoisers.
_NO_DENOISER = ("encoder", "vae", "vq", "checker", "tokenizer", "vocoder", "connector", "upsampl", "adapter")

_OURS = {
    "latents": "the noises are the candidates",
    "output_type": "frames come back as uint8 arrays",
    "return_dict": "frames come back as uint8 arrays",
}


class Call:
    """The call a user would make: a pipeline, a prompt and arguments; see `seedbed.probe.Probe`.

    Attributes:
        denoisers: the networks of the pipeline that may be evaluated, by name; within `running`, as that run
            calls them.
        compiled: the names of those that went through `torch.compile`.
        off: the arguments that turn guidance off.
        embedded: whether the denoiser takes the guidance scale as an input.
        entry: how noises enter a run; found at the first contact.
        repeats: whether pictures go in once for every candidate; found when several are first asked for.

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
        networks = _denoisers(pipe)
        self.denoisers = {name: eager_module(module) for name, module in networks.items()}
        self.compiled = [name for name, module in networks.items() if is_compiled(module)]
        self.entry = Entry()
        self.repeats = False
        self._known = list(inspect.signature(type(pipe).__call__).parameters)[1:]
        configs: list[Any] = [getattr(module, "config", {}) for module in self.denoisers.values()]
        # A distilled model keeps the caller's scale.
        self.embedded = "guidance_scale" in self._known and any(
            c.get("guidance_embeds") or c.get("time_cond_proj_dim") for c in configs
        )
        self.off = {
            name: off
            for name, off in _GUIDANCE_OFF.items()
            if name in self._known and not (name == "guidance_scale" and self.embedded)
        }
        self._guiders = {n: c for n, c in pipe.components.items() if isinstance(c, BaseGuidance)}
        self._encoded: Encoded = {}
        self._pictures: Pictures = []
        self._check_arguments()
        self._check_prompt()

    def _check_arguments(self) -> None:
        if not hasattr(self.pipe, "prepare_latents"):
            lacks = "has no prepare_latents" if self.takes_latents else "takes no latents"
            raise NotSupported(f"{self.name} {lacks}, so its initial noise cannot be chosen")
        if not self.denoisers:
            raise NotSupported(
                f"{self.name} has no transformer, unet or other network that could be its denoiser, only "
                + ", ".join(self.pipe.components)
            )
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
        given = generator[0] if isinstance(generator, list) else generator
        if not isinstance(given, (Generator, NoneType)):
            raise BadInput(f"generator must be a torch.Generator, not {type(given).__name__}")

    def _check_prompt(self) -> None:
        if self.prompt is not None and not (isinstance(self.prompt, str) and self.prompt.strip()):
            raise BadInput(f"the prompt must be one text that is not empty, not {self.prompt!r}")
        if "prompt" not in self._known and "prompt_embeds" not in self._known:
            if self.prompt is not None:
                raise BadInput(f"{self.name} takes no prompt: pass None")
            return
        embedded = self.arguments.get("prompt_embeds") is not None
        if embedded == (self.prompt is not None):
            raise BadInput("pass either a prompt or prompt_embeds" + (", not both" if embedded else ""))
        for name, value in self.arguments.items():
            if "prompt" in name and isinstance(value, (Tensor, list)) and len(value) != 1:
                raise BadInput(f"{name} must hold one prompt, but its length is {len(value)}")

    @property
    def takes_latents(self) -> bool:
        """Whether the pipeline's call has an argument `latents`."""
        return "latents" in self._known

    @property
    def guidance(self) -> str:
        """What becomes of guidance while scoring, in a few words."""
        ways = [f"{name}={off:g}" for name, off in self.off.items()]
        ways += [f"{name}.disable()" for name in self._guiders]
        off = "off by " + ", ".join(ways) if ways else ""
        return "; ".join(filter(None, ["embedded, kept" if self.embedded else "", off])) or "none"

    @contextmanager
    def running(
        self, count: int, *, guided: bool, eager: bool = False
    ) -> Iterator[tuple[Any, Callable[..., Any]]]:
        """A borrowed pipeline, and its call with everything but `latents` and `output_type`.

        `count` candidates go in as one batch, each with a generator of its own, all in the same state.
        `latents` are their noises, and enter where the pipeline's own would. A single one goes in as the
        caller would pass it: some pipelines take no lists. Guided: with the caller's arguments. Unguided:
        guidance off. Compiled denoisers run eagerly where unguided or `eager`.
        """
        arguments = {name: self._given(name, value, count) for name, value in self.arguments.items()}
        if self.prompt is not None:
            arguments["prompt"] = self.prompt if count == 1 else [self.prompt] * count
        given = self.arguments.get("generator")
        given = given[0] if isinstance(given, list) else given
        if "generator" in self._known:
            copies = [same_generator(given) for _ in range(count)]
            arguments["generator"] = copies[0] if count == 1 else copies
        if not guided:
            arguments |= self.off
            if "ip_adapter_image_embeds" in arguments:
                arguments["ip_adapter_image_embeds"] = conditional_image(arguments["ip_adapter_image_embeds"])
        own = self.denoisers
        with (
            borrowed(self.pipe, self._encoded, count) as twin,
            denoisers_of(twin, own, eager=eager or not guided) as denoisers,
            encoded_once(twin, self._pictures),
            seeded(twin, same_generator(given), count),
            timestep_shown(self.pipe, twin, denoisers.values()),
            processors_kept(own.values()),
        ):
            for name, guider in self._guiders.items():
                vars(twin)[name] = copy.deepcopy(guider)
                if not guided:
                    vars(twin)[name].disable()

            def run(latents: Tensor | None = None, **others: Any) -> Any:
                start = {} if latents is None else self.entry.put(twin, latents)
                return twin(**arguments, **start, **others)

            self.denoisers = denoisers
            try:
                yield twin, run
            finally:
                self.denoisers = own

    def _given(self, name: str, value: Any, count: int) -> Any:
        """One of the caller's arguments, for `count` candidates."""
        if "prompt" in name:
            return repeated(value, count)
        if not self.repeats or count == 1 or not is_picture(value):
            return value
        rows = repeated(value, count)
        return [value] * count if rows is value else rows


def _denoisers(pipe: DiffusionPipeline) -> dict[str, nn.Module]:
    networks = {n: module for n, module in pipe.components.items() if isinstance(module, nn.Module)}
    usual = {n: module for n, module in networks.items() if n.startswith(("transformer", "unet"))}
    return usual or {n: m for n, m in networks.items() if not any(part in n for part in _NO_DENOISER)}


def is_picture(value: Any) -> bool:
    """Whether this is an image, a video, or a list of these."""
    if isinstance(value, (list, tuple)):
        return bool(value) and is_picture(value[0])
    return isinstance(value, (Tensor, np.ndarray, Image.Image))


def rows_of(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    """Batch rows of a denoiser's input.

    Raises NotSupported where there is no tensor among its arguments.
    """
    rows = batch_size(named_arguments(parameter_names(type(module)), args, kwargs))
    if rows is None:
        raise NotSupported(f"{type(module).__name__} is called without a tensor: its rows cannot be counted")
    return rows
