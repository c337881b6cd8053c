"""See every attention call of a module, answer it, or stop the forward there, and leave no trace.

Every softmax attention of a diffusers model ends in `torch.nn.functional.scaled_dot_product_attention`. A
`TorchFunctionMode` intercepts that one function, so a handler receives the very queries, keys and values the
model uses: after norms, rotary embedding and concatenation. Forward hooks say which layer is calling.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack

from seedbed.attention.kinds import batch_size, kind_of, named_arguments, processors_of
from seedbed.errors import BadInput, NotSupported, SeedbedError

# What torch.nn.functional calls scaled_dot_product_attention, unless somebody has put another in its place.
_ATTENTION = torch._C._nn.scaled_dot_product_attention

# Set on an error that a tap or its handler raised, to tell it from one of the model.
_OURS = "_raised_by_a_tap"

Handler = Callable[["AttentionCall"], Tensor | None]
Inputs = Callable[[str, tuple[Any, ...], dict[str, Any]], tuple[tuple[Any, ...], dict[str, Any]] | None]


class SplitBatch(NotSupported):
    """A model takes its batch apart and attends with fewer rows than it has candidates."""


class _Stop(Exception):
    """Ends the forward; an Exception, so that forward hooks with `always_call` see the stack unwind."""

    def __init__(self, tap: Tap) -> None:
        super().__init__("the tap's handler stopped this forward")
        self.tap = tap


@dataclass(slots=True, eq=False)
class AttentionCall:
    """One attention call of the tapped module, as a handler receives it.

    Rows of the batch are candidate-major: row r belongs to candidate `r // (batch // candidates)`.
    """

    layer: str
    """Dotted name of the calling module inside the tapped one."""
    index: int
    """Position of this call within the current forward, from 0."""
    step: int
    """Number of the current forward since the tap was opened, from 0."""
    block: int
    """The last integer in `layer` (the nearest enclosing block of a `ModuleList`), or -1."""
    kind: str
    """`self`, `cross`, `joint` or `temporal`: see `seedbed.attention.kinds.kind_of`."""
    query: Tensor = field(repr=False)
    """(batch, heads, rows, width)"""
    key: Tensor = field(repr=False)
    """(batch, kv_heads, keys, width)"""
    value: Tensor = field(repr=False)
    """(batch, kv_heads, keys, width_v)"""
    mask: Tensor | None = field(repr=False)
    """Broadcastable to (batch, heads, rows, keys). Boolean: True attends; floating: added to the logits."""
    scale: float
    causal: bool
    candidates: int
    """Batch size of the tapped module's own input."""
    _dropout: float = field(repr=False)
    _tap: Tap = field(repr=False)
    _autocast: torch.dtype | None = field(default=None, repr=False)

    def output(
        self, query: Tensor | None = None, key: Tensor | None = None, value: Tensor | None = None
    ) -> Tensor:
        """The model's own attention, (batch, heads, rows, width_v), with any of its tensors replaced.

        No tap sees this call while a handler runs. It is cast as the model's own calls are.
        """
        query = self.query if query is None else query
        key = self.key if key is None else key
        with torch.autocast(query.device.type, self._autocast, enabled=self._autocast is not None):
            return _ATTENTION(
                query,
                key,
                self.value if value is None else value,
                attn_mask=self.mask,
                dropout_p=self._dropout,
                is_causal=self.causal,
                scale=self.scale,
                enable_gqa=query.shape[1] != key.shape[1],
            )

    def by_candidate(self, values: Tensor) -> Tensor:
        """Mean of `values` (batch, ...) over everything but the candidate: (candidates,), float64.

        Raises SplitBatch where the model splits its batch, so that a call does not hold all candidates.
        """
        if values.shape[0] % self.candidates:
            raise SplitBatch(
                f"{self.layer} attends over {values.shape[0]} batch rows for {self.candidates} candidates: "
                "this model splits its batch, so score one candidate at a time (batch_size=1)"
            )
        return values.double().reshape(self.candidates, -1).mean(1)

    def stop(self) -> NoReturn:
        """Ends the forward here. The body of the `with` of this call's tap ends too, silently."""
        raise _Stop(self._tap)


@contextmanager
def plain_arithmetic() -> Iterator[None]:
    """Inside, and in a function decorated with it, a caller's autocast, gradients and default device are off.

    The model runs as its user wants it. What is computed about it must be the same in every mode: under
    autocast, products of float32 would come out in bfloat16.
    """
    accelerator = torch.accelerator.current_accelerator()
    with torch.no_grad(), ExitStack() as modes:
        for kind in {"cpu", accelerator.type if accelerator else "cpu"}:
            if torch.is_autocast_enabled(kind):
                modes.enter_context(torch.autocast(kind, enabled=False))
        if torch.get_default_device().type != "cpu":
            modes.enter_context(torch.device("cpu"))
        yield


