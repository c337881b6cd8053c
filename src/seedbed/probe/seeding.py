"""What a pipeline draws without a generator: from one of its own, so that a run can be repeated.

Some pipelines do not hand the caller's generator to their scheduler, and some autoencoders add noise while
they decode. Both would draw from torch's global generator, which is the caller's.
"""

import copy
import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from seedbed.probe.compiled import ORIGINAL


class _Seeded(TorchFunctionMode):
    """Draws from `generator` where none is given, the same for each of `count` rows."""

    def __init__(self, generator: torch.Generator, count: int) -> None:
        super().__init__()
        self.generator, self.count = generator, count

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func not in (torch.randn, torch.randn_like, torch.randint) or kwargs.get("generator") is not None:
            return func(*args, **kwargs)
        device = kwargs.get("device") or (args[0].device if func is torch.randn_like else "cpu")
        given = {**kwargs, "generator": self.generator, "device": self.generator.device}
        if func is torch.randint:
            return func(*args, **given).to(device)
        if func is torch.randn_like:
            given["dtype"] = given.get("dtype") or args[0].dtype
            shape = args[0].shape
        else:
            shape = given.pop("size", args[0] if args and not isinstance(args[0], int) else args)
        rows = shape[:1] == (self.count,) and len(shape) > 2
        noise = torch.randn((1, *shape[1:]) if rows else shape, **given)
        return (noise.expand(shape).clone() if rows else noise).to(device)


class _Method:
    """A method that runs in a mode; a copy of its object gets one of its own."""

    def __init__(self, method: Any, mode: _Seeded) -> None:
        self.method, self.mode = method, mode
        self.__self__ = getattr(method, "__self__", None)
        functools.update_wrapper(self, method)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with self.mode:
            return self.method(*args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> "_Method":
        return _Method(copy.deepcopy(self.method, memo), self.mode)


@contextmanager
def seeded(twin: Any, generator: torch.Generator, count: int) -> Iterator[None]:
    """Inside, a pipeline that is used once draws from `generator` in its scheduler's steps and its decoder.

    A compiled decoder is left alone: it would be compiled again.
    """
    mode = _Seeded(generator, count)
    with ExitStack() as undo:
        scheduler = getattr(twin, "scheduler", None)
        if scheduler is not None and hasattr(scheduler, "step"):
            vars(scheduler)["step"] = _Method(scheduler.step, mode)
            undo.callback(vars(scheduler).pop, "step", None)
        for name, model in twin.components.items():
            decode = getattr(model, "decode", None) if name.startswith("vae") else None
            if isinstance(model, nn.Module) and decode is not None and not hasattr(decode, ORIGINAL):
                before = vars(model).get("decode")
                # On the instance, as its pipeline offloads that very module.
                vars(model)["decode"] = _Method(decode, mode)
                undo.callback(_restore, model, before)
        yield


def _restore(model: nn.Module, before: Any) -> None:
    vars(model).pop("decode", None)
    if before is not None:
        vars(model)["decode"] = before
