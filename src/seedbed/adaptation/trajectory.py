"""The source of an edit as the denoiser meets it at every step: generated, or a real video inverted."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from seedbed.attention.kinds import Arguments, main_input, named_arguments, parameter_names
from seedbed.errors import NotSupported
from seedbed.pipelines import drawing
from seedbed.pipelines.discover import Enough
from seedbed.pipelines.encoding import Evaluated, Rehearsal, Stepping, encoding_of
from seedbed.pipelines.interception import Run
from seedbed.pipelines.prediction import Level, Prediction, level_at, predicted
from seedbed.pipelines.rollout import prompt_parts
from seedbed.pipelines.session import Session, require_finite
from seedbed.progress import Show, silent

# Evaluations for each step of an inversion.
PASSES = 2


@dataclass(frozen=True, eq=False)
class Trajectory:
    """The source, from its noise to its video.

    Attributes:
        noise: float32 (*spec.shape) on the CPU, which the pipeline makes its first latents of.
        inputs: for each evaluation with the prompt, the latents that the denoiser is given, of one row: a
            tensor (1, ...), or a list of one where it takes a list.
        frames: uint8 (frames, height, width, 3).
        latents: (*spec.shape), what is decoded; None where the scheduler gives back another shape.
        note: what is to be said of an inversion; "" for nothing.
    """

    noise: Tensor
    inputs: tuple[Any, ...]
    frames: np.ndarray[Any, Any]
    latents: Tensor | None
    note: str = ""


def is_list(leaf: Any) -> bool:
    """Whether to take a value of the arguments as one leaf: lists hold a value for each row."""
    return isinstance(leaf, list)


def generated(session: Session, noise: Tensor, show: Show = silent) -> Trajectory:
    """The source as the caller's own guided call makes it of a noise (spec.shape).

    Raises NotSupported where rows of the prompt cannot be told; BadInput for noise of another shape.
    """
    inputs: list[Any] = []
    last: list[Tensor] = []
    _ = session.alone  # by a run of its own, which must not come during another

    def see(module: nn.Module, args: Any, kwargs: Any) -> None:
        given = named_arguments(parameter_names(type(module)), args, kwargs)
        latents = main_input(given)
        row, _ = prompt_parts(session, given, len(latents), 1)
        if row is not None:
            one = latents[row : row + 1]
            inputs.append([one[0].cpu().clone()] if isinstance(one, list) else one.cpu().clone())

    def step(given: dict[str, Any], result: Any) -> Any:
        last[:] = [result[0].clone()]
        return result

    def watch(run: Run, count: int, guided: bool) -> None:
        run.before_evaluations(see)
        scheduler: Any = getattr(run.pipe, "scheduler", None)
        if hasattr(scheduler, "step"):
            drawing.replace(scheduler, "step", Stepping(scheduler.step, step), run.undo)

    session.acts.append(watch)
    try:
        frames = session.generate(noise, what="source", progress=partial(show, "source"))
    finally:
        session.acts.remove(watch)
    fits = bool(last) and _sizes(last[0].shape) == _sizes(session.spec.shape)
    latents = last[0].reshape(session.spec.shape) if fits else None
    return Trajectory(noise.detach().cpu().float(), tuple(inputs), frames, latents)


def inverted(
    session: Session, frames: np.ndarray[Any, Any], *, passes: int = PASSES, show: Show = silent
) -> Trajectory:
    """A noise of which the unguided pipeline makes this video, and the way from there.

    The pipeline's deterministic step, DDIM's or Euler's, is turned round where it was taken: the sample x of
    a level is the one whose step leads to the known sample below, `F(x, f(x)) = c x + F(0, f(x))`, with f the
    model's output at x. It is found by iterating `x ← (known − F(0, f(x))) / c`, from the output of the level
    below. At infinitely many passes this is exact, whereas an inversion by midpoints, of second order too at
    two evaluations a step, leads to where the differential equation came from, and needs levels that the
    schedule has not. Under zero terminal SNR nothing changes: the first sample is all noise to the model, but
    the step from it is still a rotation of it, which is turned round.

    Args:
        frames: uint8, of the size that the pipeline makes.
        passes: evaluations for each step.

    Raises:
        BadOutput: the model's output is not finite.
        NotSupported: a video cannot be turned into this pipeline's latents, or its denoiser is given, or its
            scheduler handed, something else than latents and the model's output.
    """
    if session.facts.entry == "added":
        raise NotSupported(
            f"{session.asked.name} adds its noise to what it is given: no inversion gives noise alone"
        )
    rehearsal = Rehearsal(session)
    x = encoding_of(rehearsal).encode(session, frames).to(session.spec.device)
    latents, way = x, _Way(rehearsal)
    samples: list[Tensor] = []

    def climb() -> None:
        nonlocal x
        output: Tensor | None = None
        for step in reversed(range(len(way.evaluated))):
            guess = x if output is None else way.back(step, x, output)
            for number in range(passes):
                output = way.output(step, guess)
                show("inversion", (len(samples) * passes) + number + 1, len(way.evaluated) * passes)
                guess = way.back(step, x, output)
            x = guess
            samples.append(x)

    way.within(climb)
    samples.reverse()
    scaled = [way.given(step, sample) for step, sample in enumerate(samples)]
    noise = (samples[0].double() * way.level(0).scale / way.scale).cpu().float()
    inputs = tuple([each[0].cpu()] if isinstance(each, list) else each.cpu() for each in scaled)
    return Trajectory(noise.reshape(session.spec.shape), inputs, frames, latents, way.note)


class _Way:
    """The steps of a pipeline without guidance, taken by hand.

    Attributes:
        evaluated: every evaluation, as the pipeline asks for it.
        scale: what the pipeline multiplies its noise with for the denoiser.
        note: where its scheduler takes other steps than DDIM's or Euler's, that it does.
    """

    def __init__(self, rehearsal: Rehearsal) -> None:
        self.session, self.evaluated = rehearsal.session, rehearsal.evaluations()
        self.scheduler, self.forwards = rehearsal.scheduler, dict[nn.Module, Callable[..., Any]]()
        first = self.evaluated[0]
        seen, sample = _single(main_input(self._named(first))), first.given["sample"]
        self.place = _place(seen, sample * self.level(0).scale)
        if self.place is None or _sizes(sample.shape) != _sizes(self.session.spec.shape):
            raise NotSupported(
                f"{self.session.asked.name} gives its denoiser something else than the latents, of shape "
                f"{tuple(seen.shape)}: a video cannot be inverted; edit from a noise"
            )
        entered, noise = seen[self.place].flatten().double(), rehearsal.noise.flatten().double()
        self.scale = float(entered @ noise) / float(noise @ noise)
        self._handing(rehearsal.output, first.given["model_output"])
        strays = [
            step
            for step, one in enumerate(self.evaluated)
            if not _close(
                self._step(self._prediction(step, one.given["sample"], one.given["model_output"])), one.result
            )
        ]
        self.note = ""
        if strays:
            self.note = (
                f"{type(self.scheduler).__name__} takes other steps than DDIM's or Euler's (step {strays[0]} "
                "is the first): the inversion is approximate"
            )

    def level(self, step: int) -> Level:
        """The noise level of a step's sample; of what the last one gives back, one step further."""
        if step == len(self.evaluated):
            last = getattr(self.scheduler, "final_alpha_cumprod", None)
            power = 1.0 if last is None else float(last)
            return Level(power**0.5, (1 - power) ** 0.5)
        given = self.evaluated[step].given
        found = level_at(
            self.scheduler, step, given["timestep"], given["sample"], given.get("per_token_timesteps")
        )
        if isinstance(found.alpha, Tensor) and found.alpha.numel() > 1:
            raise NotSupported(f"{self.session.asked.name} gives its tokens noise levels of their own")
        return replace(found, alpha=float(found.alpha), sigma=float(found.sigma))

    def given(self, step: int, sample: Tensor) -> Any:
        """The latents that the denoiser is given for a sample of the scheduler."""
        like = main_input(self._named(self.evaluated[step]))
        latents = _single(like).clone()
        part = latents[self.place]
        latents[self.place] = (sample * self.level(step).scale).to(latents).reshape(part.shape)
        return [latents] if isinstance(like, list) else latents

    def output(self, step: int, sample: Tensor) -> Tensor:
        """What the scheduler is handed for a sample: the denoiser's output, as the pipeline hands it on."""
        asked = self.evaluated[step]
        old, new = main_input(self._named(asked)), self.given(step, sample)
        leaves, spec = tree_flatten((asked.args, asked.kwargs), is_leaf=is_list)
        args, kwargs = tree_unflatten([new if leaf is old else leaf for leaf in leaves], spec)
        self.session.ledger.add("inversion", 1)
        output = self.handing(self.forwards[asked.module](*args, **kwargs))
        require_finite(output, "the denoiser's output")
        return output.reshape(sample.shape)

    def back(self, step: int, sample: Tensor, output: Tensor) -> Tensor:
        """The sample from which a step with this output leads to `sample`."""
        zero, one = torch.zeros_like(sample), torch.ones((), dtype=sample.dtype, device=sample.device)
        moved = self._step(self._prediction(step, zero, output))
        kept = self._step(self._prediction(step, one, one * 0))
        return ((sample - moved) / kept).to(sample.dtype)

    def within(self, work: Callable[[], None]) -> None:
        """Runs `work` in place of the first evaluation, where models are as the pipeline has them."""

        def forward(*args: Any, **kwargs: Any) -> Any:
            work()
            raise Enough

        def attempt() -> None:
            noise = self.session._checked(torch.zeros(1, *self.session.spec.shape))
            with self.session.running(noise, guided=False) as run, ExitStack() as undo:
                for module in dict.fromkeys(run.denoisers.values()):
                    self.forwards[module] = module.forward
                    drawing.replace(module, "forward", forward, undo)
                run(noise, output_type="latent")

        self.session.arriving(attempt)

    def _prediction(self, step: int, sample: Tensor, output: Tensor) -> Prediction:
        given = {**self.evaluated[step].given, "sample": sample, "model_output": output}
        return replace(predicted(self.scheduler, step, given), level=self.level(step))

    def _step(self, prediction: Prediction) -> Tensor:
        below = self.level(prediction.step + 1)
        moved: Tensor = below.alpha * prediction.clean + below.sigma * prediction.epsilon
        return moved

    def _named(self, asked: Evaluated) -> Arguments:
        return named_arguments(parameter_names(type(asked.module)), asked.args, asked.kwargs)

    def _handing(self, result: Any, handed: Tensor) -> None:
        """Finds how the pipeline passes the denoiser's output on: as it is, negated, or half of it."""

        def first(result: Any) -> Tensor:
            output = result if isinstance(result, Tensor) else result[0]
            return torch.stack(output) if isinstance(output, list) else output

        def half(result: Any) -> Tensor:
            return first(result).chunk(2, dim=1)[0]

        for cut in (first, half):
            for sign in (1, -1):
                found = cut(result)
                if found.numel() == handed.numel() and _close(sign * found.reshape(handed.shape), handed):
                    self.handing: Callable[[Any], Tensor] = functools.partial(
                        lambda cut, sign, result: sign * cut(result).float(), cut, sign
                    )
                    return
        raise NotSupported(
            f"{self.session.asked.name} hands its scheduler something else than its denoiser's output: a "
            "video cannot be inverted; edit from a noise"
        )


