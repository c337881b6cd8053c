"""Denoisers that went through `torch.compile`: eager where their attention is looked at, else as they are."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn

# Where `Module.compile` keeps what a call runs, and where a compiled function keeps what it was made from.
_IN_PLACE = "_compiled_call_impl"
ORIGINAL = "_torchdynamo_orig_callable"


def eager_module(module: nn.Module) -> nn.Module:
    """The module inside of what `torch.compile(module)` gave; any other as it is."""
    inner: nn.Module = getattr(module, "_orig_mod", module)
    return inner


def is_compiled(module: nn.Module) -> bool:
    """Whether the module, its forward or any part of it is compiled, in whichever way."""
    parts = eager_module(module).modules()
    return module is not eager_module(module) or any(_compiled_parts(part) for part in parts)


@contextmanager
def denoisers_of(
    twin: Any, denoisers: Mapping[str, nn.Module], *, eager: bool
) -> Iterator[dict[str, nn.Module]]:
    """Gives a pipeline that is used once its denoisers in a form that hooks can be put on; yields them.

    What dynamo traced must not meet a hook: it would trace it too, or compile again. Eager: the modules
    themselves, with all that is compiled in them set aside for as long. Otherwise a compiled denoiser is
    called through a shell, an object of its class that has hooks and a forward of its own.

    Args:
        denoisers: the eager modules by the name of the component.
    """
    state = vars(twin)
    own = {name: state[name] for name in denoisers}
    with ExitStack() as undo:
        undo.callback(state.update, own)
        for name, module in denoisers.items():
            if eager:
                state[name] = module
                undo.enter_context(eagerly(module))
            elif own[name] is not module or _IN_PLACE in vars(module):
                state[name] = _shell(module, own[name])
        yield {name: state[name] for name in denoisers}


@contextmanager
def eagerly(module: nn.Module) -> Iterator[None]:
    """Sets aside all that is compiled inside of a module, for as long."""
    with ExitStack() as undo:
        for part in [*module.modules()]:
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
        yield


def _compiled_parts(module: nn.Module) -> dict[str, Any]:
    """What compiling has set on this instance."""
    state = vars(module)
    parts = {_IN_PLACE: state[_IN_PLACE]} if state.get(_IN_PLACE) is not None else {}
    if hasattr(state.get("forward"), ORIGINAL):
        parts["forward"] = state["forward"]
    return parts


def _shell(module: nn.Module, compiled: nn.Module) -> nn.Module:
    """Shares everything with `module` but its hooks, and runs `compiled`."""
    shell: nn.Module = object.__new__(type(module))
    nn.Module.__init__(shell)
    vars(shell).update({k: v for k, v in vars(module).items() if "_hooks" not in k and k != _IN_PLACE})
    shell.forward = compiled.__call__
    return shell
