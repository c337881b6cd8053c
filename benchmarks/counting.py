"""Counts what a denoiser's forward and a score cost, without running the denoiser.

Forwards run on tensors that have shapes alone. Scores run for real, on a few rows of one head, since their
work depends on values; every row and head costs the same.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from scoring_memory import LiveBytes
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, flop_registry, sdpa_flop_count

from seedbed.attention import bansa_expected, bansa_masked
from seedbed.attention.logits import Logits
from seedbed.attention.tap import AttentionCall, Tap

# Rows that stand for all rows of a head: their number must not change what a row costs.
SAMPLE = 64


@dataclass(frozen=True)
class Layer:
    """One attention call, and what one candidate's forward has spent when it comes to it.

    Attributes:
        shape: heads, rows, keys, width of the call.
        entered: floating-point operations of the forward until its block began, or, for the second call of a
            block, until the first.
        operations: until here, this call's attention excluded.
        parameters: of the modules that have begun until here.
    """

    name: str
    shape: tuple[int, int, int, int]
    entered: int
    operations: int
    parameters: int


@dataclass(frozen=True)
class Forward:
    """One candidate's full conditional forward: parameters, operations, and its attention calls in order."""

    parameters: int
    operations: int
    layers: tuple[Layer, ...]

    def operations_of(self, rows: list[int]) -> int:
        """Operations of a forward that is stopped at an attention call.

        Args:
            rows: in the batch at each attention call; dropped ones leave when the next block begins.
        """
        spent, before = 0, self.layers[0].entered
        for number, (layer, count) in enumerate(zip(self.layers, rows, strict=False)):
            spent += rows[max(0, number - 1)] * (layer.entered - before)
            spent += count * (layer.operations - layer.entered)
            before = layer.operations
        return spent + rows[0] * self.layers[0].entered


def _flash_on_cpu(query: Any, key: Any, value: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    return int(sdpa_flop_count(query, key, value))


# torch counts the attention kernels of GPUs alone.
ALSO = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _flash_on_cpu}


def count_forward(build: Callable[[], nn.Module], inputs: Callable[[int], dict[str, Tensor]]) -> Forward:
    """Counts a forward of one batch row of a denoiser that `build` makes."""
    layers: list[Layer] = []
    begun: dict[nn.Module, int] = {}
    entered = 0
    with FakeTensorMode(), torch.no_grad():
        model = build()

        def begin(module: nn.Module, args: Any) -> None:
            begun[module] = sum(parameter.numel() for parameter in module.parameters(recurse=False))

        for module in model.modules():
            module.register_forward_pre_hook(begin)

        def enter(*_: Any) -> None:
            nonlocal entered
            entered = counter.get_total_flops()

        def see(call: AttentionCall) -> None:
            nonlocal entered
            shape = (*call.query.shape[1:3], call.key.shape[2], call.query.shape[3])
            spent = counter.get_total_flops()
            layers.append(Layer(call.layer, shape, entered, spent, sum(begun.values())))
            entered = spent

        with FlopCounterMode(display=False, custom_mapping=ALSO) as counter, Tap(model, see, enter):
            model(**inputs(1))
        parameters = sum(parameter.numel() for parameter in model.parameters())
    return Forward(parameters, counter.get_total_flops(), tuple(layers))


def peak_bytes(build: Callable[[], nn.Module], inputs: Callable[[int], dict[str, Tensor]], rows: int) -> int:
    """The most bytes that a forward of `rows` batch rows holds in live tensors, weights included."""
    with FakeTensorMode(), torch.no_grad():
        model, given = build(), inputs(rows)
        held = [*model.parameters(), *model.buffers(), *given.values()]
        with LiveBytes(held) as tracker:
            model(**given)
        return tracker.peak + sum(tensor.untyped_storage().nbytes() for tensor in held)


class _Elements(TorchDispatchMode):
    """Counts an operation for every element that a kernel reads or writes, whichever are more.

    Views and what `FlopCounterMode` counts are left out.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if not func.is_view and func._overloadpacket not in flop_registry:
            tensors = (leaf for leaf in tree_leaves((args, kwargs, output)) if isinstance(leaf, Tensor))
            self.total += max((tensor.numel() for tensor in tensors), default=0)
        return output


@functools.cache
def score_operations(estimator: str, shape: tuple[int, int, int, int], rows: int | None) -> float:
    """Operations of scoring one attention call of one candidate.

    A multiplication and an addition are two, every other function of an element is one, an exponential too.

    Args:
        estimator: "expected" or "masked", with their defaults.
        shape: heads, rows, keys, width of the call.
        rows: how many rows are looked at; None means all.
    """
    heads, total, keys, width = shape
    wanted = total if rows is None else min(rows, total)
    sample = min(SAMPLE, wanted)
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(1, 1, sample, width, generator=generator)
    key = torch.randn(1, 1, keys, width, generator=generator)
    function = bansa_expected if estimator == "expected" else bansa_masked
    return operations(lambda: function(query, key)) * heads * wanted / sample


def operations(function: Callable[[], Any]) -> int:
    """Operations of what a function runs: products and additions of matrices, and all else by element."""
    with FlopCounterMode(display=False) as products, _Elements() as others:
        function()
    return int(products.get_total_flops() + others.total)


def score_bytes(shape: tuple[int, int, int, int], rows: int | None, candidates: int) -> int:
    """The bytes of the blocks of logits that the mask-free score holds at once on a GPU, copies included.

    Args:
        shape: heads, rows, keys, width of the call.
        candidates: how many share the forward.
    """
    copies = 4  # as `bansa_expected` asks its blocks to allow for
    heads, total, keys, width = shape
    query = torch.empty(candidates, heads, total, width, device="meta")
    key = torch.empty(candidates, heads, keys, width, device="meta")
    some = None if rows is None or rows >= total else torch.arange(rows)
    blocks = Logits(query, key, rows=some).blocks(copies)
    return copies * 4 * math.prod(next(blocks)[-1].shape)
