"""A pipeline, a prompt and the arguments of a call, ready to be asked about initial noises."""

from __future__ import annotations

import functools
import itertools
import textwrap
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from seedbed.attention.tap import AttentionCall, Handler, Tap
from seedbed.errors import BadInput, BadOutput, NotSupported, SeedbedError
from seedbed.pipelines.call import Call
from seedbed.pipelines.comparing import digests, values_digest
from seedbed.pipelines.discover import (
    Enough,
    Facts,
    Look,
    discover,
    look,
    remembered,
    require_unguided,
    rows_of,
)
from seedbed.pipelines.drawing import NoiseSpec
from seedbed.pipelines.interception import Encodings, Run, intercepted
from seedbed.pipelines.layers import CannotShrink, LayerInfo, Recorder, Shrinking, recorded, shapes_of
from seedbed.pipelines.ledger import Ledger
from seedbed.pipelines.seeding import Drawn, find_drawn

Made = TypeVar("Made")

Act = Callable[[Run, int, bool], None]
"""(run, candidates, guided): installs something in a run, and leaves its removal to `run.undo`."""

# What pipelines call the pixels of their output.
_PIXELS = ("frames", "images", "image", "video")


class _NotTaken(Exception):
    """The pipeline does not take its noise as `latents`: two give its denoiser the same, or it fails."""


@dataclass(frozen=True)
class Evaluation:
    """What a run of `Session.evaluate` brought.

    Attributes:
        prediction: the denoiser's output of the first evaluation, (candidates, ...) in the model's dtype;
            None where it was stopped within that evaluation.
        stopped: whether it was stopped at `depth`, or by the handler.
    """

    prediction: Tensor | None
    stopped: bool


