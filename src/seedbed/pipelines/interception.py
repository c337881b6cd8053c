"""Everything that is installed on a pipeline for one run, in one place, and removed after it.

A run works on a shallow copy of the pipeline that shares its models and nothing else. `intercepted` steps in
at the noise it prepares, its prompt encoder and autoencoder, what it draws without a generator, and its
denoisers.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import inspect
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from seedbed.attention.kinds import processors_of
from seedbed.attention.tap import Handler, Tap
from seedbed.pipelines.call import Call
from seedbed.pipelines.compiled import denoisers_of, is_compiled
from seedbed.pipelines.drawing import Entry, Preparation, replace
from seedbed.pipelines.loading import parts_of

# A pipeline encodes one or two pictures (first and last frame, video and mask), alone or for a batch, and a
# prompt or two.
_MOST_ENCODED = 16

Encodings = dict[str, Any]
"""What a pipeline has encoded so far, however many runs and candidates ask for it again.

What `encode_prompt` returned for one row, and what autoencoders returned, by what they were given.
"""


@dataclass
class Run:
    """One run of a pipeline: call it, with what its `__call__` shall get besides the caller's arguments.

    Attributes:
        pipe: the copy that runs.
        denoisers: the networks as this run calls them, for hooks.
        preparation: what stands in for `prepare_latents`, and sees what is drawn.
        undo: what removes everything that was installed.
        perturbing: whether the evaluation at hand is one more, for guidance, and not the pipeline's own.
    """

    pipe: Any
    denoisers: dict[str, nn.Module]
    preparation: Preparation
    arguments: dict[str, Any]
    undo: ExitStack
    perturbing: bool = False

    def before_evaluations(self, hook: Callable[[nn.Module, Any, Any], None]) -> None:
        """Calls `hook(module, args, kwargs)` before every evaluation of a denoiser."""
        for module in self.denoisers.values():
            self.undo.callback(module.register_forward_pre_hook(hook, with_kwargs=True).remove)

    def instead_of_evaluations(self, forward: Callable[..., Any]) -> None:
        """Calls `forward(module, own, *args, **kwargs)` in place of every denoiser's own forward."""
        for module in dict.fromkeys(self.denoisers.values()):
            replace(module, "forward", functools.partial(forward, module, module.forward), self.undo)

    def see_attention(self, handler: Handler) -> None:
        """Shows the attention calls of every denoiser to a handler, which may answer them."""
        for module in dict.fromkeys(self.denoisers.values()):
            self.undo.enter_context(Tap(module, handler))

    def __call__(self, noises: Tensor | None = None, **others: Any) -> Any:
        """The pipeline's output; `noises` (candidates, ...) enter where its own would."""
        start = {} if noises is None else self.preparation.give(noises)
        with self.preparation:
            return self.pipe(**self.arguments, **start, **others)


