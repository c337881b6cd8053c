"""Ask a pipeline, never imitate it: run its own `__call__` and step in at the noise and at the denoiser."""

import functools
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from seedbed.attention.tap import AttentionCall, Handler, Tap
from seedbed.errors import BadInput, NotSupported, SeedbedError
from seedbed.probe.batching import takes_batches
from seedbed.probe.call import Call, rows_of
from seedbed.probe.checks import no_attention, require_finite
from seedbed.probe.contact import Contact, LayerInfo, first_contact, layers_without_data
from seedbed.probe.filming import film
from seedbed.probe.layouts import NoiseSpec
from seedbed.probe.ledger import Ledger
from seedbed.probe.meeting import Enough
from seedbed.probe.shrinking import CannotShrink, Recorder, Shrinking


@dataclass(frozen=True)
class Evaluation:
    """What a run of `Probe.evaluate` brought.

    Attributes:
        prediction: the denoiser's output of the first evaluation, (candidates, ...) in the model's dtype;
            None where it was stopped within that evaluation.
        stopped: whether it was stopped at `depth`, or by the handler.
    """

    prediction: Tensor | None
    stopped: bool


class Probe:
    """A pipeline, a prompt and the arguments of a call, ready to be asked about initial noises.

    The pipeline runs on a shallow copy with its own models: after every method, also after an exception, the
    pipeline and its models are as before. With model offloading, models go back to the CPU.

    Args:
        pipe: any text-to-image or text-to-video pipeline of diffusers.
        prompt: one prompt; None where `prompt_embeds` (one row) are among the arguments.
        call: any arguments of `pipe.__call__`. Those of a `seedbed.json` beside the model come before them.
            A `generator` is copied for every run, so that it is never advanced.

    Attributes:
        call: the arguments, merged.
        ledger: what was spent so far.

    Raises:
        BadInput: not a diffusers pipeline, no or an empty prompt, an argument the pipeline does not know or
            that the probe sets itself.
        NotSupported: a pipeline that takes no latents, or prepares none.
    """

    def __init__(self, pipe: Any, prompt: str | None = None, **call: Any) -> None:
        self._call = Call(pipe, prompt, call)
        self.pipe = pipe
        self.prompt = prompt
        self.call = self._call.arguments
        self.ledger = Ledger()
        self._layers: tuple[LayerInfo, ...] | None = None
        self._one: Recorder | None = None

    @property
    def spec(self) -> NoiseSpec:
        """The noise this pipeline would draw for one candidate."""
        return self._contact.spec

    @property
    def guidance(self) -> str:
        """What becomes of guidance while scoring, in a few words."""
        _ = self._contact  # finds out for some pipelines
        return self._call.guidance

    @functools.cached_property
    def most_rows(self) -> int | None:
        """Candidates that may share a forward: any number (None), or 1 where the pipeline mixes them up."""
        return None if takes_batches(self._call, self._contact) else 1

    @property
    def denoiser_name(self) -> str:
        """The component that runs first, `transformer` or `unet` in most pipelines."""
        return self._contact.denoiser_name

    @property
    def compiled(self) -> list[str]:
        """The denoisers that went through `torch.compile`; they run eagerly where attention is looked at."""
        return self._call.compiled

    @property
    def denoiser(self) -> nn.Module:
        """The module that runs first."""
        return self._call.denoisers[self.denoiser_name]

    @property
    def layers(self) -> tuple[LayerInfo, ...]:
        """Every attention layer of the denoiser, in the order in which it runs them.

        Found by one forward without data, which costs no evaluation; where the model cannot run like that, by
        a real one, which the ledger counts under `layers`.
        """
        if self._layers is None:
            self._look()
        if not self._layers:
            raise NotSupported(no_attention(self.denoiser_name))
        return self._layers

    def shrinking(self, candidates: int) -> Shrinking:
        """For a forward of so many candidates, from which the handler may drop some on the way."""
        if self._one is None:
            self._look()
        assert self._one is not None
        return Shrinking(self._one, candidates)

    def _look(self) -> None:
        """Learn the layers, and how the forward of one candidate hands its batch on."""
        try:
            self._layers, self._one = layers_without_data(self.denoiser, self._contact)
        except Exception:
            # Any model may do in its forward what tensors without data cannot: then it is asked for real.
            self.evaluate(torch.zeros(1, *self.spec.shape), what="layers")

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
            NotSupported: no softmax attention was seen, or guidance cannot be left out.
        """
        noises = self._checked(noises)
        if len(noises) > 1 and self.most_rows == 1:
            raise NotSupported(f"{self._call.name} takes one candidate in a forward: use batch_size=1")
        if steps < 1:
            raise BadInput(f"steps must be 1 or more, not {steps}")
        if depth is not None and not 1 <= depth <= len(self.layers):
            raise BadInput(
                f"depth must be between 1 and {len(self.layers)}, the denoiser's layers, not {depth}"
            )
        denoiser = self.denoiser
        seen: list[LayerInfo] = []
        predictions: list[Tensor] = []
        one = Recorder() if len(noises) == 1 else None
        rows_run = 0

        def watch(call: AttentionCall) -> Tensor | None:
            nonlocal rows_run
            rows_run += call.candidates
            if call.step == 0:
                seen.append(LayerInfo(call.layer, call.kind, call.block))
                if one is not None:
                    one.attention(call)
            if shrinking is not None:
                shrinking.attention(call)
            answer = handler(call) if handler is not None else None
            if depth is not None and call.step == steps - 1 and call.index + 1 == depth:
                require_finite(call.query, f"the queries of {call.layer}")
                call.stop()
            return answer

        def begin(module: nn.Module, args: Any, kwargs: Any) -> None:
            rows = rows_of(module, args, kwargs)
            if module is not denoiser:
                raise NotSupported(
                    f"another denoiser follows the {self.denoiser_name} after {tap.steps} evaluations: "
                    f"evaluate at most {tap.steps} steps"
                )
            if rows != len(noises):
                raise NotSupported(
                    f"{self._call.name} calls its denoiser with {rows} rows for {len(noises)} candidates: "
                    "its guidance cannot be turned off by its arguments"
                )

        def end(module: nn.Module, args: Any, output: Any) -> None:
            if tap.calls == 0:
                raise NotSupported(no_attention(self.denoiser_name))
            if tap.steps == 1:
                self._layers = tuple(seen)
                self._one = self._one or one
                first = output if isinstance(output, Tensor) else output[0]
                predictions.append(first if isinstance(first, Tensor) else torch.stack(first))
                require_finite(predictions[0], f"the output of the {self.denoiser_name}")
            if tap.steps == steps:
                raise Enough

        asked = shrinking or one
        tap = Tap(denoiser, watch, asked.inputs if asked is not None else None)
        if shrinking is not None:
            shrinking.tap = tap
        with self._call.running(len(noises), guided=False) as (_, run), ExitStack() as hooks:
            for module in self._call.denoisers.values():
                hooks.callback(module.register_forward_pre_hook(begin, with_kwargs=True).remove)
            try:
                with tap:
                    hooks.callback(denoiser.register_forward_hook(end).remove)
                    run(latents=noises, output_type="latent")
            except Enough:
                pass
            except (RuntimeError, ValueError, TypeError, IndexError) as error:
                ours = isinstance(error, (SeedbedError, torch.OutOfMemoryError))
                if ours or shrinking is None or not shrinking.began:
                    raise
                # What runs between the blocks may still hold the whole batch.
                raise CannotShrink(
                    f"{type(denoiser).__name__} mixes its blocks' batch with another"
                ) from error
            finally:
                spent = rows_run / len(self._layers) if self._layers else len(noises) * tap.steps
                if spent:
                    self.ledger.add(what, spent)
        if not tap.stopped and tap.steps < steps:
            raise BadInput(f"steps={steps}, but the schedule has only {tap.steps}: raise num_inference_steps")
        return Evaluation(predictions[0] if predictions else None, tap.stopped)

    def preview(self, noises: Tensor, *, steps: int = 1) -> list[np.ndarray]:
        """The finished video that the denoiser predicts after `steps` steps, decoded by the pipeline itself.

        Args:
            noises: (candidates, *spec.shape).
            steps: steps of the caller's own call, guidance included, from 1.

        Returns:
            For each candidate (frames, height, width, 3) uint8, one frame for images.

        Raises:
            BadInput: noises of another shape, more steps than the schedule has.
            BadOutput: the decoded frames are not finite.
            NotSupported: its scheduler tells no clean estimate.
        """
        if steps < 1:
            raise BadInput(f"steps must be 1 or more, not {steps}")
        return [
            film(self._call, self.ledger, noise, "preview", preview_after=steps)
            for noise in self._checked(noises).split(1)
        ]

    def generate(
        self, noise: Tensor, what: str = "generation", progress: Callable[[int, int], None] | None = None
    ) -> np.ndarray:
        """The video or image that the caller's own call makes from `noise` (spec.shape).

        Args:
            what: the ledger's entry; guided forwards count each batch row.
            progress: called with (steps done, all steps).

        Returns:
            (frames, height, width, 3) uint8, one frame for images.

        Raises:
            BadInput: noise of another shape.
            BadOutput: the frames are not finite.
        """
        return film(self._call, self.ledger, self._checked(noise[None]), what, progress=progress)

    def _checked(self, noises: Tensor) -> Tensor:
        """The noises as this pipeline's latents."""
        spec = self.spec
        if tuple(noises.shape[1:]) != spec.shape or not len(noises):
            raise BadInput(
                f"the noises have shape {tuple(noises.shape)}, but {self._call.name} wants latents of shape "
                f"(candidates, {', '.join(map(str, spec.shape))})"
            )
        # A copy: some pipelines denoise in place.
        return noises.to(spec.device, spec.dtype, copy=True)

    @property
    def steps(self) -> int:
        """Steps of the schedule: the most that `preview` can take."""
        return self._contact.steps

    @functools.cached_property
    def _contact(self) -> Contact:
        return first_contact(self._call)
