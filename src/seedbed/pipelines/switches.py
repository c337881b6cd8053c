"""What is switched on in a pipeline beside the arguments of its call, for records and to do it again."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Mapping
from typing import Any

from pydantic_core import to_jsonable_python
from torch import nn

# Methods `enable_...` of a pipeline that keep each parameter as an attribute `_name_parameter`.
_METHODS = ("free_init", "free_noise")
# The attributes of a model that say how it decodes and in what pieces (`vae.enable_tiling`).
_SETTINGS = ("use_", "tile_")
_FREEU = ("s1", "s2", "b1", "b2")


def switches(pipe: Any) -> dict[str, Any]:
    """What is on, in plain JSON types: by component, and under "pipe" what belongs to the pipeline itself."""
    own: dict[str, Any] = {}
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

    LoRAs, caches and hooks are not: `switches` tells that they are missing.
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
            for processor in _processors(part):
                if hasattr(processor, "_attention_backend"):
                    processor._attention_backend = backends[0]
        if state.get("guider", {}).get("class") == type(part).__name__:
            setattr(pipe, name, type(part).from_config(state["guider"]["config"]))


def _of_part(part: Any) -> dict[str, Any]:
    """One row for each kind of switch; those that are off are left out."""
    if not isinstance(part, nn.Module):
        if not any(base.__name__ == "BaseGuidance" for base in type(part).__mro__):
            return {}
        config = {key: value for key, value in part.config.items() if not key.startswith("_")}
        return {"guider": {"class": type(part).__name__, "config": config}}
    modules = [*part.modules()]
    processors = _processors(part)
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
        "adapters": _adapters(part),
    }
    return {name: state for name, state in found.items() if state}


def _processors(part: nn.Module) -> list[Any]:
    return [module.processor for module in part.modules() if hasattr(module, "processor")]


def _adapters(part: nn.Module) -> dict[str, Any]:
    """The active LoRAs by name: their scales, and a digest of the first values of each of their tensors."""
    scales: dict[str, set[float]] = {}
    for module in part.modules():
        if isinstance(scaling := getattr(module, "scaling", None), dict):
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
