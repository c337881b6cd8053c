"""What a pipeline draws in a run: every number from a seed, and candidates in place of its initial noise.

And how it lays out that noise, for what must know which axis holds the frames.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from types import MethodType
from typing import Any, Literal

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack, _pop_mode, _push_mode
from torch.utils._pytree import tree_map_only

from seedbed.errors import NotSupported

Entry = Literal["latents", "latents beside others", "added", "drawn", "drawn later"]
"""Where a pipeline's initial noise comes in, as the pipeline showed when it drew one itself.

latents: as its argument `latents`. latents beside others: the same, but its `prepare_latents` then forgets
what it prepares together with them (Wan from an image, FLUX), which is asked of it once more. added: it adds
the noise to a given picture or video, and would take `latents` for the sum. drawn: it mixes other things into
the noise that it draws, and would take `latents` for the mixture, or not look at them (Helios). drawn later:
it does so after its `prepare_latents` (LTX with a prompt for each window). In the last three cases the
candidates' noises are put in place of the one that it draws.
"""

# What schedulers call the addition of noise to clean latents.
_ADDING = ("add_noise", "scale_noise")

# All that torch draws with; `test_seeding` compares with what torch itself says draws.
_LIKE: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.rand_like: torch.rand,
    torch.randint_like: torch.randint,
    torch.randn_like: torch.randn,
}
_IN_PLACE = {
    getattr(Tensor, f"{name}_")
    for name in (
        "bernoulli",
        "cauchy",
        "exponential",
        "geometric",
        "log_normal",
        "normal",
        "random",
        "uniform",
    )
}
_DRAWING = {
    *_LIKE,
    *_IN_PLACE,
    *(torch.rand, torch.randn, torch.randint, torch.randperm, torch.normal, torch.poisson),
    *(torch.bernoulli, torch.binomial, torch.multinomial, Tensor.bernoulli, Tensor.multinomial),
}


def replace(instance: Any, name: str, value: Any, undo: ExitStack) -> None:
    """Sets an attribute of an instance; undone unless offloading has, by hooking its models anew."""
    state = vars(instance)
    before = {name: state[name]} if name in state else {}
    state[name] = value

    def restore() -> None:
        if state.get(name) is value:
            del state[name]
            state.update(before)

    undo.callback(restore)


class Preparation(TorchFunctionMode):
    """Stands in for the `prepare_latents` of a copy that is used once, and sees all that it draws.

    What the pipeline draws without a generator comes from `generator`, the same for each candidate: some
    pipelines do not hand the caller's generator to their scheduler, and some autoencoders (LTX) add noise
    while they decode; both would draw from torch's global generator, which is the caller's.

    Args:
        twin: the copy.
        entry: where the candidates' noises go.
        generator: advanced by what is drawn.
        count: of candidates; what is drawn with so many rows has one for each.

    Attributes:
        prepared: what `prepare_latents` returned, each time.
        drawn, later: the noises that were drawn meanwhile and after it, while none are given.
        added: the noises that were added to given latents.
        generators: what the pipeline's call gets as its `generator`.
        draws: of all that was drawn the shape, the dtype, and whether it came from one of these.
        numbered: elements of the noises in whose place numbers are put while latents are prepared.
        refuse: called before each preparation; it may raise.
    """

    def __init__(self, twin: Any, entry: Entry, generator: torch.Generator, count: int) -> None:
        super().__init__()
        self.entry: Entry = entry
        self.noises: Tensor | None = None
        self.prepared: list[Any] = []
        self.drawn: list[Tensor] = []
        self.later: list[Tensor] = []
        self.added: list[Tensor] = []
        self.generators: list[torch.Generator] = []
        self.draws: list[tuple[tuple[int, ...], torch.dtype, bool]] = []
        self.numbered = 0
        self.refuse: Callable[[], None] = lambda: None
        self._generator, self._count = generator, count
        self._name = type(twin).__name__
        self._prepare = twin.prepare_latents
        self._scheduler = getattr(twin, "scheduler", None)
        self._preparing = self._correlated = False
        self._stepping: Any = None  # the scheduler that takes a step
        self._correlate: Iterator[Callable[[Tensor], Tensor]] | None = None
        self._left: list[Tensor] = []
        self._swapped: list[tuple[Tensor, Tensor]] = []
        functools.update_wrapper(self, self._prepare)

    def give(self, noises: Tensor) -> dict[str, Tensor]:
        """Takes the noises of the run; returns what the pipeline is called with for them."""
        self.noises = noises
        if self.entry.startswith("drawn"):
            self._left = [noise[None] for noise in noises]
        return {"latents": noises} if self.entry.startswith("latents") else {}

    def correlate_steps(self, made: Iterator[Callable[[Tensor], Tensor]], undo: ExitStack) -> None:
        """From now on, noise that is drawn for the candidates' steps is what `made` makes of it.

        One after the other for each candidate, and again from the first.
        """
        self._correlate = made
        step = getattr(self._scheduler, "step", None)
        if not isinstance(step, MethodType):
            return

        @functools.wraps(step.__func__)
        def watched(scheduler: Any, *args: Any, **kwargs: Any) -> Any:
            self._stepping = scheduler
            try:
                return step.__func__(scheduler, *args, **kwargs)
            finally:
                self._stepping = None

        # A method again, which a copy of the scheduler binds to itself.
        replace(self._scheduler, "step", MethodType(watched, step.__self__), undo)

    def unseen(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, run without this mode.

        For models, which draw nothing: they would run slower, and compile again where they are compiled.
        """

        @functools.wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            modes = _get_current_function_mode_stack()
            own = modes[modes.index(self) :]  # and those entered after it, as a tap's
            _exchange(own, own[1:])
            try:
                return function(*args, **kwargs)
            finally:
                _exchange(own[1:], own)

        return run

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.refuse()
        self._preparing = True
        with ExitStack() as undo:
            for name in _ADDING:
                if hasattr(self._scheduler, name):
                    add = getattr(self._scheduler, name)
                    replace(self._scheduler, name, functools.partial(self._add, add), undo)
            prepared = self._prepare(*args, **kwargs)
            others = self.noises is not None and self.entry == "latents beside others"
            if others and not isinstance(prepared, tuple):
                given = inspect.signature(self._prepare).bind(*args, **kwargs)
                given.arguments["latents"] = None
                prepared = (prepared, *self._prepare(*given.args, **given.kwargs)[1:])
        self._preparing = False
        if self._left and self.entry == "drawn":
            assert self.noises is not None
            raise NotSupported(
                f"{self._name} draws no noise of shape {tuple(self.noises.shape[1:])} for each of "
                f"{len(self.noises)} candidates"
            )
        if isinstance(prepared, tuple):  # a pipeline may return the noise, to add it again in its steps
            prepared = tuple(next((n for o, n in self._swapped if o is part), part) for part in prepared)
        self.prepared.append(prepared)
        if self.numbered and self.drawn:  # what runs before the denoiser, as a ControlNet, takes no float64
            usual = self.draws[-1][1]
            prepared = tree_map_only(
                Tensor, lambda t: t.to(usual) if t.dtype is torch.float64 else t, prepared
            )
        return prepared

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func not in _DRAWING:
            return func(*args, **kwargs)
        given = kwargs.get("generator")
        seeded = given is None
        noise = _seeded(self._generator, self._count, func, args, kwargs) if seeded else func(*args, **kwargs)
        # An autoencoder's sample has a generator of its own (AnimateDiffSparseControlNetPipeline).
        own = any(given is generator for generator in self.generators)
        self.draws.append((tuple(noise.shape), noise.dtype, own))
        normal = func is torch.randn or (func is torch.randn_like and self._stepping is not None)
        return self._met(noise) if normal else noise

    def _met(self, noise: Tensor) -> Tensor:
        """The candidates' own for a noise of their shape: at once for all, or one after the other where each
        has a generator."""
        if self._preparing and noise.numel() == self.numbered:
            # Other ones for each draw, in float64: half precision would not tell them apart.
            numbers = torch.arange(noise.numel(), dtype=torch.float64, device=noise.device).view(noise.shape)
            noise = numbers + (1 + (len(self.draws) - 1) * noise.numel())
        if self.noises is None:
            # A copy, as SkyReels-V2 writes its picture into the noise that it drew.
            (self.drawn if self._preparing else self.later).append(noise.clone())
        given = self.noises is not None and not self._preparing and not self._left
        if self._correlate is not None and given:
            if noise.shape[1:] == self.noises.shape[1:]:  # type: ignore[union-attr]
                self._correlated = True
                return torch.stack([next(self._correlate)(row) for row in noise])
            # Frames in the batch (Zeroscope), or without the given one (LTX). But what a copy of the
            # scheduler draws beside the latents' own is of the sound (LTX-2).
            beside = self._correlated and self._stepping is not self._scheduler
            if self._stepping is not None and not beside:
                raise NotSupported(
                    f"{self._name} draws noise in its steps in another shape than its latents, so the "
                    "prior's correlation cannot be kept: use a deterministic scheduler, or the gaussian prior"
                )
        if not self._left or self._preparing != (self.entry == "drawn"):
            return noise
        if noise.shape[1:] != self._left[0].shape[1:] or len(noise) > len(self._left):
            return noise
        taken, self._left = self._left[: len(noise)], self._left[len(noise) :]
        return torch.cat(taken).to(noise.device, noise.dtype)

    def _add(self, add: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        given = inspect.signature(add).bind(*args, **kwargs).arguments
        noise = given.get("noise")
        if isinstance(noise, Tensor):
            self.added.append(noise)
            if self.noises is not None and self.entry == "added":
                folded = noise.ndim < self.noises.ndim  # frames in the batch
                own = self.noises.flatten(0, 1) if folded else self.noises
                if noise.shape != own.shape:
                    raise NotSupported(
                        f"the pipeline adds noise of shape {tuple(noise.shape)} for noises of shape "
                        f"{tuple(own.shape)}"
                    )
                given["noise"] = own.to(noise.device, noise.dtype)
                self._swapped.append((noise, given["noise"]))
        return add(**given)


def _exchange(those: list[TorchFunctionMode], others: list[TorchFunctionMode]) -> None:
    """Takes the innermost modes away, and enters others."""
    for _ in those:
        _pop_mode()
    for mode in others:
        _push_mode(mode)


def _seeded(
    generator: torch.Generator, count: int, func: Callable[..., Any], args: Any, kwargs: dict[str, Any]
) -> Tensor:
    """What `func` draws from `generator`: where it has `count` rows one of them, given to each candidate."""
    tensor = next((value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)), None)
    kwargs = dict(kwargs)
    device = kwargs.pop("device", None) or (torch.get_default_device() if tensor is None else tensor.device)
    if tensor is not None and func in _LIKE:
        args = [value for value in args if value is not tensor]
        kwargs = {k: v for k, v in kwargs.items() if v is not tensor and k != "memory_format"}
        kwargs |= {"size": tensor.shape, "dtype": kwargs.get("dtype") or tensor.dtype}
        func, tensor = _LIKE[func], None
    elif func in (torch.rand, torch.randn) and args and isinstance(args[0], int):
        args = [args]
    if tensor is None:  # else it draws where that is
        kwargs["device"] = generator.device
    shared = False

    def one(value: Any) -> Any:
        """Of an argument what belongs to one candidate."""
        nonlocal shared
        shape = (
            value.shape if isinstance(value, Tensor) else value if isinstance(value, (list, tuple)) else ()
        )
        rows = tuple(shape[:1]) == (count,)
        shared = shared or rows
        if isinstance(value, Tensor):
            return (value[:1] if rows else value).to(generator.device, copy=True)
        return (1, *shape[1:]) if rows else value

    own = {name: one(value) for name, value in kwargs.items()}
    drawn: Tensor = func(*map(one, args), **{**own, "generator": generator})
    if func in _IN_PLACE:
        filled: Tensor = args[0].copy_(drawn)
        return filled
    return (drawn.expand(count, *drawn.shape[1:]).clone() if shared else drawn).to(device)


