"""What there is to know of a pipeline before its first evaluation, found by running it until then.

One run of its `__call__`, for two candidates whose noise it draws itself, is enough for most pipelines. What
makes another necessary is said in `Facts.looks`. Facts are remembered for as long as the denoiser lives:
another call in the same shapes, with whatever prompt, asks nothing again.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import logging
import textwrap
import threading
from collections.abc import Hashable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import torch
from diffusers import ModelMixin
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from seedbed.attention.kinds import Arguments, batch_size, named_arguments, parameter_names
from seedbed.attention.tap import AttentionCall, Handler, Inputs, SplitBatch, Tap, raised_by_us
from seedbed.errors import BadInput, NotSupported, SeedbedError
from seedbed.pipelines.call import Call
from seedbed.pipelines.compiled import eagerly
from seedbed.pipelines.interception import Encodings, Entry, intercepted, is_picture
from seedbed.pipelines.layouts import NoiseSpec, latent_channels, spec_of

# By denoiser, so that they go with it. A pipeline is called in few shapes.
_KNOWN: WeakKeyDictionary[nn.Module, dict[Hashable, Facts]] = WeakKeyDictionary()
_MOST_KNOWN = 16


# Parts of the names of arguments that hold a text.
TEXT = ("encoder_hidden_states", "text", "prompt", "context")


class Enough(Exception):
    """Ends a run of the pipeline once it has shown what was asked."""


@dataclass(frozen=True)
class LayerInfo:
    """One attention layer, in the terms of `seedbed.attention.tap.AttentionCall`."""

    name: str
    kind: str
    block: int


@dataclass(frozen=True)
class Facts:
    """What was found out about a pipeline called with arguments of these shapes.

    Attributes:
        spec: the noise it would draw for one candidate.
        entry: where that noise comes in.
        off: the arguments that turn guidance off.
        denoiser_name: the component that runs first, `transformer` or `unet` in most pipelines.
        steps: of the schedule.
        shares: whether several candidates may share a forward.
        repeats: whether pictures then go in once for every candidate.
        layers: every attention layer of the denoiser in the order in which it runs them, found by a forward
            on shapes alone; None where the model cannot run like that (Mochi), and has to be asked for real.
        start: a digest of what the denoiser was given for the noise that the pipeline drew itself.
        own: digests of that noise's values, see `values_digest`.
        looks: why more than one run was needed, in a few words each.
        handed_on: how the denoiser hands its batch on (`seedbed.pipelines.shrinking.Recorder`, None where it
            does not run without data), by what it is given; filled when first asked for.
    """

    spec: NoiseSpec
    entry: Entry
    off: Mapping[str, float]
    denoiser_name: str
    steps: int
    shares: bool
    repeats: bool
    layers: tuple[LayerInfo, ...] | None
    start: str
    own: tuple[str, ...]
    looks: tuple[str, ...]
    handed_on: dict[Hashable, Any] = field(default_factory=dict, repr=False, compare=False)


@dataclass
class Look:
    """What a pipeline did until it was about to call its denoiser.

    Attributes:
        count: how many candidates it was called for.
        prepared: what `prepare_latents` returned, each time.
        drawn, added: the noises that it drew, and added to what it was given, meanwhile.
        denoiser_name: None where it ended without calling one.
        args, kwargs: of that call.
        steps: of the schedule.
        guided: whether the pipeline says that it would guide all the same.
    """

    count: int
    prepared: list[Any]
    drawn: list[Tensor]
    added: list[Tensor]
    denoiser_name: str | None = None
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    steps: int = 1
    guided: bool = False


def look(
    call: Call,
    encodings: Encodings,
    count: int,
    off: Mapping[str, float],
    *,
    repeats: bool = False,
    entry: Entry = "latents",
    noises: Tensor | None = None,
) -> Look:
    """Runs the pipeline, guidance off, until it is about to call its denoiser.

    It draws its own noise unless `noises` are given.

    Raises:
        BadInput: the pipeline fails.
    """

    def begin(name: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.denoiser_name, seen.args, seen.kwargs = name, args, kwargs
        # Of the pipeline's own loop, which may leave out the first of its schedule.
        timesteps = getattr(getattr(run.pipe, "scheduler", None), "timesteps", None)
        steps = getattr(run.pipe, "_num_timesteps", None) or (None if timesteps is None else len(timesteps))
        seen.steps = int(steps or call.arguments.get("num_inference_steps") or 1)
        seen.guided = bool(getattr(run.pipe, "do_classifier_free_guidance", False))
        raise Enough

    with (
        intercepted(call, count, encodings, off=off, entry=entry, repeats=repeats) as run,
        ExitStack() as hooks,
    ):
        vars(run.pipe).pop("_num_timesteps", None)  # of an earlier call
        shown = run.preparation
        seen = Look(count, shown.prepared, shown.drawn, shown.added)
        for name, module in run.denoisers.items():
            hook = module.register_forward_pre_hook(functools.partial(begin, name), with_kwargs=True)
            hooks.callback(hook.remove)
        try:
            run(noises, output_type="latent")
        except Enough:
            pass
        except (SeedbedError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            # Torch's own can fill a screen; the whole of it stays in the cause.
            message = textwrap.shorten(str(error), 300, placeholder=" ...") or type(error).__name__
            raise BadInput(f"{call.name} failed before its first evaluation: {message}") from error
        return seen


def discover(call: Call, encodings: Encodings, *, drawn: bool = False) -> Facts:
    """The facts of a call, remembered or found by looking; no evaluation is run.

    Args:
        drawn: the pipeline does not look at its `latents`, as a run has shown: replace what it draws.

    Raises:
        BadInput: the pipeline refuses its arguments.
        NotSupported: it does not prepare latents and then call its denoiser, or takes no other noise than
            its own.
    """
    known = _KNOWN.setdefault(next(iter(call.denoisers.values())), {})
    key = _structure(call)
    if key not in known or drawn:
        if len(known) >= _MOST_KNOWN:
            known.clear()
        known[key] = _find(call, encodings, drawn)
    return known[key]


def _find(call: Call, encodings: Encodings, drawn: bool) -> Facts:
    looks: list[str] = []
    off, pictures = call.guidance_off, _has_pictures(call)

    def again(why: str, count: int, **options: Any) -> Look | None:
        looks.append(why)
        try:
            return look(call, encodings, count, off, **options)
        except (BadInput, NotSupported):
            return None

    seen = None if pictures else again("it does not take two candidates", 2)
    if seen is not None:
        looks.clear()  # it does
    if seen is None or seen.denoiser_name is None:
        seen = look(call, encodings, 1, off)
    if seen.guided and off.get("guidance_scale") == 1:
        # Some pipelines count from 0 (Cosmos 1, Lumina 2).
        off = {**off, "guidance_scale": 0.0}
        fewer = again("it still guides at a guidance scale of 1", seen.count)
        if fewer is not None and not fewer.guided:
            seen = fewer
        else:
            off = call.guidance_off
    entry, noise = _entry_of(call, seen, drawn)
    assert seen.denoiser_name is not None
    denoiser = call.denoisers[seen.denoiser_name]
    channels = latent_channels([*call.denoisers.values(), getattr(call.pipe, "vae", None)])
    spec = spec_of(call.name, noise, channels)

    def rows(of: Look) -> int:
        return rows_of(denoiser, of.args, of.kwargs)

    def same(one: Look | None, two: Look | None) -> bool:
        known = one is not None and two is not None and rows(two) == 2
        return known and _twice([one.args, one.kwargs], [two.args, two.kwargs])  # type: ignore[union-attr]

    both, alone = (seen, None) if seen.count == 2 else (None, seen)
    if both is None and pictures:
        both = again("whether two candidates share pictures and a forward", 2)
    elif both is not None and (rows(both) != 2 or not _alike([both.args, both.kwargs])):
        alone = again("whether two candidates are given what one is", 1)
    guides = alone is not None and rows(alone) != 1  # for whoever evaluates to refuse
    shares, repeats = not guides and (alone is None or same(alone, both)), False
    if not (shares or guides) and both is not None:
        # Its generators may have drawn for other things before, for one candidate more than for another.
        noise = torch.randn(noise.shape, generator=torch.Generator().manual_seed(0)).to(noise)
        why = "whether they are where both get one noise"
        shares = same(*(again(why, n, entry=entry, noises=torch.cat([noise] * n)) for n in (1, 2)))
    if not (shares or guides) and pictures:
        both = again("whether each candidate wants pictures of its own", 2, repeats=True)
        shares = repeats = same(alone, both)
    layers = layers_of(denoiser, both, spec.device) if shares else None
    if layers is None:
        alone = alone or again("its denoiser does not run with two candidates", 1)
        layers = layers_of(denoiser, alone, spec.device)
        shares = shares and layers is None
    seen = alone or seen
    return Facts(
        spec=spec,
        entry=entry,
        off=off,
        denoiser_name=seen.denoiser_name or "",
        steps=seen.steps,
        shares=shares or guides,
        repeats=repeats,
        layers=layers,
        start=next(iter(digests(denoiser, seen.args, seen.kwargs)), ""),
        own=tuple(values_digest(each[:1]) for each in seen.drawn),
        looks=tuple(looks),
    )


def _entry_of(call: Call, seen: Look, drawn: bool) -> tuple[Entry, Tensor]:
    """Where the noise comes in, and the one of a single candidate, (1, ...)."""
    several = bool(seen.prepared) and isinstance(seen.prepared[0], tuple)
    noise = seen.prepared[0][0] if several else next(iter(seen.prepared), None)
    if not isinstance(noise, Tensor) or seen.denoiser_name is None:
        raise NotSupported(
            f"{call.name} does not prepare latents and then call its {' or '.join(call.denoisers)}"
        )
    takes_latents = "latents" in call.parameters
    if len(seen.added) > 1 or not (seen.added or seen.drawn or takes_latents):
        why = "adds noise more than once to what it is given" if seen.added else "takes no latents"
        raise NotSupported(f"{call.name} {why}, so its initial noise cannot be chosen")
    if not seen.added and not seen.drawn and _has_pictures(call):
        raise NotSupported(
            f"{call.name} adds no noise to what it is given, so its initial noise cannot be chosen: give the "
            "noise to the call that made it"
        )
    if seen.added:
        noise = seen.added[0][: len(seen.added[0]) // seen.count]
        # Some pipelines (Zeroscope) fold the frames of a candidate into the batch.
        return "added", noise if len(noise) == 1 else noise[None]
    noise = noise[:1]
    if seen.drawn and (drawn or not takes_latents or not _is_drawn(noise, seen.drawn)):
        noise = max(seen.drawn, key=lambda tensor: tensor[:1].numel())[:1]
        number = sum(len(other) for other in seen.drawn if other.shape[1:] == noise.shape[1:])
        if number > seen.count:
            raise NotSupported(
                f"{call.name} draws several noises of shape {tuple(noise.shape)}, and which is denoised "
                "cannot be told, so its initial noise cannot be chosen"
            )
        return "drawn", noise
    return "latents beside others" if several else "latents", noise


def _is_drawn(latents: Tensor, drawn: list[Tensor]) -> bool:
    """Whether prepared latents are nothing but a noise that was drawn, packed or scaled in whatever way.

    Then they have its values in another order, up to a factor, or some of them several times: FreeNoise
    repeats the frames of its first window.
    """
    values = latents.double().cpu().flatten().sort().values
    for noise in drawn:
        own = noise[:1].double().cpu().flatten().sort().values
        if bool(torch.isin(values, own).all()):
            return True
        if own.shape == values.shape and own.abs().max() > 0:
            near = max(1e-5, 2 * torch.finfo(latents.dtype).eps)
            if torch.allclose(values, own * (values @ own / (own @ own)), rtol=near, atol=near):
                return True
    return False


def _has_pictures(call: Call) -> bool:
    """Whether it is called with an image or a video; tensors that stand for a prompt are none."""
    return any(
        is_picture(value)
        for name, value in call.arguments.items()
        if "prompt" not in name and "embeds" not in name
    )


def _alike(given: Any) -> bool:
    """Whether everything with a row for each of two candidates holds the same for both."""
    pairs = (leaf for leaf in tree_leaves(given) if isinstance(leaf, Tensor) and leaf.shape[:1] == (2,))
    return all(_near(first, second) for first, second in pairs)


def _twice(one: Any, two: Any) -> bool:
    """Whether `two` holds for both candidates what `one` holds for one; what has no batch stays as it is."""
    if isinstance(one, Tensor) and isinstance(two, Tensor):
        if one.ndim and one.shape != two.shape:  # rows of one are the same, or one alone
            one = torch.cat([one, one])
        return one.shape == two.shape and _near(one, two)
    if isinstance(one, dict) and isinstance(two, dict):
        return one.keys() == two.keys() and all(_twice(one[name], two[name]) for name in one)
    if isinstance(one, (list, tuple)) and isinstance(two, (list, tuple)):
        return len(two) in (len(one), 2 * len(one)) and all(
            _twice(one[index % len(one)], item) for index, item in enumerate(two)
        )
    return type(one) is type(two)


def _near(one: Tensor, two: Tensor) -> bool:
    """Only what means something else is told from what is rounded otherwise."""
    if not (one.is_floating_point() or one.is_complex()):
        one, two = one.double(), two.double()
    return not one.numel() or bool(((one - two).abs() <= 0.02 * one.abs().max()).all())


def rows_of(module: nn.Module, args: tuple[Any, ...], kwargs: Arguments) -> int:
    """Batch rows of a denoiser's input.

    Raises NotSupported where there is no tensor among its arguments.
    """
    rows = batch_size(named_arguments(parameter_names(type(module)), args, kwargs))
    if rows is None:
        raise NotSupported(f"{type(module).__name__} is called without a tensor: its rows cannot be counted")
    return rows


def digests(module: nn.Module, args: tuple[Any, ...], kwargs: Arguments) -> list[str]:
    """A digest of every row that goes into a denoiser, to tell whether two noises give it the same."""
    given = named_arguments(parameter_names(type(module)), args, kwargs)
    rows = batch_size(given)
    inputs = [
        value
        for name, value in given.items()
        if not any(part in name for part in TEXT)
        and (isinstance(value, list) or (isinstance(value, Tensor) and value.ndim > 2))
        and len(value) == rows
    ]
    return [
        hashlib.sha256(
            b"".join(t.detach().float().cpu().contiguous().numpy().tobytes() for t in tree_leaves(list(row)))
        ).hexdigest()
        for row in zip(*inputs[:1], strict=True)
    ]


def values_digest(noise: Tensor) -> str:
    """A digest of a noise's values in ascending order: the same however they are packed."""
    values = noise.detach().float().cpu().flatten().sort().values
    return hashlib.sha256(values.numpy().tobytes()).hexdigest()


