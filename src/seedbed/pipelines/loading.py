"""From a model's name to its pipeline: the one loader, and what is switched on in it beside its call.

Embedded models are small, come with the package, and have a card and a recipe in this repository each. A
checkout of the repository holds more of them, in models/, which the package leaves out.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import logging
import os
import re
import warnings
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from pydantic_core import to_jsonable_python
from torch import nn

from seedbed.attention.kinds import processors_of
from seedbed.errors import BadInput, finite, reason, shown
from seedbed.pipelines.additions import add_loras, scheduler_like, single_file
from seedbed.pipelines.offloading import Offload, offload_to, require_accelerator

DEFAULT = "shapes-cogvideox"
EMBEDDED = (DEFAULT, "shapes-wan")
RECORDED = "seedbed:models/"  # before the name of an embedded model in a record, wherever the model lies
# Of models that the repository held up to commit 7adb95a: another DEFAULT among them, hence another prefix.
_FORMERLY_RECORDED = "seedbed:zoo/models/"
_FORMER = tuple(f"shapes-cogvideox-{kind}" for kind in ("fine", "loose", "snr", "unread"))
_NO_JSON = ("Infinity", "-Infinity", "NaN")  # bounds of a scheduler, which a record holds as text
_PLACE = Path(__file__).resolve().parents[1] / "zoo/models"
CHECKOUT = ("shapes-wan-fast", "shapes-animatediff")
_CHECKOUT = Path(__file__).resolve().parents[3] / "models"

# Methods `enable_...` of a pipeline that keep each parameter as an attribute `_name_parameter`.
_METHODS = ("free_init", "free_noise")
# The attributes of a model that say how it decodes and in what pieces (`vae.enable_tiling`).
_SETTINGS = ("use_", "tile_")
# What `load` put in, under "pipe" of the switches.
ADDED = ("checkpoint", "loras", "offload")
_FREEU = ("s1", "s2", "b1", "b2")


def names() -> list[str]:
    """The names of the embedded models."""
    return [*EMBEDDED]


def path(name: str = DEFAULT) -> Path:
    """The folder of an embedded model, as `DiffusionPipeline.from_pretrained` reads it.

    Raises BadInput if no embedded model has that name, none has it any more, or it is one of a checkout's and
    this is none.
    """
    if name in EMBEDDED:
        return _PLACE / name
    if name in CHECKOUT:
        if not (_CHECKOUT / name).is_dir():
            raise BadInput(
                f"{name} is not in the package: clone the repository of seedbed and install from there with "
                f"pip install -e, or give its folder models/{name}"
            )
        return _CHECKOUT / name
    if name in _FORMER:
        raise BadInput(_no_longer(name))
    raise BadInput(f"no embedded model is called '{name}'; there is {', '.join(EMBEDDED)}")


def _no_longer(name: str) -> str:
    return (
        f"{name} is a model that seedbed no longer has: check out commit 7adb95a of its repository, "
        "the last with it, and give the folder from there"
    )


def recorded_name(model: str) -> str:
    """What a record calls the model that was loaded from `model`, "" for one that was built in memory.

    "seedbed:models/NAME" for an embedded one, which any other installation finds; else the same.
    """
    folder = Path(model).resolve()
    if (
        model
        and folder in (_PLACE / folder.name, _CHECKOUT / folder.name)
        and folder.name in EMBEDDED + CHECKOUT
    ):
        return RECORDED + folder.name
    # Absolute, so that it is never taken for a name on the Hub where the folder is missing.
    return str(folder) if model and folder.is_dir() else model


def locate(model: str | os.PathLike[str] | None) -> str:
    """The absolute folder, or the name on the Hub, that `model` stands for; see `load`.

    Raises BadInput if there is no such model, or if the folder is not a pipeline's.
    """
    if model is None:
        return str(path())
    model = os.fspath(model)
    if model.startswith(_FORMERLY_RECORDED):
        raise BadInput(_no_longer(model))
    if model.startswith(RECORDED):
        return str(path(model.removeprefix(RECORDED)))
    folder = Path(model)
    if model and folder.exists():
        if not (folder / "model_index.json").is_file():
            raise BadInput(f"{model} is not a diffusers pipeline: it has no model_index.json")
        return str(folder.resolve())  # goes into the record, which may be replayed from another folder
    if model in EMBEDDED + CHECKOUT + _FORMER:
        return str(path(model))
    if not re.fullmatch(r"\w[\w.-]*/[\w.-]+", model):
        raise BadInput(
            f"there is no model at {model or repr(model)}: give the folder of a diffusers pipeline, "
            f"or one of {', '.join(names())}"
        )
    return model


def dtype_named(name: str | torch.dtype) -> torch.dtype:
    """torch's dtype of that name. Raises BadInput if there is none."""
    dtype = getattr(torch, name, None) if isinstance(name, str) else name
    if not isinstance(dtype, torch.dtype):
        raise BadInput(f"{shown(name)} is no dtype: use float32, float16 or bfloat16")
    return dtype


