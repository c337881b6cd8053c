"""Denoisers as a run wants them: without compiled parts and caches where looked at, and as before it."""

import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from types import FunctionType, MethodType
from typing import Any

import torch
from diffusers.hooks import ModelHook
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map

from seedbed.errors import NotSupported
from seedbed.pipelines.loading import parts_of

# Where `Module.compile` keeps what a call runs, and where a compiled function keeps what it was made from.
_IN_PLACE = "_compiled_call_impl"
ORIGINAL = "_torchdynamo_orig_callable"

# What torch, accelerate and diffusers themselves set on modules: hooks are put on anew when a run ends.
_NOT_STATE = {*vars(nn.Module())} - {"training"} | {
    "forward",
    _IN_PLACE,
    "_hf_hook",
    "_old_forward",
    "_diffusers_hook",
}
_SMALL = 1024  # elements of a tensor that may be a counter


def eager_module(module: nn.Module) -> nn.Module:
    """The module inside of what `torch.compile(module)` gave; any other as it is."""
    inner: nn.Module = getattr(module, "_orig_mod", module)
    return inner


def is_compiled(module: nn.Module) -> bool:
    """Whether the module, its forward or any part of it is compiled, in whichever way."""
    parts = parts_of(eager_module(module))
    return module is not eager_module(module) or any(_compiled_parts(part) for part in parts)


class Kept:
    """What the parts of a denoiser, and their attention processors, keep now besides weights and hooks.

    Step caches from elsewhere count the calls of a forward in such attributes, and keep its results there.
    """

    def __init__(self, denoiser: nn.Module) -> None:
        parts = [(part, _state(part)) for part in parts_of(denoiser)]
        held = [
            (value, _state(value))
            for _, state in parts
            for value in state.values()
            if hasattr(value, "__dict__")
            and not isinstance(value, (nn.Module, Tensor, type, FunctionType, MethodType))
        ]
        self._before = [(owner, state, _copies(state)) for owner, state in [*parts, *held]]

    def changed(self) -> str | None:
        """An attribute that another evaluation would change again; None where there is none.

        What was None or missing may just have been computed once and for all.
        """
        for owner, before, copies in self._before:
            for name, value in _state(owner).items():
                was = copies.get(name, before.get(name, getattr(type(owner), name, None)))
                if was is not None and not _same(value, was):
                    return name
        return None

    def restore(self) -> None:
        """Puts everything back."""
        for owner, before, copies in self._before:
            for name in _state(owner).keys() - before.keys():
                del vars(owner)[name]
            vars(owner).update(before)
            vars(owner).update({name: each for name, each in copies.items() if not _same(before[name], each)})


def _state(owner: Any) -> dict[str, Any]:
    return {name: value for name, value in vars(owner).items() if name not in _NOT_STATE}


def _copies(state: dict[str, Any]) -> dict[str, Any]:
    """Of what may change while it stays the same object: lists, dictionaries, small tensors, however deep."""
    held = {name: value for name, value in state.items() if isinstance(value, (list, dict, tuple, Tensor))}
    return tree_map(lambda leaf: leaf.clone() if _small(leaf) else leaf, held) if held else held


def _same(one: Any, two: Any) -> bool:
    """Whether a value is the very same, or equal to its copy."""
    if one is two:
        return True
    if isinstance(one, float) and isinstance(two, float):  # peft scales its adapters, and back
        return math.isclose(one, two)
    if isinstance(one, (int, str)):
        return bool(one == two)
    if _small(one) and _small(two):
        return one.shape == two.shape and torch.equal(one, two)
    (leaves, form), (others, other) = tree_flatten(one), tree_flatten(two)
    return form == other and not form.is_leaf() and all(map(_same, leaves, others))


def _small(value: Any) -> bool:
    return isinstance(value, Tensor) and value.numel() <= _SMALL and not value.is_meta


@contextmanager
def denoisers_of(
    twin: Any, denoisers: Mapping[str, nn.Module], *, eager: bool
) -> Iterator[dict[str, nn.Module]]:
    """Gives a pipeline that is used once its denoisers in a form that hooks can be put on; yields them.

    What dynamo traced must not meet a hook: it would trace it too, or compile again. Eager: the modules
    themselves, with all that is compiled in them set aside for as long. Otherwise a compiled denoiser is
    called through a shell, an object of its class that shares all but hooks and forward. What others keep
    on the modules is put back afterwards: a run that was stopped midway must not be seen by the next.

    Args:
        denoisers: the eager modules by the name of the component.
    """
    state = vars(twin)
    own = {name: state[name] for name in denoisers}
    with ExitStack() as undo:
        undo.callback(state.update, own)
        for module in {*denoisers.values()}:
            undo.callback(Kept(module).restore)
        for name, module in denoisers.items():
            if eager:
                state[name] = module
                undo.enter_context(eagerly(module))
            elif own[name] is not module or _IN_PLACE in vars(module):
                shell: Any = object.__new__(type(module))
                nn.Module.__init__(shell)
                parts = {k: v for k, v in vars(module).items() if "_hooks" not in k and k != _IN_PLACE}
                vars(shell).update(parts, forward=own[name].__call__)
                state[name] = shell
        yield {name: state[name] for name in denoisers}


@contextmanager
def eagerly(module: nn.Module) -> Iterator[None]:
    """Sets aside all that is compiled inside of a module, and diffusers' caches, for as long.

    What is asked of a model is asked of evaluations that run whole. FasterCache has no others unguided.
    """
    with ExitStack() as undo:
        for part in parts_of(module):
            for name, child in [*part.named_children()]:
                if child is not eager_module(child):
                    part._modules[name] = eager_module(child)
                    undo.callback(part._modules.__setitem__, name, child)
            parts = _compiled_parts(part)
            if parts:
                undo.callback(vars(part).update, parts)
                vars(part).pop(_IN_PLACE, None)
            if "forward" in parts:
                vars(part)["forward"] = getattr(parts["forward"], ORIGINAL)
        for hook in _cache_hooks(module):
            undo.callback(vars(hook).update, dict(vars(hook)))
            hook.pre_forward, hook.post_forward = ModelHook().pre_forward, ModelHook().post_forward
            hook.forward = hook.original_forward or hook.forward
        yield


def refuse_caches(denoisers: Mapping[str, nn.Module]) -> None:
    """Raises NotSupported where a cache of diffusers is on one, which must see all evaluations."""
    for name, module in denoisers.items():
        registries = (vars(part).get("_diffusers_hook") for part in parts_of(module))
        hooks = [hook for each in registries if each is not None for hook in each.hooks.values()]
        if any(hook._is_stateful for hook in hooks):
            raise NotSupported(
                f"the {name} caches between steps, of which none may be left out: disable its cache"
            )


def _cache_hooks(module: nn.Module) -> list[Any]:
    """The references through which diffusers calls the hooks of a cache: all of a module that keeps state."""
    hooks = [
        (registry.hooks[name], ref)
        for part in parts_of(module)
        if (registry := vars(part).get("_diffusers_hook")) is not None
        for name, ref in zip(registry._hook_order, registry._fn_refs, strict=True)
    ]
    caches = {type(hook).__module__ for hook, _ in hooks if hook._is_stateful}
    return [ref for hook, ref in hooks if type(hook).__module__ in caches]


def _compiled_parts(module: nn.Module) -> dict[str, Any]:
    """What compiling has set on this instance."""
    state = vars(module)
    parts = {_IN_PLACE: state[_IN_PLACE]} if state.get(_IN_PLACE) is not None else {}
    if hasattr(state.get("forward"), ORIGINAL):
        parts["forward"] = state["forward"]
    return parts