def raised_by_us(error: BaseException) -> bool:
    """Whether this package or a handler raised an error, and not what a tap was opened on."""
    return isinstance(error, SeedbedError) or _OURS in vars(error)


class Tap(TorchFunctionMode):
    """Context manager that shows the attention calls of `module` to `handler`.

    `handler(call: AttentionCall)` returns None to let the model attend as it would, or a tensor
    (batch, heads, rows, width_v) to answer in its place. `call.stop()` ends the forward and the body of the
    `with`; then `stopped` is True.

    Only forwards of `module` itself, run by the thread that opened the tap, are seen; attention elsewhere
    (text encoder, VAE) and code inside handlers never is. Taps nest, and the innermost is asked first: if it
    answers, the outer ones do not see that call; if it returns None, the next one out is asked. Handlers run
    in `plain_arithmetic`, whatever modes of torch the model runs in.

    Inside, every attention processor that chooses a backend uses torch's native one. On exit, also by an
    exception, hooks and backends are as before. One module must not be tapped from two threads at once.

    `inputs(name, args, kwargs)`, if given, is asked before every module that `module`'s own forward calls
    directly, and returns None or the arguments to call it with instead.

    Attributes: `steps` (forwards begun), `calls` (attention calls seen), `stopped`.

    Raises BadInput where a handler's tensor has another shape than the attention output it replaces,
    NotSupported where the module is compiled or fails with torch's native backend in place of its own, and
    where a layer attends without torch's scaled_dot_product_attention, or that has been replaced.
    """

    def __init__(self, module: nn.Module, handler: Handler, inputs: Inputs | None = None) -> None:
        super().__init__()
        self.module = module
        self.handler = handler
        self.inputs = inputs
        self.steps = self.calls = self._index = self._attended = 0
        self.stopped = self._muted = self._failed = False
        self._thread: int | None = None  # the thread that opened the tap, None while it is closed
        # Modules whose forward runs, outermost first, with their arguments and how many calls of attention
        # came before; while there are any, torch asks this mode before it attends.
        self._stack: list[tuple[nn.Module, dict[str, Any], int]] = []

    def __enter__(self) -> Tap:
        if self._thread is not None:
            raise BadInput("this tap is already open: make a second Tap to nest it")
        replaced: Any = torch.nn.functional.scaled_dot_product_attention
        if replaced is not _ATTENTION:
            own = f"{getattr(replaced, '__module__', '')}.{getattr(replaced, '__qualname__', replaced)}"
            raise NotSupported(
                f"torch.nn.functional.scaled_dot_product_attention was replaced by {own}, and what that does "
                "cannot be seen: put torch's own back while noises are scored"
            )
        self.steps = self.calls = 0
        self.stopped = self._failed = False
        self._names = {module: name for name, module in self.module.named_modules()}
        self._backends: dict[nn.Module, str | None] = {}  # what their processors would have used
        self._needed: str | None = None  # of these, that of the layer that has failed
        processors = processors_of(self._names)
        with ExitStack() as undo:
            for module, name in self._names.items():
                if "_orig_mod" in module._modules or vars(module).get("_compiled_call_impl") is not None:
                    raise NotSupported(f"{name or 'the module'} is compiled: no tap sees inside its graph")
                # Linear layers, norms and the like, which are most of a model, attend never.
                plain = not module._modules and type(module).__module__.startswith("torch.nn.")
                if self.inputs is None and module is not self.module and plain:
                    continue
                # Prepended, so that nested taps unwind in the reverse of the order in which they began.
                undo.callback(module.register_forward_pre_hook(self._before, with_kwargs=True).remove)
                undo.callback(
                    module.register_forward_hook(self._after, always_call=True, prepend=True).remove
                )
                processor: Any = processors.get(module)
                if hasattr(processor, "_attention_backend"):
                    chosen, state = processor._attention_backend, vars(processor)
                    self._backends[module] = getattr(chosen, "value", chosen)
                    undo.callback(state.update, {k: v for k, v in state.items() if k == "_attention_backend"})
                    undo.callback(state.pop, "_attention_backend")
                    state["_attention_backend"] = "native"
            self._undo = undo.pop_all()
        self._thread = threading.get_ident()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self._undo.close()
        self._leave()
        self._thread = None
        self._names = {}
        self.stopped = isinstance(error, _Stop) and error.tap is self
        self._backends = {}
        refused = isinstance(error, (AttributeError, TypeError, ValueError)) and self.failed(error)
        if refused and self._needed not in (None, "native"):
            raise NotSupported(
                f"{type(self.module).__name__} needs the attention backend {self._needed}: its "
                "attention does not go through torch's scaled_dot_product_attention and cannot be seen"
            ) from error
        return self.stopped

    def run(self, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """What `forward` returns, seen as a forward of the tapped module; for what stands in for its own."""
        self._before(self.module, args, kwargs)
        output = None
        try:
            output = forward(*args, **kwargs)
        finally:
            self._after(self.module, args, output)
        return output

    def failed(self, error: BaseException) -> bool:
        """Whether the tapped module itself raised an error in its forward: no handler, nor this package.

        Memory that does not suffice is no failure of it.
        """
        return self._failed and not raised_by_us(error) and not isinstance(error, torch.OutOfMemoryError)

    def _before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if threading.get_ident() != self._thread:
            return None
        changed = None
        if module is self.module:
            self._leave()
            self._index, self._needed = 0, None
            self.steps += 1
        elif not self._stack:
            return None
        elif self.inputs is not None and len(self._stack) == 1:
            changed = self.inputs(self._names[module], args, kwargs)
            args, kwargs = changed or (args, kwargs)
        given = named_arguments(module, args, kwargs)
        self._stack.append((module, given, self._attended))
        if module is self.module:
            TorchFunctionMode.__enter__(self)
        return changed

    def _after(self, module: nn.Module, args: Any, output: Any) -> None:
        if threading.get_ident() != self._thread:
            return
        if module is self.module:
            # Every module that has raised has no output; a hook before ours stops what has not begun.
            self._failed = output is None and bool(self._stack)
            self._leave()
        while len(self._stack) > 1:
            begun, _, attended = self._stack.pop()
            if begun is module:
                if output is not None:
                    self._require_seen(module, attended)
                break
        if output is None:
            self._needed = self._backends.get(module, self._needed)

    def _require_seen(self, module: nn.Module, attended: int) -> None:
        """What attends has a processor; one without a softmax (Sana) is called linear."""
        processor = getattr(module, "processor", None)
        kind = type(processor).__name__
        if processor is not None and attended == self._attended and "Linear" not in kind:
            raise NotSupported(
                f"{self._names[module]} attends by {kind} without torch's "
                "scaled_dot_product_attention and cannot be seen: use the default attention processors, "
                "without xformers, attention slicing, SageAttention or a cache"
            )

    def _leave(self) -> None:
        """Ends the forward of the tapped module, if one runs: Ctrl-C, no Exception, skips `_after`."""
        if self._stack:
            self._stack.clear()
            TorchFunctionMode.__exit__(self, None, None, None)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is _ATTENTION and not self._muted:
            try:
                answer = self._answer(*args, **kwargs)
            except BaseException as error:
                vars(error)[_OURS] = True
                raise
            if answer is not None:
                return answer
        return func(*args, **kwargs)

    def _answer(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor | None:
        module = self._stack[-1][0]
        layer = self._names[module]
        if query.ndim not in (3, 4):
            raise NotSupported(
                f"{layer} attends with a query of shape {tuple(query.shape)}: 3 or 4 axes are expected"
            )
        flat = query.ndim == 3
        mask = attn_mask[:, None] if flat and attn_mask is not None and attn_mask.ndim == 3 else attn_mask
        around = [arguments for _, arguments, _ in self._stack]
        candidates = batch_size(around[0]) or query.shape[0]
        channels = getattr(getattr(self.module, "config", None), "in_channels", None)
        blocks = [int(part) for part in layer.split(".") if part.isdigit()]
        device = query.device.type
        autocast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        call = AttentionCall(
            layer=layer,
            index=self._index,
            step=self.steps - 1,
            block=blocks[-1] if blocks else -1,
            kind=kind_of(around, channels, query.shape[0] // candidates, query.shape[-2], key.shape[-2]),
            query=query[:, None] if flat else query,
            key=key[:, None] if flat else key,
            value=value[:, None] if flat else value,
            mask=mask,
            scale=query.shape[-1] ** -0.5 if scale is None else scale,
            causal=is_causal,
            candidates=candidates,
            _dropout=dropout_p,
            _tap=self,
            _autocast=autocast,
        )
        self._index += 1
        self.calls += 1
        self._attended += 1
        # What a handler computes is no call of the model: taps further out must not take it for one.
        outer = [m for m in _get_current_function_mode_stack() if isinstance(m, Tap) and not m._muted]
        for tap in outer:
            tap._muted = True
            tap._attended += 1
        try:
            with plain_arithmetic():
                answer = self.handler(call)
        finally:
            for tap in outer:
                tap._muted = False
        expected = (*call.query.shape[:-1], value.shape[-1])
        if answer is not None and tuple(answer.shape) != expected:
            raise BadInput(
                f"the handler answered {layer} with a tensor of shape {tuple(answer.shape)}: "
                f"expected {expected}, the shape of the attention output"
            )
        return answer[:, 0] if flat and answer is not None else answer
