"""A second device, `elsewhere`, without any hardware: torch keeps its tensors apart from those of the CPU.

Importing this registers the device for the rest of the process, so `test_elsewhere` imports it in one of its
own. A tensor there wraps one on the CPU, which does the arithmetic: results are those of the CPU, but an
operation that mixes the two places fails as it would on a GPU.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

aten = torch.ops.aten
# What a kernel on a device reads from the CPU as it is: copies, and indices.
_MAY_MIX = (aten.index.Tensor, aten.index_put_.default, aten.index_put.default, aten._index_put_impl_.default)


class Module:
    """What torch asks `torch.elsewhere` for."""

    def is_initialized(self) -> bool:
        return True

    def is_available(self) -> bool:
        return True

    def current_device(self) -> int:
        return 0

    def device_count(self) -> int:
        return 1

    def manual_seed_all(self, seed: int) -> None:
        pass

    def _is_in_bad_fork(self) -> bool:
        return False

    def empty_cache(self) -> None:
        pass

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]


_setup_privateuseone_for_python_backend("elsewhere", backend_module=Module())


class Elsewhere(torch.Tensor):
    __torch_function__ = torch._C._disabled_torch_function_impl
    raw: torch.Tensor

    @staticmethod
    def __new__(cls, raw: torch.Tensor) -> Elsewhere:
        tensor = torch.Tensor._make_wrapper_subclass(
            cls,
            raw.shape,
            strides=raw.stride(),
            storage_offset=raw.storage_offset(),
            dtype=raw.dtype,
            device="elsewhere:0",
        )
        tensor.raw = raw
        return tensor

    def __repr__(self) -> str:
        return f"elsewhere({self.raw!r})"

    def tolist(self) -> Any:
        return self.raw.tolist()

    @classmethod
    def __torch_dispatch__(cls, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if operation is aten._to_copy.default:
            device = kwargs.pop("device", None)
            copy = operation(args[0].raw, **kwargs)
            return copy if device is not None and device.type == "cpu" else cls(copy)
        if operation is aten.copy_.default:
            return copied(args[1], args[0])
        if operation is aten._local_scalar_dense.default:
            return args[0].raw.item()
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        if operation not in _MAY_MIX:
            for tensor in tensors:
                if not isinstance(tensor, cls) and tensor.dim():
                    shape = tuple(tensor.shape)
                    raise RuntimeError(f"{operation}: {shape} lies on the CPU, another argument elsewhere")
        args, kwargs = tree_map_only(cls, lambda tensor: tensor.raw, (args, kwargs))
        args, kwargs = tree_map_only(torch.device, lambda device: torch.device("cpu"), (args, kwargs))
        # What works in place returns its own argument.
        own = {id(tensor.raw): tensor for tensor in tensors if isinstance(tensor, cls)}
        return tree_map_only(
            torch.Tensor,
            lambda made: own[id(made)] if id(made) in own else cls(made),
            operation(*args, **kwargs),
        )


def copied(source: torch.Tensor, target: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
    getattr(target, "raw", target).copy_(getattr(source, "raw", source))
    return target


def made_by(operation: Any) -> Any:
    """The kernel of an operation that makes a tensor from none."""

    def make(
        *args: Any, layout: Any = None, device: Any = None, pin_memory: Any = None, **rest: Any
    ) -> Elsewhere:
        return Elsewhere(operation(*args, **rest))

    return make


_library = torch.library.Library("aten", "IMPL")
for _operation in (
    aten.empty.memory_format,
    aten.empty_strided.default,
    aten.arange.default,
    aten.arange.start,
    aten.arange.start_step,
    aten.eye.default,
    aten.eye.m,
    aten.linspace.default,
):
    _library.impl(_operation, made_by(_operation), "PrivateUse1")
_library.impl("_copy_from", copied, "PrivateUse1")
_library.impl("_local_scalar_dense", lambda tensor: tensor.raw.item(), "PrivateUse1")


class Generator(torch.Generator):
    """In place of `torch.Generator`: torch lets no backend written in Python have one."""

    def __new__(cls, device: Any = "cpu") -> Generator:
        generator = super().__new__(cls)
        generator.place = torch.device(device)
        return generator

    def __init__(self, device: Any = "cpu") -> None:
        pass

    @property
    def device(self) -> torch.device:
        return self.place