@contextmanager
def intercepted(
    call: Call,
    count: int,
    encodings: Encodings,
    *,
    off: Mapping[str, float] | None,
    entry: Entry,
    repeats: Collection[str],
    eager: bool = False,
    progress: Callable[[], None] | None = None,
    correlate: Iterator[Callable[[Tensor], Tensor]] | None = None,
) -> Iterator[Run]:
    """A run for `count` candidates as one batch, each with a generator of its own, all in the same state.

    A single candidate goes in as the caller would pass it: some pipelines take no lists. Afterwards, also
    after an exception, the pipeline and its models are as before.

    Args:
        off: the arguments that turn guidance off; None runs the caller's own call, guidance included.
        repeats: the arguments with pictures that go in once for every candidate.
        eager: run compiled denoisers eagerly; always so where guidance is off.
        progress: called after every step of the scheduler.
        correlate: see `Preparation.correlate_steps`.
    """
    arguments = dict(call.arguments)
    for name, value in call.arguments.items():
        if "prompt" in name or name in repeats:
            arguments[name] = _repeated(value, count)
            if name in repeats and count > 1 and arguments[name] is value:
                arguments[name] = [value] * count
    if call.prompt is not None:
        arguments["prompt"] = call.prompt if count == 1 else [call.prompt] * count
    copies = [call.generator for _ in range(count)] if "generator" in call.parameters else []
    if copies:
        arguments["generator"] = copies[0] if count == 1 else copies
    if off is not None:
        arguments |= off
        embeds = arguments.get("ip_adapter_image_embeds")
        if isinstance(embeds, list):
            # With guidance (2, images, width) each. Pipelines cut the row of the negative prompt off only
            # where guidance is on; left there, it would be taken for more of the picture.
            arguments["ip_adapter_image_embeds"] = [
                each[1:] if isinstance(each, Tensor) and len(each) == 2 else each for each in embeds
            ]
    with ExitStack() as undo:
        twin = _copy_of(call.pipe, undo)
        denoisers = undo.enter_context(denoisers_of(twin, call.denoisers, eager=eager or off is not None))
        preparation = Preparation(twin, entry, call.generator, count)
        preparation.generators = copies
        if correlate is not None:
            preparation.correlate_steps(correlate, undo)
        vars(twin)["prepare_latents"] = preparation
        if hasattr(twin, "encode_prompt"):
            once = functools.partial(_encode_prompt, twin.encode_prompt, encodings, count)
            vars(twin)["encode_prompt"] = preparation.unseen(once)
        scheduler: Any = getattr(twin, "scheduler", None)
        if progress is not None and hasattr(scheduler, "step"):
            # A copy of the scheduler copies the partial, and then steps itself.
            step = functools.partial(_step, scheduler.step, progress)
            replace(scheduler, "step", functools.update_wrapper(step, scheduler.step), undo)
        models = {name: part for name, part in twin.components.items() if isinstance(part, nn.Module)}
        for name, model in models.items():
            encode: Any = getattr(model, "encode", None)
            if name.startswith("vae") and encode is not None:
                # On the instance, as its pipeline offloads that very module.
                once = functools.partial(_encode, encode, encodings)
                replace(model, "encode", preparation.unseen(once), undo)
        for model in dict.fromkeys([*denoisers.values(), *filter(is_compiled, models.values())]):
            # What is compiled in place would compile again with another forward.
            in_place = vars(model).get("_compiled_call_impl") is not None
            for method in ("_compiled_call_impl",) if in_place else ("forward", "decode"):
                if hasattr(model, method):
                    replace(model, method, preparation.unseen(getattr(model, method)), undo)
        _show_timestep(call.pipe, twin, denoisers, undo)
        for network in call.denoisers.values():
            for part, processor in processors_of(parts_of(network)).items():
                # PAG sets its own for a call, and leaves them where it ends early.
                undo.callback(setattr, part, "processor", processor)
        for name, guider in call.guiders.items():
            vars(twin)[name] = copy.deepcopy(guider)
            if off is not None:
                vars(twin)[name].disable()
        yield Run(twin, denoisers, preparation, arguments, undo)


def _copy_of(pipe: Any, undo: ExitStack) -> Any:
    """A shallow copy to run once; what the run sets on its pipeline is set on the copy."""
    twin = object.__new__(type(pipe))
    state = vars(twin)
    state.update(vars(pipe))
    state["_progress_bar_config"] = {**getattr(pipe, "_progress_bar_config", {}), "disable": True}
    if getattr(pipe, "scheduler", None) is not None:
        # Deep: solvers keep and change lists of past outputs.
        state["scheduler"] = copy.deepcopy(pipe.scheduler)

    def leave() -> None:
        _offload_again(pipe)
        # A forward that was stopped has skipped the pipeline's own last line, which offloads its models.
        twin.maybe_free_model_hooks()
        if "_all_hooks" in vars(pipe):
            pipe._all_hooks = twin._all_hooks
        # What was set on the twin refers to it: without this, only the garbage collector would free it.
        state.clear()

    undo.callback(leave)
    return twin


