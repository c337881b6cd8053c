"""Predictions for one noise at chosen timesteps, without denoising it; and its denoising without decoding.

Both run the pipeline's own `__call__`, whose scheduler goes through its timesteps as always. For predictions
the sample that each of its steps gives back is replaced by the one that the run started from, so that the
denoiser is given the same noise at all of them.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import inspect
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from seedbed.attention.kinds import named_arguments
from seedbed.errors import BadInput, NotSupported, SeedbedError, whole
from seedbed.pipelines.compiled import refuse_caches
from seedbed.pipelines.discover import Enough, remembered, require_unguided, rows_of
from seedbed.pipelines.drawing import replace
from seedbed.pipelines.evaluation import require_finite
from seedbed.pipelines.interception import Run
from seedbed.pipelines.layers import recorded, shapes_of
from seedbed.pipelines.prediction import Level, Prediction, handing_back, level_at, predicted
from seedbed.pipelines.rollout import prompt_parts
from seedbed.pipelines.session import Session
from seedbed.pipelines.steps import Position, scheduler_of

Follow = Callable[[Prediction], Tensor | None]
"""What follows a prediction: a sample of the noise's shape, in the scheduler's sample space at the next
timestep, from which it goes on; None to stay where the sample is."""


def levels_of(session: Session) -> tuple[Level, ...]:
    """The noise level of every step of the schedule, in plain numbers; no evaluation is run.

    Raises NotSupported where the pipeline's schedule cannot be read.
    """
    seen = session.alone
    if getattr(seen.scheduler, "timesteps", None) is None:
        raise NotSupported(f"{session.asked.name} has no scheduler whose timesteps could be read")
    levels = []
    for step, timestep in enumerate(seen.scheduler.timesteps[-seen.steps :]):
        level = level_at(seen.scheduler, step, timestep, torch.empty(0))
        levels.append(Level(float(level.alpha), float(level.sigma), level.scale, level.flow))
    return tuple(levels)


def evaluations_of(steps: Sequence[int]) -> int:
    """What `predict` costs without guidance: one evaluation for each step, and one to get to a later one."""
    return len(steps) + (steps[0] > 0)


def predict(
    session: Session,
    noise: Tensor,
    steps: Sequence[int],
    *,
    follow: Follow | None = None,
    guided: bool = False,
    what: str = "refinement",
    memory: list[Any] | None = None,
) -> list[Prediction]:
    """What the denoiser predicts at chosen steps, at each of them of the very same noise.

    Evaluations of other steps are answered with the denoiser's latest output; the first one is always run.
    The ledger counts `evaluations_of(steps)`; guided ones count each batch row.

    Args:
        noise: session.spec.shape.
        steps: of the schedule, numbers from 0 to session.facts.steps - 1, ascending.
        follow: called at each of them; twice where the pipeline calls its scheduler twice for a step.
        guided: the caller's own call; else guidance is off.
        what: the ledger's entry.
        memory: the latest outputs of an earlier call, empty at first: from then on none but `steps` are run.

    Returns:
        One for each step, tensors of the noise's shape on the pipeline's device.

    Raises:
        BadInput: no steps, or not ascending, or outside of the schedule; noise of another shape.
        BadOutput: a prediction is not finite.
        NotSupported: guidance cannot be turned off, the prediction type cannot be told, or the scheduler is
            given samples of another shape than the noise.
    """
    wanted = [whole("a step", step, 0, session.facts.steps - 1) for step in steps]
    if not wanted or wanted != sorted(set(wanted)):
        raise BadInput(f"steps must be ascending numbers of the schedule, each once, not {list(steps)}")
    noises, levels = session.as_latents(noise[None]), levels_of(session)
    if guided:
        refuse_caches(session.asked.denoisers)

    def attempt() -> list[Prediction]:
        latest = [] if memory is None else memory  # what the denoiser returned in the last step that was run
        at, number = -1, 0  # the step, and the evaluation within it

        def forward(module: nn.Module, own: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            nonlocal at, number
            at, number = held.steps, number + 1 if held.steps == at else 0
            if at > wanted[-1]:
                raise Enough
            if at not in wanted and latest:
                return copy.deepcopy(latest[min(number, len(latest) - 1)])
            rows = rows_of(module, args, kwargs)
            if not guided:
                require_unguided(session.asked.name, rows, 1)
            session.ledger.add(what, rows)
            latest[number:] = [own(*args, **kwargs)]
            return latest[-1]

        with session.running(noises, guided=guided) as run:
            held = stand_in(run, session.spec.shape, levels, wanted, follow)
            run.instead_of_evaluations(forward)
            run(noises, output_type="latent")
        if missing := [step for step in wanted if step not in held.predictions]:
            raise NotSupported(_missing(session, missing[0]))
        return [held.predictions[step] for step in wanted]

    return session.arriving(attempt)


def denoise(session: Session, noise: Tensor) -> Tensor:
    """The latents that the caller's own call, guidance included, makes of a noise, before they are decoded.

    The ledger counts each batch row under `refinement`.

    Args:
        noise: session.spec.shape.

    Returns:
        x0 in the scheduler's sample space, of the noise's shape, on the pipeline's device.

    Raises:
        BadInput: noise of another shape.
        BadOutput: the latents are not finite.
        NotSupported: the scheduler gives back samples of another shape than the noise.
    """
    noises = session.as_latents(noise[None])

    def attempt() -> Tensor:
        with session.running(noises, guided=True) as run:
            held = stand_in(run, session.spec.shape)
            run.before_evaluations(lambda *given: session.ledger.add("refinement", rows_of(*given)))
            run(noises, output_type="latent")
        latents = held.in_shape(held.last)
        require_finite(latents, "what the scheduler gives back")
        return latents

    return session.arriving(attempt)


def guided_evaluations(session: Session, latents: Collection[int] = ()) -> tuple[int, ...]:
    """What each step of the caller's own call costs, by the ledger: every batch row. No evaluation is run.

    The call runs on zeros, of the noise's shape or, where it cannot use these (LTX-2 wants sound too), of the
    shapes of what its denoisers return.

    Args:
        latents: the steps whose samples will be asked for, by `predict`; and -1, by `denoise`, for those that
            the last step gives back.

    Raises:
        NotSupported: it runs on neither; or the scheduler's samples have another shape than the noise where
            they will be asked for.
    """
    found: tuple[tuple[int, ...], dict[int, str]]
    key = "guided", tuple(session.extra)
    found = remembered(session.asked, key, lambda: _guided_evaluations(session))
    evaluations, refused = found
    for step in latents:
        if why := refused.get(step, _missing(session, step)):
            raise NotSupported(why)
    return evaluations


def _missing(session: Session, step: int) -> str:
    return f"{session.asked.name} takes no step {step} with all of its latents"


class _Unknown(Exception):
    """What a denoiser returns for such arguments has yet to be found: (key, args, kwargs)."""


def _guided_evaluations(session: Session) -> tuple[tuple[int, ...], dict[int, str]]:
    spec, answers = session.spec, dict[Any, Any]()

    def like_noise(module: nn.Module, args: Any, kwargs: Any) -> Any:
        zeros = torch.zeros(rows_of(module, args, kwargs), *spec.shape, dtype=spec.dtype, device=spec.device)
        return Transformer2DModelOutput(sample=zeros) if kwargs.get("return_dict", True) else (zeros,)

    def in_shape(module: nn.Module, args: Any, kwargs: Any) -> Any:
        key = module, shapes_of((args, kwargs))
        if key not in answers:
            raise _Unknown(key, args, kwargs)
        return tree_map_only(Tensor, torch.clone, answers[key])

    try:
        return _rows_by_step(session, like_noise)
    except SeedbedError:
        raise
    except Exception as error:
        refused = error
    while True:
        try:
            return _rows_by_step(session, in_shape)
        except _Unknown as unknown:
            key, args, kwargs = unknown.args
        shown = recorded(key[0], args, kwargs, spec.device)
        if shown is None:
            raise NotSupported(
                f"what a guided call of {session.asked.name} costs cannot be told without running it"
            ) from refused
        answers[key] = shown.output


def _rows_by_step(
    session: Session, answer: Callable[[nn.Module, Any, Any], Any]
) -> tuple[tuple[int, ...], dict[int, str]]:
    """The rows of all evaluations of the caller's own call by their step, each of them answered.

    And for each step that the scheduler takes why its sample cannot be read, "" where it can; as -1, that
    which the last one gives back.
    """
    noises = session.as_latents(torch.zeros(1, *session.spec.shape))

    def attempt() -> tuple[tuple[int, ...], dict[int, str]]:
        rows, last = Counter[int](), session.facts.steps - 1

        def forward(module: nn.Module, own: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            # HunyuanVideoFramepackPipeline makes further pieces of the video after its last step.
            step, count = min(held.reached[0], last), rows_of(module, args, kwargs)
            rows[step] += count
            if within := sum(start <= position.share < stop for start, stop in session.extra):
                with_prompt, _ = prompt_parts(session, named_arguments(module, args, kwargs), count, 1)
                rows[step] += within * (with_prompt is not None)
            return answer(module, args, kwargs)

        with session.running(noises, guided=True, eager=True) as run:
            position = Position(run.pipe, run.undo)
            held = stand_in(run, session.spec.shape)
            run.instead_of_evaluations(forward)
            run(noises, output_type="latent")
        return tuple(rows[step] for step in range(max(rows) + 1)), held.refused | {-1: held.why(held.last)}

    return session.arriving(attempt)


def stand_in(run: Run, *options: Any) -> Held:
    """A `Held` in place of the step of a run's scheduler; options are its own."""
    scheduler = scheduler_of(run.pipe)
    held = Held(scheduler.step, *options)
    replace(scheduler, "step", held, run.undo)
    return held