def layers_of(denoiser: nn.Module, seen: Look | None, device: torch.device) -> tuple[LayerInfo, ...] | None:
    """The attention layers of a forward, from tensors that have shapes alone.

    None for no look, where the model does not run like that, or where it takes its batch apart.
    """
    if seen is None:
        return None
    found: list[LayerInfo] = []

    def watch(call: AttentionCall) -> None:
        if call.query.shape[0] % call.candidates:
            raise SplitBatch(f"{call.layer} attends to fewer rows than there are candidates")
        found.append(LayerInfo(call.layer, call.kind, call.block))

    try:
        run_without_data(denoiser, seen.args, seen.kwargs, device, watch)
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


def _structure(call: Call) -> Hashable:
    """All that facts depend on: the pipeline's parts and the shapes of its arguments, not the prompt's words.

    Adapters and other processors make another structure, which is asked anew.
    """
    parts = tuple((name, type(part), _configuration(part)) for name, part in call.pipe.components.items())
    networks = tuple(
        (name, _settings(part), _settings(getattr(part, "processor", None)))
        for denoiser in call.denoisers.values()
        for name, part in denoiser.named_modules()
    )
    places = tuple((n.dtype, n.device) for n in call.denoisers.values() if isinstance(n, ModelMixin))
    arguments = tuple((name, _shape(name, value)) for name, value in sorted(call.arguments.items()))
    return type(call.pipe), parts, networks, places, call.prompt is None, arguments


def _configuration(part: Any) -> str:
    config = getattr(part, "config", None)
    if isinstance(config, Mapping):  # diffusers adds its version and class when one is written down
        config = {name: value for name, value in config.items() if not name.startswith("_")}
    return repr(config)


def _settings(part: Any) -> Hashable:
    """The class of a module or a processor, and the plain values that it was set to."""
    plain = ((k, v) for k, v in getattr(part, "__dict__", {}).items() if isinstance(v, int | float | str))
    return type(part), tuple(plain)


def _shape(name: str, value: Any) -> Hashable:
    if isinstance(value, Tensor):
        return value.shape, value.dtype, value.device
    if isinstance(value, (list, tuple)):
        return type(value), tuple(_shape(name, each) for each in value)
    if isinstance(value, str) and "prompt" in name:
        return str
    plain = isinstance(value, (int, float, str, bool, type(None)))
    return value if plain else (type(value), getattr(value, "size", None) or getattr(value, "shape", None))