def has_device(device: str | torch.device) -> bool:
    """Whether tensors can be computed on a device of this machine."""
    try:
        torch.empty(1, device=device).item()
    except (RuntimeError, AssertionError):  # what a torch without that kind of device answers
        return False
    return True


def silence() -> ExitStack:
    """Keep the chatter of diffusers, transformers and the Hub off the terminal until the result is closed.

    Their errors arrive as exceptions.
    """
    import diffusers
    import transformers

    stack = ExitStack()
    stack.enter_context(warnings.catch_warnings())
    warnings.simplefilter("ignore")
    for chatter in (diffusers.utils.logging, transformers.utils.logging):
        stack.callback(chatter.set_verbosity, chatter.get_verbosity())
        chatter.set_verbosity_error()
        if chatter.is_progress_bar_enabled():
            stack.callback(chatter.enable_progress_bar)
            chatter.disable_progress_bar()
    hub = logging.getLogger("huggingface_hub")
    stack.callback(hub.setLevel, hub.level)
    hub.setLevel(logging.ERROR)
    return stack


def load(
    model: str | os.PathLike[str] | None = None,
    *,
    config: str | os.PathLike[str] | None = None,
    dtype: str | torch.dtype | Mapping[str, str | torch.dtype] | None = None,
    device: str | torch.device | None = None,
    scheduler: str | Mapping[str, Any] | None = None,
    loras: Iterable[tuple[str | os.PathLike[str], float]] = (),
    offload: Offload | None = None,
    vae_tiling: bool = False,
    switches: Mapping[str, Any] | None = None,
) -> Any:
    """Load a diffusers pipeline from safetensors, onto a device.

    Args:
        model: its folder, an embedded model's name (a folder of that name in the working directory comes
            first), a record's name of one ("seedbed:models/NAME") or a name on the Hub; None is the
            embedded model `DEFAULT`; or a checkpoint in a single file, with `config`.
        config: the folder, or name on the Hub, of a pipeline of the checkpoint's kind, for all that it lacks.
        dtype: of all components, or by component (those not named are float32); None is float32 on the CPU,
            bfloat16 on a GPU, float16 on one that lacks bfloat16.
        device: None is "cuda" where there is one, else "cpu".
        scheduler: in place of the folder's: a class's name, with the folder's configuration; or as a record
            holds it, {"class": name, "config": {...}}.
        loras: files and scales of LoRAs, all of them switched on; they need peft (`seedbed[train]`).
        offload: see `offloading.offload_to`.
        vae_tiling: decode and encode in tiles, which takes less memory.
        switches: what to switch on, as a record holds it; see `switches`. Recorded offloading is left out
            where the device is the CPU.

    Raises:
        BadInput: no such model, device, dtype, scheduler or LoRA, one that does not fit, a folder that does
            not load, offloading without an accelerator.
    """
    switches = dict(switches or {})
    added = dict(switches.pop("pipe", {}))
    if file := model is not None and Path(model).is_file() and os.fspath(model):
        if config is None:
            raise BadInput(
                f"{file} is a single file: say with config (--config) which pipeline is of its kind, for all "
                "that the file lacks"
            )
        added["checkpoint"], model = str(Path(file).resolve()), config
    elif config is not None:
        raise BadInput(f"{config} is the config of a model in a single file, but no such file was given")
    name = locate(model)
    checkpoint = added.get("checkpoint")
    if checkpoint and not Path(checkpoint).is_file():
        raise BadInput(f"the checkpoint {checkpoint} is not here: say where it is, as the model (--model)")
    added["loras"] = [
        *added.get("loras", ()),
        *({"file": str(Path(path).resolve()), "scale": scale} for path, scale in loras),
    ]
    for lora in added["loras"]:
        if not Path(lora["file"]).is_file():
            raise BadInput(f"there is no LoRA {lora['file']}")
        finite(f"the scale of the LoRA {lora['file']}", lora["scale"])
    import diffusers

    try:
        place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError:
        raise BadInput(f"unknown device {shown(device)}: use cpu, cuda or cuda:1") from None
    if not has_device(place):
        raise BadInput(f"there is no device {place} on this machine: use cpu")
    if offload is not None:
        require_accelerator(offload, place)
        added["offload"] = offload
    elif place.type == "cpu":
        added.pop("offload", None)
    if not dtype and place.type == "cuda":
        dtype = "bfloat16" if torch.cuda.is_bf16_supported() else "float16"
    dtype = dtype or "float32"
    dtypes = (
        {part: dtype_named(one) for part, one in dtype.items()}
        if isinstance(dtype, Mapping)
        else dtype_named(dtype)
    )

    with silence():
        made = None
        if isinstance(scheduler, Mapping):
            kind: Any = getattr(diffusers, scheduler["class"], None)
            if diffusers.SchedulerMixin not in getattr(kind, "__mro__", ()):
                raise BadInput(f"this diffusers has no scheduler {scheduler['class']}")
            try:
                entries = scheduler["config"].items()
                made = kind.from_config({k: float(v) if v in _NO_JSON else v for k, v in entries})
            except Exception as error:  # whatever a newer diffusers wrote that this one does not know
                raise BadInput(f"{scheduler['class']} cannot be made here: {reason(error)}") from error
        try:
            index = Path(name, "model_index.json")
            kind = json.loads(index.read_text()).get("_class_name") if index.is_file() else None
            made_by: Any = diffusers.DiffusionPipeline
            if kind == "CascadePipeline":  # ours, which diffusers does not know by its name
                from seedbed.pipelines.cascade import CascadePipeline as made_by
            if checkpoint:
                pipe = single_file(checkpoint, name, dtypes)
            else:
                pipe = made_by.from_pretrained(name, torch_dtype=dtypes, use_safetensors=True)
        except BadInput as error:
            raise BadInput(f"{checkpoint or name} does not load: {error}") from error
        except Exception as error:  # whatever broken files provoke in diffusers, transformers or the Hub
            why = reason(error)
            if not Path(name).exists():
                raise BadInput(f"there is no folder {name}, and the Hub did not give it: {why}") from error
            raise BadInput(f"{checkpoint or name} does not load as a diffusers pipeline: {why}") from error
        if isinstance(scheduler, str):
            made = scheduler_like(getattr(pipe, "scheduler", None), scheduler)
        if made is not None:
            pipe.scheduler = made
        add_loras(pipe, added["loras"])
        try:
            restore(pipe, {**switches, "pipe": added})
        except Exception as error:  # of numbers that this diffusers or this model does not take
            raise BadInput(f"cannot switch on in {name} what was on: {reason(error)}") from error
        if vae_tiling:  # whatever the switches say
            if not hasattr(getattr(pipe, "vae", None), "enable_tiling"):
                raise BadInput(f"{type(pipe).__name__} has no autoencoder that works in tiles")
            pipe.vae.enable_tiling()
        if "offload" in added:
            offload_to(place, pipe, added["offload"])
        else:
            pipe.to(place)
        pipe._seedbed_added = {key: added[key] for key in ADDED if added.get(key)}
        return pipe


