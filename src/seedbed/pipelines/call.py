"""The call a user would make: a pipeline, a prompt and arguments, checked before anything runs."""

from __future__ import annotations

import difflib
import functools
import inspect
import json
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any

import torch
from diffusers import BaseGuidance, DiffusionPipeline, ModelMixin
from torch import Generator, Tensor, nn

from seedbed.attention.kinds import processors_of
from seedbed.errors import BadInput, BadRecord, NotSupported, shown
from seedbed.noise import prior_named
from seedbed.pipelines.compiled import eager_module, is_compiled
from seedbed.pipelines.loading import parts_of
from seedbed.texts import text_of

SCHEMA = "seedbed.model/1"
BLOCK = "_seedbed_block"  # on a denoiser, the adaptation of a block of `with seedbed.enhance(pipe)`

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


@dataclass(frozen=True, eq=False)
class Call:
    """A pipeline's call, as it was asked for.

    Attributes:
        pipe: the user's pipeline, which stays as it is.
        prompt: one text; None where `prompt_embeds` are among the arguments, or the pipeline takes no prompt.
        arguments: of its `__call__`, those of a `seedbed.json` beside the model included.
        denoisers: the networks that may be evaluated, by name, in eager form.
        compiled: the names of those that went through `torch.compile`.

    Raises:
        BadInput: not a diffusers pipeline, no or a blank prompt, an argument the pipeline does not know or
            that is ours to set.
        NotSupported: a pipeline that prepares no latents, or has no denoiser.
    """

    pipe: Any
    prompt: str | None
    arguments: dict[str, Any]
    denoisers: dict[str, nn.Module]
    compiled: tuple[str, ...]

    @classmethod
    def of(cls, pipe: Any, prompt: str | None, arguments: Mapping[str, Any]) -> Call:
        """Check a call; see the class."""
        if not isinstance(pipe, DiffusionPipeline):
            raise BadInput(
                f"a diffusers pipeline is needed, not a {type(pipe).__name__}: load one with "
                "DiffusionPipeline.from_pretrained(...)"
            )
        networks = {n: module for n, module in pipe.components.items() if isinstance(module, nn.Module)}
        usual = {n: module for n, module in networks.items() if n.startswith(("transformer", "unet"))}
        networks = usual or {n: m for n, m in networks.items() if not any(part in n for part in _NO_DENOISER)}
        call = cls(
            pipe,
            prompt,
            settings_beside(pipe).get("call", {}) | dict(arguments),
            {name: eager_module(module) for name, module in networks.items()},
            tuple(name for name, module in networks.items() if is_compiled(module)),
        )
        for module in call.denoisers.values():
            if block := vars(module).get(BLOCK):
                # Its window is counted by the pipeline's own scheduler, and a record would not know of it.
                raise BadInput(
                    f"within a block of seedbed.{block} the pipeline itself is called: end the block first; "
                    f'select, score, generate and contact_sheet take adaptation="{block}:..."'
                )
        call._check_arguments()
        call._check_prompt()
        return call

    def _check_arguments(self) -> None:
        if not hasattr(self.pipe, "prepare_latents"):
            lacks = "has no prepare_latents" if "latents" in self.parameters else "takes no latents"
            raise NotSupported(f"{self.name} {lacks}, so its initial noise cannot be chosen")
        if not self.denoisers:
            raise NotSupported(
                f"{self.name} has no transformer, unet or other network that could be its denoiser, only "
                + ", ".join(self.pipe.components)
            )
        for name, value in self.arguments.items():
            if name in _OURS:
                raise BadInput(f"{name} cannot be passed: {_OURS[name]}")
            require_parameter(self.pipe, name)
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
        blank = isinstance(self.prompt, str) and self.prompt and not self.prompt.strip()
        if blank or not isinstance(self.prompt, (str, NoneType)):
            raise BadInput(f"the prompt must be one text that is not blank, not {shown(self.prompt)}")
        if "prompt" not in self.parameters and "prompt_embeds" not in self.parameters:
            if self.prompt is not None:
                raise BadInput(f"{self.name} takes no prompt: leave it out")
            return
        embedded = self.arguments.get("prompt_embeds") is not None
        if embedded == (self.prompt is not None):
            which = "pass either a prompt or prompt_embeds"
            raise BadInput(f"{which}, not both" if embedded else f"{self.name} takes a prompt: {which}")
        for name, value in self.arguments.items():
            if "prompt" in name and isinstance(value, (Tensor, list)) and len(value) != 1:
                raise BadInput(f"{name} must hold one prompt, but its length is {len(value)}")

    @property
    def name(self) -> str:
        """The pipeline's class."""
        return type(self.pipe).__name__

    @functools.cached_property
    def parameters(self) -> list[str]:
        """What the pipeline's `__call__` takes."""
        return [*parameters_of(self.pipe)]

    @functools.cached_property
    def prior(self) -> str | None:
        """The distribution of noise that the model says it was trained under, as `text_of` writes it.

        Raises BadRecord where the file beside the model names none that there is.
        """
        named = settings_beside(self.pipe).get("prior")
        try:
            return None if named is None else text_of(prior_named(named))
        except BadInput as error:
            raise BadRecord(f"the seedbed.json beside the model: {error}") from error

    @property
    def generator(self) -> torch.Generator:
        """A new generator in the state of the caller's, which is never advanced; seeded with 0 for none."""
        given = self.arguments.get("generator")
        given = given[0] if isinstance(given, list) else given
        return torch.Generator().manual_seed(0) if given is None else given.clone_state()

    @property
    def embedded_guidance(self) -> bool:
        """Whether the denoiser takes the guidance scale as an input: then the caller's scale is kept."""
        configs: list[Any] = [getattr(module, "config", {}) for module in self.denoisers.values()]
        return "guidance_scale" in self.parameters and any(
            c.get("guidance_embeds") or c.get("time_cond_proj_dim") for c in configs
        )

    @property
    def guidance_off(self) -> dict[str, float]:
        """The arguments that leave only the conditional half, as far as they are known beforehand."""
        return {
            name: off
            for name, off in _GUIDANCE_OFF.items()
            if name in self.parameters and not (name == "guidance_scale" and self.embedded_guidance)
        }

    @property
    def device(self) -> torch.device:
        """Where the pipeline computes, also while offloading keeps its weights on the CPU or without data."""
        # As tensors name it: offloading to "cpu" says "cpu:0", another device to tensors without data.
        return torch.empty(0, device=self.pipe._execution_device).device

    @property
    def guiders(self) -> dict[str, Any]:
        """The pipeline's guider components (HunyuanVideo 1.5), by name."""
        return {n: c for n, c in self.pipe.components.items() if isinstance(c, BaseGuidance)}


