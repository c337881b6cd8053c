"""What there is to know of a pipeline before its first evaluation, found by running it until then.

One run of its `__call__`, for two candidates whose noise it draws itself, is enough for most pipelines. What
makes another necessary is said in `Facts.looks`. Facts are remembered for as long as the denoiser lives:
another call in the same shapes, with whatever prompt, asks nothing again.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Hashable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from seedbed.attention.kinds import Arguments, batch_size, named_arguments
from seedbed.errors import BadInput, NotSupported, SeedbedError, shortened
from seedbed.pipelines.call import Call, structure
from seedbed.pipelines.comparing import alike, digests, is_drawn, times, values_digest
from seedbed.pipelines.drawing import Entry, NoiseSpec, latent_channels, spec_of
from seedbed.pipelines.interception import Encodings, intercepted, is_picture
from seedbed.pipelines.layers import LayerInfo, recorded

# By denoiser, so that they go with it. A pipeline is called in few shapes.
_KNOWN: WeakKeyDictionary[nn.Module, dict[Hashable, Any]] = WeakKeyDictionary()
_MOST_KNOWN = 16


class Enough(Exception):
    """Ends a run of the pipeline once it has shown what was asked."""


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
        repeats: the arguments, with pictures, that then go in once for every candidate.
        layers: every attention layer of the denoiser in the order in which it runs them, found by a forward
            on shapes alone; None where the model cannot run like that (Mochi), and has to be asked for real.
        start: a digest of what the denoiser was given for the noise that the pipeline drew itself.
        own: digests of that noise's values, see `values_digest`.
        looks: why more than one run was needed, in a few words each.
    """

    spec: NoiseSpec
    entry: Entry
    off: Mapping[str, float]
    denoiser_name: str
    steps: int
    shares: bool
    repeats: tuple[str, ...]
    layers: tuple[LayerInfo, ...] | None
    start: str
    own: tuple[str, ...]
    looks: tuple[str, ...]


@dataclass
class Look:
    """What a pipeline did until it was about to call its denoiser.

    Attributes:
        count: how many candidates it was called for.
        noise: the first tensor of what `prepare_latents` returned.
        several: whether it returned others beside it.
        drawn, added: the noises that it drew, and added to what it was given, meanwhile.
        later: the noises that it drew afterwards.
        draws: of all that it drew the shape, the dtype, and whether from the caller's generator.
        denoiser: the module that it was about to call, of the name `denoiser_name`.
        args, kwargs: of that call.
        rows: batch rows of its input.
        steps: of the schedule.
        scheduler: the run's own copy, before its first step; None for a pipeline without.
        guided: whether the pipeline says that it would guide all the same.
    """

    count: int
    noise: Tensor
    several: bool
    drawn: list[Tensor]
    added: list[Tensor]
    later: list[Tensor]
    draws: list[tuple[tuple[int, ...], torch.dtype, bool]]
    denoiser: nn.Module
    denoiser_name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    rows: int
    steps: int
    scheduler: Any
    guided: bool