def switches(pipe: Any) -> dict[str, Any]:
    """What is on, in plain JSON types: by component, and under "pipe" what belongs to the pipeline itself."""
    own: dict[str, Any] = dict(getattr(pipe, "_seedbed_added", {}))
    for name in _METHODS:
        if getattr(pipe, f"{name}_enabled", False):
            known = inspect.signature(getattr(pipe, f"enable_{name}")).parameters
            values = {key: getattr(pipe, f"_{name}_{key}", None) for key in known}
            own[name] = {key: value for key, value in values.items() if not callable(value)}
    if fused := getattr(pipe, "fused_loras", None):
        own["fused_loras"] = sorted(fused)
    found = {"pipe": own, **{name: _of_part(part) for name, part in pipe.components.items()}}
    on: dict[str, Any] = to_jsonable_python(
        {name: state for name, state in found.items() if state},
        inf_nan_mode="null",
        fallback=lambda value: type(value).__name__,
    )
    return on


def restore(pipe: Any, recorded: Mapping[str, Any]) -> None:
    """Switch on again, in a pipeline just loaded, what takes no more than a few numbers.

    Caches, hooks, and LoRAs that `load` did not put in are not: `switches` tells that they are missing.
    """
    for name in _METHODS:
        if values := recorded.get("pipe", {}).get(name):
            getattr(pipe, f"enable_{name}")(**values)
    for name, part in pipe.components.items():
        state = recorded.get(name, {})
        for key, value in state.get("settings", {}).items():
            if key.startswith(_SETTINGS) and hasattr(part, key):
                setattr(part, key, value)
        if "freeu" in state:
            part.enable_freeu(**state["freeu"])
        if len(backends := state.get("attention_backends", ())) == 1:
            # Not by `set_attention_backend`, which changes other models' too, and may download a kernel.
            for processor in processors_of(parts_of(part)).values():
                if hasattr(processor, "_attention_backend"):
                    processor._attention_backend = backends[0]
        if state.get("guider", {}).get("class") == type(part).__name__:
            setattr(pipe, name, type(part).from_config(state["guider"]["config"]))


