"""A denoiser's attention layers, from a forward on shapes alone, and dropping candidates between them.

A denoiser hands its batch from block to block through the arguments of the modules that its own forward
calls. What each of those arguments looks like for ONE candidate says which of them carry the batch, and how
many rows a candidate has there (a U-Net folds frames into it). Where that does not fit what a batch brings,
the forward cannot be cut, and `CannotShrink` says why: nothing is guessed.
"""

from __future__ import annotations

import copy
import logging
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map_only, tree_unflatten

from seedbed.attention.kinds import Arguments
from seedbed.attention.tap import AttentionCall, SplitBatch, Tap, raised_by_us
from seedbed.errors import NotSupported
from seedbed.pipelines.compiled import eagerly

Leaf = tuple[int, ...] | int | None


class CannotShrink(NotSupported):
    """Candidates cannot be dropped within this model's forward; they can between forwards."""


@dataclass(frozen=True)
class LayerInfo:
    """One attention layer, in the terms of `seedbed.attention.tap.AttentionCall`."""

    name: str
    kind: str
    block: int


class Recorder:
    """Watches a forward through a tap.

    Attributes:
        calls: the modules that the denoiser's own forward calls, in their order, by name, with the
            `shapes_of` its arguments.
        layers, rows: the layer and the batch rows of each attention call.
        output: what the denoiser returned, zeros in the place of its values.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[Leaf, ...]]] = []
        self.layers: list[LayerInfo] = []
        self.rows: list[int] = []
        self.output: Any = None

    def inputs(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Before a direct call; changes nothing."""
        self.calls.append((name, shapes_of((args, kwargs))))

    def attention(self, call: AttentionCall) -> None:
        """At an attention call.

        Raises SplitBatch where it has fewer rows than there are candidates.
        """
        if call.query.shape[0] % call.candidates:
            raise SplitBatch(f"{call.layer} attends to fewer rows than there are candidates")
        self.layers.append(LayerInfo(call.layer, call.kind, call.block))
        self.rows.append(call.query.shape[0])


def recorded(
    denoiser: nn.Module, args: tuple[Any, ...], kwargs: Arguments, device: torch.device
) -> Recorder | None:
    """What a denoiser's forward shows, run on tensors that have shapes and no data.

    Offloaded weights count as being on `device`. None where the model does not run like that, or where it
    takes its batch apart.
    """
    recorder = Recorder()
    try:
        _run_without_data(denoiser, args, kwargs, device, recorder)
    except Exception as error:
        if raised_by_us(error) and not isinstance(error, NotSupported):
            raise
        return None
    return recorder


def _run_without_data(
    denoiser: nn.Module, args: tuple[Any, ...], kwargs: Arguments, device: torch.device, recorder: Recorder
) -> None:
    # Loading this takes longer than a small model's forward: a session that never asks should not pay.
    from torch._subclasses.fake_tensor import FakeTensorMode

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
        with Tap(twin, recorder.attention, recorder.inputs):
            output = twin(*args, **kwargs)
    recorder.output = tree_map_only(
        Tensor, lambda fake: torch.zeros((), dtype=fake.dtype, device=device).expand(fake.shape), output
    )


class Shrinking:
    """One forward of several candidates from which some may be dropped on the way.

    Args:
        one: what the forward of a single candidate showed.
        candidates: how many begin.

    Attributes:
        present: those in the batch of the attention call at hand, ascending.
        began: whether any has been dropped.
    """

    def __init__(self, one: Recorder, candidates: int) -> None:
        self._one = one
        self._places: list[tuple[int, ...]] = [tuple(range(candidates))]
        self._wanted = self.present = self._places[0]
        self._calls = iter(one.calls)

    @property
    def began(self) -> bool:
        """Whether any has been dropped."""
        return len(self._places) > 1

    def keep(self, candidates: Sequence[int]) -> None:
        """Go on with these alone from the next direct call: numbers out of `range(candidates)`."""
        self._wanted = tuple(sorted(candidates))

    def attention(self, call: AttentionCall) -> None:
        """Tells an attention call which candidates are left.

        Raises CannotShrink where it holds others.
        """
        if not self.began:
            return
        rows = self._one.rows[call.index] if call.index < len(self._one.rows) else 0
        if call.query.shape[0] != rows * len(self.present):
            raise CannotShrink(f"{call.layer} still attends over candidates that were dropped before")
        call.candidates, call.kind = len(self.present), self._one.layers[call.index].kind

    def inputs(
        self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Before a direct call: its arguments without the candidates that were dropped; None for no change.

        Raises CannotShrink where an argument does not scale with the candidates as it should.
        """
        known, ones = next(self._calls, ("", ()))
        if self._wanted != self.present:
            self.present = self._wanted
            self._places.append(self.present)
        if not self.began:
            return None
        leaves, spec = tree_flatten((args, kwargs))
        if known != name or len(ones) != len(leaves):
            raise CannotShrink(f"{name} is called in another way for several candidates than for one")
        cut = [self._cut(name, leaf, one) for leaf, one in zip(leaves, ones, strict=True)]
        changed: tuple[tuple[Any, ...], dict[str, Any]] = tree_unflatten(cut, spec)
        return changed

    def _cut(self, name: str, leaf: Any, one: Leaf) -> Any:
        """One leaf of the arguments, with the rows of the candidates that are present."""
        shape = _shape(leaf)
        if shape == one:  # the same for every candidate
            return leaf
        if isinstance(shape, tuple) and isinstance(one, tuple) and one and shape[1:] == one[1:]:
            for places in reversed(self._places):
                if shape[:1] == (one[0] * len(places),):
                    if places == self.present:
                        return leaf
                    rows = [
                        places.index(candidate) * one[0] + row
                        for candidate in self.present
                        for row in range(one[0])
                    ]
                    return leaf.index_select(0, torch.tensor(rows, device=leaf.device))
        raise CannotShrink(
            f"{name} is given {shape} for {len(self.present)} candidates and {one} for one: whose "
            "rows these are cannot be told"
        )


def shapes_of(tree: Any) -> tuple[Leaf, ...]:
    """Of each leaf the shape of a tensor, a whole number as it is, None for anything else."""
    return tuple(map(_shape, tree_leaves(tree)))


def _shape(leaf: Any) -> Leaf:
    if isinstance(leaf, Tensor):
        return tuple(leaf.shape)
    return leaf if isinstance(leaf, int) else None