class Held:
    """Stands in for the `step` of a scheduler that is used once, and holds its sample where it is.

    What the pipeline does with a copy of its scheduler (LTX-2, for the sound) is held too, and not looked at.

    Args:
        take: the step.
        shape: of the noise.
        levels: of the schedule; none to let the sample go on.
        wanted: the steps whose predictions are kept.
        follow: see `Follow`.

    Attributes:
        steps: how many have begun. A second call with the very same timestep belongs to the first.
        reached: the most steps that it or a copy of it has begun (SkyReels-V2 has one for each frame).
        last: what the last step gave back.
        predictions: by their step.
        refused: by their step why the sample is not of the noise's shape, "" where it is.
    """

    def __init__(
        self,
        take: Any,
        shape: tuple[int, ...],
        levels: Sequence[Level] = (),
        wanted: Collection[int] = (),
        follow: Follow | None = None,
    ) -> None:
        self.take, self.shape, self.levels, self.wanted, self.follow = take, shape, levels, wanted, follow
        self.steps, self.reached = 0, [0]
        self.last: Tensor | None = None
        self.predictions: dict[int, Prediction] = {}
        self.refused: dict[int, str] = {}
        self._timestep: Any = None
        self._held: tuple[Tensor, float] | None = None  # a sample, and the scale of its timestep
        functools.update_wrapper(self, take)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        given = inspect.signature(self.take).bind(*args, **kwargs).arguments
        if not (isinstance(given["timestep"], Tensor) and given["timestep"] is self._timestep):
            self.steps += 1
            self.reached[0] = max(self.reached[0], self.steps)
        self._timestep, step = given["timestep"], self.steps - 1
        sample, chosen = given["sample"].clone(), None
        following = self.levels[min(self.steps, len(self.levels) - 1)].scale if self.levels else 1.0
        if self.wanted:
            own = self.in_shape(sample)  # also of ChronoEditPipeline, which drops frames on the way
            if step in self.wanted:
                found = predicted(self.take.__self__, step, given)
                output = self.in_shape(found.output).clone()
                require_finite(output, "the denoiser's output")
                self.predictions[step] = dataclasses.replace(found, sample=own, output=output)
                chosen = self.follow(self.predictions[step]) if self.follow is not None else None
        result = self.take(**given)
        if step in self.predictions:
            self.predictions[step] = dataclasses.replace(
                self.predictions[step], below=self.in_shape(result[0])
            )
        if not self.levels:
            self.refused[step], self.last = self.why(sample), result[0]
            return result
        if chosen is not None:
            self._held = chosen.reshape(sample.shape).to(sample), following
        elif step == 0 or self._held is None:
            self._held = sample, self.levels[0].scale
        start, scale = self._held
        handed = start.clone() if scale == following else start * (scale / following)
        return handing_back(result, handed)

    def in_shape(self, tensor: Tensor | None) -> Tensor:
        """A sample of the scheduler, or an output, as the noise; NotSupported where it has not its shape."""
        if tensor is None:
            raise NotSupported("no step is taken with all of the latents")
        # CosmosTextToWorldPipeline steps with its negative prompt's row too, then without: the second counts.
        first = tensor[0]
        # Cosmos3OmniPipeline has one more axis of length 1.
        if [n for n in first.shape if n > 1] != [n for n in self.shape if n > 1]:
            raise NotSupported(
                f"the scheduler is given samples of shape {tuple(first.shape)}, not of the noise's "
                f"{self.shape}: what is predicted of the noise cannot be told"
            )
        return first.reshape(self.shape)

    def why(self, tensor: Tensor | None) -> str:
        """Why a tensor is not `in_shape`; "" where it is."""
        try:
            self.in_shape(tensor)
        except NotSupported as error:
            return str(error)
        return ""

    def __deepcopy__(self, memo: dict[int, Any]) -> Held:
        """For a pipeline that copies its scheduler."""
        held = Held(copy.deepcopy(self.take, memo), self.shape, self.levels)
        held.reached = self.reached
        return held
