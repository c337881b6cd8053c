"""Running a pipeline without touching it: on a shallow copy that shares the models and nothing else."""

import copy
import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from seedbed.probe.offloading import offload_again

Encoded = dict[str, Any]


@contextmanager
def borrowed(pipe: Any, encoded: Encoded, count: int) -> Iterator[Any]:
    """A copy of `pipe` to run once, for `count` candidates; the models are the pipeline's own.

    Whatever the run sets (guidance scale, interrupt flag, scheduler state, the steps the caller takes over)
    is set on the copy. The prompt is encoded as one row, remembered in `encoded`, and repeated for all
    candidates.
    """
    twin = object.__new__(type(pipe))
    state = vars(twin)
    state.update(vars(pipe))
    state["_progress_bar_config"] = {**getattr(pipe, "_progress_bar_config", {}), "disable": True}
    if getattr(pipe, "scheduler", None) is not None:
        # Deep: solvers keep and change lists of past outputs.
        state["scheduler"] = copy.deepcopy(pipe.scheduler)
    if hasattr(twin, "encode_prompt"):
        state["encode_prompt"] = _encoding_once(twin.encode_prompt, encoded, count)
    try:
        yield twin
    finally:
        offload_again(pipe)
        # A forward that was stopped has skipped the pipeline's own last line, which offloads its models.
        twin.maybe_free_model_hooks()
        if "_all_hooks" in vars(pipe):
            pipe._all_hooks = twin._all_hooks
        # What was set on the twin refers to it: without this, only the garbage collector would free it.
        state.clear()


@contextmanager
def timestep_shown(pipe: Any, twin: Any, denoisers: Iterable[nn.Module]) -> Iterator[None]:
    """Inside, `pipe` is at the timestep of `twin` at every evaluation: caches between steps ask it."""
    before = {name: value for name, value in vars(pipe).items() if name == "_current_timestep"}

    def show(*_: Any) -> None:
        if "_current_timestep" in vars(twin):
            vars(pipe)["_current_timestep"] = vars(twin)["_current_timestep"]

    with ExitStack() as undo:
        undo.callback(vars(pipe).update, before)
        undo.callback(vars(pipe).pop, "_current_timestep", None)
        for denoiser in denoisers:
            undo.callback(denoiser.register_forward_pre_hook(show).remove)
        yield


@contextmanager
def processors_kept(denoisers: Iterable[nn.Module]) -> Iterator[None]:
    """Puts the attention processors of these networks back.

    Perturbed attention guidance sets its own for a call, and leaves them there where the call ends early.
    """
    parts: list[Any] = [part for net in denoisers for part in net.modules() if hasattr(part, "processor")]
    before = [part.processor for part in parts]
    try:
        yield
    finally:
        for part, processor in zip(parts, before, strict=True):
            if part.processor is not processor:
                part.set_processor(processor)


def _encoding_once(encode: Callable[..., Any], encoded: Encoded, count: int) -> Callable[..., Any]:
    """`encode_prompt` that runs for one prompt and repeats every output that has a batch axis of one.

    Encoding a single row makes the embeddings the same bit by bit for every number of candidates.
    """
    signature = inspect.signature(encode)

    def once(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        given = bound.arguments
        prompt = given.get("prompt")
        if prompt is None or any(isinstance(leaf, Tensor) for leaf in tree_leaves(given)):
            return encode(*args, **kwargs)
        if isinstance(prompt, list):
            lists = {name: v for name, v in given.items() if "prompt" in name and isinstance(v, list)}
            if len(prompt) != count or any(value != [value[0]] * len(value) for value in lists.values()):
                return encode(*args, **kwargs)  # a prompt for each of several frames, for instance
            given |= {name: value[0] for name, value in lists.items()}
            if "batch_size" in given:
                given["batch_size"] = 1
        key = repr(sorted(given.items()))
        if key not in encoded:
            encoded[key] = encode(*bound.args, **bound.kwargs)
        return repeated(encoded[key], count)

    return once


def repeated(value: Any, count: int) -> Any:
    """Copies of all that is one row, or a list of one, for `count` candidates; anything else as it is."""
    if isinstance(value, Tensor) and value.ndim and value.shape[0] == 1:
        return value.repeat(count, *[1] * (value.ndim - 1))
    if isinstance(value, list) and len(value) == 1:
        return value * count
    if isinstance(value, tuple):
        return tuple(repeated(item, count) for item in value)
    return value


def conditional_image(embeds: Any) -> Any:
    """IP-adapter embeddings of a call with guidance, (2, images, width) each, as one without takes them.

    Pipelines cut the row of the negative prompt off only where guidance is on; left there, it would be taken
    for more of the picture.
    """
    if not isinstance(embeds, list):
        return embeds
    return [each[1:] if isinstance(each, Tensor) and len(each) == 2 else each for each in embeds]


def same_generator(generator: torch.Generator | None) -> torch.Generator:
    """A generator in the same state, so that the caller's own is never advanced; seeded with 0 for None."""
    if generator is None:
        return torch.Generator().manual_seed(0)
    twin = torch.Generator(device=generator.device)
    twin.set_state(generator.get_state())
    return twin


class Steps:
    """Stands in for the pipeline's progress bar and reports its steps to `show(done, total)`."""

    def __init__(
        self, show: Callable[[int, int], None], iterable: Any = None, total: int | None = None
    ) -> None:
        self.show = show
        self.iterable = iterable
        self.total = len(iterable) if total is None else total
        self.done = 0

    def __enter__(self) -> "Steps":
        return self

    def __exit__(self, *error: object) -> None:
        return None

    def __iter__(self) -> Iterator[Any]:
        for item in self.iterable:
            yield item
            self.update()

    def update(self, count: int = 1) -> None:
        self.done += count
        self.show(self.done, self.total)