class Session:
    """A pipeline that can be asked about noises; it runs on a shallow copy with its own models.

    After every method, also after an exception, the pipeline and its models are as before. With model
    offloading, models go back to the CPU.

    Args:
        pipe: any text-to-image or text-to-video pipeline of diffusers.
        prompt: one prompt; None where `prompt_embeds` (one row) are among the arguments.
        call: any arguments of `pipe.__call__`. Those of a `seedbed.json` beside the model come before them.
            A `generator` is copied for every run, so that it is never advanced.

    Attributes:
        pipe: the user's pipeline.
        prompt: the text.
        call: the arguments, merged.
        ledger: what was spent so far.
        correlate: by the `values_digest` of an initial noise, what is made of the noise (*spec.shape) that a
            stochastic scheduler then draws for its steps.
        acts: what is installed in every run, to act on the model's attention or on its outputs.

    Raises:
        BadInput: not a diffusers pipeline, no or a blank prompt, an argument the pipeline does not know or
            that is ours to set.
        NotSupported: a pipeline that takes no latents, or prepares none.
    """

    def __init__(self, pipe: Any, prompt: str | None = None, **call: Any) -> None:
        self.asked = Call.of(pipe, prompt, call)
        self.pipe, self.prompt, self.call = pipe, prompt, self.asked.arguments
        self.ledger = Ledger()
        self.correlate: dict[str, Callable[[Tensor], Tensor]] = {}
        self.acts: list[Act] = []
        self._encodings = Encodings()
        # By the digest of what the denoiser was given, that of the noise that it was given it for.
        self._started: dict[str, Collection[str]] = {}

    @functools.cached_property
    def facts(self) -> Facts:
        """What there is to know before the first evaluation."""
        return discover(self.asked, self._encodings)

    @property
    def spec(self) -> NoiseSpec:
        """The noise this pipeline would draw for one candidate."""
        return self.facts.spec

    @property
    def denoiser(self) -> nn.Module:
        """The module that runs first."""
        return self.asked.denoisers[self.facts.denoiser_name]

    @property
    def guidance(self) -> str:
        """What becomes of guidance while scoring, in a few words."""
        ways = [f"{name}={off:g}" for name, off in self.facts.off.items()]
        ways += [f"{name}.disable()" for name in self.asked.guiders]
        off = "off by " + ", ".join(ways) if ways else ""
        embedded = self.asked.embedded_guidance and "guidance_scale" not in self.facts.off
        kept = "embedded, kept" if embedded else ""
        return "; ".join(filter(None, [kept, off])) or "none"

    @functools.cached_property
    def layers(self) -> tuple[LayerInfo, ...]:
        """Every attention layer of the denoiser, in the order in which it runs them.

        Where the model cannot run on shapes alone, they are asked for by a real forward, which the ledger
        counts under `layers`.
        """
        if self.facts.layers:
            return self.facts.layers
        recorder = Recorder()
        self.evaluate(self.probe(1), recorder.attention, what="layers")
        return tuple(recorder.layers)

    def probe(self, seed: int) -> Tensor:
        """A noise to look at the model with, (1, *spec.shape) float32 on the CPU."""
        draw = torch.Generator().manual_seed(seed)
        return torch.randn(1, *self.spec.shape, generator=draw, device="cpu", dtype=torch.float32)

    @functools.cached_property
    def alone(self) -> Look:
        """What the pipeline gives its denoiser for one candidate of this prompt, guidance off."""
        return look(self.asked, self._encodings, 1, self.facts.off)

    @functools.cached_property
    def drawn(self) -> Drawn:
        """How the pipeline draws its noise and lays it out; no evaluation is run.

        Raises NotSupported where its latents are not one drawn noise, packed.
        """
        self.arrive(torch.zeros(self.spec.shape))  # else where the noise comes in is not certain
        facts = self.facts
        drawn: Drawn = remembered(
            self.asked, ("drawn", facts.entry), lambda: find_drawn(self.asked, self._encodings, facts)
        )
        return drawn

    def shrinking(self, candidates: int) -> Shrinking:
        """For a forward of so many candidates, from which the handler may drop some on the way.

        Raises CannotShrink where the model cannot show on shapes alone how it hands on its batch.
        """
        args, kwargs = self.alone.args, self.alone.kwargs
        one: Recorder | None = remembered(
            self.asked,
            shapes_of((args, kwargs)),
            lambda: recorded(self.denoiser, args, kwargs, self.spec.device),
        )
        if one is None:
            raise CannotShrink(f"{type(self.denoiser).__name__} does not run without data")
        return Shrinking(one, candidates)

    def evaluate(
        self,
        noises: Tensor,
        handler: Handler | None = None,
        *,
        depth: int | None = None,
        steps: int = 1,
        what: str = "scoring",
        shrinking: Shrinking | None = None,
    ) -> Evaluation:
        """The first `steps` denoiser evaluations of each candidate, guidance off, seen by `handler`.

        Args:
            noises: (candidates, *spec.shape).
            handler: receives every `AttentionCall`, and may answer it; see `seedbed.attention.tap.Tap`.
            depth: attention layers of the last evaluation after which to stop, from 1; None for all.
            steps: evaluations, from 1.
            what: the ledger's entry. Each candidate counts the share of the layers that it went through.
            shrinking: what the handler drops candidates with; of one step, to be stopped before its end.

        Raises:
            CannotShrink: the forward cannot go on without the candidates that were dropped.
            BadInput: noises of another shape, depth beyond the last layer, more steps than the schedule has.
            BadOutput: the denoiser's output, or what the last layer attends with, is not finite.
            NotSupported: no softmax attention was seen, guidance cannot be left out, or two noises give the
                denoiser the same.
        """
        noises = self._checked(noises)
        if len(noises) > 1 and not self.facts.shares:
            raise NotSupported(f"{self.asked.name} takes one candidate in a forward: use batch_size=1")
        if steps < 1:
            raise BadInput(f"steps must be 1 or more, not {steps}")
        if depth is not None and not 1 <= depth <= len(self.layers):
            raise BadInput(
                f"depth must be between 1 and {len(self.layers)}, the denoiser's layers, not {depth}"
            )
        return self.arriving(lambda: self._forward(noises, handler, depth, steps, what, shrinking))

    def _forward(
        self,
        noises: Tensor,
        handler: Handler | None,
        depth: int | None,
        steps: int,
        what: str,
        shrinking: Shrinking | None,
    ) -> Evaluation:
        name = self.facts.denoiser_name
        predictions: list[Tensor] = []
        seen = rows_run = 0  # attention calls of the first evaluation; candidates, over all calls

        def watch(call: AttentionCall) -> Tensor | None:
            nonlocal seen, rows_run
            if shrinking is not None:
                shrinking.attention(call)
            rows_run += call.candidates
            seen += call.step == 0
            answer = handler(call) if handler is not None else None
            if depth is not None and call.step == steps - 1 and call.index + 1 == depth:
                require_finite(call.query, f"the queries of {call.layer}")
                call.stop()
            return answer

        def begin(module: nn.Module, args: Any, kwargs: Any) -> None:
            rows = rows_of(module, args, kwargs)
            if module is not run.denoisers[name]:
                raise NotSupported(
                    f"another denoiser follows the {name} after {tap.steps} evaluations: evaluate at most "
                    f"{tap.steps} steps"
                )
            require_unguided(self.asked.name, rows, len(noises))

        def end(module: nn.Module, args: Any, output: Any) -> None:
            if tap.calls == 0:
                raise NotSupported(
                    f"no softmax attention was seen in the {name}: it is linear, or goes round torch's "
                    "scaled_dot_product_attention (xformers, attention slicing); use the default attention "
                    "processors"
                )
            if tap.steps == 1:
                first = output if isinstance(output, Tensor) else output[0]
                predictions.append(first if isinstance(first, Tensor) else torch.stack(first))
                require_finite(predictions[0], f"the output of the {name}")
            if tap.steps == steps:
                raise Enough

        with self.running(noises, guided=False) as run:
            tap = Tap(run.denoisers[name], watch, shrinking.inputs if shrinking is not None else None)
            run.before_evaluations(begin)
            try:
                with tap:
                    run.undo.callback(run.denoisers[name].register_forward_hook(end).remove)
                    run(noises, output_type="latent")
            except Exception as error:
                if not tap.failed(error):
                    raise
                name = type(self.denoiser).__name__
                if shrinking is not None and shrinking.began:
                    # What runs between the blocks may still hold the whole batch.
                    raise CannotShrink(f"{name} mixes its blocks' batch with another") from error
                raise NotSupported(
                    f"{name} cannot be evaluated without guidance (pass batch_size=1 if it can alone): "
                    + textwrap.shorten(str(error), 300, placeholder=" ...")
                ) from error
            finally:
                layers = len(vars(self).get("layers") or self.facts.layers or ()) or seen
                spent = rows_run / layers if layers else len(noises) * tap.steps
                if spent:
                    self.ledger.add(what, spent)
        if not tap.stopped and tap.steps < steps:
            raise BadInput(f"steps={steps}, but the schedule has only {tap.steps}: raise num_inference_steps")
        return Evaluation(predictions[0] if predictions else None, tap.stopped)

    def generate(
        self, noise: Tensor, what: str = "generation", progress: Callable[[int, int], None] | None = None
    ) -> np.ndarray:
        """The video or image that the caller's own call, guidance included, makes from `noise` (spec.shape).

        Args:
            what: the ledger's entry; guided forwards count each batch row.
            progress: called with (steps done, all steps).

        Returns:
            (frames, height, width, 3) uint8, one frame for images.

        Raises:
            BadInput: noise of another shape.
            BadOutput: the frames are not finite.
            NotSupported: two noises give the denoiser the same.
        """
        noises = self._checked(noise[None])
        steps = self.facts.steps

        def count(module: nn.Module, args: Any, kwargs: Any) -> None:
            self.ledger.add(what, rows_of(module, args, kwargs))

        def run_once() -> np.ndarray:
            done = itertools.count(1)

            def step() -> None:
                if progress is not None:
                    progress(min(next(done), steps), steps)

            with self.running(noises, guided=True, progress=step) as run:
                run.before_evaluations(count)
                return decoded(run(noises, output_type="np"), self.asked.name)[0]

        return self.arriving(run_once)

    def arrive(self, noise: Tensor) -> None:
        """Looks whether a noise (spec.shape) reaches the denoiser, which is not evaluated.

        Raises:
            BadInput: noise of another shape.
            NotSupported: the denoiser is given what the pipeline's own noise gives it.
        """
        noises = self._checked(noise[None])

        def stop(*_: Any) -> None:
            raise Enough

        def attempt() -> None:
            with self.running(noises, guided=False) as run:
                run.before_evaluations(stop)
                run(noises, output_type="latent")

        self.arriving(attempt)

    @contextmanager
    def running(
        self,
        noises: Tensor,
        *,
        guided: bool,
        eager: bool = False,
        progress: Callable[[], None] | None = None,
    ) -> Iterator[Run]:
        """A run with these noises, (candidates, *spec.shape), whose arrival at the denoiser is watched.

        Guided: the caller's own call. Otherwise guidance is off. The body may end it by raising `Enough`.
        """
        facts = self.facts
        first = True

        def check(module: nn.Module, args: Any, kwargs: Any) -> None:
            nonlocal first
            if not first:
                return
            first = False
            for noise, start in zip(noises, digests(module, args, kwargs), strict=False):
                values = values_digest(noise)
                if values not in self._started.setdefault(start, {values}):
                    raise _NotTaken

        self._started.setdefault(facts.start, facts.own)
        correlate = None
        if self.correlate:
            made = [self.correlate.get(values_digest(noise), lambda drawn: drawn) for noise in noises]
            correlate = itertools.cycle(made)
        with intercepted(
            self.asked,
            len(noises),
            self._encodings,
            off=None if guided else facts.off,
            entry=facts.entry,
            repeats=facts.repeats,
            eager=eager or bool(self.acts),
            progress=progress,
            correlate=correlate,
        ) as run:
            run.before_evaluations(check)
            for act in self.acts:
                act(run, len(noises), guided)
            try:
                yield run
            except Enough:
                pass
            except (SeedbedError, torch.OutOfMemoryError):
                raise
            except Exception as error:
                if first and facts.entry.startswith("latents"):  # EasyAnimate's inpainting fails with latents
                    raise _NotTaken from error
                raise

    def arriving(self, attempt: Callable[[], Made]) -> Made:
        """What `attempt` returns; again where a first one shows that the pipeline takes no `latents`.

        Raises NotSupported where two noises give the denoiser the same (an LTX pipeline that draws its noise
        after `prepare_latents`): a choice among them would be none.
        """
        before = self.facts
        try:
            return attempt()
        except _NotTaken as error:
            cause = error.__cause__
        if before.entry.startswith("latents"):
            facts = discover(self.asked, self._encodings, drawn=True)
            if facts.entry.startswith("drawn") and facts.spec.shape == before.spec.shape:
                self.facts, self._started = facts, {}
                return self.arriving(attempt)
        raise cause or NotSupported(
            f"{self.asked.name} gives its {before.denoiser_name} the same whatever the noise, so its initial "
            "noise cannot be chosen"
        )

    def _checked(self, noises: Tensor) -> Tensor:
        """The noises as this pipeline's latents."""
        spec = self.spec
        if tuple(noises.shape[1:]) != spec.shape or not len(noises):
            raise BadInput(
                f"the noises have shape {tuple(noises.shape)}, but {self.asked.name} wants latents of shape "
                f"(candidates, {', '.join(map(str, spec.shape))})"
            )
        # A copy: some pipelines denoise in place.
        return noises.to(spec.device, spec.dtype, copy=True)


def decoded(output: Any, pipeline_name: str) -> list[np.ndarray]:
    """The videos of a pipeline's "np" output: (frames, height, width, 3) uint8 each, one frame for images.

    Raises:
        BadOutput: values that are not finite.
        NotSupported: it returns neither frames nor images.
    """
    found = next((getattr(output, name) for name in _PIXELS if hasattr(output, name)), None)
    if found is None:
        raise NotSupported(f"{pipeline_name} returns a {type(output).__name__} without frames or images")
    videos = np.asarray(found, dtype=np.float32)
    if found is getattr(output, "video", None):  # of a pipeline that makes one at a time
        videos = videos[None]
    if not np.isfinite(videos).all():
        raise BadOutput(f"{pipeline_name} decoded values that are not finite: try float32 or bfloat16")
    pixels = (videos.clip(0, 1) * 255).round().astype(np.uint8)
    return list(pixels if pixels.ndim == 5 else pixels[:, None])


def require_finite(values: Tensor, what: str) -> None:
    """Raises BadOutput where values that a model has computed are not finite."""
    if not torch.isfinite(values).all():
        raise BadOutput(f"{what} is not finite: try float32 or bfloat16, and check the weights")