_BY_RANK = {
    # Packed latents mix frames and positions in one axis.
    3: "b tokens c",
    4: "b c h w",
}

# Of videos, the usual one first.
_VIDEO = ("b c f h w", "b f c h w", "b f h w c")

# Pipelines, by the beginning of their class name, whose five axes are not in the usual order.
_NAMED = {
    # Of the noise that is added, which its latents are turned from.
    "AnimateDiffVideoToVideo": "b f c h w",
    "CogVideoX": "b f c h w",
    "ConsisID": "b f c h w",
    "Kandinsky5": "b f h w c",
    "StableVideoDiffusion": "b f c h w",
    "VideoToVideoSD": "b f c h w",
}


@dataclass(frozen=True)
class NoiseSpec:
    """The initial noise that a pipeline would draw for one candidate.

    Attributes:
        shape: without the batch axis; what `latents=` wants is (1, *shape).
        dtype: of the pipeline's latents.
        device: on which the pipeline computes.
        frame_axis: the axis of `shape` that holds the frames; None for images, for packed latents, and where
            nothing tells the axes.
        layout: names of all axes, batch first, separated by blanks.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    frame_axis: int | None
    layout: str


def spec_of(
    pipeline_name: str, latents: Tensor, device: torch.device, channels: Collection[int] = ()
) -> NoiseSpec:
    """The spec of one candidate's latents (1, *shape), from a pipeline of that class.

    Args:
        device: on which the pipeline computes: a noise is drawn where the caller's generator is.
        channels: how many channels its latents may have, as far as its models tell.
    """
    layout = _layout(pipeline_name, tuple(latents.shape), channels)
    axes = layout.split()
    return NoiseSpec(
        shape=tuple(latents.shape[1:]),
        dtype=latents.dtype,
        device=device,
        frame_axis=axes.index("f") - 1 if "f" in axes else None,
        layout=layout,
    )


def latent_channels(models: Iterable[Any]) -> set[int]:
    """The channels that latents may have, from the configurations of a pipeline's models."""
    channels: set[int] = set()
    for config in (getattr(model, "config", {}) for model in models):
        own = [config.get(name) for name in ("latent_channels", "z_dim")]
        # What goes into an autoencoder and comes out are pixels.
        others = [config.get(name) for name in ("in_channels", "out_channels")] if own == [None, None] else []
        channels.update(value for value in own + others if isinstance(value, int))
    return channels


def _layout(pipeline_name: str, shape: tuple[int, ...], channels: Collection[int]) -> str:
    unknown = " ".join(["b", *(f"axis{i}" for i in range(1, len(shape)))])
    if len(shape) != 5:
        return _BY_RANK.get(len(shape), unknown)
    for start, order in _NAMED.items():
        if pipeline_name.startswith(start):
            return order
    fitting = [order for order in _VIDEO if shape[order.split().index("c")] in channels]
    if not channels or _VIDEO[0] in fitting:
        return _VIDEO[0]
    return fitting[0] if len(fitting) == 1 else unknown
