"""A denoiser's attention layers, from a forward on tensors that have shapes and no data."""

from __future__ import annotations

import copy
import logging
import threading
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from seedbed.attention.kinds import Arguments
from seedbed.attention.tap import AttentionCall, Handler, Inputs, SplitBatch, Tap, raised_by_us
from seedbed.errors import NotSupported
from seedbed.pipelines.compiled import eagerly


@dataclass(frozen=True)
class LayerInfo:
    """One attention layer, in the terms of `seedbed.attention.tap.AttentionCall`."""

    name: str
    kind: str
    block: int


def layers_of(
    denoiser: nn.Module, args: tuple[Any, ...], kwargs: Arguments, device: torch.device
) -> tuple[LayerInfo, ...] | None:
    """The attention layers of a forward, from tensors that have shapes alone.

    None where the model does not run like that, or where it takes its batch apart.
    """
    found: list[LayerInfo] = []

    def watch(call: AttentionCall) -> None:
        if call.query.shape[0] % call.candidates:
            raise SplitBatch(f"{call.layer} attends to fewer rows than there are candidates")
        found.append(LayerInfo(call.layer, call.kind, call.block))

    try:
        run_without_data(denoiser, args, kwargs, device, watch)
    except NotSupported:
        return None
    return tuple(found)


def run_without_data(
    denoiser: nn.Module,
    args: tuple[Any, ...],
    kwargs: Arguments,
    device: torch.device,
    handler: Handler,
    inputs: Inputs | None = None,
) -> None:
    """A denoiser's forward, tapped, on tensors that have shapes alone.

    Offloaded weights count as being on `device`.

    Raises NotSupported where the model does what tensors without data cannot, and what the handler raises.
    """
    try:
        _run_without_data(denoiser, args, kwargs, device, handler, inputs)
    except Exception as error:
        if raised_by_us(error):
            raise
        raise NotSupported(f"{type(denoiser).__name__} does not run without data") from error


def _run_without_data(
    denoiser: nn.Module,
    args: tuple[Any, ...],
    kwargs: Arguments,
    device: torch.device,
    handler: Handler,
    inputs: Inputs | None,
) -> None:
    # Loading this takes longer than a small model's forward: a session that never asks should not pay.
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.utils._pytree import tree_map_only

    mode = FakeTensorMode(allow_non_fake_inputs=True)
    weights = (*denoiser.parameters(), *denoiser.buffers())
    with mode:
        empty = {id(w): torch.empty(w.shape, dtype=w.dtype, device=device) for w in weights}
    # A copy, as models that cache tensors in their forward would keep empty ones. Its weights take no memory.
    memory: dict[int, Any] = {key: nn.Parameter(w, requires_grad=False) for key, w in empty.items()}
    # Sequential offloading keeps the weights in its hooks: shared, as a copy would double the memory.
    hooks = [vars(module).get("_hf_hook") for module in denoiser.modules()]
    memory |= {id(hook): hook for hook in hooks if hook is not None}
    with eagerly(denoiser):
        twin = copy.deepcopy(denoiser, memory)
    for module in twin.modules():
        module._forward_hooks.clear()
        module._forward_pre_hooks.clear()
        if hasattr(module, "_hf_hook") or hasattr(module, "_diffusers_hook"):
            # Offloading wraps the instance's forward to move weights, of which there are none.
            vars(module).pop("forward", None)
    logger, thread = logging.getLogger(FakeTensorMode.__module__), threading.get_ident()

    def elsewhere(record: logging.LogRecord) -> bool:
        """Silent in this thread: torch would log pages of what is raised, and here is expected."""
        return record.thread != thread

    logger.addFilter(elsewhere)
    with ExitStack() as undo, torch.no_grad(), mode:
        undo.callback(logger.removeFilter, elsewhere)
        args, kwargs = tree_map_only(Tensor, mode.from_tensor, (args, kwargs))
        with Tap(twin, handler, inputs):
            twin(*args, **kwargs)