def _single(latents: Any) -> Tensor:
    """The latents of one row: as a tensor, or in a list."""
    one: Tensor = latents[0] if isinstance(latents, list) else latents
    return one


def _place(whole: Tensor, part: Tensor) -> Any:
    """Where `part` lies in `whole`, which may hold other channels beside it; None where it does not.

    Of another number of axes of length 1, it is the whole.
    """
    if _sizes(whole.shape) == _sizes(part.shape):
        return ... if _close(whole.reshape(part.shape), part) else None
    axes = [axis for axis in range(min(whole.ndim, part.ndim)) if whole.shape[axis] != part.shape[axis]]
    if whole.ndim != part.ndim or len(axes) != 1:
        return None
    (axis,) = axes
    for start in range(whole.shape[axis] - part.shape[axis] + 1):
        place = (*[slice(None)] * axis, slice(start, start + part.shape[axis]))
        if _close(whole[place], part):
            return place
    return None


def _sizes(shape: Any) -> list[int]:
    return [n for n in shape if n > 1]


def _close(one: Tensor, other: Tensor) -> bool:
    eps = max(torch.finfo(each.dtype).eps for each in (one, other) if each.is_floating_point())
    apart = (one.double() - other.double()).abs().max()
    return bool(apart <= 20 * eps * max(1.0, float(other.double().abs().max()), math.sqrt(eps)))
