"""The steps of a pipeline's scheduler: counted, seen, and ended early to decode what a step predicts."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from torch import Tensor

from seedbed.errors import NotSupported
from seedbed.pipelines.drawing import replace
from seedbed.pipelines.interception import Run
from seedbed.pipelines.prediction import clean_latents, handing_back


class Watch:
    """Stands in for the `step` of a scheduler that is used once, and counts the steps of the pipeline.

    A pipeline that calls its scheduler twice with the very same timestep has done one step. One that copies
    its scheduler, for a second kind of latents or for every frame, has done a step when all of those have
    that it steps at all: frames that were given stay as they are.

    Attributes:
        met: the timesteps of the steps begun.
        clean: x0-hat of the last step that was wanted. A pipeline may call its scheduler twice for a step:
            the second one counts.
        under_way: whether an evaluation has followed a step; whoever evaluates says so.
        wanted: whether x0-hat is wanted of a step that is not the last one.
    """

    def __init__(self, pipe: Any, take: Any, pause: int | None, first: Watch | None = None) -> None:
        self.pipe, self.take, self.pause = pipe, take, pause
        self.met: list[Any] = []
        self.clean: Tensor | None = None
        self.under_way = self.wanted = False
        self._first = first  # which this one was copied from
        self._copies: list[Watch] = []
        self._own: list[Any] = []  # timesteps
        self._last: Any = None  # what the last step gave back
        functools.update_wrapper(self, take)

    @property
    def ended(self) -> bool:
        """Whether the run was ended: what comes after changes nothing any more."""
        begun = [watch._last is not None for watch in (self, *self._copies) if watch._own]
        return bool(begun) and all(begun)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        given = inspect.signature(self.take).bind(*args, **kwargs).arguments
        timestep = given["timestep"]
        again = bool(self._own) and isinstance(timestep, Tensor) and timestep is self._own[-1]
        if self._last is not None and not again:
            return self._last
        first = self._first or self
        if self.pause and not self._own and first is not self and first.under_way:
            raise NotSupported(
                f"no preview: {type(self.pipe).__name__} begins some frames later than others, and they "
                "depend on how those go on: denoise all frames together"
            )
        if not again:
            self._own.append(timestep)
        number = len(self._own) - 1
        if number == len(first.met):
            first.met.append(timestep)
        pausing = number + 1 == self.pause
        if not pausing and not self.wanted:
            return self.take(*args, **kwargs)
        as_tuple = not given.pop("return_dict", True)
        output = self.take(**given, return_dict=True)
        as_tuple = as_tuple or isinstance(output, tuple)  # some schedulers give one whatever they are asked
        self.clean = clean_latents(self.take.__self__, number, output, given)
        if not pausing:
            return output.to_tuple() if as_tuple and not isinstance(output, tuple) else output
        clean = self.clean.to(given["sample"].dtype)
        if first is self:  # or other copies may yet have to step
            self.pipe._interrupt = True
        self._last = (clean, clean) if as_tuple else handing_back(output, clean)
        return self._last

    def __deepcopy__(self, memo: dict[int, Any]) -> Watch:
        """For a pipeline that copies its scheduler: the copy pauses too."""
        first = self._first or self
        first._copies.append(Watch(self.pipe, copy.deepcopy(self.take, memo), self.pause, first))
        return first._copies[-1]


def scheduler_of(pipe: Any) -> Any:
    """A pipeline's scheduler; NotSupported where it has none whose steps could be seen."""
    scheduler = getattr(pipe, "scheduler", None)
    if not hasattr(scheduler, "step") or not hasattr(scheduler, "set_timesteps"):
        raise NotSupported(f"{type(pipe).__name__} has no scheduler whose steps could be seen")
    return scheduler


def watch_steps(run: Run, pause: int | None) -> Watch:
    """Watches the scheduler of a run.

    Args:
        pause: the step (from 1) for which the scheduler gives back the clean latents it implies; the pipeline
            is then interrupted, so that it decodes those as it decodes its own. None for no pause.

    Raises:
        NotSupported: the pipeline has no scheduler; later, where it goes on to other latents after the pause.
    """
    scheduler, name = scheduler_of(run.pipe), type(run.pipe).__name__
    watch = Watch(run.pipe, scheduler.step, pause)
    replace(scheduler, "step", watch, run.undo)
    run.undo.callback(watch._copies.clear)  # they refer to it

    def refuse() -> None:
        if watch.ended:
            raise NotSupported(
                f"no preview: {name} makes this video in pieces, each from another noise, and "
                "would show the first alone: ask for as few frames as one piece has"
            )

    run.preparation.refuse = refuse
    return watch


class Position:
    """Where in its schedule a run is: the share of its steps that are done; counted by the scheduler's steps.

    Steps with one timestep, and those of copies of the scheduler, are one step. A new schedule starts anew.

    Raises NotSupported where the pipeline has no scheduler whose steps could be seen.
    """

    def __init__(self, pipe: Any, undo: ExitStack) -> None:
        self._scheduler = scheduler = scheduler_of(pipe)
        self._met: set[float] = set()

        def count(given: dict[str, Any]) -> None:
            self._met.add(float(given["timestep"]))

        for name, before in (("step", count), ("set_timesteps", lambda given: self._met.clear())):
            replace(scheduler, name, _Before(scheduler, getattr(scheduler, name), before), undo)

    @property
    def share(self) -> float:
        """Of the schedule, from 0 at its first step to just below 1 at its last."""
        timesteps = getattr(self._scheduler, "timesteps", None)
        total = 0 if timesteps is None else len(timesteps.unique())
        return min(len(self._met), max(total - 1, 0)) / max(total, 1)


class _Before:
    """A scheduler's method, of which something is told before it runs; a copy of the scheduler keeps it."""

    def __init__(self, scheduler: Any, method: Any, before: Callable[[dict[str, Any]], None]) -> None:
        functools.update_wrapper(self, method)  # first, as it copies the attributes of another such object
        self.__self__, self.method, self.before = scheduler, method, before

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.before(inspect.signature(self.method).bind(*args, **kwargs).arguments)
        return self.method(*args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> _Before:
        return _Before(copy.deepcopy(self.__self__, memo), copy.deepcopy(self.method, memo), self.before)