def parameters_of(pipe: Any) -> dict[str, inspect.Parameter]:
    """What a pipeline's `__call__` takes, by name."""
    known = inspect.signature(type(pipe).__call__).parameters.values()
    return {one.name: one for one in [*known][1:] if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)}


def require_parameter(pipe: Any, name: str) -> inspect.Parameter:
    """The parameter of that name; BadInput with the nearest name where the pipeline's call takes none."""
    known = parameters_of(pipe)
    if name not in known:
        near = difflib.get_close_matches(name, known, 1)
        hint = f": did you mean {near[0]!r}?" if near else ""
        raise BadInput(f"{type(pipe).__name__} has no argument {shown(name)}{hint}")
    return known[name]


def settings_beside(pipe: Any) -> dict[str, Any]:
    """The `seedbed.json` in a model's folder, or in that which a pipeline was loaded from; nothing without.

    "call" has arguments of the pipeline's call, "prior" the distribution of the noise that the model was
    trained under, as a text. Of a pipeline made by `from_pipe`, of another class than the folder's, only the
    arguments that it has: AnimateDiffVideoToVideoPipeline has no num_frames (tests/sessions/test_call.py).

    Raises:
        BadRecord: that file is damaged or of another schema.
    """
    folder = pipe if isinstance(pipe, str) else getattr(pipe, "name_or_path", None)
    folder = folder or pipe.config.get("_name_or_path")
    path = Path(folder or "", "seedbed.json")
    if not (folder and path.is_file()):
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadRecord(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise BadRecord(f"{path} is not of the schema {SCHEMA}: mend or remove it")
    if not isinstance(content.get("call", {}), dict):
        raise BadRecord(f"{path}: `call` must map arguments of the pipeline to values")
    if not isinstance(content.get("prior", ""), str):
        raise BadRecord(f"{path}: `prior` must be a text")
    index = path.with_name("model_index.json")
    if not isinstance(pipe, str) and index.is_file():
        try:
            its = json.loads(index.read_text(encoding="utf-8")).get("_class_name")
        except (OSError, ValueError) as error:
            raise BadRecord(f"{index} cannot be read: {error}") from error
        if its not in [kind.__name__ for kind in type(pipe).__mro__]:
            known = parameters_of(pipe)
            content["call"] = {name: each for name, each in content.get("call", {}).items() if name in known}
    return content


def structure(call: Call) -> Hashable:
    """All that facts depend on: the pipeline's parts and the shapes of its arguments, not the prompt's words.

    Adapters and other processors make another structure, which is asked anew.
    """
    parts = tuple((name, type(part), _configuration(part)) for name, part in call.pipe.components.items())
    networks = [part for denoiser in call.denoisers.values() for part in parts_of(denoiser)]
    processors = processors_of(networks)
    settings = tuple((_settings(part), _settings(processors.get(part))) for part in networks)
    places = tuple(
        (n.dtype, n.device, _settings(vars(n).get("_hf_hook")))
        for n in call.denoisers.values()
        if isinstance(n, ModelMixin)
    )
    arguments = tuple((name, _shape(name, value)) for name, value in sorted(call.arguments.items()))
    return type(call.pipe), parts, settings, places, call.prompt is None, arguments


def _configuration(part: Any) -> str:
    config = getattr(part, "config", None)
    if not isinstance(config, Mapping):  # of transformers, which compares it with a new one to write it down
        config = getattr(config, "__dict__", {})
    # diffusers adds its version and class when one is written down.
    return repr({name: value for name, value in config.items() if not name.startswith("_")})


def _settings(part: Any) -> Hashable:
    """The class of a module or a processor, and the plain values that it was set to."""
    plain = [pair for pair in getattr(part, "__dict__", {}).items() if isinstance(pair[1], (int, float, str))]
    return type(part), tuple(plain)


def _shape(name: str, value: Any) -> Hashable:
    if isinstance(value, Tensor):
        return value.shape, value.dtype, value.device
    if isinstance(value, (list, tuple)):
        return type(value), tuple(_shape(name, each) for each in value)
    if isinstance(value, str) and "prompt" in name:
        return str
    plain = isinstance(value, (int, float, str, bool, type(None)))
    return value if plain else (type(value), getattr(value, "size", None) or getattr(value, "shape", None))