def look(
    call: Call,
    encodings: Encodings,
    count: int,
    off: Mapping[str, float],
    *,
    repeats: tuple[str, ...] = (),
    entry: Entry = "latents",
    noises: Tensor | None = None,
    numbered: int = 0,
) -> Look:
    """Runs the pipeline, guidance off, until it is about to call its denoiser.

    It draws its own noise unless `noises` are given; see `Preparation` for `numbered`.

    Raises:
        BadInput: the pipeline fails.
        NotSupported: it does not prepare latents and then call its denoiser.
    """
    found: list[Look] = []

    def begin(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        shown, pipe = run.preparation, run.pipe
        prepared: Any = next(iter(shown.prepared), None)
        several = isinstance(prepared, tuple)
        noise = prepared[0] if several else prepared
        # Of the pipeline's own loop, which may leave out the first of its schedule.
        scheduler: Any = getattr(pipe, "scheduler", None)
        timesteps = getattr(scheduler, "timesteps", None)
        steps = getattr(pipe, "_num_timesteps", None) or (None if timesteps is None else len(timesteps))
        if isinstance(noise, Tensor):
            found.append(
                Look(
                    count=count,
                    noise=noise,
                    several=several,
                    drawn=shown.drawn,
                    added=shown.added,
                    later=shown.later,
                    draws=shown.draws,
                    denoiser=module,
                    denoiser_name=next(name for name, each in run.denoisers.items() if each is module),
                    args=args,
                    kwargs=kwargs,
                    rows=rows_of(module, args, kwargs),
                    steps=int(steps or call.arguments.get("num_inference_steps") or 1),
                    scheduler=scheduler,
                    guided=bool(getattr(pipe, "do_classifier_free_guidance", False)),
                )
            )
        raise Enough

    with intercepted(call, count, encodings, off=off, entry=entry, repeats=repeats) as run:
        vars(run.pipe).pop("_num_timesteps", None)  # of an earlier call
        run.before_evaluations(begin)
        run.preparation.numbered = numbered
        try:
            run(noises, output_type="latent")
        except Enough:
            pass
        except (SeedbedError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            raise BadInput(f"{call.name} failed before its first evaluation: {shortened(error)}") from error
    if not found:
        raise NotSupported(
            f"{call.name} does not prepare latents and then call its {' or '.join(call.denoisers)}"
        )
    return found[0]


def remembered(call: Call, key: Hashable, find: Callable[[], Any], *, anew: bool = False) -> Any:
    """What `find` returns, kept for as long as the call's denoiser lives, for calls of the same structure."""
    known = _KNOWN.setdefault(next(iter(call.denoisers.values())), {})
    key = structure(call), key
    if key not in known or anew:
        if len(known) >= _MOST_KNOWN:
            known.clear()
        known[key] = find()
    return known[key]


def discover(call: Call, encodings: Encodings, *, drawn: bool = False) -> Facts:
    """The facts of a call, remembered or found by looking; no evaluation is run.

    Args:
        drawn: the pipeline does not look at its `latents`, as a run has shown: replace what it draws.

    Raises:
        BadInput: the pipeline refuses its arguments.
        NotSupported: it does not prepare latents and then call its denoiser, or takes no other noise than
            its own.
    """
    facts: Facts = remembered(call, "facts", lambda: _find(call, encodings, drawn), anew=drawn)
    return facts


def _find(call: Call, encodings: Encodings, drawn: bool) -> Facts:
    search = _Search(call, encodings)
    seen = search.first()
    entry, noise = _entry_of(call, seen, drawn)
    channels = latent_channels([*call.denoisers.values(), getattr(call.pipe, "vae", None)])
    spec = spec_of(call.name, noise, call.device, channels)
    shared, repeats = search.sharing(seen, entry, noise)
    guides = search.alone is not None and search.alone.rows != 1  # for whoever evaluates to refuse
    shown = recorded(seen.denoiser, shared.args, shared.kwargs, spec.device) if shared is not None else None
    if shown is None:
        alone = search.alone = search.alone or search.ask("its denoiser does not run with two candidates", 1)
        shown = recorded(seen.denoiser, alone.args, alone.kwargs, spec.device) if alone is not None else None
        shared = shared if shown is None else None
    seen = search.alone or seen
    return Facts(
        spec=spec,
        entry=entry,
        off=search.off,
        denoiser_name=seen.denoiser_name,
        steps=seen.steps,
        shares=guides or shared is not None,
        repeats=repeats,
        layers=tuple(shown.layers) if shown is not None else None,
        start=next(iter(digests(seen.denoiser, seen.args, seen.kwargs)), ""),
        own=tuple(values_digest(each[:1]) for each in seen.drawn + seen.later),
        looks=tuple(search.looks),
    )


class _Search:
    """Looks at a pipeline until it has shown how it goes without guidance, and takes several candidates.

    Attributes:
        looks: why each look but the first was needed.
        off: the arguments that turn guidance off.
        several: 2; more where the caller's own list of 2 would pass for something for each candidate
            (two frames for AnimateDiff's ControlNet).
        alone: what was seen of one candidate, where that was needed.
    """

    def __init__(self, call: Call, encodings: Encodings) -> None:
        self.call, self.encodings = call, encodings
        self.looks: list[str] = []
        self.off: Mapping[str, float] = call.guidance_off
        self.alone: Look | None = None
        lengths = {len(value) for value in call.arguments.values() if hasattr(value, "__len__")}
        self.several = next(count for count in itertools.count(2) if count not in lengths)

    def ask(self, why: str, count: int, **options: Any) -> Look | None:
        """Another look; None where the pipeline fails, or calls no denoiser."""
        self.looks.append(why)
        with suppress(BadInput, NotSupported):
            return look(self.call, self.encodings, count, self.off, **options)
        return None

    def first(self) -> Look:
        """The first look, at several candidates where it takes them: without guidance if that can be.

        Raises:
            BadInput: it fails with one candidate too.
        """
        seen = None
        if not _pictures(self.call):
            seen = self.ask("it does not take two candidates", self.several)
        if seen is None:
            seen = look(self.call, self.encodings, 1, self.off)
        else:
            self.looks.clear()  # it does
        before, doubled = self.off, seen.rows == 2 * seen.count
        if seen.guided and before.get("guidance_scale") == 1:
            # Some pipelines count from 0 (Cosmos 1, Lumina 2).
            self.off = {**before, "guidance_scale": 0.0}
        elif doubled and self.call.embedded_guidance and "guidance_scale" not in before:
            # StableDiffusionLatentUpscalePipeline embeds something else than guidance.
            self.off = {**before, "guidance_scale": 1.0}
        else:
            return seen
        fewer = self.ask("it still guides at a guidance scale of 1", seen.count)
        if fewer is not None and not fewer.guided and not (doubled and fewer.rows == seen.rows):
            return fewer
        self.off = before
        return seen

    def sharing(self, seen: Look, entry: Entry, noise: Tensor) -> tuple[Look | None, tuple[str, ...]]:
        """What is seen of several candidates that share a forward, and the arguments that it repeats for it.

        None where they cannot share one, or each would not be given there what it is given alone.
        """
        pictures = _pictures(self.call)
        if seen.count == 1:
            self.alone = seen
        elif seen.rows == seen.count and alike([seen.args, seen.kwargs], seen.count):
            return seen, ()
        else:
            self.alone = self.ask("whether two candidates are given what one is", 1)
        if self.alone is None or self.alone.rows != 1:
            return None, ()
        # Its generators may draw for other things before, for one candidate more than for another.
        noise = torch.randn(noise.shape, generator=torch.Generator().manual_seed(0)).to(noise)
        same = "whether they are where both get one noise"
        one = functools.cache(lambda: self.ask(same, 1, entry=entry, noises=noise))
        # Which of the pictures may be wanted once for each candidate: none, all, then all but some.
        sizes = (0, len(pictures), *(range(1, len(pictures)) if len(pictures) < 4 else ()))
        tried = dict.fromkeys(names for size in sizes for names in itertools.combinations(pictures, size))
        for repeats in tried:
            together: Look | None = seen
            if pictures:
                which = f"each candidate wants {', '.join(repeats)} of its own"
                why = "two candidates share pictures and a forward" if not repeats else which
                together = self.ask(f"whether {why}", self.several, repeats=repeats)
            if together is None or together.rows != together.count:
                continue
            if _times(self.alone, together):
                return together, repeats
            first = one()
            noises = torch.cat([noise] * self.several)
            two = self.ask(same, self.several, entry=entry, noises=noises, repeats=repeats)
            if first is not None and two is not None and two.rows == two.count and _times(first, two):
                return together, repeats
        return None, ()


def _times(one: Look, several: Look) -> bool:
    """Whether a denoiser was given for each of several candidates what it was given for one."""
    return times([one.args, one.kwargs], [several.args, several.kwargs], several.count)


def _entry_of(call: Call, seen: Look, drawn: bool) -> tuple[Entry, Tensor]:
    """Where the noise comes in, and the one of a single candidate, (1, ...)."""
    takes_latents = "latents" in call.parameters
    if len(seen.added) > 1 or not (seen.added or seen.drawn or takes_latents):
        why = "adds noise more than once to what it is given" if seen.added else "takes no latents"
        raise NotSupported(f"{call.name} {why}, so its initial noise cannot be chosen")
    if not seen.added and not seen.drawn and _pictures(call):
        raise NotSupported(
            f"{call.name} adds no noise to what it is given, so its initial noise cannot be chosen: give the "
            "noise to the call that made it"
        )
    if seen.added:
        noise = seen.added[0][: len(seen.added[0]) // seen.count]
        # Some pipelines (Zeroscope) fold the frames of a candidate into the batch.
        return "added", noise if len(noise) == 1 else noise[None]
    noise = seen.noise[:1]
    found = seen.drawn or (seen.later if drawn else [])
    if found and (drawn or not takes_latents or not is_drawn(noise, found)):
        noise = max(found, key=lambda tensor: tensor[:1].numel())[:1]
        number = sum(len(other) for other in found if other.shape[1:] == noise.shape[1:])
        if number > seen.count:
            raise NotSupported(
                f"{call.name} draws several noises of shape {tuple(noise.shape)}, and which is denoised "
                "cannot be told, so its initial noise cannot be chosen"
            )
        return "drawn" if seen.drawn else "drawn later", noise
    return "latents beside others" if seen.several else "latents", noise


def _pictures(call: Call) -> list[str]:
    """The arguments that hold an image or a video; tensors that stand for a prompt are none."""
    return [
        name
        for name, value in call.arguments.items()
        if "prompt" not in name and "embeds" not in name and is_picture(value)
    ]


def rows_of(module: nn.Module, args: tuple[Any, ...], kwargs: Arguments) -> int:
    """Batch rows of a denoiser's input.

    Raises NotSupported where there is no tensor among its arguments.
    """
    rows = batch_size(named_arguments(module, args, kwargs))
    if rows is None:
        raise NotSupported(f"{type(module).__name__} is called without a tensor: its rows cannot be counted")
    return rows


def require_unguided(pipeline_name: str, rows: int, candidates: int) -> None:
    """NotSupported where a denoiser is called with more rows than those of its candidates, guidance off."""
    if rows != candidates:
        many = "one candidate" if candidates == 1 else f"{candidates} candidates"
        raise NotSupported(
            f"{pipeline_name} calls its denoiser with {rows} rows for {many}"
            ": its guidance cannot be turned off by its arguments"
        )
