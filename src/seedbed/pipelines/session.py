"""A pipeline, a prompt and the arguments of a call, ready to be asked about initial noises."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from seedbed.attention.tap import Handler
from seedbed.errors import BadInput, NotSupported, SeedbedError
from seedbed.noise import Gaussian, NoiseRecipe
from seedbed.pipelines.call import Call
from seedbed.pipelines.comparing import digests, values_digest
from seedbed.pipelines.discover import Enough, Facts, Look, discover, look, remembered, rows_of
from seedbed.pipelines.drawing import NoiseSpec
from seedbed.pipelines.evaluation import Evaluation, Forward, decoded
from seedbed.pipelines.interception import Encodings, Run, intercepted
from seedbed.pipelines.layers import CannotShrink, LayerInfo, Recorder, Shrinking, recorded, shapes_of
from seedbed.pipelines.ledger import Ledger
from seedbed.pipelines.seeding import Drawn, find_drawn

Made = TypeVar("Made")

Act = Callable[[Run, int, bool], None]
"""(run, candidates, guided): installs something in a run, and leaves its removal to `run.undo`."""


class _NotTaken(Exception):
    """The pipeline does not take its noise as `latents`: two give its denoiser the same, or it fails."""


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
        extra: windows, as shares of the steps, in which these double every evaluation with the prompt.

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
        self.extra: list[tuple[float, float]] = []
        self._encodings = Encodings()
        # By the digest of what the denoiser was given, that of the noise that it was given it for.
        self._started: dict[str, Collection[str]] = {}

    def another(self, prompt: str | None, call: Mapping[str, Any]) -> Session:
        """A session of another call of the pipeline: with this one's ledger, what it has encoded, the noises
        whose steps are correlated, and what acts on the model so far.
        """
        session = Session(self.pipe, prompt, **call)
        session.ledger, session._encodings = self.ledger, self._encodings
        session.correlate, session.acts, session.extra = self.correlate, [*self.acts], [*self.extra]
        return session

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

    def recipe(self, seed: int, candidate: int = 0) -> NoiseRecipe:
        """The recipe of a noise for this call, under the prior that the model was trained under."""
        spec, prior = self.spec, self.asked.prior or Gaussian.name
        return NoiseRecipe(seed, candidate, tuple(spec.shape), prior, spec.frame_axis)

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
        noises = self.as_latents(noises)
        if len(noises) > 1 and not self.facts.shares:
            raise NotSupported(f"{self.asked.name} takes one candidate in a forward: use batch_size=1")
        if steps < 1:
            raise BadInput(f"steps must be 1 or more, not {steps}")
        if depth is not None and not 1 <= depth <= len(self.layers):
            raise BadInput(
                f"depth must be between 1 and {len(self.layers)}, the denoiser's layers, not {depth}"
            )

        def attempt() -> Evaluation:
            forward = Forward(self.asked.name, self.facts.denoiser_name, len(noises), handler, depth, steps)
            try:
                with self.running(noises, guided=False) as run:
                    forward.through(run, noises, shrinking)
            finally:
                layers = len(vars(self).get("layers") or self.facts.layers or ()) or forward.seen
                spent = forward.rows / layers if layers else len(noises) * forward.evaluations
                if spent:
                    self.ledger.add(what, spent)
            return forward.result()

        return self.arriving(attempt)

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
        noises = self.as_latents(noise[None])
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
        noises = self.as_latents(noise[None])

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

    def as_latents(self, noises: Tensor) -> Tensor:
        """Noises, (candidates, *spec.shape), as this pipeline's latents: copies, of its dtype on its device.

        Raises BadInput for another shape.
        """
        spec = self.spec
        if tuple(noises.shape[1:]) != spec.shape or not len(noises):
            raise BadInput(
                f"the noises have shape {tuple(noises.shape)}, but {self.asked.name} wants latents of shape "
                f"(candidates, {', '.join(map(str, spec.shape))})"
            )
        # A copy: some pipelines denoise in place.
        return noises.to(spec.device, spec.dtype, copy=True)
