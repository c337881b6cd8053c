"""The source of an edit as the denoiser meets it at every step: generated, or a real video inverted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from seedbed.adaptation.adaptation import rows_alone
from seedbed.attention.kinds import named_arguments
from seedbed.errors import NotSupported
from seedbed.pipelines.discover import rows_of
from seedbed.pipelines.encoding import encoding_of
from seedbed.pipelines.interception import Run
from seedbed.pipelines.prediction import Level, Prediction
from seedbed.pipelines.rollout import prompt_parts
from seedbed.pipelines.session import Session
from seedbed.pipelines.timesteps import Held, levels_of, predict, stand_in
from seedbed.progress import Show, silent

# Evaluations for each step of an inversion.
PASSES = 2


@dataclass(frozen=True, eq=False)
class Trajectory:
    """The source, from its noise to its video.

    Attributes:
        noise: float32 (*spec.shape) on the CPU, which the pipeline makes its first latents of.
        calls: (args, kwargs) of the denoiser for each evaluation with the prompt, of that row alone.
        frames: uint8 (frames, height, width, 3).
        latents: (*spec.shape), what is decoded; None where the scheduler gives back another shape.
        note: what is to be said of an inversion; "" for nothing.
    """

    noise: Tensor
    calls: tuple[Any, ...]
    frames: np.ndarray[Any, Any]
    latents: Tensor | None
    note: str = ""


@contextmanager
def _seen(session: Session) -> Iterator[tuple[list[Any], list[Held]]]:
    """What later runs of one candidate call the denoiser with, as `Trajectory.calls`; and their steps."""
    calls: list[Any] = []
    steps: list[Held] = []
    _ = session.alone  # by a run of its own, which must not come during another

    def see(module: nn.Module, args: Any, kwargs: Any) -> None:
        given = named_arguments(module, args, kwargs)
        rows = rows_of(module, args, kwargs)
        row, _ = prompt_parts(session, given, rows, 1)
        if row is not None:
            own = rows_alone(session, args, kwargs, rows, slice(row, row + 1))
            calls.append(tree_map_only(Tensor, torch.clone, own))

    def watch(run: Run, count: int, guided: bool) -> None:
        run.before_evaluations(see)
        if guided:
            steps.append(stand_in(run, session.spec.shape))

    session.acts.append(watch)
    try:
        yield calls, steps
    finally:
        session.acts.remove(watch)


def generated(session: Session, noise: Tensor, show: Show = silent) -> Trajectory:
    """The source as the caller's own guided call makes it of a noise (spec.shape).

    Raises NotSupported where rows of the prompt cannot be told; BadInput for noise of another shape.
    """
    with _seen(session) as (calls, steps):
        frames = session.generate(noise, what="source", progress=partial(show, "source"))
    held = steps[-1]
    latents = None if held.why(held.last) else held.in_shape(held.last)
    return Trajectory(noise.detach().cpu().float(), tuple(calls), frames, latents)


def inverted(
    session: Session, frames: np.ndarray[Any, Any], *, passes: int = PASSES, show: Show = silent
) -> Trajectory:
    """A noise of which the unguided pipeline makes this video, and the way from there.

    The pipeline's deterministic step, DDIM's or Euler's, is turned round where it was taken: the sample x of
    a level is the one whose step leads to the known sample below, `F(x, f(x)) = c x + F(0, f(x))`, with f the
    model's output at x. It is found by iterating `x ← (known − F(0, f(x))) / c`, from the output of the level
    below. At infinitely many passes this is exact, whereas an inversion by midpoints, of second order too at
    two evaluations a step, leads to where the differential equation came from, and needs levels that the
    schedule has not.

    Args:
        frames: uint8, of the size that the pipeline makes.
        passes: evaluations for each step; one more shows what the pipeline makes of a noise.

    Raises:
        BadOutput: the model's output is not finite.
        NotSupported: a video cannot be turned into this pipeline's latents, or its scheduler steps with
            something else than these.
    """
    if session.facts.entry == "added":
        raise NotSupported(
            f"{session.asked.name} adds its noise to what it is given: no inversion gives noise alone"
        )
    latents = encoding_of(session).encode(session, frames)
    levels, memory, note = levels_of(session), list[Any](), ""
    noise = session.probe(1)[0]
    (first,) = predict(session, noise, [0], memory=memory, what="inversion")
    # What the pipeline multiplies its noise with for the denoiser.
    scale = float((first.sample.cpu() * noise).sum() / noise.square().sum()) * levels[0].scale
    power = float(getattr(session.alone.scheduler, "final_alpha_cumprod", None) or 1.0)
    below, x, calls = Level(power**0.5, (1 - power) ** 0.5), latents.double(), list[Any]()
    found: Prediction | None = None
    with _seen(session) as (seen, _):
        for done, (step, level) in enumerate(reversed([*enumerate(levels)])):
            guess = x if found is None else _back(found, level, below, x)
            for number in range(passes):
                seen.clear()
                noise = (guess * level.scale / scale).float()
                (found,) = predict(session, noise, [step], memory=memory, what="inversion")
                if torch.as_tensor(found.level.alpha).numel() > 1 or len(seen) != min(step + 2, len(levels)):
                    raise NotSupported(
                        f"{session.asked.name} does not evaluate once in each step, or gives its tokens "
                        "noise levels of their own: its way to the noise cannot be turned round"
                    )
                guess = _back(found, level, below, x)
                show("inversion", done * passes + number + 1, len(levels) * passes)
            assert found is not None and found.below is not None
            own, taken = _stepped(found, below).double(), found.below.double()
            most = 20 * torch.finfo(found.below.dtype).eps * max(1.0, float(taken.abs().max()))
            if (own - taken).abs().max() > most:
                note = (
                    f"{type(session.alone.scheduler).__name__} takes other steps than DDIM's or Euler's "
                    f"(step {step} is the first): the inversion is approximate"
                )
            x, below = guess, level
            calls.append(seen[step])
    noise = (x * levels[0].scale / scale).float()
    return Trajectory(noise, tuple(reversed(calls)), frames, latents, note)


def _stepped(found: Prediction, below: Level) -> Tensor:
    """What DDIM's step, or Euler's, makes of a sample and an output; linear in both."""
    moved: Tensor = below.alpha * found.clean + below.sigma * found.epsilon
    return moved


def _back(found: Prediction, level: Level, below: Level, known: Tensor) -> Tensor:
    """The sample of a level from which a step with this output leads to a known one, float64 on the CPU."""
    zero, one, output = torch.zeros_like(known), torch.ones_like(known), found.output.cpu().double()
    moved = _stepped(replace(found, level=level, sample=zero, output=output), below)
    return (known - moved) / _stepped(replace(found, level=level, sample=one, output=zero), below)