def _offload_again(pipe: Any) -> None:
    """Runs what a stopped forward has skipped: the hooks after it, which take the weights off again.

    Sequential offloading (accelerate) leaves parameters without data in their place, group offloading
    (diffusers) moves them. Offloading of whole models is the pipeline's own affair.
    """
    models = [component for component in pipe.components.values() if isinstance(component, nn.Module)]
    for module in (part for model in models for part in parts_of(model)):
        hook: Any = vars(module).get("_hf_hook")
        registry: Any = vars(module).get("_diffusers_hook")
        if hook is None and registry is None:
            continue
        own = [parameter for parameter in module._parameters.values() if parameter is not None]
        for each in getattr(hook, "hooks", [hook]):
            if getattr(each, "offload", None) is True and any(not parameter.is_meta for parameter in own):
                each.post_forward(module, ())
        group: Any = registry.get_hook("group_offloading") if registry is not None else None
        if group is not None:
            group.post_forward(module, ())


def _show_timestep(pipe: Any, twin: Any, denoisers: Mapping[str, nn.Module], undo: ExitStack) -> None:
    """Keeps `pipe` at the timestep of its copy: caches between steps (PAB, FasterCache) ask it."""
    name = "_current_timestep"

    def show(*_: Any) -> None:
        if name in vars(twin):
            vars(pipe)[name] = vars(twin)[name]

    undo.callback(vars(pipe).update, {key: value for key, value in vars(pipe).items() if key == name})
    undo.callback(vars(pipe).pop, name, None)
    for denoiser in denoisers.values():
        undo.callback(denoiser.register_forward_pre_hook(show).remove)


def _step(step: Callable[..., Any], done: Callable[[], None], *args: Any, **kwargs: Any) -> Any:
    """A scheduler's step that says when it is done."""
    result = step(*args, **kwargs)
    done()
    return result


def _encode_prompt(
    encode: Callable[..., Any], encodings: Encodings, count: int, *args: Any, **kwargs: Any
) -> Any:
    """`encode_prompt`, run for one prompt; repeats every output that has a batch axis of one.

    Encoding a single row makes the embeddings the same bit by bit for every number of candidates.
    """
    bound = inspect.signature(encode).bind(*args, **kwargs)
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
    once = functools.partial(encode, *bound.args, **bound.kwargs)
    return _repeated(_remembered(encodings, repr(sorted(given.items())), once), count)


def _encode(encode: Callable[..., Any], encodings: Encodings, *args: Any, **options: Any) -> Any:
    """An autoencoder's `encode`, answered from `encodings` where the same was asked before.

    Its samples are always the same where the pipeline names no generator for them. Else one picture would be
    another in every run and for every candidate, and no record could be replayed.
    """
    if len(args) != 1 or any(isinstance(value, Tensor) for value in options.values()):
        return encode(*args, **options)
    (picture,) = args
    values = hashlib.sha256(picture.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    key = repr((values.hexdigest(), picture.shape, picture.dtype, sorted(options.items())))
    output = _remembered(encodings, key, functools.partial(encode, picture, **options))
    output = copy.deepcopy(output)  # as the pipeline may write into what it gets
    spread = getattr(output, "latent_dist", None)
    if spread is not None:
        sample = spread.sample
        spread.sample = lambda generator=None: sample(generator or torch.Generator().manual_seed(0))
    return output


def _remembered(encodings: Encodings, key: str, encode: Callable[[], Any]) -> Any:
    """What `encode` returned for this key, the first time."""
    if key not in encodings:
        encodings[key] = encode()
        for oldest in list(encodings)[:-_MOST_ENCODED]:
            del encodings[oldest]
    return encodings[key]


def is_picture(value: Any) -> bool:
    """Whether this is an image, a video, or a list of these."""
    if isinstance(value, (list, tuple)):
        return bool(value) and is_picture(value[0])
    return isinstance(value, (Tensor, np.ndarray, Image.Image))


def _repeated(value: Any, count: int) -> Any:
    """Copies of all that is one row, or a list of one, for `count` candidates; anything else as it is."""
    if isinstance(value, Tensor) and value.ndim and value.shape[0] == 1:
        return value.repeat(count, *[1] * (value.ndim - 1))
    if isinstance(value, list) and len(value) == 1:
        return value * count
    if isinstance(value, tuple):
        return tuple(_repeated(item, count) for item in value)
    return value