def parts_of(module: nn.Module) -> list[nn.Module]:
    """As `[*module.modules()]`, whose nested generators take several times as long on every selection."""
    found: dict[nn.Module, None] = {}
    waiting: list[nn.Module] = [module]
    while waiting:
        if (part := waiting.pop()) not in found:
            found[part] = None
            waiting += [inner for inner in reversed(part._modules.values()) if inner is not None]
    return [*found]


def _of_part(part: Any) -> dict[str, Any]:
    """One row for each kind of switch; those that are off are left out."""
    if not isinstance(part, nn.Module):
        if not any(base.__name__ == "BaseGuidance" for base in type(part).__mro__):
            return {}
        config = {key: value for key, value in part.config.items() if not key.startswith("_")}
        return {"guider": {"class": type(part).__name__, "config": config}}
    modules = parts_of(part)
    processors = processors_of(modules).values()
    backends = {getattr(processor, "_attention_backend", None) for processor in processors}
    hooks = (vars(module).get("_diffusers_hook") for module in modules)
    cache = getattr(part, "_cache_config", None)
    blocks = [vars(block) for block in getattr(part, "up_blocks", ())]
    found = {
        "settings": {key: value for key, value in vars(part).items() if key.startswith(_SETTINGS)},
        "freeu": {key: block[key] for block in blocks for key in _FREEU if block.get(key) is not None},
        "attention": sorted({type(processor).__name__ for processor in processors}),
        "attention_backends": sorted(str(getattr(each, "value", each)) for each in backends - {None}),
        "cache": {"class": type(cache).__name__, **vars(cache)} if cache else None,
        "hooks": sorted({name for hook in hooks if hook is not None for name in hook.hooks}),
        "adapters": _adapters(part, modules),
    }
    return {name: state for name, state in found.items() if state}


def _adapters(part: nn.Module, modules: list[nn.Module]) -> dict[str, Any]:
    """The active LoRAs by name: their scales, and a digest of the first values of each of their tensors."""
    scales: dict[str, set[float]] = {}
    for module in modules:
        if isinstance(scaling := vars(module).get("scaling"), dict):
            for name in getattr(module, "active_adapters", ()):
                scales.setdefault(name, set()).add(float(scaling.get(name, 0.0)))
    digests = {name: hashlib.sha256() for name in scales}
    for key, tensor in part.named_parameters() if scales else ():
        for name in {*key.split(".")} & {*scales}:
            if not tensor.is_meta:
                digests[name].update(tensor.detach().flatten()[:16].float().cpu().numpy().tobytes())
    return {name: {"scales": sorted(s), "sha256": digests[name].hexdigest()} for name, s in scales.items()}


def changed(then: Any, now: Any, at: str = "") -> list[str]:
    """The entries of nested dictionaries that differ, in a few words each."""
    if isinstance(then, Mapping) and isinstance(now, Mapping):
        return [
            line
            for key in {**then, **now}
            if not str(key).startswith("_")
            for line in changed(then.get(key), now.get(key), f"{at}.{key}".lstrip("."))
        ]
    was, is_now = ("off" if value is None else value for value in (then, now))
    return [] if then == now else [f"{at} {was}, now {is_now}"]
